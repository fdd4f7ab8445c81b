"""Payloads: values as they travel, in the frame or beside it in shared memory.

A small value is its pickle. A large one is a parcel, which keeps arrays out of the pickle: in a segment of shared
memory where both sides are on one machine, and the payload is then a reference of some bytes; else packed.
"""

from __future__ import annotations

import pickle
from types import FunctionType
from typing import TYPE_CHECKING, Any

from ..errors import SharedMemoryFull, TaskTooLarge
from ..settings import MESSAGE_LIMIT
from .calls import PROTOCOL, pickled, pickled_by_value
from .parcels import FAILED, PACKED, SHARED, Parcel, unpack

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .lending import Lender
    from .segments import Segment

SHARE_MIN = 256 << 10  #: bytes; a smaller parcel is quicker in the frame than in a segment of its own
_PLAIN = frozenset({int, float, bool, str, bytes, type(None)})  #: need no second look at what they refer to


class Held(bytes):
    """A payload that something lives as long as: the segment that it refers to, or handles that it mentions."""

    segment: Segment | None = None
    view: memoryview | None = None  #: what it refers to, mapped for who opens it next
    handles: Sequence[object] = ()
    lender: int = 0  #: the worker whose segment it is
    lent_as: bytes = b""  #: what that calls it


def dump(value: object, lender: Lender | None) -> bytes:
    """Return the payload of a value; what is large goes into shared memory if somebody lends that.

    Raises:
        SharedMemoryFull: There is no room for it.
        Exception: Whatever the value's own pickling raises.
    """
    buffers: list[memoryview] = []
    if type(value) in _PLAIN:
        data = pickle.dumps(value, PROTOCOL)
    else:
        data, buffers = pickled(value)
    return data if not buffers and len(data) < SHARE_MIN else _large(data, buffers, lender)


def dump_call(
    fn: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any], lender: Lender | None
) -> bytes:
    """Return the payload of a call, with its function where that is given; all else as `dump`."""
    if fn is not None:
        # It is no importable one, so the C pickler's attempt, which `dump` begins with, would be in vain.
        data, buffers = (
            pickled_by_value((fn, args, kwargs)) if type(fn) is FunctionType else pickled((fn, args, kwargs))
        )
        return data if not buffers and len(data) < SHARE_MIN else _large(data, buffers, lender)
    if kwargs:
        return dump((args, kwargs), lender)
    for value in args:  # quicker than a set's own methods for the few that there are
        if type(value) not in _PLAIN:
            return dump((args, kwargs), lender)
    data = pickle.dumps((args, kwargs), PROTOCOL)
    return data if len(data) < SHARE_MIN else _large(data, [], lender)


def _large(data: bytes, buffers: list[memoryview], lender: Lender | None) -> bytes:
    parcel = Parcel(data, buffers)
    if lender is not None and parcel.size >= SHARE_MIN and (segment := lender.make(parcel)) is not None:
        return held_by(segment)
    if parcel.size > MESSAGE_LIMIT:  # before it is put together
        raise TaskTooLarge(f"the value has {parcel.size:,} bytes, and {MESSAGE_LIMIT:,} can travel")
    return parcel.pack() if buffers else data


def held_by(segment: Segment) -> Held:
    """Return the payload that refers to a segment, and keeps it open."""
    payload = Held(segment.reference())
    payload.segment = segment
    return payload


def opened(payload: bytes) -> tuple[bytes | memoryview, list[memoryview]]:
    """Return the pickle of a payload and its buffers, which can be written to.

    Raises:
        SharedMemoryGone: It is in shared memory that is there no more.
        ValueError: It is no payload (`MalformedParcel`).
    """
    if isinstance(payload, Held) and payload.view is not None:
        view, payload.view = payload.view, None
        return unpack(view)
    if payload[0] == SHARED:
        from .segments import map_fd, map_segment

        if not isinstance(payload, Held):
            return unpack(map_segment(payload))
        assert payload.segment is not None
        return unpack(map_fd(payload.segment.fileno(), payload.segment.size))
    return unpack(bytearray(payload))


def no_room(why: SharedMemoryFull) -> bytes:
    """Return what stands in the place of a payload that there was no room for."""
    return bytes((FAILED,)) + str(why).encode()


def check_room(payload: bytes) -> None:
    """Check that a payload is not what `no_room` returned.

    Raises:
        SharedMemoryFull: It is, and why.
    """
    if payload[0] == FAILED:
        raise SharedMemoryFull(payload[1:].decode("utf-8", "replace"))


def is_plain(payload: bytes) -> bool:
    """Whether a payload is a pickle as it stands."""
    return payload[0] not in (PACKED, SHARED)


def load(payload: bytes) -> Any:
    """Return the value; only for bytes from a side that has proved itself."""
    if is_plain(payload):
        return pickle.loads(payload)  # nosec B301 # only from sides that have proved themselves
    data, buffers = opened(payload)
    return pickle.loads(data, buffers=buffers)  # nosec B301 # only from sides that have proved themselves


def in_frame(payload: bytes) -> bytes:
    """Return a payload that can leave this machine."""
    if type(payload) is not Held or payload.segment is None:
        return payload
    from .segments import map_segment

    framed = Held(map_segment(payload))
    framed.handles = payload.handles
    return framed
