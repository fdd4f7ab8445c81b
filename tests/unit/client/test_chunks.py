"""Chunks: the items of a map each get exactly one outcome, and none of them costs a task unless it fails."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as Late
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from meca_executor import ExecutorClosed, GatewayLost, ProtocolMismatch, TaskFailed, WorkerDied
from meca_executor.client.chunks import CHUNKED, FIRST, MOST, MOST_BYTES, Map, Slice, cut, failed, results
from meca_executor.client.ledger import BATCH_BYTES, BATCH_TASKS
from meca_executor.wire.calls import dump_exception, dumps
from meca_executor.wire.records import Status

from ...helpers.waiting import LIMIT, wait_until
from .clients import NOW, Client

if TYPE_CHECKING:
    from collections.abc import Callable

    from meca_executor.client.chunks import Chunk
    from meca_executor.client.ledger import Ledger
    from meca_executor.wire.records import Record


def ok(number: int, value: object = None) -> Record:
    return number, int(Status.OK), 100, dumps(value)


def died(number: int) -> Record:
    return number, int(Status.DIED), 0, b"died"


def gone() -> GatewayLost:
    return GatewayLost("it ended")


def numbers_of(chunk: Chunk) -> list[int]:
    return [chunk.number + index for index in range(len(chunk.payloads))]


def nothing_is_out(client: Client) -> bool:
    credit = client.ledger.credit
    return (credit.out, credit.out_bytes, credit.backlog_us) == (0, 0, 0.0)


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
    unmeasured = credit.backlog_us
    client.ledger.settle([ok(chunk.number)])
    assert credit.backlog_us == pytest.approx(unmeasured * 2 / 3)
    client.hand_over()
    before = credit.backlog_us
    client.ledger.settle([ok(chunk.number + 1)])
    client.ledger.settle([ok(chunk.number + 2)])
    assert 0 <= credit.backlog_us < before
    client.ledger.settle([ok(chunk.number + index) for index in range(3, 5)])
    assert credit.backlog_us == 0.0


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


# -- attempts


def test_an_item_that_failed_is_a_task_with_a_number_of_its_own() -> None:
    """What comes late under its first number is nobody's."""
    client = Client(slots=2)
    used = client.add().number or 0
    chunk = client.add_chunk(2)
    client.hand_over()
    (again,) = client.ledger.settle([died(chunk.number)])
    assert used < again.task.number < CHUNKED
    assert client.add().number != again.task.number
    assert client.ledger.settle([ok(chunk.number, "late"), died(chunk.number)]) == []
    client.ledger.again(again.task)
    assert again.task.number in client.hand_over()
    client.ledger.settle([ok(again.task.number, "second"), ok(chunk.number + 1, "other")])
    assert list(results([chunk], 0.0)) == ["second", "other"]


def test_a_lost_attempt_of_an_item_is_made_again_as_often_as_a_tasks() -> None:
    """Three in all, counted with the one in the chunk; then the error stands."""
    client = Client(slots=1)
    chunk = client.add_chunk(1)
    client.hand_over()
    (again,) = client.ledger.settle([died(chunk.number)])
    client.ledger.again(again.task)
    assert client.hand_over() == [again.task.number]
    (again,) = client.ledger.settle([died(again.task.number)])
    client.ledger.again(again.task)
    assert client.hand_over() == [again.task.number]
    assert client.ledger.settle([died(again.task.number)]) == []
    with pytest.raises(WorkerDied):
        next(results([chunk], 0.0))
    assert nothing_is_out(client)
    assert client.ledger.idle


def test_the_first_hand_over_of_its_chunk_is_when_an_item_began() -> None:
    """A tenacity `stop_after_delay` counts from there."""
    client = Client(slots=1)
    chunk = client.add_chunk(2, retry=2)
    client.ledger.next_batch(5.0)
    (again,) = client.ledger.settle([died(chunk.number + 1)])
    assert (again.task.began, again.task.attempts) == (5.0, 1)


def test_with_one_attempt_an_item_is_not_tried_again() -> None:
    """`retry=1`: at most once."""
    client = Client()
    chunk = client.add_chunk(1, retry=1)
    client.hand_over()
    assert client.ledger.settle([died(chunk.number)]) == []
    with pytest.raises(WorkerDied, match="died"):
        next(results([chunk], 0.0))


def test_an_item_that_has_become_a_task_can_be_killed() -> None:
    """It waits for its next attempt, and that does not come."""
    client = Client()
    chunk = client.add_chunk(1)
    client.hand_over()
    (again,) = client.ledger.settle([died(chunk.number)])
    assert client.ledger.counts == (0, 1)
    assert client.ledger.kill(again.task.number) is False
    client.ledger.again(again.task)
    assert client.hand_over() == []
    assert client.ledger.idle
    assert chunk.values[0].future.done()


# -- ends


