"""Chunks: the items of a map each get exactly one outcome, and none of them costs a task unless it fails."""

from __future__ import annotations

import itertools

import pytest

from meca_executor.client.chunks import CHUNKED, FIRST, MOST, MOST_BYTES, Slice, cut, results
from meca_executor.client.ledger import BATCH_BYTES, BATCH_TASKS
from meca_executor.wire.calls import dump_exception
from meca_executor.wire.records import Status

from .clients import NOW, Client, died, nothing_is_out, numbers_of, ok

# -- cutting


def test_chunks_double_and_keep_the_order() -> None:
    """The work begins with the first items; later ones come in larger chunks, up to MOST."""
    payloads = [b"%d" % number for number in range(3 * MOST)]
    chunks = list(cut(payloads))
    assert [payload for chunk in chunks for payload in chunk] == payloads  # type: ignore[union-attr]
    sizes = [len(chunk) for chunk in chunks]  # type: ignore[arg-type]
    doubled = itertools.takewhile(lambda size: size <= MOST, (FIRST << turn for turn in itertools.count()))
    full = [*doubled]
    assert sizes[: len(full)] == full
    assert max(sizes) == MOST


def test_a_chunk_ends_with_its_bytes() -> None:
    """Large items do not pile up: who brings a chunk to MOST_BYTES is its last."""
    half = bytes(MOST_BYTES // 2)
    assert [len(chunk) for chunk in cut([half, half, half, bytes(MOST_BYTES), b"", b""])] == [2, 2, 2]  # type: ignore[arg-type]


def test_what_cannot_be_sent_stands_alone() -> None:
    """Between what came before it and what comes behind."""
    error = ValueError("not to be pickled")
    assert list(cut([b"1", b"2", error, error, b"3"])) == [[b"1", b"2"], error, error, [b"3"]]


def test_nothing_is_no_chunk() -> None:
    """A map over nothing."""
    assert list(cut([])) == []


# -- handing over


def test_items_are_handed_over_in_their_order_among_tasks() -> None:
    """A chunk stands in the queue as its items would."""
    client = Client()
    client.short()
    before, chunk, after = client.add(), client.add_chunk(3), client.add()
    assert client.ledger.counts == (5, 0)
    assert client.hand_over() == [before.number, *numbers_of(chunk), after.number]
    assert client.ledger.counts == (0, 5)
    assert client.hand_over() == []
    assert client.ledger.credit.out == 5


def test_numbers_of_items_are_beside_those_of_tasks() -> None:
    """No item of any chunk has the number of another's, or of a task."""
    client = Client()
    numbers = [number for _ in range(3) for number in numbers_of(client.add_chunk(5))]
    assert len(set(numbers)) == 15
    assert min(numbers) >= CHUNKED


def test_unmeasured_items_stay_here() -> None:
    """DESIGN rule 5 holds for items: slots + 1 are out, the others can be cancelled."""
    client = Client(slots=2)
    chunk = client.add_chunk(10)
    assert client.hand_over() == numbers_of(chunk)[:3]
    assert client.hand_over() == []
    assert client.ledger.counts == (7, 3)
    client.ledger.settle([ok(chunk.number)])
    assert client.hand_over()[0] == chunk.number + 3


def test_a_batch_has_a_limit_of_items() -> None:
    """Items and tasks together."""
    client = Client(slots=1000)
    client.short()
    first = client.add()
    chunk = client.add_chunk(BATCH_TASKS + 5)
    assert client.hand_over() == [first.number, *numbers_of(chunk)[: BATCH_TASKS - 1]]
    assert client.hand_over() == numbers_of(chunk)[BATCH_TASKS - 1 :]


def test_a_batch_has_a_limit_of_bytes() -> None:
    """Large items go in messages of about BATCH_BYTES; a larger one ends its batch."""
    client = Client(slots=100)
    client.short()
    client.add_chunk(5, size=BATCH_BYTES // 2)
    assert [len(client.hand_over()) for _ in range(4)] == [2, 2, 1, 0]
    client.add_chunk(2, size=3 * BATCH_BYTES)
    assert [len(client.hand_over()) for _ in range(3)] == [1, 1, 0]


def test_the_window_of_bytes_holds_items_back() -> None:
    """And lets them go when others have come back; one of any size goes alone."""
    client = Client(slots=9, window_bytes=100)
    client.short()
    chunk = client.add_chunk(4, size=40)
    assert client.hand_over() == numbers_of(chunk)[:2]
    assert client.hand_over() == []
    client.ledger.settle([ok(chunk.number)])
    assert client.hand_over() == [chunk.number + 2]
    client.ledger.settle([ok(chunk.number + 1), ok(chunk.number + 2)])
    assert client.hand_over() == [chunk.number + 3]
    client.ledger.settle([ok(chunk.number + 3)])
    huge = client.add_chunk(2, size=1000)
    assert client.hand_over() == [huge.number]
    client.ledger.settle([ok(huge.number)])
    assert client.hand_over() == [huge.number + 1]
    client.ledger.settle([ok(huge.number + 1)])
    assert nothing_is_out(client)


def test_what_travels_is_the_payloads() -> None:
    """A slice has the calls of its items, under their numbers."""
    client = Client()
    client.short()
    chunk = client.add_chunk(3)
    (part,) = client.ledger.next_batch(NOW)
    assert isinstance(part, Slice)
    assert part.kind == chunk.kind
    assert part.calls == [(chunk.number + index, 0, 0, b"%d" % index) for index in range(3)]


# -- outcomes


def test_results_come_in_their_places() -> None:
    """In whatever order the records come; payloads are let go of, and the credit is given back."""
    client = Client()
    client.short()
    chunk = client.add_chunk(4)
    client.hand_over()
    for index in (2, 0, 3, 1):
        assert client.ledger.settle([ok(chunk.number + index, index * 10)]) == []
    assert list(results([chunk], 0.0)) == [0, 10, 20, 30]
    assert chunk.payloads == [b""] * 4
    assert client.ledger.idle
    assert nothing_is_out(client)


def test_what_an_item_was_charged_comes_back_with_it() -> None:
    """No more and no less, also when items of one chunk were charged differently."""
    client = Client(slots=2)
    chunk = client.add_chunk(5)
    client.hand_over()
    credit = client.ledger.credit
    unmeasured = credit._out_us
    client.ledger.settle([ok(chunk.number)])
    assert credit._out_us == pytest.approx(unmeasured * 2 / 3)
    client.hand_over()
    before = credit._out_us
    client.ledger.settle([ok(chunk.number + 1)])
    client.ledger.settle([ok(chunk.number + 2)])
    assert 0 <= credit._out_us < before
    client.ledger.settle([ok(chunk.number + index) for index in range(3, 5)])
    assert credit._out_us == 0.0


def test_an_item_that_raised_is_raised_at_its_turn() -> None:
    """Those before it are given, those behind it are cancelled."""
    client = Client(slots=2)
    chunk = client.add_chunk(5)
    client.hand_over()
    _, error = dump_exception(LookupError("not there"))
    client.ledger.settle([ok(chunk.number, "first"), (chunk.number + 1, int(Status.RAISED), 1, error)])
    found = results([chunk], 0.0)
    assert next(found) == "first"
    with pytest.raises(LookupError, match="not there"):
        next(found)
    client.ledger.settle([ok(chunk.number + 2)])
    assert client.hand_over() == []
    assert client.ledger.idle
    assert nothing_is_out(client)


@pytest.mark.parametrize(
    ("status", "payload"),
    [(250, b""), (int(Status.RAISED), b""), (int(Status.OK), b"garbage"), (int(Status.REPLY), b"x")],
)
def test_an_outcome_that_makes_no_sense_fails_its_item(status: int, payload: bytes) -> None:
    """An error in its place, and the others go on."""
    client = Client()
    chunk = client.add_chunk(2)
    client.hand_over()
    client.ledger.settle([ok(chunk.number + 1, "fine"), (chunk.number, status, 0, payload)])
    assert nothing_is_out(client)
    failing, good = chunk.values[0].future, chunk.values[1]
    assert isinstance(failing.exception(0), Exception)
    assert good == "fine"


def test_records_of_items_that_are_not_out_are_ignored() -> None:
    """One that was settled, one not handed over yet, one that never was, a chunk that never was."""
    client = Client(slots=1)
    chunk = client.add_chunk(5)
    client.hand_over()
    client.ledger.settle([ok(chunk.number, "first")])
    wrong = [chunk.number, chunk.number + 4, chunk.number + 5, chunk.number + (1 << 20) - 1, CHUNKED, (1 << 64) - 1]
    assert client.ledger.settle([ok(number, "wrong") for number in wrong]) == []
    assert client.ledger.settle([died(number) for number in wrong]) == []
    assert chunk.values[0] == "first"
    assert client.ledger.credit.out == 1
    assert client.hand_over() == [chunk.number + 2]


def test_items_and_tasks_may_be_settled_in_one_message() -> None:
    """Each finds its own, and each kind learns its time."""
    client = Client(slots=9)
    one, chunk, two, other = client.add(), client.add_chunk(2), client.add(kind=(0, 2)), client.add_chunk(2)
    assert len(client.hand_over()) == 6
    records = [
        ok(other.number, "d"),
        ok(one.number or 0, "a"),
        ok(chunk.number + 1, "c"),
        ok(two.number or 0, "e"),
        ok(chunk.number, "b"),
        ok(other.number + 1, "f"),
    ]
    client.ledger.settle(records)
    assert [one.result(0), two.result(0), *results([chunk, other], 0.0)] == ["a", "e", "b", "c", "d", "f"]
    assert client.ledger.idle
    assert nothing_is_out(client)
    assert client.ledger.credit.room((0, 1)) > 10
    assert client.ledger.credit.room((0, 2)) > 10
