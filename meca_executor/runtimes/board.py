"""A page of memory that a worker and its owner share: what runs now, and results not yet sent.

A worker runs a batch of short calls and sends results when a few milliseconds are full, which is what
makes short calls cheap. What it has done and not sent stands here, in the outbox, so that its owner
can take it when the worker hangs in a long call or dies: no finished call is lost or run again.

    word 0  u64  started: ordinals below it have been started (or skipped)
         1  f64  when the last one was started, CLOCK_MONOTONIC, which all processes share
         2  u64  revoked from ┐ set by the owner: the worker leaves these ordinals alone,
         3  u64  revoked to   ┘ so that they can run elsewhere while it is busy
         4  u64  outbox generation: goes up whenever the outbox is emptied
         5  u64  bytes in the outbox
    byte 64 ...  the outbox: records

One side writes each word, and writes and reads it in one piece: `struct` would not (it clears first, then writes
byte by byte, and the other side sees that). A record is written before the count that includes it. The owner reads it
only after the worker died or when two looks, milliseconds apart, see the same count, so that the order
of stores does not matter on any processor; and what it copied counts only if the outbox was not emptied
meanwhile, for then others may stand where the records were.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from typing import NamedTuple

BOARD_BYTES = 256 << 10
OUTBOX_AT = 64
OUTBOX_BYTES = BOARD_BYTES - OUTBOX_AT
STARTED, SINCE, REVOKED_FROM, REVOKED_TO, GENERATION, FILLED = range(6)


class Look(NamedTuple):
    """What the owner saw at one moment."""

    started: int
    since: float
    generation: int
    filled: int


class Board:
    """The page, as one of the two has mapped it.

    Attributes:
        bytes: All of it.
        words: Its words as integers.
        times: The same words as floats.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self.bytes = memory
        head = memoryview(memory)[:OUTBOX_AT]
        self.words, self.times = head.cast("Q"), head.cast("d")

    @classmethod
    def of(cls, handle: int) -> Board:
        """Map the board behind a descriptor, which may be closed afterwards."""
        return cls(mmap.mmap(handle, BOARD_BYTES))

    def close(self) -> None:
        """Let go of the memory."""
        self.words.release()
        self.times.release()
        self.bytes.close()

    # -- worker

    def start(self, ordinal: int, now: float) -> None:
        """Say which call begins."""
        # The time first: an owner that looks in between sees a call that began later than it did, never earlier.
        self.times[SINCE] = now
        self.words[STARTED] = ordinal

    # -- owner

    def look(self) -> Look:
        """Read what the worker says."""
        words = self.words
        return Look(words[STARTED], self.times[SINCE], words[GENERATION], words[FILLED])

    def outbox(self, seen: Look) -> bytes | None:
        """Copy the records that a look saw; None when the outbox was emptied meanwhile.

        Its worker may then have written others in their place before or while they were copied.
        """
        records = self.bytes[OUTBOX_AT : OUTBOX_AT + seen.filled]
        return records if self.words[GENERATION] == seen.generation else None

    def revoke(self, start: int, stop: int) -> None:
        """Tell the worker to leave ordinals start .. stop - 1 alone."""
        # An empty range in between, so that a worker that reads now never sees a mixture that covers too much.
        self.words[REVOKED_TO] = 0
        self.words[REVOKED_FROM] = start
        self.words[REVOKED_TO] = stop


def make_file() -> int:
    """Return the descriptor of a nameless file of board size, in memory where the system has that."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("meca-board")
    else:  # pragma: no cover  (macOS)
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.ftruncate(handle, BOARD_BYTES)
    return handle
