"""The board: what one side writes, the other reads, and a revocation never covers too much."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.runtimes import board as page
from meca_executor.wire.records import Status, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

U64 = st.integers(0, (1 << 64) - 1)

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=50)


@pytest.fixture
def board() -> Iterator[mmap.mmap]:
    """A page of this process's own."""
    with mmap.mmap(-1, page.BOARD_BYTES) as memory:
        yield memory


def test_a_new_board_says_nothing(board: mmap.mmap) -> None:
    """Nothing was started, nothing is revoked, the outbox is empty."""
    assert page.look(board) == page.Look(started=0, since=0.0, generation=0, filled=0)
    assert page.unpack_pair(board, 16) == (0, 0)
    assert page.outbox(board, page.look(board)) == b""


@quickly
@given(U64, st.floats(0, 1e12), U64, st.integers(0, page.OUTBOX_BYTES))
def test_a_look_sees_what_the_worker_wrote(started: int, since: float, generation: int, filled: int) -> None:
    """Each field stands where the worker puts it, and disturbs no other."""
    with mmap.mmap(-1, page.BOARD_BYTES) as memory:
        page.revoke(memory, 3, 9)
        page.pack_start(memory, 0, started, since)
        page.pack_u64(memory, 32, generation)
        page.pack_u64(memory, 40, filled)
        assert page.look(memory) == page.Look(started, since, generation, filled)
        assert page.unpack_pair(memory, 16) == (3, 9)


def test_the_outbox_holds_records(board: mmap.mmap) -> None:
    """What a look has seen is copied, and not what came after it."""
    first, second = encode([(1, int(Status.OK), 5, b"one")]), encode([(2, int(Status.OK), 5, b"two")])
    board[page.OUTBOX_AT : page.OUTBOX_AT + len(first + second)] = first + second
    page.pack_u64(board, 40, len(first))
    seen = page.look(board)
    page.pack_u64(board, 40, len(first + second))
    assert decode(page.outbox(board, seen) or b"") == [(1, Status.OK, 5, b"one")]
    assert len(decode(page.outbox(board, page.look(board)) or b"")) == 2


def test_an_outbox_that_was_emptied_meanwhile_is_not_read(board: mmap.mmap) -> None:
    """Others stand where the records were that a look saw, and what it saw is on its way as a message."""
    first, second = encode([(1, int(Status.OK), 5, b"one")]), encode([(2, int(Status.OK), 5, b"two")])
    board[page.OUTBOX_AT : page.OUTBOX_AT + len(first)] = first
    page.pack_u64(board, 40, len(first))
    seen = page.look(board)
    page.pack_u64(board, 40, 0)
    page.pack_u64(board, 32, seen.generation + 1)
    board[page.OUTBOX_AT : page.OUTBOX_AT + len(second)] = second
    page.pack_u64(board, 40, len(second))
    assert page.outbox(board, seen) is None
    assert decode(page.outbox(board, page.look(board)) or b"") == [(2, Status.OK, 5, b"two")]


def test_the_outbox_may_be_full(board: mmap.mmap) -> None:
    """Its last byte is the page's last."""
    board[page.OUTBOX_AT :] = b"x" * page.OUTBOX_BYTES
    page.pack_u64(board, 40, page.OUTBOX_BYTES)
    assert page.outbox(board, page.look(board)) == b"x" * page.OUTBOX_BYTES


@pytest.mark.parametrize("first", [(0, 0), (5, 10), (100, 200)])
def test_a_revocation_read_half_way_covers_nothing_new(first: tuple[int, int]) -> None:
    """Whatever the worker reads between the stores is the old range, none, or the new one."""
    stores: list[tuple[int, int]] = []

    class Watched(bytearray):
        """Memory that is read after each store, as another process may do."""

    memory = Watched(page.BOARD_BYTES)
    page.revoke(memory, *first)  # type: ignore[arg-type]
    original = page.pack_u64

    def watched_store(buffer: bytearray, offset: int, value: int) -> None:
        original(buffer, offset, value)
        stores.append(page.unpack_pair(buffer, 16))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "pack_u64", watched_store)
        page.revoke(memory, 50, 60)  # type: ignore[arg-type]
    assert stores[-1] == (50, 60)
    for start, stop in stores[:-1]:
        covered = set(range(start, stop))
        assert covered <= set(range(*first)) | set(range(50, 60))


def test_two_maps_of_a_file_are_one_memory() -> None:
    """A board's file has no name; whoever has its descriptor sees the same page, also when that is closed."""
    import os

    handle = page.make_file()
    try:
        owner, worker = page.map_board(handle), page.map_board(handle)
    finally:
        os.close(handle)
    with owner, worker:
        page.pack_start(worker, 0, 7, 1.5)
        assert page.look(owner) == page.Look(7, 1.5, 0, 0)
        page.revoke(owner, 7, 12)
        assert page.unpack_pair(worker, 16) == (7, 12)


def test_fields_do_not_overlap() -> None:
    """The header ends before the outbox, and the outbox with the page."""
    assert page.OUTBOX_AT >= 48
    assert page.OUTBOX_AT + page.OUTBOX_BYTES == page.BOARD_BYTES
    assert page.BOARD_BYTES % mmap.PAGESIZE == 0
