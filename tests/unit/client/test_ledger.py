"""The ledger: every future it has been given gets exactly one outcome, in whatever order things happen."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import (
    AttemptLost,
    ContainerFailed,
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
from meca_executor.client.ledger import BATCH_BYTES, BATCH_TASKS
from meca_executor.wire.calls import RemoteTraceback, dump_exception, dumps
from meca_executor.wire.records import Record, Status

from .clients import Client

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from meca_executor.client.future import MecaFuture


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
    assert client.ledger.counts == (7, 3)
    assert [future.cancel() for future in futures] == [False] * 3 + [True] * 7
    assert client.ledger.counts == (0, 3)


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
    future = client.add()
    (task,) = client.ledger.next_batch(5.0)
    (again,) = client.settle(future, Status.DIED)
    assert again.task is task
    client.ledger.again(again.task)
    assert client.ledger.next_batch(9.0) == [task]
    assert (again.task.began, again.task.attempts) == (5.0, 2)


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
