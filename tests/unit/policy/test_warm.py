"""The warm pool: which container takes which call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meca_executor.policy.warm import Fail, Give, Remove, Shape, Start, State, WarmPool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meca_executor.policy.warm import Todo

A, B = Shape("a:latest"), Shape("b:latest")
HALF = Shape("half:latest", None, (("cpu", 1.0), ("memory", 500.0)))
WHOLE = Shape("whole:latest", None, (("cpu", 2.0),))
GPU = Shape("gpu:latest", None, (("gpu", 1.0),))


def pool_of(slots: int = 2) -> WarmPool:
    return WarmPool(slots, {"cpu": 2, "memory": 1000, "gpu": 2}, idle_s=60.0)


def starts(todos: Sequence[Todo]) -> list[Shape]:
    return [todo.shape for todo in todos if isinstance(todo, Start)]


def test_a_container_is_started_once_and_used_again() -> None:
    pool = pool_of()
    assert pool.ask(1, A) == [Start(1, A, ())]
    assert pool.started(1, 0.0) == [Give(1, 1)]
    assert pool.done(1, 5.0, reusable=True) == []
    assert pool.ask(2, A) == [Give(2, 1)]


def test_several_at_once_up_to_the_slots() -> None:
    pool = pool_of(2)
    assert [starts(pool.ask(call, A)) for call in (1, 2, 3)] == [[A], [A], []]
    assert pool.started(2, 0.0) == [Give(1, 2)]
    assert pool.started(1, 0.0) == [Give(2, 1)]
    assert pool.done(1, 1.0, reusable=True) == [Give(3, 2)]


def test_a_free_container_serves_who_waits_for_a_start() -> None:
    """Nobody waits for a start while one that is warm is free; the other one is there for the next."""
    pool = pool_of()
    pool.ask(1, A)
    pool.started(1, 0.0)
    assert starts(pool.ask(2, A)) == [A]
    assert pool.done(1, 1.0, reusable=True) == [Give(2, 1)]
    assert pool.started(2, 2.0) == []
    assert pool.ask(3, A) == [Give(3, 2)]


def test_short_calls_wait_for_the_warm_one() -> None:
    """Another container is started for a call that has waited, not for one that would be done before it is ready."""
    pool = WarmPool(2, {}, idle_s=60.0, patience_s=0.2)
    pool.ask(1, A, 10.0)
    pool.started(1, 10.0)
    assert pool.ask(2, A, 10.1) == []
    assert pool.next_due == pytest.approx(10.3)
    assert starts(pool.ask(3, B, 10.1)) == [B]  # there is none that it could wait for
    assert pool.done(1, 10.2, reusable=True) == [Give(2, 1)]
    assert pool.ask(4, A, 10.2) == []
    assert starts(pool.failed(2, "why")) == []
    assert starts(pool.tick(10.5)) == [A]


def test_another_shape_is_another_container() -> None:
    pool = pool_of()
    pool.ask(1, A)
    pool.started(1, 0.0)
    pool.done(1, 0.0, reusable=True)
    assert starts(pool.ask(2, B)) == [B]
    assert starts(pool.ask(3, A._replace(runtime="kata"))) == [A._replace(runtime="kata")]
    pool = pool_of()
    assert starts(pool.ask(1, A)) + starts(pool.ask(2, A._replace(owner="other"))) == [A, A._replace(owner="other")]


def test_idle_ones_are_removed_after_their_time() -> None:
    pool = pool_of()
    assert pool.next_due is None
    pool.ask(1, A)
    pool.started(1, 0.0)
    assert pool.next_due is None
    pool.done(1, 10.0, reusable=True)
    assert pool.next_due == 70.0
    assert pool.tick(69.9) == []
    assert pool.tick(70.0) == [Remove(1)]
    assert pool.next_due is None
    assert starts(pool.ask(2, A)) == [A]  # one that is on its way out takes no call


def test_a_call_that_ended_badly_ends_its_container() -> None:
    pool = pool_of(1)
    pool.ask(1, A)
    pool.started(1, 0.0)
    assert pool.done(1, 1.0, reusable=False) == [Remove(1)]
    assert starts(pool.ask(2, A)) == [A]
    assert pool.gone(1) == []
    pool.started(2, 2.0)
    pool.ask(3, A)
    assert pool.done(2, 3.0, reusable=False) == [Remove(2), Start(3, A, ())]  # who waits need not wait for its end


def test_one_that_ended_by_itself_takes_no_call() -> None:
    pool = pool_of(1)
    pool.ask(1, A)
    pool.started(1, 0.0)
    pool.done(1, 1.0, reusable=True)
    assert pool.ended(1) == []
    assert starts(pool.ask(2, A)) == [A]


def test_resources_are_waited_for_in_turn() -> None:
    """What needs all of the host is not passed over by small ones that come later."""
    pool = pool_of(4)
    pool.ask(1, HALF)
    pool.started(1, 0.0)
    assert pool.ask(2, WHOLE) == []
    assert pool.ask(3, HALF) == []  # a core is free, but it is not its turn
    assert pool.done(1, 1.0, reusable=True) == [Remove(1)]
    assert pool.gone(1) == [Start(2, WHOLE, ())]
    pool.started(2, 2.0)
    assert pool.done(2, 3.0, reusable=True) == [Remove(2)]
    assert starts(pool.gone(2)) == [HALF]


def test_idle_ones_make_room_for_others() -> None:
    pool = pool_of(2)
    for call in (1, 2):
        pool.ask(call, HALF)
        pool.started(call, 0.0)
    for call in (1, 2):
        pool.done(call, float(call), reusable=True)
    other = HALF._replace(image="other:latest")
    assert pool.ask(3, other) == [Remove(1)]  # the one that was idle for longest, and no more than are in the way
    assert pool.gone(1) == [Start(3, other, ())]


def test_warm_ones_are_not_kept_without_end() -> None:
    pool = WarmPool(1, {}, idle_s=60.0)
    for number in range(20):
        todos = pool.ask(number, Shape(f"image-{number}"))
        for todo in todos:
            if isinstance(todo, Remove):
                todos = [*todos, *pool.gone(todo.container)]
        (start,) = (todo for todo in todos if isinstance(todo, Start))
        pool.started(start.container, float(number))
        pool.done(number, float(number), reusable=True)
    assert len(pool.containers) == 8


def test_gpus_are_whole_and_its_own() -> None:
    pool = pool_of(4)
    assert pool.ask(1, GPU) == [Start(1, GPU, (0,))]
    part = GPU._replace(resource=(("gpu", 0.5),))
    assert pool.ask(2, part) == [Start(2, part, (1,))]
    assert pool.ask(3, GPU) == []
    pool.started(1, 0.0)
    assert pool.done(1, 0.0, reusable=False) == [Remove(1)]
    assert pool.gone(1) == [Start(3, GPU, (0,))]


def test_a_start_that_fails_is_told_to_all_when_nothing_is_left() -> None:
    pool = pool_of(2)
    pool.ask(1, A)
    pool.ask(2, B)
    pool.ask(3, A)
    assert pool.failed(1, "why")[:2] == [Fail(1, "why"), Fail(3, "why")]


def test_a_start_that_fails_costs_one_call_while_others_live() -> None:
    """So a second container that fails does not fail all that the first could do, nor is it started without end."""
    pool = pool_of(2)
    pool.ask(1, A)
    pool.started(1, 0.0)
    pool.ask(2, A)
    pool.ask(3, A)
    assert pool.failed(2, "why") == [Fail(2, "why"), Start(3, A, ())]
    assert pool.failed(3, "why") == [Fail(3, "why")]


def test_a_call_that_is_given_up() -> None:
    pool = pool_of(1)
    pool.ask(1, A)
    pool.ask(2, A)
    assert pool.withdraw(1, 0.0) == []  # the start goes on, for the other one
    assert pool.started(1, 1.0) == [Give(2, 1)]
    assert pool.withdraw(2, 2.0) == []  # had it, and had not begun
    assert pool.ask(3, A) == [Give(3, 1)]


def test_the_end() -> None:
    pool = pool_of(1)
    pool.ask(1, A)
    pool.ask(2, A)
    assert pool.close("closing") == [Fail(1, "closing"), Fail(2, "closing"), Remove(1)]
    assert pool.started(1, 0.0) == []


class Pool(RuleBasedStateMachine):
    """Anything may happen in any order; nothing is overdrawn, lost or stuck."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool_of(2)
        self.now = 0.0
        self.calls = 0
        self.open: dict[int, str] = {}  #: call -> "waits" or "runs"
        self.removing: set[int] = set()

    def do(self, todos: Sequence[Todo]) -> None:
        for todo in todos:
            if isinstance(todo, Give):
                assert self.open[todo.call] == "waits"
                self.open[todo.call] = "runs"
            elif isinstance(todo, Fail):
                assert self.open.pop(todo.call) == "waits"
            elif isinstance(todo, Remove):
                assert todo.container not in self.removing
                self.removing.add(todo.container)

    def in_state(self, state: State) -> list[int]:
        return [one.number for one in self.pool.containers.values() if one.state is state]

    @rule(shape=st.sampled_from([A, B, HALF, WHOLE, GPU]))
    def ask(self, shape: Shape) -> None:
        self.calls += 1
        self.open[self.calls] = "waits"
        self.do(self.pool.ask(self.calls, shape))

    @precondition(lambda self: self.in_state(State.STARTING))
    @rule(data=st.data(), ready=st.booleans())
    def start_ends(self, data: st.DataObject, ready: bool) -> None:
        number = data.draw(st.sampled_from(self.in_state(State.STARTING)))
        self.do(self.pool.started(number, self.now) if ready else self.pool.failed(number, "why"))
        if not ready:
            self.removing.add(number)

    @precondition(lambda self: "runs" in self.open.values())
    @rule(data=st.data(), reusable=st.booleans())
    def call_ends(self, data: st.DataObject, reusable: bool) -> None:
        call = data.draw(st.sampled_from([call for call, what in self.open.items() if what == "runs"]))
        del self.open[call]
        self.do(self.pool.done(call, self.now, reusable=reusable))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[call]
        self.do(self.pool.withdraw(call, self.now))

    @precondition(lambda self: self.removing)
    @rule()
    def is_gone(self) -> None:
        self.do(self.pool.gone(self.removing.pop()))

    @rule(seconds=st.floats(0, 100))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        self.do(self.pool.tick(self.now))

    @invariant()
    def nothing_is_overdrawn(self) -> None:
        assert len(self.in_state(State.BUSY)) <= 2
        assert len(self.in_state(State.STARTING)) <= 2
        alive = list(self.pool.containers.values())
        assert sum(dict(one.shape.resource).get("cpu", 0) for one in alive) <= 2
        gpus = [gpu for one in alive for gpu in one.gpus]
        assert len(gpus) == len(set(gpus))

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        if "waits" in self.open.values():
            assert working_or_leaving(self.pool)


def working_or_leaving(pool: WarmPool) -> bool:
    return any(one.state is not State.IDLE for one in pool.containers.values())


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(("resource", "gpus"), [((), 0), ((("gpu", 0.5),), 1), ((("gpu", 2.0),), 2)])
def test_gpus_of_a_shape(resource: tuple[tuple[str, float], ...], gpus: int) -> None:
    assert Shape("x", None, resource).gpus == gpus
