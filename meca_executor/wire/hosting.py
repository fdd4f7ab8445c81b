"""What a gateway and a host that joined say to each other: whose workers do what, and what becomes of it.

Both ends (`runtimes/remote.py` at the gateway, `runtimes/agent.py` at the host) need no more than a channel that
delivers messages, which are plain bytes, each once and in order: `send(message)` and `on_message(message)`. Over our
own link that is a `Stream`, with `Kind.HOSTING` as the kind of all; another transport can carry the same.

A message is one byte, RECORDS or PIECE, and a batch of records or one piece of a blob (`blobs.py`). A record's id is
the gateway's number of a worker, its tag an `Order` (to the host) or an `Event` (from it). Container calls have
messages of their own (`container_calls.py`).
"""

from __future__ import annotations

import math
import struct
import sys
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ..settings import NAME_LIMIT, why_no_ref
from .records import MalformedBatch, Outcomes, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .records import Record
    from .stream import Piece

PURPOSE = "host"  #: field of the hello: what the session is for
WORKERS_MOST = 4096  #: of one host
GRACE_MOST_S = 7 * 86_400.0
APPS_MOST = 256  #: names of local apps that a host tells, and of runtimes
RECORDS, PIECE = b"R", b"P"

_RANGE = struct.Struct("<QQ")
_LOOK = struct.Struct("<Qd")
_STARTED = struct.Struct("<Q")
_SUMMARY = struct.Struct("<QIB")


class Order(IntEnum):
    """What a gateway tells a host; the comment says what `ref` and the payload are."""

    SPAWN = 1  # start a worker
    SEND = 2  # Kind, a batch: a message for a worker; large objects in it are blobs that came before
    REVOKE = 3  # number of the revocation, (start, stop): the worker is to leave these ordinals alone
    STOP = 4  # let a worker end after what it has
    KILL = 5  # end a worker now
    DROP = 6  # (id: a blob) it is mentioned no more
    RESET = 7  # (id: 0) the gateway ends: end all workers and container calls
    LEAVE = 8  # (id: 0) all is done that the host had: it may go


class Event(IntEnum):
    """What a host tells its gateway."""

    OUTCOMES = 1  # -, what `pack_outcomes` returns
    BLOB = 2  # as OUTCOMES, of one call: the payload is a blob that came before
    SETUP_FAILED = 3  # -, UTF-8 text
    PRINTED = 4  # Status, bytes
    LOOK = 5  # the last revocation that the worker has had the time to see, what `pack_look` returns
    END = 6  # -, what `pack_end` returns
    DRAIN = 7  # (id: 0) the host wants to leave when what runs is done
    GONE = 8  # (id: 0) the host leaves now


def pack_records(records: Iterable[Record]) -> bytes:
    """Return the message with these records."""
    return RECORDS + encode(records)


def pack_piece(piece: Piece) -> bytes:
    """Return the message with a piece of a blob."""
    return b"".join((PIECE, *piece))


def unpack(message: bytes) -> tuple[list[Record], bytes | None]:
    """Return the records of a message, or none and the body of its piece.

    Raises:
        MalformedBatch: It is no message.
    """
    if message[:1] == RECORDS:
        return decode(message[1:]), None
    if message[:1] == PIECE:
        return [], message[1:]
    raise MalformedBatch(f"a message of hosts that begins with {message[:1]!r}")


def pack_range(start: int, stop: int) -> bytes:
    """Return the payload of a revocation."""
    return _RANGE.pack(start, stop)


def unpack_range(payload: bytes) -> tuple[int, int]:
    """As `pack_range`; a `MalformedBatch` when it is none, as all of these."""
    start, stop = _fields(_RANGE, payload)
    return start, stop


def pack_look(started: int, elapsed: float) -> bytes:
    """Return the payload of a look: the ordinal behind the one that runs, and for how many seconds that one has."""
    return _LOOK.pack(started, elapsed)


def unpack_look(payload: bytes) -> tuple[int, float]:
    """As `pack_look`."""
    started, elapsed = _fields(_LOOK, payload)
    return started, max(0.0, elapsed) if math.isfinite(elapsed) else 0.0


def pack_end(started: int, how: str) -> bytes:
    """Return the payload of a worker's end: the ordinal behind the last that it began, and how it ended."""
    return _STARTED.pack(started) + how.encode("utf-8", "backslashreplace")


def unpack_end(payload: bytes) -> tuple[int, str]:
    """As `pack_end`."""
    (started,) = _fields(_STARTED, payload[: _STARTED.size])
    return started, payload[_STARTED.size :].decode("utf-8", "replace")


def pack_outcomes(outcomes: Outcomes) -> bytes:
    """Return the payload of outcomes; what is in shared memory goes as a blob."""
    return _SUMMARY.pack(outcomes.micros, outcomes.total, outcomes.plain) + outcomes.batch


