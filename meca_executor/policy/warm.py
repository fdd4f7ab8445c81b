"""Which container takes which call: started when one is missing, kept warm, removed when idle or in the way.

Pure: it is told what happened and returns what to do; times are passed in, numbers are its own. A container takes one
call at a time, so that a limit, a `kill` and the resources are that call's own. Calls have their turn in the order in
which they came; one that needs more than is free holds back those after it, so that it is not passed over for ever.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LEAST_KEPT = 8  #: warm containers that are always allowed, however few the slots
KEPT_PER_SLOT = 4


class Shape(NamedTuple):
    """What makes containers alike: any of one shape takes any call of that shape."""

    image: str
    runtime: str | None = None
    resource: tuple[tuple[str, float], ...] = ()  #: sorted pairs of `cpu` (cores), `memory` (MiB), `gpu`
    owner: str = ""  #: whose calls it takes: what one leaves in a container is not for another to find

    @property
    def gpus(self) -> int:
        """GPUs that it has to itself, whole ones."""
        return math.ceil(dict(self.resource).get("gpu", 0))


class Start(NamedTuple):
    """Start a container under this number, with these GPUs of the host."""

    container: int
    shape: Shape
    gpus: tuple[int, ...]


class Give(NamedTuple):
    """Let a container have a call."""

    call: int
    container: int


class Remove(NamedTuple):
    """End a container; `gone` is told when it is."""

    container: int


class Fail(NamedTuple):
    """Tell a call that it gets no container, and why."""

    call: int
    why: Any


Todo = Start | Give | Remove | Fail


class State(Enum):
    """Where a container is in its life."""

    STARTING = 1
    IDLE = 2
    BUSY = 3
    ENDING = 4


@dataclass(eq=False)
class Warm:
    """A container, as far as decisions need it."""

    number: int
    shape: Shape
    gpus: tuple[int, ...]
    state: State = State.STARTING
    since: float = 0.0  #: when it became idle
    call: int | None = None


@dataclass
class WarmPool:
    """All containers of a gateway and the calls that wait for one.

    Args:
        slots: Containers that work at once, and beyond which none is started.
        capacity: What the host has of each resource; containers that are alive hold theirs, idle ones too.
        idle_s: Seconds without a call after which a container is removed.
        patience_s: Seconds that a call waits for a container that is ready before another one is started for it: a
            start takes longer than many a call.
    """

    slots: int
    capacity: Mapping[str, float]
    idle_s: float
    patience_s: float = 0.0
    containers: dict[int, Warm] = field(default_factory=dict)
    waiting: dict[int, Shape] = field(default_factory=dict)  #: call -> what it needs, in the order in which they came
    _since: dict[int, float] = field(default_factory=dict)  #: call -> when it came
    _now: float = 0.0
    _next: int = 1

    # -- what happens -----------------------------------------------------------------------------

    def ask(self, call: int, shape: Shape, now: float = 0.0) -> list[Todo]:
        """A call needs a container."""
        self.waiting[call] = shape
        self._since[call] = self._now = max(now, self._now)
        return self._assign()

    def withdraw(self, call: int, now: float) -> list[Todo]:
        """A call is given up while it waits, or before it was begun."""
        if self._no_more(call) is None:
            return self.done(call, now, reusable=True)
        return self._assign()

    def started(self, number: int, now: float) -> list[Todo]:
        """A container is ready."""
        one = self.containers.get(number)
        if one is None or one.state is not State.STARTING:
            return []
        self._now = max(now, self._now)
        one.state, one.since = State.IDLE, now
        return self._assign()

    def failed(self, number: int, why: Any) -> list[Todo]:
        """A container will never be ready. `gone` follows.

        One start that fails costs the call that waited longest its container, and all of the shape theirs when none
        of it is left: whatever starts next would fail alike.
        """
        one = self.containers.get(number)
        if one is None or one.state is not State.STARTING:
            return []
        one.state = State.ENDING
        mine = [call for call, shape in self.waiting.items() if shape == one.shape]
        others = any(other.shape == one.shape and other.state is not State.ENDING for other in self.containers.values())
        victims = mine[:1] if others else mine
        for call in victims:
            self._no_more(call)
        return [*(Fail(call, why) for call in victims), *self._assign()]

    def done(self, call: int, now: float, *, reusable: bool) -> list[Todo]:
        """A call is over; its container takes the next one, or is of no more use."""
        one = next((one for one in self.containers.values() if one.call == call), None)
        if one is None or one.state is not State.BUSY:
            return []
        one.call, self._now = None, max(now, self._now)
        if reusable:
            one.state, one.since = State.IDLE, now
            return self._assign()
        return [self._end(one), *self._assign()]

    def ended(self, number: int) -> list[Todo]:
        """A container that was ready has ended by itself: it gets no more calls. `gone` follows."""
        one = self.containers.get(number)
        if one is None or one.state is State.STARTING:
            return []
        one.state = State.ENDING
        return self._assign()

    def gone(self, number: int) -> list[Todo]:
        """A container is no more."""
        self.containers.pop(number, None)
        return self._assign()

    def tick(self, now: float) -> list[Todo]:
        """Remove what has been idle for too long, and start one for who has waited for long enough."""
        self._now = max(now, self._now)
        return [*(self._end(one) for one in self._idle() if one.since + self.idle_s <= now), *self._assign()]

    @property
    def next_due(self) -> float | None:
        """When `tick` has something to do; None while there is nothing."""
        waits = (
            self._since[call] + self.patience_s for call, shape in self.waiting.items() if self._is_patient(call, shape)
        )
        return min((*(one.since + self.idle_s for one in self._idle()), *waits), default=None)

    def close(self, why: Any) -> list[Todo]:
        """End everything."""
        calls, self.waiting, self._since = list(self.waiting), {}, {}
        alive = [one for one in self.containers.values() if one.state is not State.ENDING]
        return [*(Fail(call, why) for call in calls), *(self._end(one) for one in alive)]

    # -- deciding ---------------------------------------------------------------------------------

    def _assign(self) -> list[Todo]:
        if not self.waiting:
            return []
        todo: list[Todo] = []
        coming: dict[Shape, int] = {}
        for one in self.containers.values():
            if one.state is State.STARTING:
                coming[one.shape] = coming.get(one.shape, 0) + 1
        for call, shape in list(self.waiting.items()):
            if self._count(State.BUSY) >= self.slots:
                break
            if (warm := self._latest_idle(shape)) is not None:
                warm.state, warm.call = State.BUSY, call
                self._no_more(call)
                todo.append(Give(call, warm.number))
            elif coming.get(shape, 0):
                coming[shape] -= 1  # one is on its way for it
            elif self._is_patient(call, shape):
                continue
            elif self._count(State.BUSY, State.STARTING) >= self.slots or not self._make_room(shape, todo):
                break
            else:
                todo.append(self._start(shape))
        return todo

    def _no_more(self, call: int) -> Shape | None:
        self._since.pop(call, None)
        return self.waiting.pop(call, None)

    def _is_patient(self, call: int, shape: Shape) -> bool:
        if self._now >= self._since[call] + self.patience_s:
            return False
        return any(one.shape == shape and one.state in (State.IDLE, State.BUSY) for one in self.containers.values())

    def _start(self, shape: Shape) -> Start:
        used = {gpu for one in self.containers.values() for gpu in one.gpus}
        free = [gpu for gpu in range(int(self.capacity.get("gpu", 0))) if gpu not in used]
        one = Warm(self._next, shape, tuple(free[: shape.gpus]))
        self.containers[one.number] = one
        self._next += 1
        return Start(one.number, shape, one.gpus)

    def _make_room(self, shape: Shape, todo: list[Todo]) -> bool:
        """Whether a container of this shape fits now; if not, idle ones in its way are sent off."""
        while not self._fits(shape, self._alive(but=State.ENDING)):
            oldest = min(self._idle(), key=lambda one: one.since, default=None)
            if oldest is None:
                return False
            todo.append(self._end(oldest))
        return self._fits(shape, self.containers.values())

    def _fits(self, shape: Shape, among: Iterable[Warm]) -> bool:
        held = [one.shape for one in among]
        if len(held) >= max(LEAST_KEPT, KEPT_PER_SLOT * self.slots):
            return False
        for name, wanted in shape.resource:
            if name == "gpu":
                wanted, taken = shape.gpus, float(sum(other.gpus for other in held))
            else:
                taken = sum(dict(other.resource).get(name, 0) for other in held)
            if wanted + taken > self.capacity.get(name, 0):
                return False
        return True

    def _end(self, one: Warm) -> Remove:
        one.state = State.ENDING
        return Remove(one.number)

    def _alive(self, but: State) -> list[Warm]:
        return [one for one in self.containers.values() if one.state is not but]

    def _idle(self) -> list[Warm]:
        return [one for one in self.containers.values() if one.state is State.IDLE]

    def _latest_idle(self, shape: Shape) -> Warm | None:
        alike = (one for one in self._idle() if one.shape == shape)
        return max(alike, key=lambda one: one.since, default=None)

    def _count(self, *states: State) -> int:
        return sum(one.state in states for one in self.containers.values())
