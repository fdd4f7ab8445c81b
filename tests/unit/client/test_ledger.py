"""The ledger: every future it has been given gets exactly one outcome, in whatever order things happen."""

from __future__ import annotations

import itertools
import pickle
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import pytest
import tenacity
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor import (
    AttemptLost,
    ContainerFailed,
    ExecutorClosed,
    GatewayLost,
    InitializerFailed,
    MecaError,
    NoHostFits,
    ProtocolMismatch,
    TaskFailed,
    TaskKilled,
    TaskTimeout,
    TaskTooLarge,
    WorkerDied,
)
from meca_executor.client.container import Container
from meca_executor.client.future import MecaFuture
from meca_executor.client.ledger import BATCH_BYTES, BATCH_TASKS, Again, Ledger
from meca_executor.client.options import TaskOptions
from meca_executor.client.tasks import Task
from meca_executor.policy.credit import SLOT_US, Credit
from meca_executor.wire.calls import RemoteTraceback, dump_exception, dumps
from meca_executor.wire.records import Record, Status

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

KIND = (0, 1)
NOW = 1000.0

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)


class Client:
    """A ledger and its tasks, numbered as an executor numbers them."""

    def __init__(self, slots: int = 2, window: int = 10**6, window_bytes: int = 1 << 40) -> None:
        self.ledger = Ledger(Credit(slots, window, window_bytes))
        self._numbers = itertools.count(1)

    def add(
        self,
        *,
        retry: object = None,
        payload: bytes = b"call",
        decode: Callable[[bytes], Any] | None = None,
        kind: tuple[int, int] = KIND,
    ) -> MecaFuture[Any]:
        """Submit a task and return its future."""
        future: MecaFuture[Any] = MecaFuture()
        future.number = next(self._numbers)
        options = TaskOptions().changed(retry=retry)
        self.ledger.add(Task(future.number, future, payload, kind, options, decode))
        return future

    def short(self, kind: tuple[int, int] = KIND) -> None:
        """Let a kind of task be known as short, so that the credit holds none of it back."""
        self.ledger.credit.measured(kind, [0])

    def hand_over(self) -> list[int]:
        """Hand over one batch; return the tasks' numbers."""
        return [task.number for task in self.ledger.next_batch(NOW)]

    def settle(self, future: MecaFuture[Any], status: Status, payload: bytes = b"", micros: int = 100) -> list[Again]:
        """An outcome of one task arrives."""
        assert future.number is not None
        return self.ledger.settle([(future.number, int(status), micros, payload)])

    def done(self, future: MecaFuture[Any], value: object = None, micros: int = 100) -> list[Again]:
        return self.settle(future, Status.OK, dumps(value), micros)

    def out(self, **kwargs: Any) -> MecaFuture[Any]:
        """Return the future of a task that is handed over."""
        future = self.add(**kwargs)
        assert self.hand_over() == [future.number]
        return future


# -- handing over


def test_tasks_are_handed_over_in_their_order() -> None:
    """First in, first out, and each of them once."""
    client = Client()
    client.short()
    futures = [client.add() for _ in range(5)]
    assert client.hand_over() == [future.number for future in futures]
    assert client.hand_over() == []
    assert all(future.running() for future in futures)


def test_unmeasured_tasks_stay_cancellable() -> None:
    """DESIGN rule 5: slots + 1 are handed over; the others can be cancelled, these cannot."""
    client = Client(slots=2)
    futures = [client.add() for _ in range(10)]
    assert len(client.hand_over()) == 3
    assert [future.cancel() for future in futures] == [False] * 3 + [True] * 7
    assert client.ledger.counts == (7, 3)


def test_a_cancelled_task_is_passed_over() -> None:
    """It is never handed over and takes nobody's place."""
    client = Client(slots=1)
    futures = [client.add() for _ in range(4)]
    assert futures[0].cancel()
    assert futures[2].cancel()
    assert client.hand_over() == [futures[1].number, futures[3].number]
    assert client.ledger.counts == (0, 2)


