"""The broker's decisions, one by one. What holds for every order of events is in `test_broker_machine.py`."""

from __future__ import annotations

import pytest

from meca_executor.gateway.broker import START_FAILURES
from meca_executor.gateway.roster import PLACE_IDLE_S
from meca_executor.gateway.tasks import Kill, Options, Report, Revoke, Run, Setup, Spawn, Stop
from meca_executor.policy.batching import STUCK_S
from meca_executor.wire.records import Outcomes, Status, decode, encode

from .model import LOOK_S, Clock, ModelRuntime, ModelWorker


def runtime_with(slots: int = 1, **session: object) -> ModelRuntime:
    """Return a runtime with one session, "a"."""
    runtime = ModelRuntime(slots)
    runtime.open("a", **session)  # type: ignore[arg-type]
    return runtime


def only_worker(runtime: ModelRuntime) -> ModelWorker:
    (worker,) = runtime.workers.values()
    return worker


def measured(runtime: ModelRuntime, session: str = "a", took: float = 0.0001) -> None:
    """Let one task of a session run, so that its kind has an estimate."""
    runtime.submit(session, [10**6])
    runtime.quiet(took)
    del runtime.outcomes[session, 10**6]


# -- giving out


def test_the_first_task_starts_a_worker_tells_it_what_for_and_runs() -> None:
    """Spawn, setup, then the definition and the call, in this order."""
    runtime = runtime_with(slots=2)
    runtime.submit("a", [7])
    assert runtime.told == [
        Spawn(1),
        Setup(1, b"setup"),
        Run(1, [(1, 0, 0, b"reference")], 1, 1, encode([(7, 0, 0, b"a:7")])),
    ]


def test_a_definition_is_sent_once_to_each_worker() -> None:
    """Two functions of two sessions with the same reference are one."""
    runtime = runtime_with()
    runtime.open("b")
    runtime.broker.define("b", 5, b"reference")
    runtime.submit("a", [1])
    runtime.quiet()
    runtime.submit("b", [2], ref=5)
    runtime.quiet()
    assert [todo.definitions for todo in runtime.told if isinstance(todo, Run)] == [[(1, 0, 0, b"reference")], []]
    assert runtime.only("b") == {2: Status.OK}


def test_a_call_that_carries_its_function_needs_no_definition() -> None:
    """Definition 0 is none."""
    runtime = runtime_with()
    runtime.submit("a", [1], ref=0)
    assert runtime.told[-1] == Run(1, [], 1, 0, encode([(1, 0, 0, b"a:1")]))


def test_unknown_tasks_take_one_worker_each() -> None:
    """Tasks that were never measured go one by one, to as many workers as there are slots."""
    runtime = runtime_with(slots=3)
    runtime.submit("a", range(1, 10))
    assert sorted(len(worker.waiting) for worker in runtime.workers.values()) == [1, 1, 1]


def test_short_tasks_travel_together() -> None:
    """Once their time is known, a worker gets many at once."""
    runtime = runtime_with()
    measured(runtime, took=0.0001)
    runtime.submit("a", range(1, 101))
    assert len(only_worker(runtime).waiting) > 20
    runtime.quiet(took=0.0001)
    assert runtime.only("a") == dict.fromkeys(range(1, 101), Status.OK)


def test_tasks_run_in_the_order_in_which_they_came() -> None:
    """One worker runs one session's tasks first in, first out."""
    runtime = runtime_with()
    measured(runtime)
    runtime.submit("a", range(1, 50))
    runtime.submit("a", range(50, 60), ref=0)
    runtime.quiet()
    assert only_worker(runtime).begun[1:] == [f"a:{id_}".encode() for id_ in range(1, 60)]


def test_a_task_whose_options_or_function_never_came_fails_alone() -> None:
    """What refers to nothing is told so; the others of its batch run."""
    runtime = runtime_with()
    runtime.submit("a", [1], tag=9)
    runtime.submit("a", [2], ref=9)
    runtime.submit("a", [3])
    runtime.quiet()
    assert runtime.only("a") == {1: Status.FAILED, 2: Status.FAILED, 3: Status.OK}


def test_prepared_workers_are_used_first() -> None:
    """Workers that were started before anyone asked are told what for when the first session comes."""
    runtime = runtime_with(slots=2)
    runtime.do(runtime.broker.prepare(5))
    assert runtime.told == [Spawn(1), Spawn(2)]
    runtime.submit("a", [1, 2])
    assert sum(isinstance(todo, Spawn) for todo in runtime.told) == 2
    assert all(len(worker.waiting) == 1 for worker in runtime.workers.values())


