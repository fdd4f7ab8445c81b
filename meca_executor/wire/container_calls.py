"""Container calls that a gateway has a host make, and what becomes of them.

They share the channel of a host and its workers (`hosting.py`), in messages of their own: one byte, CALLS or CONTENT,
and a batch of records or one piece of a blob. A record's id is the gateway's number of a call, its tag a `CallOrder`
(to the host) or a `CallEvent` (from it). A large input or reply is a blob that has the number of its call, and comes
before the record that has the flag IN_BLOB for it. Nothing here is ever unpickled.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ..errors import ContainerFailed, MecaError, NoHostFits, TaskFailed, TaskTimeout, UsageError
from ..settings import NAME_LIMIT, TOLD_LIMIT, why_no_ref, why_no_runtime
from . import proof
from .printed import LAST, MIXED
from .records import MalformedBatch, Status, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .records import Record
    from .stream import Piece

CALLS, CONTENT = b"C", b"B"
IN_BLOB = 0x100  #: flag in `ref`: the content is a blob that came before
OWNER_LIMIT = 4 * NAME_LIMIT  #: characters

_HEAD = struct.Struct("<I")


class CallOrder(IntEnum):
    """What a gateway tells a host; the comment says what `ref` and the payload are."""

    CALL = 1  # IN_BLOB or 0, what `pack_call` returns
    CANCEL = 2  # nobody waits for it any more: stop its work


class CallEvent(IntEnum):
    """What a host tells its gateway."""

    REPLY = 1  # Status (with IN_BLOB), the reply; of a failure UTF-8 text. The call is over
    WROTE = 2  # MIXED and LAST, what the container has written since; LAST also when it is nothing


@dataclass(frozen=True)
class Call:
    """What is asked of a container, without its input.

    Attributes:
        ref: The container's name.
        timeout: Seconds for the request, which the host counts; None is no limit.
        runtime: Name of a runtime; None is the usual one.
        resource: What it needs of `cpu`, `memory` (MiB) or `gpu`.
        owner: Whose call it is: no container is used for calls of two owners.
    """

    ref: str
    timeout: float | None = None
    runtime: str | None = None
    resource: Mapping[str, float] = field(default_factory=dict)
    owner: str = ""

    def __post_init__(self) -> None:
        """Check it.

        Raises:
            ValueError: A value is wrong, and which.
        """
        runtime, timeout, resource = self.runtime, self.timeout, self.resource
        if not isinstance(self.ref, str):
            raise ValueError(f"a container's name is text, not {self.ref!r:.40}")
        if not isinstance(runtime, (str, type(None))):
            raise ValueError(f"a runtime's name is text, not {runtime!r:.40}")
        if why := why_no_ref(self.ref) or (runtime and why_no_runtime(runtime)):
            raise ValueError(why)
        if timeout is not None and not (is_number(timeout) and timeout > 0):
            raise ValueError(f"timeout {timeout!r:.40} is not a positive number of seconds")
        if not isinstance(resource, dict) or not all(is_number(amount) and amount >= 0 for amount in resource.values()):
            raise ValueError(f"resource {resource!r:.100} is not an object of numbers from 0 on")
        if not isinstance(self.owner, str) or len(self.owner) > OWNER_LIMIT:
            raise ValueError(f"an owner's name has {OWNER_LIMIT} characters at most")


def is_number(value: Any) -> bool:
    """Whether this is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def is_of_calls(message: bytes) -> bool:
    """Whether a message on a host's channel is about container calls."""
    return message[:1] in (CALLS, CONTENT)


def pack_records(records: Iterable[Record]) -> bytes:
    """Return the message with these records."""
    return CALLS + encode(records)


def pack_piece(piece: Piece) -> bytes:
    """Return the message with a piece of a blob."""
    return b"".join((CONTENT, *piece))


