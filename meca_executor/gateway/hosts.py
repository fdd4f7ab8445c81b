"""The machines that have workers: the gateway's own and those that joined, what each has and what is in use there.

Pure, as the roster whose part it is. A call holds its resources while a worker has it. What does not fit now waits;
when it has waited for long, a host that could take it gives nothing of these resources to others until it has.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..policy.placement import why_never, why_nowhere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from .backlog import Lane
    from .tasks import BrokerSession, BrokerWorker, Pool

HERE = 0  #: the number of the gateway's own machine
PATIENCE_S = 1.0  #: who has waited longer for resources is promised those of a host
ROUNDING = 1e-9  #: sums of fractions


def everybody(_: str) -> bool:
    """A host that serves every owner."""
    return True


@dataclass(eq=False)
class BrokerHost:
    """One machine."""

    id: int
    name: str
    slots: int  #: workers that it may have
    capacity: Mapping[str, float] | None = None  #: what it has of each resource; None: nothing is counted
    serves: Callable[[str], bool] = everybody  #: whether an owner's functions may run here
    connected: bool = True
    draining: bool = False  #: it is about to leave
    workers: dict[int, BrokerWorker] = field(default_factory=dict)
    live: set[int] = field(default_factory=set)  #: those of them that are not leaving
    rented: bool = False  #: a node of a cluster: its slots and capacity are what it gives now
    promised: tuple[BrokerSession, Lane] | None = None  #: who gets the next resources that are free

    def __repr__(self) -> str:
        state = "draining" if self.draining else "connected" if self.connected else "away"
        return f"<BrokerHost {self.id} {self.name!r} {self.slots} slots, {state}>"

    @property
    def open(self) -> bool:
        """Whether it takes calls now."""
        return self.connected and not self.draining and self.slots > 0


@dataclass(eq=False)
class Hosts:
    """All of them."""

    here: BrokerHost
    workers: dict[int, BrokerWorker]  #: the roster's
    all: dict[int, BrokerHost] = field(init=False)
    reserve: int = 0  #: slots that a cluster could give besides those that its nodes give now
    could: list[Mapping[str, float]] | None = None  #: what each of its nodes has; empty: not known; None: no cluster

    def __post_init__(self) -> None:
        self.all = {HERE: self.here}

    def of(self, owner: str) -> list[BrokerHost]:
        """Those that may run an owner's functions, whatever state they are in; a gateway without workers is none."""
        return [host for host in self.all.values() if host.slots and host.serves(owner)]

    def slots_of(self, owner: str) -> int:
        """How many workers an owner's functions may have at once."""
        if len(self.all) == 1 and not self.reserve:
            return self.here.slots if self.here.serves(owner) else 0
        reserve = self.reserve if self.here.serves(owner) else 0
        return sum(host.slots for host in self.of(owner) if not host.draining) + reserve

    def why_never(self, owner: str, resource: Mapping[str, float]) -> str | None:
        """Return why no host that there is can ever run such a call; None when one can, or none is here yet."""
        hosts = self.of(owner)
        if self.could is not None and self.here.serves(owner):
            capacities = [*self.could, *(host.capacity for host in hosts if not host.rented)]
            known = bool(self.could)
        else:
            capacities, known = [host.capacity for host in hosts], bool(hosts)
        if not resource or not known or None in capacities:
            return None
        return why_nowhere(resource, [capacity for capacity in capacities if capacity is not None])

    def drop(self, host: BrokerHost, pools: Iterable[Pool]) -> None:
        """Forget a host, and what was found about workers there."""
        self.all.pop(host.id, None)
        for pool in pools:
            pool.barred.pop(host.id, None)

    def stuck(self, pools: Iterable[Pool]) -> Iterator[tuple[Pool, str]]:
        """Yield those of whom no worker starts on any host that there is, and how they end."""
        for pool in pools:
            if pool.barred and pool.broken is None and all(host.id in pool.barred for host in self.of(pool.owner)):
                yield pool, f"workers end before they can run anything: {next(reversed(pool.barred.values()))}"

    def why_waiting(self, session: BrokerSession) -> str | None:
        """Return why some of a session's calls cannot begin, whatever else ends; None when all wait for their turn."""
        hosts = self.of(session.pool.owner)
        for lane in session.queue.lanes:
            needs = dict(lane.shape)
            able = [host for host in hosts if host.capacity is None or why_never(needs, host.capacity) is None]
            if any(host.open for host in able):
                continue
            if able:
                away = ", ".join(sorted(f"{host.name} is {'leaving' if host.draining else 'away'}" for host in able))
                return f"{away}, and no other host can run them"
            if not hosts:
                return "this gateway has no workers, and no host of yours is here; let one join: meca host --join URL"
            why = why_nowhere(needs, [host.capacity for host in hosts if host.capacity is not None])
            return f"{why}; they run when a host that has it joins"
        return None

    def in_use(self, host: BrokerHost) -> dict[str, float]:
        """What is held there, by resource."""
        used: dict[str, float] = {}
        for worker in host.workers.values():
            if worker.in_flight:
                for name, amount in worker.shape:
                    used[name] = used.get(name, 0.0) + amount
        return used

    def takes(self, host: BrokerHost, lane: Lane, worker: BrokerWorker | None = None) -> bool:
        """Whether a call of this lane may begin there now; in a worker that has such calls, it needs no more."""
        if not host.open:
            return False
        if not lane.shape or host.capacity is None:
            return True
        promised = self._promised(host, lane)
        if worker is not None and worker.in_flight:
            return promised is None
        used = self.in_use(host)
        for name, amount in promised.shape if promised is not None else ():
            used[name] = used.get(name, 0.0) + amount
        return all(used.get(name, 0.0) + amount <= has(host, name) + ROUNDING for name, amount in lane.shape)

    def _promised(self, host: BrokerHost, lane: Lane) -> Lane | None:
        """To which other lane the free resources of a host are promised."""
        if host.promised is not None:
            session, other = host.promised
            if not other.groups or session.paused or len(session.workers) >= session.cap:
                host.promised = None
            elif other is not lane:
                return other
        return None

    def rooms(self, session: BrokerSession, lane: Lane) -> list[BrokerHost]:
        """The hosts on which a call of a session's lane may begin now."""
        pool = session.pool
        if len(self.all) == 1 and not lane.shape and not pool.barred:  # as nearly always
            return [self.here] if self.here.open and self.here.serves(pool.owner) else []
        hosts = [host for host in self.all.values() if host.serves(pool.owner) and self.takes(host, lane)]
        return [host for host in hosts if host.id not in pool.barred] if pool.barred else hosts

    def is_waiting(self, session: BrokerSession, now: float) -> bool:
        """Whether any call of a session could begin if a worker were free. Takes note of those that wait for more."""
        found = False
        for lane in session.queue.lanes:
            if self.rooms(session, lane):
                found = True
            elif lane.shape and len(session.workers) < session.cap:
                lane.blocked_since = now if lane.blocked_since is None else lane.blocked_since
                if now - lane.blocked_since >= PATIENCE_S:
                    self._promise(session, lane)
        return found or self._goes_on(session)

    def _goes_on(self, session: BrokerSession) -> bool:
        """Whether a worker that has its calls may get more of the same."""
        mine = [worker for number in session.workers if (worker := self.workers.get(number)) is not None]
        return any(worker.shape == lane.shape != () for worker in mine for lane in session.queue.lanes)

    def _promise(self, session: BrokerSession, lane: Lane) -> None:
        if any(host.promised == (session, lane) for host in self.all.values()):
            return
        for host in self.all.values():
            if host.open and host.promised is None and host.serves(session.pool.owner):
                if all(amount <= has(host, name) for name, amount in lane.shape):
                    host.promised = (session, lane)
                    return

    def served(self, lane: Lane) -> None:
        """A lane got what it waited for."""
        if not lane.shape:
            return
        for host in self.all.values():
            if host.promised is not None and host.promised[1] is lane:
                host.promised = None

    def with_place(self, hosts: Iterable[BrokerHost]) -> BrokerHost | None:
        """The one of these where one more worker is best started: here if there is room, else where there is most."""
        free = [(host.id != HERE, len(host.live) - host.slots, host.id, host) for host in hosts]
        return min((entry for entry in free if entry[1] < 0), default=(None,))[-1]


def has(host: BrokerHost, name: str) -> float:
    """What a host has of a resource in all."""
    return float("inf") if host.capacity is None else host.capacity.get(name, 0.0)
