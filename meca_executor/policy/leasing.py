"""How many places of a cluster a gateway asks for, and which of them it gives back. Pure: time is passed in.

A *lease* is one place on one node, with the resources that it was asked for. What waits in the gateway decides how many
there are to be; the cluster's own scheduler decides where. A lease that nobody needs for a while is given back, so that
others who use the cluster get the place.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

IDLE_S = 5.0  #: a place that was free for so long is given back
TELL_S = 10.0
TELL_MOST_S = 600.0
HURRIED_S = 1.0  #: while calls wait for other places, after so long
UNWANTED_S = 2.0  #: a lease that has not begun, and that nothing waits for any more, is taken back after so long
BACKLOG_LEAST = 8  #: leases that may wait for nodes which are not there yet, at least; else as many as there are places

Shape = tuple[tuple[str, float], ...]
"""Sorted `(resource, amount)`."""


@dataclass(eq=False)
class Lease:
    """One place."""

    id: str
    shape: Shape
    node: str | None = None  #: where it has begun
    unwanted_since: float | None = None  #: it has not begun, and nothing waits for it
    leaving: bool = False  #: it takes no more calls, and is given back when those that run leave room


class Use(NamedTuple):
    """What runs on a node, as the gateway has it."""

    workers: int  #: that have calls
    held: Mapping[str, float]  #: resources of these calls


@dataclass(eq=False)
class Spare:
    """The places of a node that were free all the time."""

    since: float
    least: int


@dataclass(eq=False)
class Leases:
    """All leases of one gateway.

    Attributes:
        places: How many the cluster has now.
        most: How many there may be in all; None is by `places`.
    """

    places: int = 0
    most: int | None = None
    all: dict[str, Lease] = field(default_factory=dict)
    _spare: dict[str, Spare] = field(default_factory=dict)
    _last: int = 0
    _wanting_since: float | None = None

    @property
    def limit(self) -> int:
        """How many leases there may be now; by those that wait an autoscaler sees that more is wanted."""
        return self.most if self.most is not None else self.places + max(self.places, BACKLOG_LEAST)

    def on(self, node: str) -> list[Lease]:
        """Those that have begun on a node."""
        return [lease for lease in self.all.values() if lease.node == node]

    def staying(self, node: str) -> list[Lease]:
        """Those of them that take calls."""
        return [lease for lease in self.on(node) if not lease.leaving]

    @property
    def waiting(self) -> list[Lease]:
        """Those that have not begun."""
        return [lease for lease in self.all.values() if lease.node is None]

    @property
    def held(self) -> int:
        """How many have begun."""
        return sum(1 for lease in self.all.values() if lease.node is not None)

    def give_way(self, nodes: Iterable[str]) -> list[str]:
        """Have each of these nodes give one place back as soon as calls leave room for it; returns those that will."""
        found = []
        for node in nodes:
            leases = self.on(node)
            if leases and not any(lease.leaving for lease in leases):
                min(leases, key=lambda lease: _demand(lease.shape)).leaving = True
                found.append(node)
        return found

    def ask(self, wants: Mapping[Shape, int]) -> list[Lease]:
        """Return new leases for what waits, besides those that are on their way; the most demanding ones first.

        Args:
            wants: Shape of a lease -> how many more could be used now, as `wanted` has it.
        """
        coming = Counter(lease.shape for lease in self.waiting)
        room, new = self.limit - len(self.all), list[Lease]()
        for shape in sorted(wants, key=_demand, reverse=True):
            for _ in range(min(wants[shape] - coming[shape], room - len(new))):
                self._last += 1
                new.append(Lease(str(self._last), shape))
        self.all.update((lease.id, lease) for lease in new)
        return new

    def begin(self, lease: Lease, node: str, now: float) -> None:
        """It has begun there."""
        lease.node, lease.unwanted_since = node, None
        self._spare[node] = Spare(now, 0)

    def end(self, number: str) -> Lease | None:
        """Forget one; returns it if it was here."""
        lease = self.all.pop(number, None)
        if lease is not None and lease.node is not None and not self.on(lease.node):
            self._spare.pop(lease.node, None)
        return lease

    def unwanted(self, wants: Mapping[Shape, int], now: float) -> list[Lease]:
        """Return those that have not begun and are to be taken back: nothing has waited for them for a while."""
        left, found = Counter(wants), list[Lease]()
        for lease in self.waiting:
            left[lease.shape] -= 1
            if left[lease.shape] >= 0:
                lease.unwanted_since = None
            elif lease.unwanted_since is None:
                lease.unwanted_since = now
            elif now - lease.unwanted_since >= UNWANTED_S:
                found.append(lease)
        return found

    def idle(
        self, uses: Mapping[str, Use], wants: Mapping[Shape, int], now: float, others_wait: bool = False
    ) -> list[Lease]:
        """Return those that are to be given back: so many places of their node were free for `IDLE_S`.

        While calls wait although places are free, or containers do, these are of no use to them, and go sooner: Dask
        may give them to the leases that are. Those that are leaving go when as many are free.
        """
        if not others_wait and (not wants or not self.waiting):
            self._wanting_since = None
        elif self._wanting_since is None:
            self._wanting_since = now
        hurried = self._wanting_since is not None and now - self._wanting_since >= HURRIED_S
        found = list[Lease]()
        for node, use in uses.items():
            leases = self.on(node)
            free = max(0, len(leases) - use.workers)
            gone = _dispensable(leases, free, use.held, [lease for lease in leases if lease.leaving])
            found += gone
            leases, free = [lease for lease in leases if lease not in gone], free - len(gone)
            spare = self._spare.setdefault(node, Spare(now, free))
            spare.least = min(spare.least, free)
            if hurried:
                found += _dispensable(leases, free, use.held)
            elif now - spare.since >= IDLE_S:
                found += _dispensable(leases, spare.least, use.held)
                self._spare[node] = Spare(now, free)
        return found


@dataclass(eq=False)
class Reminder:
    """When those whose calls wait are told why: after `TELL_S`, and again after twice the time."""

    _at: float | None = None
    _again_s: float = TELL_S

    def due(self, waits: bool, now: float) -> bool:
        """Take note of whether anything waits; whether it is time to say so."""
        if not waits:
            self._at = None
        elif self._at is None:
            self._at, self._again_s = now + TELL_S, TELL_S
        elif now >= self._at:
            self._again_s = min(2 * self._again_s, TELL_MOST_S)
            self._at = now + self._again_s
            return True
        return False


def capacity(leases: Iterable[Lease]) -> dict[str, float]:
    """Return what leases have together."""
    total: dict[str, float] = {}
    for lease in leases:
        for name, amount in lease.shape:
            total[name] = total.get(name, 0.0) + amount
    return total


def wanted(lanes: Iterable[tuple[Shape, int]]) -> dict[Shape, int]:
    """Return the leases that calls need: a core each at least, for that is what a place is.

    Args:
        lanes: What calls need that wait, and how many of them could run at once.
    """
    wants: Counter[Shape] = Counter()
    for shape, count in lanes:
        needs = dict(shape)
        needs["cpu"] = max(1.0, needs.get("cpu", 1.0))
        wants[tuple(sorted(needs.items()))] += count
    return dict(wants)


def _demand(shape: Shape) -> tuple[int, float]:
    return len(shape), sum(amount for _, amount in shape)


def _dispensable(
    leases: list[Lease], count: int, held: Mapping[str, float], among: list[Lease] | None = None
) -> list[Lease]:
    """Return up to `count` of a node's leases (or `among` them) without which it still has what its calls hold."""
    found: list[Lease] = []
    has = capacity(leases)
    for lease in sorted(leases if among is None else among, key=lambda lease: _demand(lease.shape)):
        if len(found) == count:
            break
        if all(has[name] - amount >= held.get(name, 0.0) for name, amount in lease.shape):
            found.append(lease)
            for name, amount in lease.shape:
                has[name] -= amount
    return found
