"""The broker and code: a worker serves only sessions that have all the code that it may have loaded."""

from __future__ import annotations

import pytest

from meca_executor.gateway.tasks import Forget, Kill, Run, Spawn, Stop
from meca_executor.wire.records import Definition, Status

from .model import Clock, ModelRuntime, runtime_with

OLD, NEW, MORE = 101, 102, 103


def put(runtime: ModelRuntime, session: str, *numbers: int) -> None:
    """Have a session define code."""
    for number in numbers:
        runtime.broker.put(session, number, b"code %d" % number, Definition.CODE)


def renew(runtime: ModelRuntime, session: str) -> None:
    """Have a session's old code replaced, as after a reload."""
    runtime.do(runtime.broker.forget(session, OLD))
    put(runtime, session, NEW)


def code_of(runtime: ModelRuntime) -> dict[bytes, set[int]]:
    """Return, for each call that was given to a worker, which code that worker had been sent by then."""
    had: dict[int, set[int]] = {}
    found = {}
    for todo in runtime.told:
        if isinstance(todo, Run):
            mine = had.setdefault(todo.worker, set())
            mine |= {number for number, what, _, _ in todo.definitions if what == Definition.CODE}
            found[todo.calls[24:]] = set(mine)
    return found


def test_code_goes_to_a_worker_once_and_before_the_calls() -> None:
    """Also what comes later, and by sessions that have the same."""
    runtime = runtime_with(1)
    put(runtime, "a", OLD)
    runtime.submit("a", [1])
    runtime.quiet()
    put(runtime, "a", MORE)
    runtime.submit("a", [2])
    runtime.quiet()
    runtime.open("b")
    put(runtime, "b", OLD, MORE)
    runtime.submit("b", [1])
    runtime.quiet()
    sent = [number for todo in runtime.told if isinstance(todo, Run) for number, what, _, _ in todo.definitions
            if what == Definition.CODE]  # fmt: skip
    assert sent == [OLD, MORE]
    assert spawns(runtime) == 1


@pytest.mark.parametrize("slots", [1, 2])
def test_a_change_is_for_fresh_workers(slots: int) -> None:
    """Those that have the old code make place for others at once, all of them when there is work for all."""
    runtime = runtime_with(slots)
    put(runtime, "a", OLD)
    runtime.submit("a", range(1, 4 * slots))
    runtime.quiet(took=0.05)
    before = set(runtime.broker.workers)
    renew(runtime, "a")
    runtime.submit("a", range(101, 101 + 4 * slots))
    Clock(runtime).run(0.02, 0.05)
    assert len(runtime.broker.workers.keys() - before) == slots
    runtime.quiet(took=0.05)
    assert set(runtime.only("a").values()) == {Status.OK}
    assert {frozenset(code) for call, code in code_of(runtime).items() if b"a:10" in call} == {frozenset({NEW})}


def test_what_runs_when_code_changes_runs_to_its_end() -> None:
    """Nobody is stopped in the middle of a call; the next call waits for the place."""
    runtime = runtime_with(1)
    put(runtime, "a", OLD)
    runtime.submit("a", [1])
    Clock(runtime).run(0.1, 60.0)  # it runs
    renew(runtime, "a")
    runtime.submit("a", [2])
    Clock(runtime).run(1.0, 60.0)
    assert not [todo for todo in runtime.told if isinstance(todo, (Stop, Kill))]
    runtime.quiet()
    assert runtime.only("a") == {1: Status.OK, 2: Status.OK}
    assert [code for _, code in sorted(code_of(runtime).items())] == [{OLD}, {NEW}]


def three_sessions(slots: int, took: float, setups: dict[str, bytes], code: dict[str, int]) -> ModelRuntime:
    """Run 200 calls of each of three sessions."""
    runtime = ModelRuntime(slots)
    for session, setup in setups.items():
        runtime.open(session, setup=setup)
        if session in code:
            put(runtime, session, code[session])
        runtime.submit(session, range(1, 201))
    Clock(runtime).run(1.8, took)
    assert all(runtime.only(session) for session in setups), "nobody waits for another's whole backlog"
    runtime.quiet(took)
    for session in setups:
        assert list(runtime.only(session).values()) == [Status.OK] * 200
    return runtime


def spawns(runtime: ModelRuntime) -> int:
    """Return how many workers were started."""
    return sum(isinstance(todo, Spawn) for todo in runtime.told)


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("took", [0.001, 0.05])
def test_sessions_with_other_code_never_share_a_worker_and_all_come_to_their_end(slots: int, took: float) -> None:
    """They take turns as sessions of different pools do, and change places hardly more often."""
    code = {"a": OLD, "b": NEW, "c": MORE}
    runtime = three_sessions(slots, took, dict.fromkeys("abc", b"one setup"), code)
    for call, had in code_of(runtime).items():
        assert had == {code[call[:1].decode()]}
    apart = three_sessions(slots, took, {"a": b"1", "b": b"2", "c": b"3"}, {})
    assert spawns(runtime) <= 1.5 * spawns(apart) + 2


def test_a_worker_keeps_code_when_a_session_ends() -> None:
    """What is loaded cannot be unloaded; only objects are forgotten."""
    runtime = runtime_with(1)
    runtime.open("b")
    put(runtime, "a", OLD)
    runtime.broker.put("a", 7, b"object")
    runtime.submit("a", [1])
    runtime.quiet()
    runtime.do(runtime.broker.close("a"))
    assert [todo.numbers for todo in runtime.told if isinstance(todo, Forget)] == [[7]]
    runtime.submit("b", [1])
    runtime.quiet()
    assert runtime.only("b") == {1: Status.OK}
    assert spawns(runtime) == 2, "it has code that b does not have"
