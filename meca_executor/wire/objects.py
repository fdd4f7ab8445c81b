"""Objects that were sent once and are mentioned by number in many calls: the worker's side."""

from __future__ import annotations

import contextlib
from typing import Any

from ..errors import SharedMemoryFull, SharedMemoryGone
from .parcels import FAILED, SHARED
from .payloads import Held, load

_payloads: dict[int, bytes] = {}


def hold(number: int, payload: bytes) -> None:
    """Keep an object's payload; what is in shared memory is from now on held open by this process."""
    _payloads[number] = payload
    if payload[0] == SHARED:
        from .segments import open_segment

        with contextlib.suppress(SharedMemoryGone):  # told by `fetch`, to the task that wants it
            segment = open_segment(payload)
            _payloads[number] = held = Held(payload)
            held.segment = segment


def drop(number: int) -> None:
    """Let go of an object."""
    _payloads.pop(number, None)


def fetch(number: int) -> Any:
    """Return the object, new for each call; arrays share their memory until somebody writes to them.

    Raises:
        LookupError: It is not here.
        SharedMemoryFull: There was no room for it where it was to be kept.
    """
    return load(payload_of(number))


def payload_of(number: int) -> bytes:
    """Return an object's payload; errors as `fetch`."""
    payload = _payloads.get(number)
    if payload is None:
        raise LookupError("the object of this handle is gone: its executor, or the last reference to the handle, ended")
    if payload[0] == FAILED:
        raise SharedMemoryFull(payload[1:].decode())
    return payload
