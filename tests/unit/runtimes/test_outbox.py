"""A worker's outbox: what is put in goes out once, in order, and its summary is true."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.runtimes.board import BOARD_BYTES, OUTBOX_BYTES, Board
from meca_executor.runtimes.pipe import SUMMARY, Reader
from meca_executor.runtimes.worker import Outbox
from meca_executor.wire.records import HEADER_BYTES, Kind, Outcomes, Record, Status, decode, encode

if TYPE_CHECKING:
    import socket

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)

FULL = OUTBOX_BYTES - HEADER_BYTES  #: bytes of the largest payload that fits
SIZES = st.sampled_from([0, 1, 1000, FULL // 2, FULL - 1, FULL, FULL + 1, 2 * FULL])
STEPS = st.lists(st.tuples(st.sampled_from(["put", "put", "put", "skip", "flush"]), SIZES, st.integers(0, 10**6)))


class Wire:
    """The owner's end of a worker's pipe."""

    def __init__(self) -> None:
        self.messages: list[tuple[Kind, bytes]] = []
        self._reader = Reader(lambda kind, batch: self.messages.append((kind, batch)))

    def sendall(self, data: bytes) -> None:
        self._reader.feed(data)


def outbox_on(wire: Wire) -> tuple[Outbox, Board]:
    board = Board(mmap.mmap(-1, BOARD_BYTES))
    return Outbox(cast("socket.socket", wire), board), board


def standing(board: Board) -> list[Record]:
    """Return what stands on the board, as an owner sees it."""
    return decode(board.outbox(board.look()) or b"")


@quickly
@given(STEPS)
def test_what_is_put_in_goes_out_once_and_in_order(steps: list[tuple[str, int, int]]) -> None:
    """At any moment each record was sent or stands on the board; each message says truly what is in it."""
    wire = Wire()
    outbox, board = outbox_on(wire)
    expected: list[Record] = []
    for task, (step, size, micros) in enumerate(steps):
        if step == "put":
            outbox.put(task, Status.OK, micros, bytes(size))
            expected.append((task, int(Status.OK), micros, bytes(size)))
        elif step == "skip":
            outbox.skip(task)
            expected.append((task, int(Status.SKIPPED), 0, b""))
        else:
            outbox.flush()
            assert standing(board) == []
        sent: list[Any] = [record for _, batch in wire.messages for record in decode(batch[SUMMARY.size :])]
        assert sent + standing(board) == expected
    generation = sum(kind is Kind.RESULTS for kind, _ in wire.messages)
    assert board.look().generation == generation
    for kind, batch in wire.messages:
        micros, count, plain = SUMMARY.unpack_from(batch)
        records = batch[SUMMARY.size :]
        assert Outcomes.of(records)[:4] == (records, count, micros, bool(plain))
        assert kind is (Kind.LARGE if len(records) > OUTBOX_BYTES else Kind.RESULTS)


def test_nothing_is_not_sent() -> None:
    """A flush of an empty outbox costs its owner nothing."""
    wire = Wire()
    outbox, _ = outbox_on(wire)
    outbox.flush()
    outbox.put(1, Status.OK, 2, b"x")
    outbox.flush()
    outbox.flush()
    assert wire.messages == [(Kind.RESULTS, SUMMARY.pack(2, 1, 1) + encode([(1, int(Status.OK), 2, b"x")]))]


def test_a_setup_that_failed_is_told_in_words() -> None:
    """Whatever characters the traceback has."""
    wire = Wire()
    outbox, _ = outbox_on(wire)
    outbox.fail_setup("no \udc80 module")
    assert wire.messages == [(Kind.SETUP_FAILED, b"no \\udc80 module")]
