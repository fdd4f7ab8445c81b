"""The ledger: attempts, `kill`, and ends; every future gets exactly one outcome, whatever happens in which order."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import pytest
import tenacity
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor import (
    ContainerFailed,
    ExecutorClosed,
    GatewayLost,
    TaskKilled,
    WorkerDied,
)
from meca_executor.policy.credit import SLOT_US
from meca_executor.wire.records import Status

from .clients import Client

if TYPE_CHECKING:
    from meca_executor.client.future import MecaFuture
    from meca_executor.client.tasks import Again

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)


# -- attempts


def test_a_lost_attempt_is_made_again() -> None:
    """Three attempts in all, at once, before those that have not begun; then the error stands."""
    client = Client(slots=1)
    future = client.out()
    behind = [client.add(), client.add(), client.add()]
    for _ in range(2):
        (again,) = client.settle(future, Status.DIED, b"died")
        assert again.delay == 0.0
        assert future.running()
        client.ledger.again(again.task)
        assert client.hand_over()[0] == future.number
    assert client.settle(future, Status.DIED, b"died at last") == []
    with pytest.raises(WorkerDied, match="died at last"):
        future.result(0)
    assert not any(other.done() for other in behind)


def test_with_one_attempt_nothing_is_made_again() -> None:
    """`retry=1`: at most once."""
    client = Client()
    future = client.out(retry=1)
    assert client.settle(future, Status.DIED) == []
    assert isinstance(future.exception(0), WorkerDied)


def test_a_container_that_ended_during_the_call_is_lost() -> None:
    """One that never got ready is not."""
    client = Client(slots=3)
    never, during = client.add(decode=bytes), client.add(decode=bytes)
    client.hand_over()
    assert client.settle(never, Status.CONTAINER_FAILED, b"no mark") == []
    (again,) = client.settle(during, Status.CONTAINER_LOST, b"ended")
    assert again.task.number == during.number
    assert isinstance(never.exception(0), ContainerFailed)
    assert not during.done()


def test_a_delay_is_the_policys() -> None:
    """The task waits outside the queue, so that others go on."""
    client = Client()
    future = client.out(retry=tenacity.wait_fixed(7))
    (again,) = client.settle(future, Status.DIED)
    assert again.delay == 7.0
    assert client.hand_over() == []
    assert client.ledger.counts == (0, 1)
    assert not client.ledger.idle


def test_a_result_may_be_a_reason_to_try_again() -> None:
    """A tenacity `retry_if_result` sees the value."""
    client = Client()
    future = client.out(retry=(tenacity.retry_if_result(lambda value: value is None), 2))
    (again,) = client.done(future, None)
    client.ledger.again(again.task)
    client.hand_over()
    assert client.done(future, None) == []
    assert future.result(0) is None


def test_what_a_users_condition_raises_is_the_tasks_error() -> None:
    """A defect in the retry object reaches the future, and does not stop the link."""

    def broken(value: object) -> bool:
        raise LookupError("in the condition")

    client = Client(slots=3)
    bad, good = client.add(retry=tenacity.retry_if_result(broken)), client.add()
    client.hand_over()
    assert client.done(bad) == client.done(good) == []
    with pytest.raises(LookupError, match="in the condition"):
        bad.result(0)
    assert good.done()


def test_attempts_left_are_counted() -> None:
    """Whether a lost attempt of a task that is out would be tried again."""
    client = Client(slots=9)
    once, default, forever = client.add(retry=1), client.add(), client.add(retry=tenacity.stop_never)
    queued_later = client.add(retry=1)
    queued_later.cancel()
    client.hand_over()
    left = [client.ledger.has_attempts_left(future.number or 0) for future in (once, default, forever, queued_later)]
    assert left == [False, True, True, False]


@pytest.mark.parametrize("status", [Status.DIED, Status.TIMEOUT, Status.KILLED, Status.LOST, Status.NO_HOST])
def test_an_attempt_without_a_run_time_says_nothing_about_how_long_tasks_take(status: Status) -> None:
    """Rule 5: tasks that die or are killed have no measured time, and so do not open the way for long ones."""
    client = Client(slots=1)
    first = client.out(retry=1)
    client.settle(first, status, b"", micros=0)
    long = [client.add() for _ in range(50)]
    assert len(client.hand_over()) == 2
    assert sum(future.cancel() for future in long) == 48


def test_what_ran_long_keeps_the_others_here() -> None:
    """A measured time counts from then on, short or long."""
    client = Client(slots=1)
    client.done(client.out(), micros=10 * SLOT_US)
    for _ in range(50):
        client.add()
    assert len(client.hand_over()) == 2


# -- kill


def test_a_task_that_is_out_is_the_gateways_to_end() -> None:
    """True: the link has to tell; the future waits for what comes of it."""
    client = Client()
    future = client.out()
    assert client.ledger.kill(future.number or 0) is True
    assert not future.done()


def test_a_task_that_waits_for_its_next_attempt_is_ended_here() -> None:
    """It is out nowhere; a delay that is over later changes nothing."""
    client = Client()
    future = client.out(retry=tenacity.wait_fixed(60))
    (again,) = client.settle(future, Status.DIED)
    assert client.ledger.kill(future.number or 0) is False
    assert isinstance(future.exception(0), TaskKilled)
    client.ledger.again(again.task)
    assert client.hand_over() == []
    assert client.ledger.idle


def test_a_task_that_is_queued_for_its_next_attempt_is_ended_here() -> None:
    """Its future is running, so it cannot be cancelled; kill() ends it all the same, and it is not handed over."""
    client = Client(slots=1)
    future = client.add()
    others = [client.add(), client.add()]
    client.hand_over()
    (again,) = client.settle(future, Status.DIED)
    client.done(others[0])
    client.ledger.again(again.task)
    assert not future.cancel()
    assert client.ledger.kill(future.number or 0) is False
    assert future.done(), "kill() was lost"
    assert isinstance(future.exception(0), TaskKilled)
    assert future.number not in client.hand_over()


def test_killing_what_is_not_here_is_ignored() -> None:
    """A task that is done or unknown."""
    client = Client()
    future = client.out()
    client.done(future, 1)
    assert client.ledger.kill(future.number or 0) is False
    assert client.ledger.kill(99) is False
    assert future.result(0) == 1


# -- ends


def test_when_the_gateway_is_gone_what_was_out_is_lost() -> None:
    """Tasks with attempts left are queued again, the others fail; what was queued stays."""
    client = Client(slots=1)
    often, once, queued = client.add(), client.add(retry=1), client.add()
    client.hand_over()
    (again,) = client.ledger.lost(lambda: GatewayLost("it ended"))
    assert again.task.number == often.number
    assert isinstance(once.exception(0), GatewayLost)
    client.ledger.again(again.task)
    assert client.hand_over() == [often.number, queued.number]
    assert client.ledger.credit.out == 2


def test_fail_all_ends_every_future_and_takes_no_more() -> None:
    """Queued, out, waiting, and queued again: each fails with an error of its own; cancelled ones stay cancelled."""
    client = Client(slots=2)
    out, waiting, requeued = client.add(), client.add(retry=tenacity.wait_fixed(9)), client.add()
    client.hand_over()
    client.settle(waiting, Status.DIED)
    (again,) = client.settle(requeued, Status.DIED)
    client.ledger.again(again.task)
    queued, cancelled = client.add(), client.add()
    cancelled.cancel()
    client.ledger.fail_all(lambda: GatewayLost("no more"))
    failed = [future.exception(0) for future in (out, waiting, requeued, queued)]
    assert all(isinstance(error, GatewayLost) for error in failed)
    assert len({id(error) for error in failed}) == 4
    with pytest.raises(CancelledError):
        cancelled.result(0)
    with pytest.raises(GatewayLost, match="no more"):
        client.add()
    assert client.ledger.idle
    assert client.done(out, 1) == []


def test_refusing_leaves_what_is_here() -> None:
    """After shutdown nothing new is taken, what was submitted goes on; the first reason stands."""
    client = Client()
    future = client.add()
    client.ledger.check()
    client.ledger.refuse(lambda: ExecutorClosed("closed"))
    client.ledger.refuse(lambda: ExecutorClosed("closed again"))
    for refused in (client.add, client.ledger.check):
        with pytest.raises(ExecutorClosed, match=r"closed$"):
            refused()
    assert client.hand_over() == [future.number]


def test_cancelling_the_queue_leaves_what_is_out() -> None:
    """`shutdown(cancel_futures=True)`: everything that was not handed over."""
    client = Client(slots=1)
    futures = [client.add() for _ in range(5)]
    client.hand_over()
    client.ledger.cancel_queued()
    assert [future.cancelled() for future in futures] == [False, False, True, True, True]
    for future in futures[:2]:
        client.done(future)
    assert client.hand_over() == []
    assert client.ledger.idle


def test_a_forked_child_has_nothing() -> None:
    """What is here belongs to the parent: nothing is handed over, and nothing is taken."""
    client = Client()
    client.out()
    client.add()
    client.ledger.after_fork(lambda: ExecutorClosed("of the parent"))
    assert client.ledger.idle
    assert client.hand_over() == []
    with pytest.raises(ExecutorClosed, match="of the parent"):
        client.add()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "hand over", "ok", "died", "again", "cancel", "kill", "lost"]), st.integers(0, 10**6)
    ),
    max_size=60,
)


@quickly
@given(STEPS, st.integers(1, 3), st.booleans())
def test_every_future_gets_exactly_one_outcome(steps: list[tuple[str, int]], slots: int, broken: bool) -> None:
    """Whatever happens in whatever order, in the end all futures are done, once each, and nothing is out."""
    client = Client(slots=slots)
    futures: list[MecaFuture[Any]] = []
    delayed: list[Again] = []
    resolved: list[int | None] = []

    def some(number: int) -> MecaFuture[Any]:
        return futures[number % len(futures)]

    for step, number in steps:
        if step == "add" or not futures:
            future = client.add(retry=number % 3 + 1, payload=bytes(number % 50))
            future.add_done_callback(lambda _, number=future.number: resolved.append(number))  # type: ignore[misc]
            futures.append(future)
        elif step == "hand over":
            client.hand_over()
        elif step == "ok":
            delayed += client.done(some(number), number, micros=number)
        elif step == "died":
            delayed += client.settle(some(number), Status.DIED, b"died", micros=0)
        elif step == "again" and delayed:
            client.ledger.again(delayed.pop(number % len(delayed)).task)
        elif step == "cancel":
            some(number).cancel()
        elif step == "kill":
            client.ledger.kill(some(number).number or 0)
        elif step == "lost":
            delayed += client.ledger.lost(lambda: GatewayLost("it ended"))
    if broken:
        client.ledger.fail_all(lambda: GatewayLost("no more"))
    for _ in range(100 + 4 * len(futures)):
        while delayed:
            client.ledger.again(delayed.pop().task)
        client.hand_over()
        for future in futures:
            delayed += client.done(future, "end")
    assert sorted(number or 0 for number in resolved) == [future.number for future in futures]
    assert all(future.done() for future in futures)
    assert client.ledger.idle
    assert client.ledger.counts == (0, 0)
    if not broken:
        assert (client.ledger.credit.out, client.ledger.credit.out_bytes) == (0, 0)