def test_a_cap_limits_a_sessions_workers() -> None:
    """`max_workers` of a client is how many workers run its tasks at once, on a larger gateway too."""
    runtime = runtime_with(slots=4, cap=2)
    runtime.submit("a", range(1, 20))
    assert len(runtime.workers) == 2
    runtime.quiet(took=0.05)
    assert len(runtime.only("a")) == 19


def test_a_cap_holds_for_workers_that_others_have_left() -> None:
    """Idle workers of the same pool are not taken beyond it either."""
    runtime = runtime_with(slots=3, cap=1)
    runtime.open("b")
    runtime.submit("b", [1, 2, 3])
    runtime.quiet(took=0.05)
    assert len(runtime.workers) == 3
    runtime.submit("a", range(1, 10))
    assert sum(bool(worker.waiting) for worker in runtime.workers.values()) == 1
    runtime.quiet(took=0.05)
    assert len(runtime.only("a")) == 9


def test_a_paused_session_starts_nothing() -> None:
    """Its tasks wait in the queue, and others' run."""
    runtime = runtime_with()
    runtime.open("b")
    runtime.broker.pause("a", True)
    runtime.submit("a", [1])
    runtime.submit("b", [1])
    runtime.quiet()
    assert list(runtime.outcomes) == [("b", 1)]
    runtime.do(runtime.broker.pause("a", False))
    runtime.quiet()
    assert runtime.only("a") == {1: Status.OK}


def test_what_a_worker_prints_goes_to_its_session() -> None:
    """Text of a worker has one owner; that of one which nobody uses yet has none."""
    runtime = runtime_with()
    runtime.do(runtime.broker.prepare(1))
    runtime.do(runtime.broker.printed(1, Status.STDERR, b"a warning at start\n"))
    runtime.submit("a", [1])
    runtime.do(runtime.broker.printed(1, Status.STDOUT, b"hello\n"))
    runtime.do(runtime.broker.printed(99, Status.STDOUT, b"from a ghost\n"))
    assert runtime.printed == [("a", Status.STDOUT, b"hello\n")]


# -- pools


def test_sessions_share_the_workers_of_one_owner_and_setup() -> None:
    """The same owner, setup and number of tasks a worker: the same workers."""
    runtime = runtime_with(slots=4)
    runtime.open("b")
    runtime.submit("a", [1])
    runtime.quiet()
    runtime.submit("b", [1])
    runtime.quiet()
    assert len(runtime.workers) == 1


@pytest.mark.parametrize("other", [{"owner": "you"}, {"setup": b"another"}, {"per_worker": 5}])
def test_what_differs_has_workers_of_its_own(other: dict[str, object]) -> None:
    """DESIGN rule 6: a worker serves one combination of key, initializer and environment."""
    runtime = runtime_with(slots=4)
    runtime.open("b", **other)  # type: ignore[arg-type]
    runtime.submit("a", [1])
    runtime.quiet()
    runtime.submit("b", [1])
    runtime.quiet()
    assert [worker.begun for worker in runtime.workers.values()] == [[b"a:1"], [b"b:1"]]


def test_another_pool_takes_an_idle_workers_place() -> None:
    """With all slots taken, a session without a worker gets one in the place of an idle one."""
    runtime = runtime_with(slots=1)
    runtime.open("b", setup=b"another")
    runtime.submit("a", [1])
    runtime.quiet()
    runtime.submit("b", [1])
    assert [type(todo) for todo in runtime.told[-4:]] == [Stop, Spawn, Setup, Run]
    runtime.quiet()
    assert runtime.only("b") == {1: Status.OK}
    assert len(runtime.workers) == 1


def test_a_second_worker_waits_until_the_others_is_idle_for_long() -> None:
    """Two sessions do not take each other's workers in turn."""
    runtime = runtime_with(slots=2)
    runtime.open("b", setup=b"another")
    for session in "ab":
        runtime.submit(session, [1])
    runtime.quiet(took=0.05)
    runtime.submit("a", [2, 3])
    assert sorted(len(worker.waiting) for worker in runtime.workers.values()) == [0, 1]
    (mine,) = (worker for worker in runtime.workers.values() if worker.waiting)
    mine.begin(runtime.now)
    runtime.now += PLACE_IDLE_S + LOOK_S
    runtime.look(mine)
    assert sum(bool(worker.waiting) or worker.running is not None for worker in runtime.workers.values()) == 2
    runtime.quiet()
    assert len(runtime.only("a")) == 3


