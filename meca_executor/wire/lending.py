"""Segments that are used again when their reader is done: fresh memory costs three times as much as used one.

The one who writes a segment lends it; the reader says when nothing of its mapping is left. Until then, and
when that is never said, nobody writes to it again.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from .segments import Segment

if TYPE_CHECKING:
    from .parcels import Parcel

IDLE_MOST = 8  #: segments kept for use
IDLE_BYTES = 1 << 30  #: bytes that they have together; kept for `IDLE_S`
IDLE_S = 1.0  #: after so long without a large call the client has all of them let go

#: Set in the status of an outcome: of the call's own segment no mapping is left.
FREED = 0x100
#: Set in the status of an outcome in shared memory: its worker wants to know when nothing of it is left.
LENT = 0x200

_forks = 0


def forks() -> int:
    """Return how often this process has forked: a child may still read what is let go here."""
    return _forks


def _count_fork() -> None:
    global _forks
    _forks += 1


if hasattr(os, "register_at_fork"):
    # Both: other threads may let go of something, or map it, between the fork and the count.
    os.register_at_fork(before=_count_fork, after_in_parent=_count_fork)


class Lender:
    """The idle segments of one executor or worker; any thread may use it."""

    def __init__(self) -> None:
        self._idle: list[Segment] = []  # the one used last is last
        self._most = IDLE_MOST
        self._used_at = time.monotonic()
        self._lock = threading.Lock()

    def make(self, parcel: Parcel) -> Segment | None:
        """Return a segment with the packed parcel, a used or a new one; None: send it in another way.

        Raises:
            SharedMemoryFull: There is no room for it.
        """
        with self._lock:
            self._used_at = time.monotonic()
            segment = next((s for s in reversed(self._idle) if parcel.size <= s.capacity <= 2 * parcel.size), None)
            if segment is not None:
                self._idle.remove(segment)
        if segment is None:
            return Segment.create(parcel)
        segment.rewrite(parcel)
        return segment

    def give_back(self, segment: Segment) -> None:
        """Take a segment that nobody reads any more; those idle for longest make place."""
        with self._lock:
            self._used_at = time.monotonic()
            self._idle.append(segment)
            while len(self._idle) > self._most or sum(idle.capacity for idle in self._idle) > IDLE_BYTES:
                self._idle.pop(0).close()

    def idle_for(self) -> float:
        """Return for how many seconds nothing was lent or given back."""
        return time.monotonic() - self._used_at

    @property
    def idle(self) -> bool:
        """Whether it keeps memory that nobody uses."""
        return bool(self._idle)

    def trim(self) -> None:
        """Let go of all."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    def close(self) -> None:
        """Let go of all; what is given back from here on is let go at once."""
        with self._lock:
            self._most = 0
        self.trim()