def test_a_batch_has_a_limit_of_tasks() -> None:
    """A long queue goes in several messages."""
    client = Client()
    client.short()
    for _ in range(BATCH_TASKS + 1):
        client.add()
    assert len(client.hand_over()) == BATCH_TASKS
    assert len(client.hand_over()) == 1


def test_a_batch_has_a_limit_of_bytes() -> None:
    """Large calls go in messages of about BATCH_BYTES; a larger one goes alone."""
    client = Client()
    client.short()
    for _ in range(6):
        client.add(payload=bytes(BATCH_BYTES // 2))
    assert [len(client.hand_over()) for _ in range(4)] == [2, 2, 2, 0]
    client.add(payload=bytes(3 * BATCH_BYTES))
    client.add()
    assert [len(client.hand_over()) for _ in range(2)] == [1, 1]


def test_the_first_hand_over_is_when_it_began() -> None:
    """Later attempts do not move it: a tenacity `stop_after_delay` counts from the first."""
    client = Client()
    client.add()
    (task,) = client.ledger.next_batch(5.0)
    (again,) = client.ledger.settle([(task.number, int(Status.DIED), 0, b"")])
    client.ledger.again(again.task)
    (task,) = client.ledger.next_batch(9.0)
    assert (task.began, task.attempts) == (5.0, 2)


def test_functions_are_refused_and_containers_go() -> None:
    """With another Python at the gateway, functions fail at once in words, and containers still run."""
    client = Client()
    client.ledger.refuse_functions(lambda: ProtocolMismatch("functions cannot travel"))
    function, container = client.add(), client.add(decode=bytes)
    assert client.hand_over() == [container.number]
    with pytest.raises(ProtocolMismatch, match="cannot travel"):
        function.result(0)


# -- outcomes


def test_a_result_resolves_its_future() -> None:
    """The value is what the worker pickled."""
    client = Client()
    future = client.out()
    assert client.done(future, {"answer": 42}) == []
    assert future.result(0) == {"answer": 42}
    assert client.ledger.idle


def test_the_second_outcome_is_ignored() -> None:
    """A result that comes twice, or for a task that is unknown or not out, changes nothing."""
    client = Client()
    future, queued = client.out(), client.add()
    client.done(future, 1)
    assert client.done(future, 2) == []
    assert client.settle(queued, Status.DIED) == []
    assert client.ledger.settle([(99, int(Status.OK), 0, dumps(3)), (0, int(Status.STDOUT), 0, b"text")]) == []
    assert future.result(0) == 1
    assert client.ledger.counts == (1, 0)
    assert client.ledger.credit.out == 0


def test_a_users_exception_arrives_as_itself() -> None:
    """Its remote traceback is the cause."""
    client = Client()
    future = client.out()
    _, payload = dump_exception(LookupError("not there"))
    client.settle(future, Status.RAISED, payload)
    error = future.exception(0)
    assert type(error) is LookupError
    assert isinstance(error.__cause__, RemoteTraceback)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (Status.FAILED, TaskFailed),
        (Status.TIMEOUT, TaskTimeout),
        (Status.DIED, WorkerDied),
        (Status.LOST, AttemptLost),
        (Status.KILLED, TaskKilled),
        (Status.NO_HOST, NoHostFits),
        (Status.CONTAINER_FAILED, ContainerFailed),
        (Status.CONTAINER_LOST, ContainerFailed),
        (Status.TOO_LARGE, TaskTooLarge),
        (Status.BROKEN, InitializerFailed),
    ],
)
def test_every_status_has_its_error(status: Status, kind: type[MecaError]) -> None:
    """The text says which task, and what the gateway said; odd bytes in it are no obstacle."""
    client = Client()
    future = client.out(retry=1)
    client.settle(future, status, b"what happened \xff")
    error = future.exception(0)
    assert type(error) is kind
    assert str(error) == f"task {future.number}: what happened \ufffd"
    if isinstance(error, ContainerFailed):
        assert error.lost is (status is Status.CONTAINER_LOST)


