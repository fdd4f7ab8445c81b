"""Chunks: items that are tried again, lost, refused or cancelled, and who waits for them."""

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
from meca_executor.client.chunks import CHUNKED, Map, failed, results

from ...helpers.waiting import LIMIT, wait_until
from .clients import Client, died, gone, nothing_is_out, numbers_of, ok

if TYPE_CHECKING:
    from collections.abc import Callable

    from meca_executor.client.chunks import Chunk
    from meca_executor.client.ledger import Ledger


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
            got.append(str(error).removeprefix("task 1: "))

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