def test_when_the_gateway_is_gone_the_items_that_were_out_are_lost() -> None:
    """Those are tried again as tasks, at once; what has its result keeps it, what was queued stays."""
    client = Client(slots=2)
    chunk = client.add_chunk(5)
    client.hand_over()
    client.ledger.settle([ok(chunk.number + 1, "done")])
    again = client.ledger.lost(gone)
    assert len(again) == 2
    assert nothing_is_out(client)
    assert client.ledger.counts == (2, 2)
    for one in reversed(again):
        client.ledger.again(one.task)
    client.short()
    assert client.hand_over() == [*(one.task.number for one in again), chunk.number + 3, chunk.number + 4]
    values = zip([*(one.task.number for one in again), chunk.number + 3, chunk.number + 4], "acde", strict=True)
    client.ledger.settle([ok(number, value) for number, value in values])
    assert list(results([chunk], 0.0)) == ["a", "done", "c", "d", "e"]
    assert client.ledger.idle
    assert nothing_is_out(client)


def test_fail_all_ends_every_item() -> None:
    """Out, queued, and waiting for another attempt: each fails with an error of its own; results stay."""
    client = Client(slots=3)
    chunk, queued = client.add_chunk(4), client.add_chunk(2)
    client.hand_over()
    client.ledger.settle([ok(chunk.number, "done"), died(chunk.number + 1)])
    client.ledger.fail_all(gone)
    errors = [value.future.exception(0) for value in (*chunk.values[1:], *queued.values)]
    assert all(isinstance(error, GatewayLost) for error in errors)
    assert len({id(error) for error in errors}) == 5
    assert chunk.values[0] == "done"
    assert client.ledger.idle
    assert client.ledger.counts == (0, 0)
    assert client.ledger.settle([ok(chunk.number + 2, "late")]) == []
    with pytest.raises(GatewayLost):
        client.add_chunk(1)


def test_cancelling_the_queue_leaves_the_items_that_are_out() -> None:
    """`shutdown(cancel_futures=True)`: what was not handed over is cancelled, and never goes."""
    client = Client(slots=1)
    chunk, queued = client.add_chunk(4), client.add_chunk(2)
    client.hand_over()
    client.ledger.cancel_queued()
    assert client.ledger.counts == (0, 2)
    client.ledger.settle([ok(chunk.number, "a"), ok(chunk.number + 1, "b")])
    assert client.hand_over() == []
    assert client.ledger.idle
    assert nothing_is_out(client)
    found = results([chunk, queued], 0.0)
    assert [next(found), next(found)] == ["a", "b"]
    with pytest.raises(CancelledError):
        next(found)
    assert all(value.future.cancelled() for value in queued.values)


def test_cancelled_chunks_are_forgotten_while_there_is_no_link() -> None:
    """What is left is what was not cancelled."""
    client = Client()
    given_up, kept = client.add_chunk(3), client.add_chunk(2)
    given_up.cancel()
    client.ledger.drop_cancelled()
    assert client.ledger.counts == (2, 0)
    client.short()
    assert client.hand_over() == numbers_of(kept)


def test_functions_that_are_refused_fail_in_words() -> None:
    """With another Python at the gateway no item of a chunk is handed over."""
    client = Client()
    chunk, task = client.add_chunk(3), client.add(decode=bytes)
    client.ledger.refuse_functions(lambda: ProtocolMismatch("functions cannot travel"))
    assert client.hand_over() == [task.number]
    with pytest.raises(ProtocolMismatch, match="cannot travel"):
        next(results([chunk], 0.0))
    client.done(task)
    assert client.ledger.idle
    assert nothing_is_out(client)


def test_items_that_are_out_when_functions_are_refused_have_their_outcome() -> None:
    """Only those that were not handed over are refused; the others come back and are counted."""
    client = Client(slots=1)
    chunk = client.add_chunk(4)
    client.hand_over()
    client.ledger.refuse_functions(lambda: ProtocolMismatch("functions cannot travel"))
    client.ledger.settle([ok(chunk.number, "a")])
    assert client.hand_over() == []
    client.ledger.settle([ok(chunk.number + 1, "b")])
    found = results([chunk], 0.0)
    assert [next(found), next(found)] == ["a", "b"]
    with pytest.raises(ProtocolMismatch):
        next(found)
    assert client.ledger.idle
    assert nothing_is_out(client)


class CancelsTheQueue(bytes):
    """A payload at which, in the midst of a hand-over, another thread cancels what is queued."""

    threads: ClassVar[list[threading.Thread]] = []
    ledger: Ledger

    def __len__(self) -> int:
        if not self.threads:
            thread = threading.Thread(target=self.ledger.cancel_queued)
            self.threads.append(thread)
            thread.start()
            thread.join(0.1)  # it comes to its end now, or waits until the hand-over has come to its own
        return super().__len__()


def test_an_item_is_handed_over_or_cancelled_and_never_both() -> None:
    """`shutdown(cancel_futures=True)` comes from another thread, at any moment."""
    client = Client(slots=9)
    client.short()
    chunk = client.add_chunk(8)
    chunk.payloads[3] = CancelsTheQueue(b"3")
    CancelsTheQueue.ledger = client.ledger
    handed = client.hand_over()
    CancelsTheQueue.threads.pop().join()
    client.settle_numbers(handed)
    assert sum(getattr(value, "future", None) is None for value in chunk.values) == len(handed)
    assert client.hand_over() == []
    assert client.ledger.idle
    assert nothing_is_out(client)