def unpack_outcomes(payload: bytes) -> Outcomes:
    """As `pack_outcomes`."""
    micros, total, plain = _fields(_SUMMARY, payload[: _SUMMARY.size])
    return Outcomes(payload[_SUMMARY.size :], total, micros, bool(plain))


def _fields(form: struct.Struct, payload: bytes) -> tuple[Any, ...]:
    if len(payload) != form.size:
        raise MalformedBatch(f"{len(payload)} bytes where {form.size} are expected")
    return form.unpack(payload)


@dataclass(frozen=True)
class Offer:
    """What a machine has for container calls.

    Attributes:
        engine: Whether there is an engine, which runs images.
        apps: Names of the local apps that its operator gave it, with their tags.
        examples: Names of shipped examples that it runs as local apps where the engine has no such image.
        runtimes: Names of runtimes that callers may ask its engine for, besides the usual one.
    """

    engine: bool = False
    apps: frozenset[str] = frozenset()
    examples: frozenset[str] = frozenset()
    runtimes: frozenset[str] = frozenset()

    def fields(self) -> dict[str, Any]:
        """Return the object of the hello."""
        return {
            "engine": self.engine,
            "apps": sorted(self.apps),
            "examples": sorted(self.examples),
            "runtimes": sorted(self.runtimes),
        }

    @classmethod
    def from_fields(cls, fields: object) -> Offer:
        """Read what a host said.

        Raises:
            ValueError: A value is wrong, and which.
        """
        if not isinstance(fields, dict) or type(fields.get("engine")) is not bool:
            raise ValueError("a host says in an object what it has for containers, and whether there is an engine")
        lists = []
        for name in ("apps", "examples", "runtimes"):
            names = fields.get(name)
            if not isinstance(names, list) or len(names) > APPS_MOST:
                raise ValueError(f"a host's {name} are not a list of at most {APPS_MOST} names")
            for one in names:
                if not isinstance(one, str) or (why := why_no_ref(one)) is not None:
                    raise ValueError(why if isinstance(one, str) else f"a name in a host's {name} is not text")
            lists.append(frozenset(names))
        return cls(fields["engine"], *lists)


@dataclass(frozen=True)
class Introduction:
    """What a host says of itself when it joins.

    Attributes:
        name: What it is called; no two hosts of one owner have the same name at a gateway.
        workers: Worker processes that it has at most.
        capacity: What it has of each resource.
        grace: Seconds that it may be away before its calls are made elsewhere.
        python: Version of its workers.
        containers: What it has for container calls; None: it takes none, as hosts of before.
    """

    name: str
    workers: int
    capacity: Mapping[str, float]
    grace: float
    python: str
    containers: Offer | None = None

    def fields(self) -> dict[str, Any]:
        """Return the object of the hello."""
        return {
            "name": self.name,
            "workers": self.workers,
            "capacity": dict(self.capacity),
            "grace": self.grace,
            "python": self.python,
            **({} if self.containers is None else {"containers": self.containers.fields()}),
        }

    @classmethod
    def from_fields(cls, fields: object) -> Introduction:
        """Read what a host said.

        Raises:
            ValueError: A value is wrong, and which.
        """
        if not isinstance(fields, dict):
            raise ValueError("a host says what it is, in an object")
        name, workers, python = fields.get("name"), fields.get("workers"), fields.get("python")
        capacity, grace = fields.get("capacity"), fields.get("grace")
        if not isinstance(name, str) or (why := why_no_host_name(name)) is not None:
            raise ValueError(f"a host's name {str(name)[:40]!r} {why if isinstance(name, str) else 'is not text'}")
        if type(workers) is not int or not 1 <= workers <= WORKERS_MOST:
            raise ValueError(f"a host has 1 to {WORKERS_MOST} workers, not {workers!r:.40}")
        if not isinstance(capacity, dict) or not all(map(is_amount, capacity.values())):
            raise ValueError(f"a host's capacity {capacity!r:.100} is not an object of numbers from 0 on")
        if grace is None or not is_amount(grace) or grace > GRACE_MOST_S:
            raise ValueError(f"a host's grace {grace!r:.40} is not a number of seconds, at most {GRACE_MOST_S:g}")
        if not isinstance(python, str):
            raise ValueError("a host says which Python it has")
        has = {str(key): float(value) for key, value in capacity.items()}
        containers = None if fields.get("containers") is None else Offer.from_fields(fields["containers"])
        return cls(name, workers, has, float(grace), python, containers)


def is_amount(value: Any) -> bool:
    """Whether this is a number from 0 on that a float can be; an integer may be any in JSON."""
    return type(value) in (int, float) and 0 <= value <= sys.float_info.max


def why_no_host_name(name: str) -> str | None:
    """Return why a text cannot be a host's name; None when it can."""
    if not 0 < len(name) <= NAME_LIMIT:
        return f"has {len(name)} characters, and 1 to {NAME_LIMIT} are allowed"
    if not name.isprintable() or any(letter.isspace() for letter in name):
        return "has a space or an unprintable character in it"
    return None
