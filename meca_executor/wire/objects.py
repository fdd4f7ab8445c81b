"""Objects that were sent once and are mentioned by number in many calls: the worker's side."""

from __future__ import annotations

import contextlib
from typing import Any

from ..errors import SharedMemoryGone
from .parcels import SHARED
from .payloads import Held, check_room, load

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
    payload = _payloads.get(number)
    if payload is None:
        raise LookupError("the object of this handle is gone: its executor, or the last reference to the handle, ended")
    check_room(payload)
    return load(payload)