def unpack(message: bytes) -> tuple[list[Record], bytes | None]:
    """Return the records of a message, or none and the body of its piece.

    Raises:
        MalformedBatch: It is no message.
    """
    if message[:1] == CALLS:
        return decode(message[1:]), None
    if message[:1] == CONTENT:
        return [], message[1:]
    raise MalformedBatch(f"a message of container calls that begins with {message[:1]!r}")


def pack_call(call: Call, content: bytes) -> bytes:
    """Return the payload of a CALL; without the content when that goes as a blob."""
    fields = {
        "ref": call.ref,
        "timeout": call.timeout,
        "runtime": call.runtime,
        "resource": call.resource,
        "owner": call.owner,
    }
    head = json.dumps(fields, separators=(",", ":")).encode()
    return _HEAD.pack(len(head)) + head + content


def unpack_call(payload: bytes) -> tuple[Call, bytes]:
    """As `pack_call`.

    Raises:
        ValueError: Garbage (`MalformedBatch`), or a value is wrong.
    """
    if len(payload) < _HEAD.size:
        raise MalformedBatch(f"a call of {len(payload)} bytes")
    (size,) = _HEAD.unpack_from(payload)
    start = _HEAD.size + size
    if size > TOLD_LIMIT or start > len(payload):
        raise MalformedBatch(f"a call whose head has {size:,} bytes, of {len(payload):,} in all")
    try:
        fields = proof.from_text(payload[_HEAD.size : start].decode())
        call = Call(
            fields.get("ref"),  # type: ignore[arg-type]  # it looks itself
            fields.get("timeout"),
            fields.get("runtime"),
            fields.get("resource"),  # type: ignore[arg-type]
            fields.get("owner"),  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise MalformedBatch(f"a call that cannot be read: {error}") from None
    return call, payload[start:]


#: How a call can end.
ENDS = frozenset(
    {
        Status.REPLY,
        Status.FAILED,
        Status.TIMEOUT,
        Status.NO_HOST,
        Status.CONTAINER_FAILED,
        Status.CONTAINER_LOST,
    }
)


def unpack_end(ref: int) -> tuple[Status, bool]:
    """Return how a call ended by the `ref` of a REPLY, and whether its reply is a blob.

    Raises:
        MalformedBatch: No call ends so.
    """
    status, in_blob = ref & ~IN_BLOB, bool(ref & IN_BLOB)
    if status not in ENDS or (in_blob and status != Status.REPLY):
        raise MalformedBatch(f"a container's call that ended with status {ref}")
    return Status(status), in_blob


def unpack_flags(ref: int) -> tuple[bool, bool]:
    """Return by the `ref` of a WROTE whether other calls' text is in it, and whether it is the last.

    Raises:
        MalformedBatch: There is another flag.
    """
    if ref & ~(MIXED | LAST):
        raise MalformedBatch(f"text of a container with flags {ref}")
    return bool(ref & MIXED), bool(ref & LAST)


def told(error: Exception) -> tuple[Status, bytes]:
    """Return how a call ended that raised an error, and its text."""
    if isinstance(error, ContainerFailed):
        status = Status.CONTAINER_LOST if error.lost else Status.CONTAINER_FAILED
    elif isinstance(error, TaskTimeout):
        status = Status.TIMEOUT
    elif isinstance(error, (NoHostFits, UsageError)):
        status = Status.NO_HOST
    else:
        status = Status.FAILED
    text = str(error) if isinstance(error, MecaError) else f"{type(error).__name__}: {error}"
    return status, text.encode("utf-8", "backslashreplace")


def raised(status: Status, text: str) -> MecaError:
    """Return the error of a call that ended so; the other way of `told`."""
    if status in (Status.CONTAINER_LOST, Status.CONTAINER_FAILED):
        error = ContainerFailed(text)
        error.lost = status is Status.CONTAINER_LOST
        return error
    return _ERRORS.get(status, TaskFailed)(text)


_ERRORS: dict[Status, type[MecaError]] = {Status.TIMEOUT: TaskTimeout, Status.NO_HOST: NoHostFits}
