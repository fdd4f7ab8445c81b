"""The broker's decisions, one by one. What holds for every order of events is in `test_broker_machine.py`."""

from __future__ import annotations

import pytest

from meca_executor.gateway.roster import PLACE_IDLE_S
from meca_executor.gateway.tasks import Kill, Report, Run, Setup, Spawn, Stop
from meca_executor.wire.printed import mark
from meca_executor.wire.records import ITEM, Status, decode, encode

from .model import LOOK_S, measured, only_worker, runtime_with

# -- giving out


def test_the_first_task_starts_a_worker_tells_it_what_for_and_runs() -> None:
    """Spawn, setup, then the definition and the call, in this order."""
    runtime = runtime_with(slots=2)
    runtime.submit("a", [7])
    assert runtime.told == [
        Spawn(1),
        Setup(1, b"setup"),
        Run(1, [(1, 0, 0, b"reference")], 1, 1, encode([(7, 0, 0, b"a:7")]), "a"),
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
    assert runtime.told[-1] == Run(1, [], 1, 0, encode([(1, 0, 0, b"a:1")]), "a")


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


def test_whose_text_it_is() -> None:
    """Marks say it, until the next one; each stream has its own."""
    runtime = runtime_with()
    runtime.submit("a", [1, 2])
    text = mark(2) + b"two\n" + mark(3) + b"three\n" + b"and more\n" + mark(2)
    runtime.do(runtime.broker.printed(1, Status.STDOUT, text))
    runtime.do(runtime.broker.printed(1, Status.STDERR, mark(1) + b"one\n" + mark(0)))
    runtime.do(runtime.broker.printed(1, Status.STDOUT, b"two again\n"))
    assert [text for _, _, text in runtime.printed] == [b"two\n", b"three\nand more\n", b"one\n", b"two again\n"]
    assert runtime.printers == [2, 3, 1, 2]


def test_text_without_a_mark_is_the_running_calls() -> None:
    """Of a worker that has one call, or long ones; of short ones it is not clear which one it is."""
    runtime = runtime_with(slots=1)
    runtime.submit("a", range(1, 30))
    (worker,) = runtime.workers.values()
    runtime.do(runtime.broker.printed(worker.number, Status.STDOUT, b"of the only one\n"))
    runtime.work(worker, took=0.05)
    runtime.send(worker)
    assert len(worker.waiting) > 1
    runtime.do(runtime.broker.printed(worker.number, Status.STDOUT, b"of the first, which takes long\n"))
    for _ in range(20):
        while runtime.work(worker, took=0.0001):
            pass
        runtime.send(worker)
    runtime.submit("a", range(100, 400))
    assert len(worker.waiting) > 2
    runtime.do(runtime.broker.printed(worker.number, Status.STDOUT, b"of whom?\n"))
    assert runtime.printers == [1, 2, 0]


def test_items_of_a_map_have_no_text() -> None:
    """They have no future that could have it."""
    runtime = runtime_with(slots=1)
    runtime.submit("a", [ITEM | 5])
    runtime.do(runtime.broker.printed(1, Status.STDOUT, b"hello\n"))
    assert runtime.printers == [0]


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