def test_workers_of_a_pool_that_nobody_uses_are_let_go() -> None:
    """The last session of a pool takes its idle workers with it, not one before."""
    runtime = runtime_with(slots=2)
    runtime.open("b")
    runtime.submit("a", [1])
    runtime.quiet()
    runtime.do(runtime.broker.close("a"))
    runtime.end_those_told()
    assert len(runtime.workers) == 1
    runtime.do(runtime.broker.close("b"))
    runtime.end_those_told()
    assert not runtime.workers


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


# -- time limits


def limited(runtime: ModelRuntime, seconds: float) -> None:
    runtime.broker.set_options("a", 1, Options(timeout=seconds))


def test_a_task_over_its_limit_is_killed() -> None:
    """At the first look after its time its worker is killed; the outcome says the limit."""
    runtime = runtime_with()
    limited(runtime, 2.5)
    runtime.submit("a", [1], tag=1)
    worker = only_worker(runtime)
    worker.begin(runtime.now)
    runtime.now += 2.49
    runtime.look(worker)
    assert not worker.doomed
    runtime.now += LOOK_S
    runtime.look(worker)
    assert worker.doomed
    runtime.end(worker)
    ((status, text),) = runtime.outcomes["a", 1]
    assert (status, text) == (Status.TIMEOUT, b"ran longer than its timeout of 2.5 s and was killed")


def test_the_time_of_those_before_it_does_not_count() -> None:
    """The limit is counted from the task's own start."""
    runtime = runtime_with()
    limited(runtime, 1.0)
    runtime.submit("a", [1, 2], tag=1)
    runtime.quiet(took=0.9)
    assert runtime.only("a") == {1: Status.OK, 2: Status.OK}


def test_a_result_that_was_in_time_stands() -> None:
    """A task that ends between the look and the kill has its result."""
    runtime = runtime_with()
    limited(runtime, 1.0)
    runtime.submit("a", [1], tag=1)
    worker = only_worker(runtime)
    worker.begin(runtime.now)
    runtime.now += 2.0
    runtime.look(worker)
    worker.finish(runtime.now)
    runtime.end(worker)
    assert runtime.only("a") == {1: Status.OK}


def test_the_task_after_one_over_its_limit_is_not_blamed() -> None:
    """When the worker went on to the next task before the kill reached it, that one did not run too long."""
    runtime = runtime_with()
    limited(runtime, 1.0)
    runtime.submit("a", [10**6], tag=1)
    runtime.quiet(took=0.0001)
    runtime.submit("a", range(1, 11), tag=1)
    worker = only_worker(runtime)
    assert len(worker.waiting) > 2
    worker.begin(runtime.now)
    runtime.now += 2.0
    instructions = runtime.broker.looked(worker.number, worker.started, worker.since, runtime.now)
    worker.finish(runtime.now)
    worker.begin(runtime.now)
    runtime.do(instructions)
    runtime.end(worker)
    runtime.quiet(took=0.0001)
    assert runtime.only("a")[1] is Status.OK
    assert runtime.only("a")[2] is not Status.TIMEOUT


# -- kill


def test_a_queued_task_is_killed_at_once() -> None:
    """It never runs."""
    runtime = runtime_with()
    runtime.submit("a", [1, 2, 3])
    runtime.do(runtime.broker.kill("a", 3))
    assert runtime.only("a") == {3: Status.KILLED}
    runtime.quiet()
    assert runtime.only("a") == {1: Status.OK, 2: Status.OK, 3: Status.KILLED}
    assert b"a:3" not in only_worker(runtime).begun


def test_a_running_task_is_killed_with_its_worker() -> None:
    """The next look ends the worker; what was queued goes on in another."""
    runtime = runtime_with()
    runtime.submit("a", [1, 2])
    worker = only_worker(runtime)
    worker.begin(runtime.now)
    runtime.look(worker)
    runtime.do(runtime.broker.kill("a", 1))
    runtime.now += LOOK_S
    runtime.look(worker)
    assert worker.doomed
    runtime.end(worker)
    runtime.quiet()
    assert runtime.only("a") == {1: Status.KILLED, 2: Status.OK}


def test_a_task_killed_before_its_worker_is_up_does_not_run_later() -> None:
    """A worker needs time to start; a task that it was given and then killed is over, and goes to no other worker."""
    runtime = runtime_with()
    runtime.submit("a", [1])
    runtime.do(runtime.broker.kill("a", 1))
    runtime.end_those_told()
    runtime.quiet()
    assert runtime.only("a") == {1: Status.KILLED}