def test_the_name_that_was_given_is_in_the_error() -> None:
    """A task that its user named is called so."""
    client = Client()
    future = client.out()
    future.given_id = "night run"
    client.settle(future, Status.FAILED, b"no")
    assert str(future.exception(0)) == "task night run: no"


def test_a_containers_reply_is_decoded() -> None:
    """By the codec of its own call."""
    client = Client()
    future = client.out(decode=Container("knn:latest").decoder({"a": 1}))
    client.settle(future, Status.REPLY, b'{"neighbours": [1]}')
    assert future.result(0) == {"neighbours": [1]}


def test_a_reply_that_is_not_what_the_codec_expects_fails_its_task() -> None:
    """And no other."""
    client = Client(slots=3)
    bad, good = (client.add(decode=Container("knn:latest").decoder([1])) for _ in range(2))
    client.hand_over()
    client.settle(bad, Status.REPLY, b"<html>")
    client.settle(good, Status.REPLY, b"[2]")
    with pytest.raises(TaskFailed, match="<html>"):
        bad.result(0)
    assert good.result(0) == [2]


class RaisesWhenRead:
    """Raises what it is told when it is unpickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[BaseException]]:
        return raise_it, (self.error,)


def raise_it(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error", [ValueError("no"), SystemExit(3), KeyboardInterrupt(), RecursionError("deep")], ids=repr
)
def test_a_result_that_cannot_be_read_fails_its_task(error: BaseException) -> None:
    """Unpickling runs the user's code; whatever it raises is in this future, and the next record is read."""
    client = Client(slots=3)
    bad, good = client.add(), client.add()
    client.hand_over()
    records: list[Record] = [
        (bad.number or 0, int(Status.OK), 1, pickle.dumps(RaisesWhenRead(error))),
        (good.number or 0, int(Status.OK), 1, dumps("fine")),
    ]
    client.ledger.settle(records)
    assert type(bad.exception(0)) is type(error)
    assert good.result(0) == "fine"


@pytest.mark.parametrize(
    ("status", "payload"),
    [(250, b""), (int(Status.RAISED), b""), (int(Status.OK), b"garbage"), (int(Status.REPLY), b"x")],
)
def test_an_outcome_that_makes_no_sense_fails_its_task(status: int, payload: bytes) -> None:
    """An unknown status, a torn payload, a container's reply to a function: an error, never a crash or a hang."""
    client = Client()
    future = client.out()
    client.ledger.settle([(future.number or 0, status, 0, payload)])
    assert isinstance(future.exception(0), Exception)


def test_a_done_callback_may_submit() -> None:
    """Callbacks run while outcomes are read; what they add is handed over later."""
    client = Client()
    more: list[MecaFuture[Any]] = []
    future = client.out()
    future.add_done_callback(lambda _: more.append(client.add()))
    client.done(future)
    assert client.hand_over() == [more[0].number]


@pytest.mark.parametrize("error", [ValueError, SystemExit, KeyboardInterrupt])
def test_a_callback_that_raises_harms_no_other_task(error: type[BaseException]) -> None:
    """Also one that wants to end the program: it runs on the link's thread, which has others to serve."""

    def callback(future: Future[Any]) -> None:
        raise error

    client = Client(slots=3)
    futures = [client.add() for _ in range(3)]
    client.hand_over()
    futures[0].add_done_callback(callback)
    try:
        client.ledger.settle([(future.number or 0, int(Status.OK), 1, dumps("fine")) for future in futures])
    except (SystemExit, KeyboardInterrupt) as escaped:  # either would end the test run itself
        pytest.fail(f"{escaped!r} of a callback came through")
    assert [future.result(0) for future in futures] == ["fine"] * 3


def test_a_future_that_somebody_else_resolved_harms_no_other() -> None:
    """The user's own `set_result` wins; the other outcomes of the message are taken in."""
    client = Client(slots=3)
    futures = [client.add() for _ in range(3)]
    client.hand_over()
    futures[0].set_result("mine")
    client.ledger.settle([(future.number or 0, int(Status.OK), 1, dumps("fine")) for future in futures])
    assert [future.result(0) for future in futures] == ["mine", "fine", "fine"]


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
