"""The broker: sessions take turns, and nobody waits behind a long task."""

from __future__ import annotations

import pytest

from meca_executor.gateway.tasks import Revoke, Spawn
from meca_executor.policy.batching import STUCK_S
from meca_executor.wire.records import Outcomes, Status, encode

from .model import LOOK_S, Clock, ModelRuntime, ModelWorker, measured, only_worker, runtime_with

# -- turns


@pytest.mark.parametrize("setups", [(b"same", b"same"), (b"one", b"another")], ids=["one pool", "two pools"])
@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("took", [0.001, 0.004, 0.05])
def test_a_newcomer_does_not_wait_for_anothers_backlog(setups: tuple[bytes, bytes], slots: int, took: float) -> None:
    """Sessions take turns: a second one's only task is done long before the first one's queue of three seconds."""
    runtime = ModelRuntime(slots)
    runtime.open("a", setup=setups[0])
    runtime.open("b", setup=setups[1])
    clock = Clock(runtime)
    backlog = int(3 * slots / took)
    runtime.submit("a", range(1, backlog + 1))
    clock.run(0.3, took)  # under way, its time known
    runtime.submit("b", [1])
    while ("b", 1) not in runtime.outcomes and len(runtime.only("a")) < backlog:
        clock.run(0.02, took)
    assert len(runtime.only("a")) <= backlog / 2, "it waited for the other's backlog"
    assert runtime.only("b") == {1: Status.OK}


@pytest.mark.parametrize("took", [0.001, 0.05])
def test_two_pools_on_one_slot_do_not_change_places_for_every_batch(took: float) -> None:
    """A worker's start costs more than a batch: who has the place keeps it for a while."""
    runtime = ModelRuntime(1)
    clock = Clock(runtime)
    for session in "ab":
        runtime.open(session, setup=session.encode())
        runtime.submit(session, range(1, 10_001))
    clock.run(5.0, took)
    assert all(len(runtime.only(session)) > 1.0 / took for session in "ab")
    assert sum(isinstance(todo, Spawn) for todo in runtime.told) <= 25


@pytest.mark.parametrize("took", [0.001, 0.05])
def test_two_backlogs_go_on_side_by_side(took: float) -> None:
    """Of two sessions with as much to do, neither has much more done than the other at any time."""
    runtime = ModelRuntime(2)
    clock = Clock(runtime)
    for session in "ab":
        runtime.open(session)
        runtime.submit(session, range(1, 301))
    while min(len(runtime.only(session)) for session in "ab") < 150:
        clock.run(0.05, took)
        assert abs(len(runtime.only("a")) - len(runtime.only("b"))) <= 60


def test_three_sessions_on_one_slot_all_come_to_their_end() -> None:
    """Nobody is left out by the turns of two others."""
    runtime = ModelRuntime(1)
    clock = Clock(runtime)
    for session in "abc":
        runtime.open(session)
        runtime.submit(session, range(1, 101))
    clock.run(0.15, 0.001)
    assert min(len(runtime.only(session)) for session in "abc") >= 20
    runtime.quiet()
    assert all(len(runtime.only(session)) == 100 for session in "abc")


# -- long tasks in a batch


def stuck(runtime: ModelRuntime, count: int = 5) -> ModelWorker:
    """Return a worker that has several tasks and runs the first of them for long."""
    measured(runtime)
    runtime.submit("a", range(1, 2 * count + 1))
    worker = next(worker for worker in runtime.workers.values() if worker.waiting)
    assert len(worker.waiting) >= count
    worker.begin(runtime.now)
    runtime.now += STUCK_S + LOOK_S
    runtime.look(worker)
    return worker


def test_a_long_task_gives_back_those_behind_it() -> None:
    """They are revoked, counted at the next look, and run in another worker before it ends."""
    runtime = runtime_with(slots=2)
    measured(runtime)
    runtime.submit("a", range(1, 11))
    first, second = runtime.workers.values()
    behind = [call.payload for call in list(first.waiting)[1:]]
    assert behind
    while second.waiting:
        runtime.work(second)
    runtime.send(second)
    second.waiting.clear()
    first.begin(runtime.now)
    runtime.now += STUCK_S + LOOK_S
    runtime.look(first)
    assert isinstance(runtime.told[-1], Revoke)
    runtime.now += LOOK_S
    runtime.look(first)
    for _ in range(20):
        runtime.work(second)
        runtime.send(second)
    assert set(behind) <= set(second.begun)
    assert len(runtime.only("a")) == 9
    runtime.quiet()
    assert runtime.only("a") == dict.fromkeys(range(1, 11), Status.OK)
    assert len(first.begun) + len(second.begun) == 1 + 10