def test_killing_a_task_that_has_just_ended_harms_no_other() -> None:
    """The broker's view is as old as the last look: the one that really runs when the kill comes is not the victim."""
    runtime = runtime_with()
    measured(runtime)
    runtime.submit("a", range(1, 11))
    worker = only_worker(runtime)
    assert len(worker.waiting) > 2
    worker.begin(runtime.now)
    runtime.look(worker)
    worker.finish(runtime.now)
    worker.begin(runtime.now)
    runtime.do(runtime.broker.kill("a", 1))
    runtime.end_those_told()
    runtime.quiet()
    outcomes = runtime.only("a")
    assert outcomes.pop(1) in (Status.OK, Status.KILLED)
    assert outcomes == dict.fromkeys(range(2, 11), Status.OK)


def test_a_killed_task_in_a_batch_leaves_the_others_alone() -> None:
    """One that had not begun is over at once; when its turn comes its worker dies for it, and nobody else."""
    runtime = runtime_with()
    measured(runtime)
    runtime.submit("a", range(1, 11))
    worker = only_worker(runtime)
    runtime.do(runtime.broker.kill("a", 2))
    assert runtime.only("a") == {2: Status.KILLED}
    runtime.work(worker)
    worker.begin(runtime.now)
    runtime.now += LOOK_S
    runtime.look(worker)
    runtime.end_those_told()
    runtime.quiet()
    assert runtime.only("a") == {id_: Status.KILLED if id_ == 2 else Status.OK for id_ in range(1, 11)}


def test_what_is_not_here_cannot_be_killed() -> None:
    """A task that is unknown, done, or another session's is ignored."""
    runtime = runtime_with(slots=2)
    runtime.open("b")
    runtime.submit("a", [1])
    runtime.submit("b", [2])
    for task in (2, 77):
        assert runtime.broker.kill("a", task) == []
    runtime.quiet()
    assert runtime.broker.kill("a", 1) == []
    assert runtime.only("a") == {1: Status.OK}
    assert runtime.only("b") == {2: Status.OK}


# -- workers that end


def test_a_dead_worker_fails_what_it_ran_and_nothing_else() -> None:
    """Its current task is told how it died; what it had done is delivered, what it had not begun runs elsewhere."""
    runtime = runtime_with()
    measured(runtime)
    runtime.submit("a", range(1, 11))
    worker = only_worker(runtime)
    runtime.work(worker)
    worker.begin(runtime.now)
    runtime.end(worker, "worker process 7 was killed by SIGSEGV")
    ((status, text),) = runtime.outcomes["a", 2]
    assert (status, text) == (Status.DIED, b"worker process 7 was killed by SIGSEGV")
    runtime.quiet()
    assert runtime.only("a") == {id_: Status.DIED if id_ == 2 else Status.OK for id_ in range(1, 11)}
    assert worker.begun[1:] == [b"a:1", b"a:2"]
    assert only_worker(runtime).begun == [f"a:{id_}".encode() for id_ in range(3, 11)]


def test_a_worker_that_dies_between_two_tasks_fails_nothing() -> None:
    """What had its result is done, what had not begun goes on."""
    runtime = runtime_with()
    measured(runtime)
    runtime.submit("a", range(1, 11))
    worker = only_worker(runtime)
    runtime.work(worker)
    runtime.end(worker)
    runtime.quiet()
    assert runtime.only("a") == dict.fromkeys(range(1, 11), Status.OK)


def test_an_idle_worker_that_dies_is_replaced_when_needed() -> None:
    """Nothing is told to anyone; the next task starts another."""
    runtime = runtime_with()
    measured(runtime)
    runtime.end(only_worker(runtime))
    assert not runtime.workers
    runtime.submit("a", [1])
    runtime.quiet()
    assert runtime.only("a") == {1: Status.OK}


@pytest.mark.parametrize("per_worker", [None, 1, 2])
def test_workers_that_cannot_start_end_in_words(per_worker: int | None) -> None:
    """After START_FAILURES in a row everything fails with why, instead of new workers for ever."""
    runtime = runtime_with(per_worker=per_worker)
    runtime.submit("a", [1, 2, 3])
    for _ in range(START_FAILURES):
        assert "a" not in runtime.broken
        runtime.end(only_worker(runtime), "worker process 5 exited with code 1")
    assert b"exited with code 1" in runtime.broken["a"]
    assert runtime.only("a") == dict.fromkeys([1, 2, 3], Status.BROKEN)
    runtime.submit("a", [4])
    assert runtime.only("a")[4] is Status.BROKEN
    runtime.end_those_told()
    assert not runtime.workers


