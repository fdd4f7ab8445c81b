"""A page of memory that a worker and its owner share: what runs now, and results not yet sent.

A worker runs a batch of short calls and sends results when a few milliseconds are full, which is what
makes short calls cheap. What it has done and not sent stands here, in the outbox, so that its owner
can take it when the worker hangs in a long call or dies: no finished call is lost or run again.

    0   u64  started: ordinals below it have been started (or skipped)
    8   f64  when the last one was started, CLOCK_MONOTONIC, which all processes share
    16  u64  revoked from ┐ set by the owner: the worker leaves these ordinals alone,
    24  u64  revoked to   ┘ so that they can run elsewhere while it is busy
    32  u64  outbox generation: goes up whenever the outbox is emptied
    40  u64  bytes in the outbox
    64  ...  the outbox: records

One side writes each field. A record is written before the count that includes it. The owner reads it
only after the worker died or when two looks, milliseconds apart, see the same count, so that the order
of stores does not matter on any processor; and what it copied counts only if the outbox was not emptied
meanwhile, for then others may stand where the records were.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from typing import NamedTuple

BOARD_BYTES = 256 << 10
OUTBOX_AT = 64
OUTBOX_BYTES = BOARD_BYTES - OUTBOX_AT

_U64 = struct.Struct("<Q")
_START = struct.Struct("<Qd")
_PAIR = struct.Struct("<QQ")
pack_start = _START.pack_into
pack_u64 = _U64.pack_into
unpack_pair = _PAIR.unpack_from


class Look(NamedTuple):
    """What the owner saw at one moment."""

    started: int
    since: float
    generation: int
    filled: int


def make_file() -> int:
    """Return the descriptor of a nameless file of board size, in memory where the system has that."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("meca-board")
    else:  # pragma: no cover  (macOS)
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    os.ftruncate(handle, BOARD_BYTES)
    return handle


def map_board(handle: int) -> mmap.mmap:
    """Return the board behind a descriptor, which may be closed afterwards."""
    return mmap.mmap(handle, BOARD_BYTES)


def look(board: mmap.mmap) -> Look:
    """Owner: read what the worker says."""
    return Look(*_START.unpack_from(board, 0), *unpack_pair(board, 32))


def outbox(board: mmap.mmap, seen: Look) -> bytes | None:
    """Owner: copy the records that a look saw; None when the outbox was emptied meanwhile.

    Its worker may then have written others in their place before or while they were copied.
    """
    records = board[OUTBOX_AT : OUTBOX_AT + seen.filled]
    return records if look(board).generation == seen.generation else None


def revoke(board: mmap.mmap, start: int, stop: int) -> None:
    """Owner: tell the worker to leave ordinals start .. stop - 1 alone."""
    # An empty range in between, so that a worker that reads now never sees a mixture that covers too much.
    pack_u64(board, 24, 0)
    pack_u64(board, 16, start)
    pack_u64(board, 24, stop)
