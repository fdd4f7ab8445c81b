"""The broker: tasks that run too long or are killed, and workers that end."""

from __future__ import annotations

import pytest

from meca_executor.gateway.broker import START_FAILURES
from meca_executor.gateway.tasks import Options
from meca_executor.wire.records import Status

from .model import LOOK_S, ModelRuntime, ModelWorker, measured, only_worker, runtime_with

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