def test_start_failures_count_only_in_a_row() -> None:
    """A worker that has run something proves that they can; the count begins anew."""
    runtime = runtime_with()
    for id_ in range(1, 3 * START_FAILURES):
        runtime.submit("a", [id_])
        for _ in range(START_FAILURES - 1):
            runtime.end(only_worker(runtime))
        runtime.quiet()
        runtime.end(only_worker(runtime))
    assert "a" not in runtime.broken
    assert set(runtime.only("a").values()) == {Status.OK}


def test_a_failing_initializer_breaks_its_pool_and_no_other() -> None:
    """Every open task of its sessions fails, those that are running elsewhere too; other setups go on."""
    runtime = runtime_with(slots=3, setup=b"bad")
    runtime.open("b", setup=b"bad")
    runtime.open("c", setup=b"good")
    for session in "abc":
        runtime.submit(session, [1, 2])
    worker = next(worker for worker in runtime.workers.values() if worker.setup == b"bad")
    worker.setup_failure = "Traceback: no"
    runtime.end(worker)
    runtime.quiet()
    for session in "ab":
        assert runtime.only(session) == {1: Status.BROKEN, 2: Status.BROKEN}
        assert b"Traceback: no" in runtime.broken[session]
    assert runtime.only("c") == {1: Status.OK, 2: Status.OK}
    assert "c" not in runtime.broken


def test_a_broken_pool_is_forgotten_with_its_last_session() -> None:
    """Who comes later with the same setup may try again."""
    runtime = runtime_with(setup=b"bad")
    runtime.submit("a", [1])
    only_worker(runtime).setup_failure = "no"
    runtime.end(only_worker(runtime))
    runtime.do(runtime.broker.close("a"))
    runtime.open("b", setup=b"bad")
    runtime.submit("b", [1])
    runtime.quiet()
    assert runtime.only("b") == {1: Status.OK}


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_worker_with_its_number_of_tasks_makes_place(limit: int) -> None:
    """`max_tasks_per_child`: no worker begins more, and all tasks are done."""
    runtime = runtime_with(slots=2, per_worker=limit)
    seen: list[ModelWorker] = []
    measured(runtime)
    runtime.submit("a", range(1, 31))
    for _ in range(100):
        seen.extend(worker for worker in runtime.workers.values() if worker not in seen)
        for worker in list(runtime.workers.values()):
            runtime.work(worker, 0.0001)
            runtime.send(worker)
        runtime.end_those_told()
    assert runtime.only("a") == dict.fromkeys(range(1, 31), Status.OK)
    assert all(len(worker.begun) <= limit for worker in seen)
    assert len(seen) >= 30 // limit


# -- sessions that end


def test_a_closed_sessions_tasks_are_over() -> None:
    """Its queue is dropped, its running tasks are killed, and nothing is told to it; others go on."""
    runtime = runtime_with(slots=1)
    runtime.open("b")
    runtime.submit("a", range(1, 20))
    worker = only_worker(runtime)
    worker.begin(runtime.now)
    runtime.submit("b", [1])
    runtime.do(runtime.broker.close("a"))
    assert Kill(worker.number) in runtime.told
    runtime.end_those_told()
    runtime.quiet()
    assert list(runtime.outcomes) == [("b", 1)]
    assert runtime.broker.close("a") == []


def test_a_closed_sessions_name_may_be_used_again() -> None:
    """A session of the same name is another one: nothing that is left of the old one is taken for its own."""
    runtime = runtime_with(slots=1)
    runtime.submit("a", [1, 2])
    worker = only_worker(runtime)
    worker.begin(runtime.now)
    runtime.do(runtime.broker.close("a"))
    runtime.open("a")
    runtime.submit("a", [1])
    worker.finish(runtime.now)
    runtime.end_those_told()
    assert ("a", 1) not in runtime.outcomes
    runtime.quiet()
    assert runtime.only("a") == {1: Status.OK}


def test_busy_is_true_while_a_worker_has_something() -> None:
    """The gateway looks at its workers as long as one has something to do."""
    runtime = runtime_with()
    assert not runtime.broker.busy
    runtime.submit("a", [1])
    assert runtime.broker.busy
    runtime.quiet()
    assert not runtime.broker.busy


def test_one_message_for_what_came_together() -> None:
    """Results that a worker sent together are reported together, in their order."""
    runtime = runtime_with()
    measured(runtime)
    runtime.submit("a", range(1, 8))
    worker = only_worker(runtime)
    for _ in range(4):
        runtime.work(worker, 0.0001)
    del runtime.told[:]
    runtime.send(worker)
    (report,) = (todo for todo in runtime.told if isinstance(todo, Report))
    assert [record[0] for record in decode(report.batch)] == [1, 2, 3, 4]
