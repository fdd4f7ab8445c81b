"""The roster: all workers of a gateway, which of them takes the next batch, and when one comes or goes.

Pure, as the broker whose part it is: what is to be done is put into `out`.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from .tasks import BrokerWorker, Kill, Revoke, Setup, Spawn, Stop

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..wire.records import Status
    from .groups import Group
    from .tasks import BrokerSession, Instruction, Pool

PLACE_HELD_S = 0.5  #: a worker gives its place to a pool that has none after so long
PLACE_IDLE_S = 1.0  #: a worker idle for so long gives its place to another pool's second worker


class Roster:
    """The workers, and what was decided about them since the broker last looked."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.workers: dict[int, BrokerWorker] = {}
        self.now = 0.0
        self.out: list[Instruction] = []
        self._last_worker = 0
        self._waiting: tuple[BrokerSession, ...] = ()
        self._wanted: Counter[Pool] = Counter()  # of those that wait, by pool
        self._starving = False  # some pool waits and has no worker

    def rivalry(self, waiting: Iterable[BrokerSession]) -> None:
        """Take note of who wants workers in this turn."""
        self._waiting = tuple(waiting)
        self._wanted = Counter(session.pool for session in self._waiting)
        served = {worker.pool for worker in self.workers.values() if not worker.retired and worker.ending is None}
        self._starving = any(pool not in served for pool in self._wanted)

    def choose(self, session: BrokerSession) -> BrokerWorker | None:
        """The least loaded worker that may run this session's tasks.

        A worker has one session's tasks at a time, so that what they print has one owner. While others of
        its pool wait, it gets no more of them before it is through, so that it comes to the others; while
        a pool without a worker waits, it gets none at all once it has had its place for a while.
        """
        limit = session.pool.tasks_per_worker
        at_cap = len(session.workers) >= session.cap
        rivals = self._wanted[session.pool] > 1
        usable = (
            worker
            for worker in self.workers.values()
            if worker.suits(session)
            and worker.ending is None
            and not worker.retired
            and not is_overdue(worker)
            and (not worker.in_flight or (not rivals and worker.session is session))
            and not (self._starving and self._held_long(worker))
            and (limit is None or worker.next_ordinal <= limit)
            and (not at_cap or worker.id in session.workers)
        )
        return min(usable, key=lambda worker: worker.load, default=None)

    def _held_long(self, worker: BrokerWorker) -> bool:
        return self.now - worker.placed_at >= PLACE_HELD_S

    def can_grow(self, session: BrokerSession) -> bool:
        """Whether one more worker may run the session's tasks."""
        return len(session.workers) < session.cap

    def grow(self, session: BrokerSession) -> BrokerWorker | None:
        """A worker that is new to the session's pool: one not told yet, a fresh one, or another pool's place."""
        if not self.can_grow(session):
            return None
        worker = next((w for w in self.workers.values() if w.pool is None and w.ending is None), None)
        if worker is None and self.alive() < self.slots:
            worker = self.spawn()
        if worker is None:
            worker = self.take_place(session)
        if worker is not None:
            worker.pool, worker.placed_at = session.pool, self.now
            self.out.append(Setup(worker.id, session.pool.setup))
        return worker

    def take_place(self, session: BrokerSession) -> BrokerWorker | None:
        """A fresh worker in the place of an idle one of another pool, or with code that the session does not have.

        For a session that has none, when nobody waits for the other or it has had the place for a while;
        for one more, when the other has been idle for long, or has old code. So two sessions do not take
        each other's workers in turn: a start costs more than a batch.
        """
        has_one = any(worker.suits(session) and not worker.retired for worker in self.workers.values())
        for other in self.workers.values():
            if other.in_flight or other.retired or other.ending is not None or other.suits(session):
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
                return self.spawn()
        return None

    def alive(self) -> int:
        """How many workers there are, those that are leaving not counted."""
        return sum(1 for w in self.workers.values() if not w.retired and w.ending is None)

    def spawn(self) -> BrokerWorker:
        """Start a worker, not told yet what for."""
        self._last_worker += 1
        worker = self.workers[self._last_worker] = BrokerWorker(self._last_worker)
        self.out.append(Spawn(worker.id))
        return worker

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
        """A worker that has had its number of tasks makes place for a fresh one."""
        limit = worker.pool.tasks_per_worker if worker.pool is not None else None
        if not worker.in_flight:
            worker.load = 0.0  # no rounding is carried on
            if limit is not None and worker.next_ordinal > limit:
                self.retire(worker)

    def give_back(self, worker: BrokerWorker, groups: list[Group]) -> None:
        """Put calls that did not begin, and are taken off the worker, back to the front of their queues, in order."""
        for group in reversed(groups):
            self.settle(worker, group)
            for part in reversed(without_void(worker, group)):
                if (session := part.session) is not None:
                    session.queue.appendleft(part)
                    session.queued += len(part)

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

    def kill(self, worker: BrokerWorker, ordinal: int, status: Status, text: str) -> None:
        """End a worker because of one of its tasks, which has that outcome."""
        if worker.ending is None:
            worker.ending = (ordinal, status, text)
            self.out.append(Kill(worker.id))

    def retire(self, worker: BrokerWorker) -> None:
        """Let a worker end; it gets no more tasks."""
        if not worker.retired and worker.ending is None:
            worker.retired = True
            self.out.append(Stop(worker.id))


def is_overdue(worker: BrokerWorker) -> bool:
    """Whether a worker has a call that takes longer than thought."""
    return worker.overdue > worker.done and worker.in_flight.at(worker.overdue) is not None


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