@pytest.mark.parametrize("took", [0.001, 0.05])
def test_a_worker_that_hangs_gets_nothing_more_until_it_is_done(took: float) -> None:
    """What was given back does not come back to wait behind the same task, look after look."""
    runtime = runtime_with(slots=1)
    measured(runtime, took=took)
    runtime.submit("a", range(1, 31))
    worker = only_worker(runtime)
    assert len(worker.waiting) > 1
    worker.begin(runtime.now)
    runtime.now += 10 * took + STUCK_S
    for _ in range(2):
        runtime.look(worker)
        runtime.now += LOOK_S
    before = worker.last_ordinal
    for _ in range(50):
        runtime.look(worker)
        runtime.now += LOOK_S
    assert worker.last_ordinal == before
    runtime.quiet(took)
    assert runtime.only("a") == dict.fromkeys(range(1, 31), Status.OK)


def test_a_task_that_began_in_time_is_not_taken_back() -> None:
    """Between the telling and the counting the worker may have begun another; that one stays its own."""
    runtime = runtime_with(slots=1)
    measured(runtime)
    runtime.submit("a", range(1, 11))
    worker = only_worker(runtime)
    worker.begin(runtime.now)
    runtime.now += STUCK_S + LOOK_S
    instructions = runtime.broker.looked(worker.number, worker.started, worker.since, runtime.now)
    worker.finish(runtime.now)
    worker.begin(runtime.now)  # before the revocation stands on the board
    runtime.do(instructions)
    runtime.now += LOOK_S
    runtime.look(worker)
    runtime.quiet()
    assert worker.begun.count(b"a:2") == 1
    assert runtime.only("a") == dict.fromkeys(range(1, 11), Status.OK)


def test_what_was_given_back_keeps_its_order() -> None:
    """Skipped tasks are run in the order in which they came, whether counted at a look or by the worker."""
    runtime = runtime_with(slots=1)
    worker = stuck(runtime)
    worker.finish(runtime.now)
    assert worker.begin(runtime.now) is None  # the others are skipped
    runtime.send(worker)
    runtime.quiet()
    assert worker.begun[1:] == [f"a:{id_}".encode() for id_ in range(1, 11)]


def test_a_skipped_task_that_was_counted_already_is_not_doubled() -> None:
    """The worker's own word that it skipped a task comes late, and changes nothing."""
    runtime = runtime_with(slots=1)
    worker = stuck(runtime)
    runtime.now += LOOK_S
    runtime.look(worker)  # counted
    runtime.quiet()
    assert runtime.only("a") == dict.fromkeys(range(1, 11), Status.OK)
    assert len(worker.begun) == 1 + 10


def test_skipped_tasks_are_not_forgotten_when_their_worker_goes_on() -> None:
    """The worker's word that it skipped them counts before the next look, and other tasks may come in between."""
    runtime = runtime_with(slots=1)
    worker = stuck(runtime)
    worker.finish(runtime.now)
    assert worker.begin(runtime.now) is None
    runtime.send(worker)
    runtime.submit("a", range(11, 31))
    assert worker.waiting
    runtime.work(worker)
    worker.begin(runtime.now)
    runtime.now += LOOK_S
    runtime.look(worker)
    runtime.quiet()
    assert runtime.only("a") == dict.fromkeys(range(1, 31), Status.OK)


def test_results_of_unknown_or_settled_ordinals_are_ignored() -> None:
    """A result that comes twice, or for what was never given, is nobody's; one of a worker that is gone, too."""
    runtime = runtime_with()
    runtime.submit("a", [1])
    worker = only_worker(runtime)
    runtime.work(worker)
    twice = list(worker.outbox)
    runtime.send(worker)
    worker.outbox = [*twice, (77, int(Status.OK), 0, b"never given")]
    runtime.send(worker)
    assert runtime.only("a") == {1: Status.OK}
    assert runtime.broker.results(99, Outcomes.of(encode(twice)), runtime.now) == []
    assert runtime.broker.looked(99, 2, 0.0, runtime.now) == []
    assert runtime.broker.ended(99, 2, "gone") == []
