"""Which container calls get which places of a cluster. Pure: time is passed in.

A *booking* is a lease (`leasing.py`) that one container call at a time has to itself; it is no place for functions. It
asks for what the call needs and for an engine, so the cluster's own scheduler puts it on a node that has both. It is
kept for the next call that needs the same, for as long as an idle place of functions is.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .leasing import BACKLOG_LEAST, HURRIED_S, IDLE_S, UNWANTED_S, Lease, Shape, wanted
from .placement import why_nowhere

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

ENGINE = "engine"  #: the resource of a node that a container call holds one of
TURN_S = 2.0  #: calls that have waited for so long while functions have more places get some of these


@dataclass(eq=False)
class Booking(Lease):
    """A lease for container calls."""

    call: int | None = None  #: that has it
    free_since: float = 0.0  #: when it had none
    last: str = ""  #: the image of the call before, of which a warm container may be there


@dataclass(eq=False)
class Waiting:
    """A call without a place."""

    shape: Shape
    ref: str  #: its image


@dataclass(eq=False)
class Bookings:
    """All bookings of one gateway, and the calls that wait for one.

    Attributes:
        places: How many the cluster has now.
        most: How many calls may run at once; None is by `places`.
    """

    places: int = 0
    most: int | None = None
    all: dict[str, Booking] = field(default_factory=dict)
    calls: dict[int, Waiting] = field(default_factory=dict)
    _last: int = 0
    _short_since: float | None = None  #: calls wait, and functions have more places
    _pressed_since: float | None = None  #: places of functions wait

    @property
    def limit(self) -> int:
        """How many there may be now; by those that wait an autoscaler sees that more is wanted."""
        return self.most if self.most is not None else self.places + max(self.places, BACKLOG_LEAST)

    @property
    def waiting(self) -> list[Booking]:
        """Those that have not begun."""
        return [booking for booking in self.all.values() if booking.node is None]

    @property
    def held(self) -> int:
        """How many have begun."""
        return sum(1 for booking in self.all.values() if booking.node is not None)

    def on(self, node: str) -> list[Booking]:
        """Those that have begun on a node."""
        return [booking for booking in self.all.values() if booking.node == node]

    # -- calls ------------------------------------------------------------------------------------

    def want(self, call: int, ref: str, resource: Mapping[str, float]) -> None:
        """A call of this image waits for a place."""
        self.calls[call] = Waiting(shape_for(resource), ref)

    def match(self, nodes: Collection[str]) -> list[tuple[int, Booking]]:
        """Give places that are free to calls that wait, in their order.

        Args:
            nodes: Those that take calls now.
        """
        found = list[tuple[int, Booking]]()
        free = [booking for booking in self.all.values() if booking.call is None and booking.node in nodes]
        for call, waiting in list(self.calls.items()):
            alike = [booking for booking in free if booking.shape == waiting.shape]
            if alike:
                booking = next((one for one in alike if one.last == waiting.ref), alike[0])
                free.remove(booking)
                booking.call, booking.last = call, waiting.ref
                del self.calls[call]
                found.append((call, booking))
        return found

    def done(self, call: int, now: float) -> None:
        """A call needs its place no more, or does not wait for one any more."""
        self.calls.pop(call, None)
        for booking in self.all.values():
            if booking.call == call:
                booking.call, booking.free_since = None, now

    # -- leases -----------------------------------------------------------------------------------

    def _wants(self) -> Counter[Shape]:
        return Counter(waiting.shape for waiting in self.calls.values())

    def ask(self) -> list[Booking]:
        """Return new leases for the calls that wait, besides those that are on their way; in the order of the calls."""
        coming = Counter(booking.shape for booking in self.waiting)
        room, new = self.limit - len(self.all), list[Booking]()
        for waiting in self.calls.values():
            if coming[waiting.shape] > 0:
                coming[waiting.shape] -= 1
            elif len(new) < room:
                self._last += 1
                new.append(Booking(f"c{self._last}", waiting.shape))
        self.all.update((booking.id, booking) for booking in new)
        return new

    def begin(self, booking: Booking, node: str, now: float) -> None:
        """It has begun there."""
        booking.node, booking.free_since, booking.unwanted_since = node, now, None

    def end(self, number: str) -> Booking | None:
        """Forget one; returns it if it was here."""
        return self.all.pop(number, None)

    def unwanted(self, now: float) -> list[Booking]:
        """Return those that have not begun and are to be taken back: nothing has waited for them for a while."""
        left, found = self._wants(), list[Booking]()
        for booking in self.waiting:
            left[booking.shape] -= 1
            if left[booking.shape] >= 0:
                booking.unwanted_since = None
            elif booking.unwanted_since is None:
                booking.unwanted_since = now
            elif now - booking.unwanted_since >= UNWANTED_S:
                found.append(booking)
        return found

    def idle(self, functions: int, function_waits: bool, now: float) -> list[Booking]:
        """Return those that are to be given back: no call had them for `IDLE_S`.

        They go at once when somebody else has waited for a while: calls that need other places, or functions that have
        fewer.

        Args:
            functions: Places that functions have.
            function_waits: Whether functions wait for more.
            now: The time.
        """
        if not (self.calls or (function_waits and functions < self.held)):
            self._pressed_since = None
        elif self._pressed_since is None:
            self._pressed_since = now
        pressed = self._pressed_since is not None and now - self._pressed_since >= HURRIED_S
        free = [booking for booking in self.all.values() if booking.node is not None and booking.call is None]
        return [booking for booking in free if pressed or now - booking.free_since >= IDLE_S]

    def is_short(self, functions: int, now: float) -> bool:
        """Whether functions are to give way: calls have waited for `TURN_S` and have fewer places; then it is theirs.

        Args:
            functions: Places that functions have.
            now: The time.
        """
        if not self.calls or not self.waiting or self.held >= functions:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        elif now - self._short_since >= TURN_S:
            self._short_since = now
            return True
        return False


def shape_for(resource: Mapping[str, float]) -> Shape:
    """Return the lease that a container call needs: a core at least, as all do, whole GPUs, and an engine."""
    needs = {name: float(math.ceil(amount) if name == "gpu" else amount) for name, amount in resource.items() if amount}
    (shape,) = wanted([(tuple(needs.items()), 1)])
    return tuple(sorted((*shape, (ENGINE, 1.0))))


def fits(shape: Shape, resources: Mapping[str, float]) -> bool:
    """Whether a node that has this can ever have such a lease."""
    return all(resources.get(name, 0) >= amount for name, amount in shape)


def why_no_container(resource: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str | None:
    """Return why no node can ever run such a call, None when one can. That none has an engine is another matter.

    Args:
        resource: What the call needs.
        nodes: What each node has that has an engine; one at least.
    """
    needs = {name: amount for name, amount in shape_for(resource) if name != ENGINE}
    return why_nowhere(needs, nodes)
