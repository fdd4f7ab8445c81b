"""What a future tells of its attempts, from what the ledger sees; and what becomes of a task that is killed."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
import tenacity

import meca_executor
from meca_executor import Attempt, AttemptLost, GatewayLost, InitializerFailed, TaskKilled, WorkerDied
from meca_executor.client.attempts import KEPT
from meca_executor.client.future import MecaFuture
from meca_executor.wire.parcels import SHARED
from meca_executor.wire.records import COUNTED, Status

from .clients import Client, gone

if TYPE_CHECKING:
    from meca_executor.client.tasks import Again

HERE = "http://here:1"


def again(client: Client, found: list[Again], at: float) -> None:
    """Hand over once more, at that time."""
    client.time = at
    for one in found:
        client.ledger.again(one.task)
    client.hand_over()


def out_at(client: Client, at: float, **kwargs: Any) -> MecaFuture[Any]:
    """Return the future of a task that is handed over at that time."""
    client.time = at
    return client.out(**kwargs)


# -- attempts


def test_a_task_that_was_not_handed_over_has_no_attempts() -> None:
    """Queued, cancelled, or a future without a task."""
    client = Client(slots=1)
    client.out()
    client.add(), client.add()
    queued, cancelled = client.add(), client.add()
    cancelled.cancel()
    client.hand_over()
    assert queued.attempts == cancelled.attempts == MecaFuture().attempts == ()


def test_an_attempt_has_a_start_and_an_end() -> None:
    """When the task was handed over, and when its outcome came."""
    client = Client()
    future = out_at(client, 10.0)
    assert future.attempts == (Attempt(HERE, 10.0, None, None),)
    client.time = 12.5
    assert client.done(future, "value") == []
    assert future.attempts == (Attempt(HERE, 10.0, 12.5, None),)
    assert future.attempts[0].host == HERE


def test_a_failure_is_in_its_attempt() -> None:
    """The same exception that the future has."""
    client = Client()
    future = out_at(client, 1.0, retry=1)
    client.time = 2.0
    client.settle(future, Status.DIED, b"died")
    assert future.attempts == (Attempt(HERE, 1.0, 2.0, future.exception(0)),)


def test_each_attempt_is_told() -> None:
    """Between two attempts, during the next one, and in the end."""
    client = Client()
    future = out_at(client, 1.0)
    client.time = 2.0
    found = client.settle(future, Status.DIED, b"died first")
    (first,) = future.attempts
    assert (first.start, first.end, type(first.error)) == (1.0, 2.0, WorkerDied)
    again(client, found, 3.0)
    assert future.attempts == (first, Attempt(HERE, 3.0, None, None))
    client.time = 4.0
    found = client.ledger.lost(gone)
    again(client, found, 5.0)
    client.time = 6.0
    assert client.done(future, 1) == []
    assert [attempt[1:3] for attempt in future.attempts] == [(1.0, 2.0), (3.0, 4.0), (5.0, 6.0)]
    assert [type(attempt.error) for attempt in future.attempts] == [WorkerDied, GatewayLost, type(None)]
    assert str(future.attempts[1].error) == "task 1: it ended"


def test_a_result_that_is_tried_again_is_an_attempt_without_an_error() -> None:
    client = Client()
    future = out_at(client, 1.0, retry=(tenacity.retry_if_result(lambda value: value is None), 2))
    client.time = 2.0
    again(client, client.done(future, None), 3.0)
    client.time = 4.0
    client.done(future, "there")
    assert future.attempts == (Attempt(HERE, 1.0, 2.0, None), Attempt(HERE, 3.0, 4.0, None))


def test_a_callback_sees_the_end() -> None:
    """The time is there before the outcome is."""
    client = Client()
    future = client.add()
    seen: list[tuple[Attempt, ...]] = []
    future.add_done_callback(lambda done: seen.append(future.attempts))
    client.hand_over()
    client.time = 9.0
    client.done(future)
    assert seen == [(Attempt(HERE, 0.0, 9.0, None),)]


def test_what_fails_with_its_link_is_an_attempt_if_it_was_out() -> None:
    client = Client(slots=1)
    out, _, queued = client.add(), client.add(), client.add()
    client.hand_over()
    client.time = 5.0
    client.ledger.fail_all(gone)
    assert out.attempts == (Attempt(HERE, 0.0, 5.0, out.exception(0)),)
    assert queued.attempts == ()


def test_many_attempts_take_little_memory() -> None:
    """The last hundred are kept."""
    client = Client()
    future = out_at(client, 0.0, retry=tenacity.stop_never)
    for number in range(1, KEPT + 50):
        again(client, client.settle(future, Status.DIED), float(number))
    client.done(future)
    assert len(future.attempts) == KEPT
    assert future.attempts[-1] == Attempt(HERE, KEPT + 49.0, KEPT + 49.0, None)
    assert future.attempts[0].start == 50.0


def test_one_attempt_costs_a_future_next_to_nothing() -> None:
    """No record is made before somebody asks; the time of the hand-over is one object for all in a batch."""
    client = Client(slots=2)
    client.short()
    futures = [client.add() for _ in range(50)]
    client.hand_over()
    client.settle_numbers(future.number or 0 for future in futures)
    assert {name for future in futures for name in vars(future)} == {"number", "_state", "_result", "handed", "ended"}
    assert len({id(future.handed) for future in futures}) == len({id(future.ended) for future in futures}) == 1


def test_attempts_that_a_gateway_made_by_itself_are_told_with_the_last() -> None:
    """One with a journal that was ended and came back: it says how many there were, and no more of those."""
    client = Client()
    future = out_at(client, 1.0, retry=3)
    client.time = 7.0
    assert client.ledger.settle([(future.number or 0, Status.DIED | COUNTED, 3, b"died")]) == []
    first, second, last = future.attempts
    assert [(a.start, a.end, type(a.error)) for a in (first, second)] == [
        (1.0, None, AttemptLost),
        (None,) * 2 + (AttemptLost,),
    ]
    assert last == Attempt(HERE, None, 7.0, future.exception(0))
    assert type(last.error) is WorkerDied


def test_a_count_that_is_known_adds_nothing() -> None:
    client = Client()
    future = out_at(client, 1.0, retry=2)
    again(client, client.ledger.settle([(future.number or 0, Status.DIED | COUNTED, 1, b"died")]), 2.0)
    client.ledger.settle([(future.number or 0, Status.DIED | COUNTED, 1, b"died")])
    assert [type(attempt.error) for attempt in future.attempts] == [WorkerDied, WorkerDied]
    assert [attempt.start for attempt in future.attempts] == [1.0, 2.0]


def test_a_count_out_of_all_reason_takes_no_memory() -> None:
    """Whatever a gateway says."""
    client = Client()
    future = client.out()
    client.ledger.settle([(future.number or 0, Status.DIED | COUNTED, 0xFFFF_FFFF, b"died")])
    assert len(future.attempts) == KEPT and future.done()


def test_items_of_a_map_are_counted_too() -> None:
    """One that has become a task begins with its second attempt."""
    client = Client()
    chunk = client.add_chunk(1, retry=2)
    client.hand_over()
    (found,) = client.ledger.settle([(chunk.number, int(Status.DIED), 0, b"died")])
    again(client, [found], 3.0)
    assert found.task.future.attempts == (Attempt(HERE, 3.0, None, None),)


def test_a_record_is_public_and_can_be_pickled() -> None:
    """By the name that users import."""
    record = Attempt("embedded", 1.0, 2.0, WorkerDied("died"))
    assert Attempt is meca_executor.Attempt and Attempt.__module__ == "meca_executor"
    copied = pickle.loads(pickle.dumps(record))
    assert type(copied) is Attempt and copied[:3] == record[:3] and str(copied.error) == "died"


# -- each error is its own, with its task


def test_errors_of_the_link_name_the_task() -> None:
    """Lost with the gateway, and lost for good; by the given name where there is one."""
    client = Client()
    lost, failed = client.add(retry=1), client.add()
    failed.given_id = "night run"
    client.hand_over()
    client.settle(lost, Status.OK, b"")  # cannot be read: an error that is not ours
    assert not str(lost.exception(0)).startswith("task")
    once = client.out(retry=1)
    client.ledger.lost(gone)
    assert str(once.exception(0)) == f"task {once.task_id}: it ended"
    again_out = client.out()
    client.ledger.fail_all(lambda: InitializerFailed("it raised"))
    assert str(failed.exception(0)) == "task night run: it raised"
    assert str(again_out.exception(0)) == f"task {again_out.task_id}: it raised"
    with pytest.raises(InitializerFailed, match=r"^it raised$"):
        client.add()


# -- kill


def test_a_killed_task_has_no_further_attempt() -> None:
    """Whatever retry says, and also when its end is that of its worker or its gateway."""
    for status in (Status.KILLED, Status.DIED, Status.LOST):
        client = Client()
        future = client.out(retry=(tenacity.retry_always, tenacity.stop_never))
        assert client.ledger.kill(future.number or 0)
        assert client.settle(future, status, b"so it was") == []
        assert type(future.exception(0)) is TaskKilled
    client = Client()
    future = client.out(retry=5)
    assert client.ledger.kill(future.number or 0)
    assert client.ledger.lost(gone) == []
    assert str(future.exception(0)) == f"task {future.task_id}: ended by kill()"


def test_a_task_that_is_faster_than_its_kill_is_done() -> None:
    """And the kill is no other task's."""
    client = Client()
    future = client.out()
    assert client.ledger.kill(future.number or 0)
    client.done(future, 7)
    assert future.result(0) == 7
    assert not client.ledger._killed


def test_a_task_that_was_let_go_ends_at_once() -> None:
    """Its credit is given back, what comes of it later is ignored, and memory that it came in is let go."""
    client = Client(slots=1)
    freed: list[bytes] = []
    client.ledger.freed = freed.append
    future, other = client.out(), client.add()
    client.ledger.kill(future.number or 0)
    client.ledger.let_go(future.number or 0)
    assert type(future.exception(0)) is TaskKilled
    assert client.ledger.credit.out == 0
    late = bytes([SHARED]) + b"where it is"
    assert client.ledger.settle([(future.number or 0, int(Status.OK), 5, late)]) == []
    assert freed == [late]
    client.ledger.settle([(future.number or 0, int(Status.OK), 5, late)])
    assert freed == [late], "it was let go twice"
    assert client.hand_over() == [other.number]
    client.ledger.let_go(99)
    assert not client.ledger.idle
    client.done(other)
    assert client.ledger.idle


def test_what_was_let_go_is_forgotten_with_its_gateway() -> None:
    client = Client()
    future = client.out()
    client.ledger.let_go(future.number or 0)
    client.ledger.lost(gone)
    assert not client.ledger._let_go
