"""The board: what one side writes, the other reads, in one piece, and a revocation never covers too much."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.runtimes.board import (
    BOARD_BYTES,
    FILLED,
    GENERATION,
    OUTBOX_AT,
    OUTBOX_BYTES,
    REVOKED_FROM,
    REVOKED_TO,
    Board,
    Look,
    make_file,
)
from meca_executor.wire.records import Status, decode, encode
from tests.helpers.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

U64 = st.integers(0, (1 << 64) - 1)

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=50)


def new_board() -> Board:
    """Return a page of this process's own."""
    return Board(mmap.mmap(-1, BOARD_BYTES))


@pytest.fixture
def board() -> Iterator[Board]:
    """A page of this process's own."""
    with contextlib.closing(new_board()) as page:
        yield page


def revoked(board: Board) -> tuple[int, int]:
    """Return what a worker sees of a revocation."""
    return board.words[REVOKED_FROM], board.words[REVOKED_TO]


def test_a_new_board_says_nothing(board: Board) -> None:
    """Nothing was started, nothing is revoked, the outbox is empty."""
    assert board.look() == Look(started=0, since=0.0, generation=0, filled=0)
    assert revoked(board) == (0, 0)
    assert board.outbox(board.look()) == b""


@quickly
@given(U64, st.floats(0, 1e12), U64, st.integers(0, OUTBOX_BYTES))
def test_a_look_sees_what_the_worker_wrote(started: int, since: float, generation: int, filled: int) -> None:
    """Each field stands where the worker puts it, and disturbs no other."""
    with contextlib.closing(new_board()) as board:
        board.revoke(3, 9)
        board.start(started, since)
        board.words[GENERATION] = generation
        board.words[FILLED] = filled
        assert board.look() == Look(started, since, generation, filled)
        assert revoked(board) == (3, 9)


STARTS = """
import sys, time
from meca_executor.runtimes.board import Board
board = Board.of(int(sys.argv[1]))
ordinal = 0
while True:
    ordinal += 1
    board.start(ordinal, time.monotonic())
"""


def test_no_look_sees_a_call_that_began_before_it_did() -> None:
    """However fast calls follow each other: a time that is half written would be a timeout long over."""
    began, handle = time.monotonic(), make_file()
    try:
        worker = subprocess.Popen([sys.executable, "-c", STARTS, str(handle)], pass_fds=[handle])
        with worker, contextlib.closing(Board.of(handle)) as board:
            try:
                wait_until(lambda: board.look().started > 0, "the first start")
                looks = [board.look() for _ in range(300_000)]
            finally:
                worker.kill()
    finally:
        os.close(handle)
    assert [look for look in looks if not began < look.since <= time.monotonic()] == []
    ordinals = [look.started for look in looks]
    assert ordinals == sorted(ordinals)
    assert ordinals[0] < ordinals[-1]


def test_the_outbox_holds_records(board: Board) -> None:
    """What a look has seen is copied, and not what came after it."""
    first, second = encode([(1, int(Status.OK), 5, b"one")]), encode([(2, int(Status.OK), 5, b"two")])
    board.bytes[OUTBOX_AT : OUTBOX_AT + len(first + second)] = first + second
    board.words[FILLED] = len(first)
    seen = board.look()
    board.words[FILLED] = len(first + second)
    assert decode(board.outbox(seen) or b"") == [(1, Status.OK, 5, b"one")]
    assert len(decode(board.outbox(board.look()) or b"")) == 2


def test_an_outbox_that_was_emptied_meanwhile_is_not_read(board: Board) -> None:
    """Others stand where the records were that a look saw, and what it saw is on its way as a message."""
    first, second = encode([(1, int(Status.OK), 5, b"one")]), encode([(2, int(Status.OK), 5, b"two")])
    board.bytes[OUTBOX_AT : OUTBOX_AT + len(first)] = first
    board.words[FILLED] = len(first)
    seen = board.look()
    board.words[FILLED] = 0
    board.words[GENERATION] = seen.generation + 1
    board.bytes[OUTBOX_AT : OUTBOX_AT + len(second)] = second
    board.words[FILLED] = len(second)
    assert board.outbox(seen) is None
    assert decode(board.outbox(board.look()) or b"") == [(2, Status.OK, 5, b"two")]


def test_the_outbox_may_be_full(board: Board) -> None:
    """Its last byte is the page's last."""
    board.bytes[OUTBOX_AT:] = b"x" * OUTBOX_BYTES
    board.words[FILLED] = OUTBOX_BYTES
    assert board.outbox(board.look()) == b"x" * OUTBOX_BYTES


@pytest.mark.parametrize("first", [(0, 0), (5, 10), (100, 200)])
def test_a_revocation_read_half_way_covers_nothing_new(first: tuple[int, int], board: Board) -> None:
    """Whatever the worker reads between the stores is the old range, none, or the new one."""
    seen: list[tuple[int, int]] = []
    words = board.words

    class Watched:
        """Memory that is read after each store, as another process may do."""

        def __setitem__(self, at: int, value: int) -> None:
            words[at] = value
            seen.append((words[REVOKED_FROM], words[REVOKED_TO]))

    board.revoke(*first)
    board.words = cast("memoryview", Watched())
    board.revoke(50, 60)
    board.words = words
    assert seen[-1] == (50, 60)
    for start, stop in seen[:-1]:
        covered = set(range(start, stop))
        assert covered <= set(range(*first)) | set(range(50, 60))


def test_two_maps_of_a_file_are_one_memory() -> None:
    """A board's file has no name; whoever has its descriptor sees the same page, also when that is closed."""
    handle = make_file()
    try:
        owner, worker = Board.of(handle), Board.of(handle)
    finally:
        os.close(handle)
    with contextlib.closing(owner), contextlib.closing(worker):
        worker.start(7, 1.5)
        assert owner.look() == Look(7, 1.5, 0, 0)
        owner.revoke(7, 12)
        assert revoked(worker) == (7, 12)


def test_fields_do_not_overlap() -> None:
    """The header ends before the outbox, and the outbox with the page."""
    assert OUTBOX_AT >= 8 * (FILLED + 1)
    assert OUTBOX_AT + OUTBOX_BYTES == BOARD_BYTES
    assert BOARD_BYTES % mmap.PAGESIZE == 0
