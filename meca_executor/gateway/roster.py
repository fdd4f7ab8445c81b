"""The roster: all workers of a gateway, which of them takes the next batch, and when one comes or goes.

Pure, as the broker whose part it is: what is to be done is put into `out`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .hosts import BrokerHost, Hosts
from .ranks import Ranked
from .tasks import BrokerWorker, Kill, Revoke, Setup, Spawn, Stop

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..wire.records import Status
    from .backlog import Lane
    from .groups import Group
    from .tasks import BrokerSession, Instruction, Pool

PLACE_HELD_S = 0.5  #: a worker gives its place to a pool that has none after so long
PLACE_IDLE_S = 1.0  #: a worker idle for so long gives its place to another pool's second worker


class Roster:
    """The workers, and what was decided about them since the broker last looked."""

    def __init__(self, here: BrokerHost) -> None:
        self.workers: dict[int, BrokerWorker] = {}
        self.hosts = Hosts(here, self.workers)
        self.now = 0.0
        self.out: list[Instruction] = []
        self._last_worker = 0
        self._waiting: tuple[BrokerSession, ...] = ()
        self._wanted: dict[Pool, int] = {}  # of those that wait, by pool
        self._starving = False  # some pool waits and has no worker
        self._resting: dict[int, BrokerWorker] = {}  # those of a pool that have nothing, the longest first
        self._fresh = Ranked()  # those of no pool yet
        self._places: dict[int, Ranked] = {}  # where each is looked for

    def rivalry(self, waiting: Iterable[BrokerSession]) -> None:
        """Take note of who wants workers in this turn."""
        self._waiting = tuple(waiting)
        wanted: dict[Pool, int] = {}  # a third of a Counter's time
        for session in self._waiting:
            wanted[session.pool] = wanted.get(session.pool, 0) + 1
        self._wanted = wanted
        self._starving = any(not any(self.workers[id_].host.open for id_ in pool.live) for pool in self._wanted)

    def choose(self, session: BrokerSession, lane: Lane) -> BrokerWorker | None:
        """The least loaded worker that may run tasks of this session's lane.

        A worker has one session's tasks at a time, so that what they print has one owner. While others of
        its pool wait, it gets no more of them before it is through, so that it comes to the others; while
        a pool without a worker waits, it gets none at all once it has had its place for a while.
        """
        limit = session.pool.tasks_per_worker
        at_cap = len(session.workers) >= session.cap
        rivals = self._wanted[session.pool] > 1

        def usable(worker: BrokerWorker) -> bool:
            return (
                worker.suits(session)
                and (worker.shape == lane.shape or not worker.in_flight)
                and not (self._starving and self._held_long(worker))
                and (limit is None or worker.next_ordinal <= limit)
                and (not at_cap or worker.id in session.workers)
                and self.hosts.takes(worker.host, lane, worker)
            )

        worker = None if at_cap else session.pool.idle.first(usable)
        return session.busy.first(usable) if worker is None and not rivals else worker

    def kin(self, session: BrokerSession) -> object:
        """Return what is the same for all sessions for which there is no worker when there is none for this one.

        Those that wait for workers of one pool get only such as have nothing, and one that is at its cap none at all.
        Calls that need resources may be promised them, each for itself.
        """
        alike = not any(lane.shape for lane in session.queue.lanes)
        if alike and self._wanted[session.pool] > 1 and self.can_grow(session):
            return session.pool, frozenset(session.code)
        return session

    def note(self, worker: BrokerWorker) -> None:
        """Something about a worker has changed: put it where it is looked for."""
        pool, stays = worker.pool, worker.id in self.workers and not worker.retired and worker.ending is None
        place: Ranked | None = None
        if stays and pool is None:
            place = self._fresh
        elif stays and pool is not None and not worker.in_flight:
            place = pool.idle
        elif stays and worker.session is not None and not is_overdue(worker):
            place = worker.session.busy
        if (before := self._places.pop(worker.id, None)) is not None and before is not place:
            before.drop(worker)
        if place is not None:
            self._places[worker.id] = place
            place.put(worker, worker.load)
        if pool is None or place is not pool.idle:
            self._resting.pop(worker.id, None)
        elif worker.id not in self._resting:
            self._resting[worker.id] = worker
        for live in (worker.host.live,) if pool is None else (worker.host.live, pool.live):
            (live.add if stays else live.discard)(worker.id)
        if worker.id not in self.workers:
            worker.host.workers.pop(worker.id, None)

    def _held_long(self, worker: BrokerWorker) -> bool:
        return self.now - worker.placed_at >= PLACE_HELD_S

    def can_grow(self, session: BrokerSession) -> bool:
        """Whether one more worker may run the session's tasks."""
        return len(session.workers) < session.cap

    def grow(self, session: BrokerSession, lane: Lane) -> BrokerWorker | None:
        """A worker that is new to the session's pool: one not told yet, a fresh one, or another pool's place."""
        if not self.can_grow(session) or not (rooms := self.hosts.rooms(session, lane)):
            return None
        worker = self._fresh.first(lambda fresh: fresh.host in rooms)
        if worker is None and (host := self.hosts.with_place(rooms)) is not None:
            worker = self.spawn(host)
        if worker is None and self._resting:
            worker = self.take_place(session, rooms)
        if worker is not None:
            worker.pool, worker.placed_at = session.pool, self.now
            self.note(worker)
            self.out.append(Setup(worker.id, session.pool.setup))
        return worker

    def take_place(self, session: BrokerSession, rooms: list[BrokerHost]) -> BrokerWorker | None:
        """A fresh worker in the place of an idle one of another pool, or with code that the session does not have.

        For a session that has none, when nobody waits for the other or it has had the place for a while;
        for one more, when the other has been idle for long, or has old code. So two sessions do not take
        each other's workers in turn: a start costs more than a batch.
        """
        live = [self.workers[number] for number in session.pool.live]
        has_one = any(worker.suits(session) and worker.host.open for worker in live)
        for other in self._resting.values():
            if other.suits(session):
                continue
            if other.host not in rooms:
                continue
            rivals = any(map(other.suits, self._waiting))
            if other.pool is session.pool and not rivals:  # it has old code, or that of another program
                free = True
            elif has_one:
                free = self.now - other.idle_since >= PLACE_IDLE_S
            else:
                free = not rivals or self._held_long(other)
            if free:
                self.retire(other)
                return self.spawn(other.host)
        return None

    def spawn(self, host: BrokerHost) -> BrokerWorker:
        """Start a worker on a host, not told yet what for."""
        self._last_worker += 1
        worker = self.workers[self._last_worker] = BrokerWorker(self._last_worker, host)
        host.workers[worker.id] = worker
        self.note(worker)
        self.out.append(Spawn(worker.id, host.id))
        return worker

    def remove(self, number: int) -> BrokerWorker | None:
        """Forget a worker that has ended; None when it is not known."""
        if (worker := self.workers.pop(number, None)) is not None:
            self.note(worker)
        return worker

    def hold(self, worker: BrokerWorker, ordinal: int) -> None:
        """Give a worker nothing more until that call is done."""
        worker.overdue = ordinal
        self.note(worker)

    def settle(self, worker: BrokerWorker, group: Group) -> None:
        """Take calls off their worker's and their session's counts."""
        if group.session is not None:
            self.count_done(worker, group.session, len(group))
        worker.load -= group.charge * len(group)

    def count_done(self, worker: BrokerWorker, session: BrokerSession, count: int) -> None:
        """Take tasks off what a session has in a worker."""
        left = session.workers.get(worker.id, 0) - count
        if left > 0:
            session.workers[worker.id] = left
        else:
            session.workers.pop(worker.id, None)

    def check_limit(self, worker: BrokerWorker) -> None:
        """A worker that has had its number of tasks makes place for a fresh one; on a host that leaves, for none."""
        limit = worker.pool.tasks_per_worker if worker.pool is not None else None
        if not worker.in_flight:
            worker.load = 0.0  # no rounding is carried on
            if worker.host.draining or (limit is not None and worker.next_ordinal > limit):
                self.retire(worker)

    def give_back(self, worker: BrokerWorker, groups: list[Group]) -> None:
        """Put calls that did not begin, and are taken off the worker, back to the front of their queues, in order."""
        for group in reversed(groups):
            self.settle(worker, group)
            for part in reversed(without_void(worker, group)):
                if part.session is not None:
                    part.session.queue.put_back([part])

    def withdraw(self, session: BrokerSession) -> list[Group]:
        """Take all of a session's calls, in its queue and in workers; what comes of these is of no interest."""
        groups = session.queue.take_all()
        for worker in self.workers.values():
            for group in [group for group in worker.in_flight if group.session is session]:
                groups.extend(without_void(worker, group))
                self.count_done(worker, session, len(group))
                group.session = None
        return groups

    def drain(self, host: BrokerHost) -> None:
        """Have the workers of a host end, each when what it runs is done; the rest of what they have is taken back."""
        for worker in list(host.workers.values()):
            if not worker.in_flight:
                self.retire(worker)
            elif worker.ending is None:
                self.revoke(worker, max(worker.started, worker.done + 1))

    def trim(self) -> None:
        """End idle workers of hosts that have more than their slots, those first that are idle for longest."""
        idle = [worker for worker in self.workers.values() if not worker.in_flight]
        for worker in sorted(idle, key=lambda worker: worker.idle_since):
            if len(worker.host.live) > worker.host.slots:
                self.retire(worker)

    def vanished(self, host: BrokerHost) -> Iterator[tuple[BrokerSession, list[int]]]:
        """Forget the workers of a host; yields whose calls they had, and which."""
        for worker in list(host.workers.values()):
            del self.workers[worker.id]
            for group in worker.in_flight.take_all():
                self.settle(worker, group)
                for part in without_void(worker, group):
                    if part.session is not None:
                        yield part.session, part.ids
            self.note(worker)

    def revoke(self, worker: BrokerWorker, start: int) -> None:
        """Tell a worker to leave alone what it has from `start` on; what it has not begun is reclaimed later."""
        first, last = worker.revoked
        if worker.started < last:  # it has not come past the last range yet
            start = min(first, start)
        worker.revoked = (start, worker.next_ordinal)
        worker.reclaiming = True
        self.out.append(Revoke(worker.id, *worker.revoked))

    def reclaim(self, worker: BrokerWorker) -> None:
        """Count a revocation that the worker has had the time to see."""
        worker.reclaiming = False
        start, stop = worker.revoked
        safe = max(start, worker.started)
        self.give_back(worker, worker.in_flight.take(safe, stop))
        self.note(worker)

    def kill(self, worker: BrokerWorker, ordinal: int, status: Status, text: str) -> None:
        """End a worker because of one of its tasks, which has that outcome."""
        if worker.ending is None:
            worker.ending = (ordinal, status, text)
            self.note(worker)
            self.out.append(Kill(worker.id))

    def retire(self, worker: BrokerWorker) -> None:
        """Let a worker end; it gets no more tasks."""
        if not worker.retired and worker.ending is None:
            worker.retired = True
            self.note(worker)
            self.out.append(Stop(worker.id))


def is_overdue(worker: BrokerWorker) -> bool:
    """Whether a worker has a call that takes longer than thought."""
    return worker.overdue > worker.done and worker.in_flight.at(worker.overdue) is not None


def open_calls(worker: BrokerWorker, groups: list[Group]) -> dict[int, Group]:
    """Return the group of each call, by ordinal, of groups taken off their worker; no call that is settled."""
    return {
        part.ordinal + at: part
        for group in groups
        for part in without_void(worker, group)
        for at in range(len(part))
        if part.session is not None
    }


def without_void(worker: BrokerWorker, group: Group) -> list[Group]:
    """Return the calls of a group, taken off its worker, whose outcome is not settled."""
    if not worker.void:
        return [group]
    settled = sorted(ordinal for ordinal in worker.void if group.ordinal <= ordinal < group.end)
    worker.void.difference_update(settled)
    parts, start = [], group.ordinal
    for stop in (*settled, group.end):
        if start < stop:
            parts.append(group.part(start - group.ordinal, stop - group.ordinal))
        start = stop + 1
    return parts