def test_refusing_takes_no_chunk_and_leaves_what_is_here() -> None:
    """After shutdown."""
    client = Client()
    client.short()
    chunk = client.add_chunk(2)
    client.ledger.refuse(lambda: ExecutorClosed("closed"))
    with pytest.raises(ExecutorClosed):
        client.add_chunk(2)
    assert client.hand_over() == numbers_of(chunk)


def test_a_forked_child_has_no_items() -> None:
    """What is out belongs to the parent."""
    client = Client(slots=1)
    chunk = client.add_chunk(4)
    client.hand_over()
    client.ledger.after_fork(lambda: ExecutorClosed("of the parent"))
    assert client.ledger.idle
    assert client.ledger.counts == (0, 0)
    assert client.ledger.settle([ok(chunk.number)]) == []


# -- the iterator


def test_an_item_that_cannot_be_sent_fails_at_its_turn() -> None:
    """Its neighbours are not its victims."""
    client = Client()
    chunk = client.add_chunk(1)
    bad = failed(TaskFailed("no pickle of it"), Map(itertools.count(1), threading.Condition()))
    client.hand_over()
    client.ledger.settle([ok(chunk.number, "good")])
    found = results([chunk, bad], 0.0)
    assert next(found) == "good"
    with pytest.raises(TaskFailed, match="no pickle"):
        next(found)


def test_what_is_not_there_in_time() -> None:
    """An item that is out, one that waits for another attempt; what was not handed over is cancelled."""
    client = Client(slots=1)
    chunk, queued = client.add_chunk(2), client.add_chunk(2)
    client.hand_over()
    with pytest.raises(Late):
        next(results([chunk, queued], time.monotonic()))
    assert client.ledger.counts[0] == 0
    other = client.add_chunk(1)
    client.ledger.settle([ok(chunk.number), ok(chunk.number + 1)])
    client.hand_over()
    client.ledger.settle([died(other.number)])
    with pytest.raises(Late):
        next(results([other], time.monotonic()))


def test_an_abandoned_iterator_cancels_the_rest() -> None:
    """Who stops asking lets go of what has not begun."""
    client = Client(slots=1)
    chunks = [client.add_chunk(3), client.add_chunk(3)]
    client.hand_over()
    client.ledger.settle([ok(chunks[0].number, "first")])
    found = results(list(chunks), 0.0)
    assert next(found) == "first"
    del found
    gc.collect()
    assert client.ledger.counts == (0, 1)
    client.ledger.settle([ok(chunks[0].number + 1)])
    assert client.hand_over() == []
    assert client.ledger.idle
    assert nothing_is_out(client)


def test_a_result_is_let_go_of_when_it_is_given() -> None:
    """A long map does not keep in memory what its user has dropped."""
    client = Client()
    chunk = client.add_chunk(2)
    client.hand_over()
    client.ledger.settle([ok(chunk.number, "a"), ok(chunk.number + 1, "b")])
    found = results([chunk], 0.0)
    assert next(found) == "a"
    assert chunk.values[0] is None


def settled_at_once(client: Client, chunk: Chunk) -> None:
    client.ledger.settle([ok(chunk.number, "result")])


def settled_at_the_second_attempt(client: Client, chunk: Chunk) -> None:
    (again,) = client.ledger.settle([died(chunk.number)])
    client.ledger.again(again.task)
    client.settle_numbers(client.hand_over(), "result")


def settled_after_a_loss(client: Client, chunk: Chunk) -> None:
    (again,) = client.ledger.lost(gone)
    client.ledger.again(again.task)
    client.settle_numbers(client.hand_over(), "result")


def lost_for_good(client: Client, chunk: Chunk) -> None:
    assert len(client.ledger.lost(gone)) == 1
    client.ledger.fail_all(lambda: GatewayLost("result"))


def failed_with_all(client: Client, chunk: Chunk) -> None:
    client.ledger.fail_all(lambda: GatewayLost("result"))


@pytest.mark.parametrize(
    "ends",
    [settled_at_once, settled_at_the_second_attempt, settled_after_a_loss, lost_for_good, failed_with_all],
)
def test_who_waits_is_told(ends: Callable[[Client, Chunk], None]) -> None:
    """A thread that waits for an item goes on as soon as there is an outcome, whichever way it came about."""
    client = Client()
    chunk = client.add_chunk(1)
    client.hand_over()
    got: list[Any] = []

    def wait() -> None:
        try:
            got.append(next(results([chunk], None)))
        except GatewayLost as error:
            got.append(str(error))

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    wait_until(lambda: waiters(chunk), "the thread waits")
    ends(client, chunk)
    told = not waiters(chunk)
    chunk.notify()
    thread.join(LIMIT)
    assert got == ["result"]
    assert told


def waiters(chunk: Chunk) -> int:
    """How many threads wait for values of a chunk's map."""
    with chunk.arrived:
        return len(chunk.arrived._waiters)  # type: ignore[attr-defined]
