"""A client's session, as long as the gateway keeps it."""

from __future__ import annotations

import itertools
import os
import secrets
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import MecaError
from ..settings import MESSAGE_LIMIT
from ..wire.blobs import Arriving, mentioned
from ..wire.records import MalformedBatch, Release
from .gate import Gate

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator

    from ..wire.payloads import Held
    from ..wire.stream import Stream
    from .shelf import Shelf
    from .tasks import Options


@dataclass(eq=False)
class Generation:
    """What one client of a session has sent; the next one of a session with a name begins anew."""

    id: str  #: the broker's session
    number: int = 0  #: how many clients the session had before
    opened: bool = False  #: its setup has come
    containers: dict[int, Options] = field(default_factory=dict)  #: options ids of container calls
    options: dict[int, Options] = field(default_factory=dict)  #: all, of a session with a name


@dataclass(eq=False)
class Tenure:
    """Who has a session that has a name."""

    name: str
    shelf: Shelf
    holder: str = ""  #: the client's own random name; empty: it has left
    who: str = ""  #: what it says of itself
    since: float = 0.0  #: `time.time()`
    feeding: deque[int] = field(default_factory=deque)  #: tasks whose outcomes are to be told again
    reading: bool = False  #: one of them, from the journal
    past: dict[int, Generation] = field(default_factory=dict)  #: what earlier clients sent, whose tasks are not done
    blobs: dict[int, int] = field(default_factory=dict)  #: blob that is a call -> its task
    paused: bool = False  #: tasks of theirs are not started: too much waits to be fetched

    @property
    def taken(self) -> str:
        """Who has it, in words."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"{self.who} since {since}"


@dataclass(eq=False)
class Session:
    """One client's session."""

    id: str
    owner: str  #: whom it belongs to
    cap: int
    tasks_per_worker: int | None
    stream: Stream
    birth: str = field(default_factory=lambda: secrets.token_hex(8))  #: one made again under the same name has another
    key: str = ""  #: the access key with which its client came last
    send: Callable[[bytes], None] | None = None  #: to the connection; None while the link is down
    paused: bool = False
    acknowledging: bool = False  #: will, soon
    expiry: asyncio.TimerHandle | None = None
    calls: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    gate: Gate = field(default_factory=lambda: Gate(lambda: 1))
    shares: bool = False  #: the client reads our memory, and we its
    process: int | None = None  #: the number of the client's process, where it has shown that its memory is its own
    arriving: Arriving = field(default_factory=lambda: Arriving(MESSAGE_LIMIT, shared=True))
    arrived: dict[int, bytes] = field(default_factory=dict)  #: blobs, until the client has them forgotten
    blobs: Iterator[int] = field(default_factory=lambda: itertools.count(1))  #: numbers for those that it is sent
    shared: dict[bytes, Held] = field(default_factory=dict)  #: results in shared memory that the client has not mapped
    lent: dict[bytes, Held] = field(default_factory=dict)  #: those that it has mapped

    tenure: Tenure | None = None  #: of a session that has a name
    now: Generation = field(init=False)  #: of the present client

    def __post_init__(self) -> None:
        self.now = Generation(self.id)

    @property
    def opened(self) -> bool:
        """Whether the present client's setup has come."""
        return self.now.opened

    @property
    def generations(self) -> list[Generation]:
        """All that have tasks, or may have."""
        return [*(self.tenure.past.values() if self.tenure is not None else ()), self.now]

    @property
    def unfetched(self) -> int:
        """Bytes of results that the client has not taken."""
        shared = sum(held.segment.size for held in self.shared.values() if held.segment is not None)
        return self.stream.unacked_bytes + shared

    def meant(self, payload: bytes) -> bytes:
        """Return a payload, or the blob that it mentions.

        Raises:
            MalformedBatch: There is no such blob.
        """
        if (number := mentioned(payload)) is None:
            return payload
        if (blob := self.arrived.get(number)) is None:
            raise MalformedBatch(f"blob {number} was never sent")
        return blob

    def released(self, what: int, reference: bytes) -> Held | None:
        """The client has mapped a result in shared memory, or is done with it: returns what may be used again."""
        if (held := self.shared.pop(reference, None)) is not None and held.segment is not None:
            held.segment.close()
            self.lent[reference] = held
        return self.lent.pop(reference, None) if what == Release.FREED else None


class SessionRefused(MecaError):
    """The session that a client asked for is not its own."""


class SessionInUse(SessionRefused):
    """The session that a client asked for by its name is another client's."""


def may_read(process: int, sessions: Iterable[Session], serves: Callable[[str], bool]) -> bool:
    """Return whether what lies in a process's memory may be sent to a host.

    Args:
        process: Its number.
        sessions: All that there are.
        serves: Whether an owner's functions may run on the host.
    """
    mine = process == os.getpid()  # what clients sent in pieces
    return mine or any(one.process == process and serves(one.owner) for one in sessions)
