"""The broker: which worker runs what, and what became of it.

Pure: it is told what happened and returns what to do (see `tasks.py`); time is passed in, numbers are
its own. It decides by three rules. Sessions take turns, so that no one waits for another's backlog. A
worker gets a batch that should take about `batching.TARGET_US`. What a worker was running when it died
is its only victim; what it had not begun goes back to the front of the queue.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..policy import batching
from ..wire.records import Record, Status
from .tasks import (
    BrokerSession,
    BrokerWorker,
    Instruction,
    Kill,
    Options,
    Pool,
    Report,
    Revoke,
    Run,
    Setup,
    Spawn,
    Stop,
    Task,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

PLACE_IDLE_S = 1.0  #: a worker idle for so long gives its place to another pool's second worker
_SKIPPED, _SETUP_FAILED = int(Status.SKIPPED), int(Status.SETUP_FAILED)  # plain: compared for each record
START_FAILURES = 3  #: workers in a row that end before running anything: then nothing will run


class Broker:
    """All sessions' queues and all workers of one gateway."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.workers: dict[int, BrokerWorker] = {}
        self.sessions: dict[str, BrokerSession] = {}
        self._pools: dict[str, Pool] = {}
        self._served: str | None = None  # the session that had the last turn
        self._now = 0.0
        self._definitions: dict[bytes, int] = {}
        self._references: list[bytes] = [b""]  # number -> pickled reference; 0 is none
        self._last_worker = 0
        self._out: list[Instruction] = []

    @property
    def busy(self) -> bool:
        """Whether any worker has something to do."""
        return any(worker.in_flight for worker in self.workers.values())

    # -- sessions ---------------------------------------------------------------------------------

    def open(self, session: str, owner: str, setup: bytes, cap: int, tasks_per_worker: int | None) -> None:
        """Begin a session; workers are shared with sessions of the same owner and setup."""
        key = f"{owner}/{tasks_per_worker}/{setup.hex()}"
        pool = self._pools.setdefault(key, Pool(key, setup, tasks_per_worker))
        pool.sessions += 1
        self.sessions[session] = BrokerSession(session, pool, min(cap, self.slots))

    def close(self, session: str) -> list[Instruction]:
        """Forget a session; its running tasks are killed."""
        gone = self.sessions.pop(session, None)
        if gone is None:
            return []
        gone.queue.clear()
        pool = gone.pool
        pool.sessions -= 1
        if not pool.sessions:
            self._pools.pop(pool.key, None)
        for worker in list(self.workers.values()):
            mine = [task for task in worker.in_flight.values() if task.session is gone]
            for task in mine:
                task.session = None
            if mine:
                self._kill(worker, Status.KILLED, "its session ended")
            elif not pool.sessions and worker.pool is pool:
                self._retire(worker)
        return self._flush(dispatch=True)

    def define(self, session: str, number: int, reference: bytes) -> None:
        """Learn a function's number in a session."""
        known = self._definitions.get(reference)
        if known is None:
            known = self._definitions[reference] = len(self._references)
            self._references.append(reference)
        self.sessions[session].definitions[number] = known

    def set_options(self, session: str, number: int, options: Options) -> None:
        """Learn an options id of a session."""
        self.sessions[session].options[number] = options

    def pause(self, session: str, paused: bool) -> list[Instruction]:
        """Stop or go on starting a session's tasks."""
        self.sessions[session].paused = paused
        return [] if paused else self._flush(dispatch=True)

    # -- tasks ------------------------------------------------------------------------------------

    def submit(self, session_id: str, records: Iterable[Record], now: float) -> list[Instruction]:
        """Queue calls; each gets exactly one outcome in a `Report`."""
        self._now = now
        session = self.sessions[session_id]
        broken = session.pool.broken
        refused: list[tuple[int, int, int, bytes]] = []
        for id_, tag, ref, payload in records:
            options = session.options.get(tag)
            if broken is not None:
                refused.append((id_, Status.BROKEN, 0, broken.encode()))
            elif options is None or (ref and ref not in session.definitions):
                refused.append((id_, Status.FAILED, 0, f"options {tag} or function {ref} was never sent".encode()))
            else:
                session.queue.append(Task(session, id_, (tag, ref), payload, options))
        if refused:
            self._out.append(Report(session_id, refused))
        return self._flush(dispatch=True)

    def kill(self, session_id: str, task_id: int) -> list[Instruction]:
        """End a task wherever it is; one that is not here is ignored."""
        session = self.sessions[session_id]
        text = b"ended by kill()"
        for task in session.queue:
            if task.id == task_id:
                session.queue.remove(task)
                self._out.append(Report(session_id, [(task_id, Status.KILLED, 0, text)]))
                return self._flush()
        for worker in self.workers.values():
            for ordinal, task in worker.in_flight.items():
                if task.session is session and task.id == task_id:
                    if ordinal == worker.started - 1 or len(worker.in_flight) == 1:
                        self._kill(worker, Status.KILLED, "ended by kill()")
                    else:  # it has not begun; if it should, the next look ends it
                        self._settle(worker, task)
                        self._out.append(Report(session_id, [(task_id, Status.KILLED, 0, text)]))
                    return self._flush()
        return []

    # -- workers ----------------------------------------------------------------------------------

    def prepare(self, count: int) -> list[Instruction]:
        """Start workers before anyone asks."""
        for _ in range(min(count, self.slots)):
            self._spawn()
        return self._flush()

    def results(self, worker_id: int, records: Iterable[Record], now: float) -> list[Instruction]:
        """Take in what a worker sent; what was settled before is ignored."""
        self._now = now
        worker = self.workers.get(worker_id)
        if worker is None:
            return []
        session, in_flight = worker.session, worker.in_flight
        done: list[Record] = []
        spent: dict[tuple[int, int], list[int]] = {}
        for ordinal, tag, micros, payload in records:
            if tag >= _SKIPPED:
                self._no_outcome(worker, ordinal, tag, payload)
                continue
            task = in_flight.pop(ordinal, None)
            if task is None:
                continue
            worker.started = max(worker.started, ordinal + 1)
            worker.load -= task.charge
            if task.session is session:  # else it was settled while it ran
                done.append((task.id, tag, micros, payload))
                spent.setdefault(task.kind, []).append(micros)
        if session is not None and done:
            self._count_done(worker, session, len(done))
            for kind, times in spent.items():
                session.estimates[kind] = batching.updated(session.estimates.get(kind), times)
            self._out.append(Report(session.id, done))
        self._check_limit(worker)
        if not worker.in_flight:
            worker.idle_since = now
        if worker.pool is not None and worker.started:
            worker.pool.failures = 0
        return self._flush(dispatch=True)

    def printed(self, worker_id: int, stream: Status, text: bytes) -> list[Instruction]:
        """Take in what a worker's process wrote past Python's streams."""
        worker = self.workers.get(worker_id)
        if worker is not None and worker.session is not None:
            self._out.append(Report(worker.session.id, [(0, stream, 0, text)]))
        return self._flush()

    def looked(self, worker_id: int, started: int, since: float, now: float) -> list[Instruction]:
        """Judge what a worker is running: too long for its limit, or for those behind it?"""
        self._now = now
        worker = self.workers.get(worker_id)
        if worker is None or worker.ending is not None:
            return []
        worker.started = max(worker.started, started)
        if worker.reclaiming:
            self._reclaim(worker)
        current = worker.in_flight.get(started - 1)
        if current is None:
            return self._flush(dispatch=True)
        elapsed = now - since
        limit = current.options.timeout
        if current.session is None:
            self._kill(worker, Status.KILLED, "ended by kill()")
        elif limit is not None and elapsed > limit:
            self._kill(worker, Status.TIMEOUT, f"ran longer than its timeout of {limit:g} s and was killed")
        elif len(worker.in_flight) > 1 and elapsed > batching.STUCK_S:
            self._revoke(worker, started)
        return self._flush(dispatch=True)

    def ended(self, worker_id: int, started: int, how: str) -> list[Instruction]:
        """Take in a worker's end. Its last results have been reported before."""
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return []
        pool, current = worker.pool, worker.in_flight.pop(started - 1, None)
        if current is not None and current.session is not None:
            status, text = worker.ending or (Status.DIED, how)
            session = current.session
            self._settle(worker, current)
            self._out.append(Report(session.id, [(current.id, status, 0, text.encode())]))
        self._give_back(worker, list(worker.in_flight))
        if pool is not None and not started and worker.ending is None and not worker.retired:
            pool.failures += 1
            if pool.failures >= START_FAILURES and pool.broken is None:
                self._fail_pool(pool, f"workers end before they can run anything: {how}")
        return self._flush(dispatch=True)

    # -- inside -----------------------------------------------------------------------------------

    def _flush(self, dispatch: bool = False) -> list[Instruction]:
        if dispatch:
            self._dispatch()
        out, self._out = self._out, []
        return out

    def _dispatch(self) -> None:
        """Give out what can be given out, one batch a session a turn."""
        waiting = deque(session for session in self.sessions.values() if session.queue and not session.paused)
        if len(waiting) > 1:  # who was served last time stands behind the others
            waiting.rotate(-(self._last_served(waiting) + 1))
        while waiting:
            session = waiting.popleft()
            alone = all(other.pool is not session.pool for other in waiting)
            if self._serve(session, alone):
                self._served = session.id
                if session.queue:
                    waiting.append(session)

    def _last_served(self, waiting: Iterable[BrokerSession]) -> int:
        return next((at for at, session in enumerate(waiting) if session.id == self._served), -1)

    def _serve(self, session: BrokerSession, alone: bool) -> bool:
        """Give one batch of a session to the best worker there is; False when there is none."""
        estimate = session.estimates.get(session.queue[0].kind)
        worker = self._choose(session, alone)
        if worker is None or (worker.load and self._can_grow(session)):
            worker = self._grow(session) or worker
        if worker is None:
            return False
        size = batching.batch_size(estimate, worker.load, len(session.queue), min(session.cap, self.slots))
        if pool_limit := session.pool.tasks_per_worker:
            size = min(size, pool_limit - worker.next_ordinal + 1)
        if size <= 0:
            return False
        self._run(worker, session, size, estimate)
        return True

    def _choose(self, session: BrokerSession, alone: bool) -> BrokerWorker | None:
        """The least loaded worker that may run this session's tasks.

        A worker has one session's tasks at a time, so that what they print has one owner; while others
        wait (not `alone`) it gets no more of them, so that it comes to its end and to the others.
        """
        limit = session.pool.tasks_per_worker
        at_cap = len(session.workers) >= session.cap
        usable = (
            worker
            for worker in self.workers.values()
            if worker.pool is session.pool
            and worker.ending is None
            and not worker.retired
            and (not worker.in_flight or (alone and worker.session is session))
            and (limit is None or worker.next_ordinal <= limit)
            and (not at_cap or worker.id in session.workers)
        )
        return min(usable, key=lambda worker: worker.load, default=None)

    def _can_grow(self, session: BrokerSession) -> bool:
        return len(session.workers) < session.cap

    def _grow(self, session: BrokerSession) -> BrokerWorker | None:
        """A worker that is new to the session's pool: one not told yet, a fresh one, or another pool's place."""
        if not self._can_grow(session):
            return None
        worker = next((w for w in self.workers.values() if w.pool is None and w.ending is None), None)
        if worker is None and self._alive() < self.slots:
            worker = self._spawn()
        if worker is None:
            worker = self._take_place(session)
        if worker is not None:
            worker.pool = session.pool
            self._out.append(Setup(worker.id, session.pool.setup))
        return worker

    def _take_place(self, session: BrokerSession) -> BrokerWorker | None:
        """A fresh worker in the place of an idle one of another pool.

        At once for a session that has none; for one more only when the other has been idle for a while,
        so that two sessions do not take each other's workers in turn.
        """
        has_one = any(worker.pool is session.pool and not worker.retired for worker in self.workers.values())
        latest = self._now - (PLACE_IDLE_S if has_one else 0.0)
        for other in self.workers.values():
            idle = not other.in_flight and not other.retired and other.ending is None
            if idle and other.pool is not session.pool and other.idle_since <= latest:
                self._retire(other)
                return self._spawn()
        return None

    def _alive(self) -> int:
        return sum(1 for w in self.workers.values() if not w.retired and w.ending is None)

    def _spawn(self) -> BrokerWorker:
        self._last_worker += 1
        worker = self.workers[self._last_worker] = BrokerWorker(self._last_worker)
        self._out.append(Spawn(worker.id))
        return worker

    def _run(self, worker: BrokerWorker, session: BrokerSession, size: int, estimate: float | None) -> None:
        definitions, calls = [], []
        charge = batching.TARGET_US if estimate is None else estimate
        ordinal, in_flight, queue = worker.next_ordinal, worker.in_flight, session.queue
        kind = queue[0].kind
        for _ in range(size):
            task = queue[0]
            if task.kind != kind:  # another kind: another estimate, another batch
                break
            queue.popleft()
            task.charge = charge
            number = session.definitions[kind[1]] if kind[1] else 0
            if number and number not in worker.known:
                worker.known.add(number)
                definitions.append((number, 0, 0, self._references[number]))
            in_flight[ordinal] = task
            calls.append((ordinal, 0, number, task.payload))
            ordinal += 1
        worker.session = session
        worker.next_ordinal = ordinal
        worker.load += charge * len(calls)
        session.workers[worker.id] = session.workers.get(worker.id, 0) + len(calls)
        self._out.append(Run(worker.id, definitions, calls))

    def _no_outcome(self, worker: BrokerWorker, ordinal: int, tag: int, payload: bytes) -> None:
        """A record that ends no task: one was skipped as told, or the initializer failed."""
        if tag == _SKIPPED:
            self._give_back(worker, [ordinal])
        elif tag == _SETUP_FAILED:
            self._break(worker, payload.decode("utf-8", "replace"))

    def _settle(self, worker: BrokerWorker, task: Task) -> None:
        """Take a task off its worker's and its session's counts; from here on it has its outcome."""
        session, task.session = task.session, None
        if session is not None:
            self._count_done(worker, session, 1)
        worker.load -= task.charge
        task.charge = 0.0

    def _count_done(self, worker: BrokerWorker, session: BrokerSession, count: int) -> None:
        left = session.workers.get(worker.id, 0) - count
        if left > 0:
            session.workers[worker.id] = left
        else:
            session.workers.pop(worker.id, None)

    def _check_limit(self, worker: BrokerWorker) -> None:
        """A worker that has had its number of tasks makes place for a fresh one."""
        limit = worker.pool.tasks_per_worker if worker.pool is not None else None
        if not worker.in_flight:
            worker.load = 0.0  # no rounding is carried on
            if limit is not None and worker.next_ordinal > limit:
                self._retire(worker)

    def _give_back(self, worker: BrokerWorker, ordinals: list[int]) -> None:
        """Put tasks that did not begin back to the front of their queues, in order."""
        for ordinal in reversed(ordinals):
            task = worker.in_flight.pop(ordinal, None)
            if task is not None and (session := task.session) is not None:
                self._settle(worker, task)
                task.session = session
                session.queue.appendleft(task)

    def _revoke(self, worker: BrokerWorker, started: int) -> None:
        first, last = worker.revoked
        start = first if started < last else started
        worker.revoked = (start, worker.next_ordinal)
        worker.reclaiming = True
        current = worker.in_flight[started - 1]
        # It is longer than thought: nothing more for this worker until it is done.
        worker.load += max(0.0, batching.TARGET_US - current.charge)
        current.charge = max(current.charge, batching.TARGET_US)
        self._out.append(Revoke(worker.id, *worker.revoked))

    def _reclaim(self, worker: BrokerWorker) -> None:
        """Count a revocation that the worker has had the time to see."""
        worker.reclaiming = False
        start, stop = worker.revoked
        safe = max(start, worker.started)
        self._give_back(worker, [ordinal for ordinal in worker.in_flight if safe <= ordinal < stop])

    def _kill(self, worker: BrokerWorker, status: Status, text: str) -> None:
        if worker.ending is None:
            worker.ending = (status, text)
            self._out.append(Kill(worker.id))

    def _retire(self, worker: BrokerWorker) -> None:
        if not worker.retired and worker.ending is None:
            worker.retired = True
            self._out.append(Stop(worker.id))

    def _break(self, worker: BrokerWorker, text: str) -> None:
        worker.retired = True
        if worker.pool is not None:
            self._fail_pool(worker.pool, f"the initializer failed in a worker:\n{text}")

    def _fail_pool(self, pool: Pool, text: str) -> None:
        """Nothing can run in this pool: every task of its sessions fails, those to come too."""
        pool.broken = text
        for session in self.sessions.values():
            if session.pool is pool:
                tasks = list(session.queue)
                session.queue.clear()
                for worker in self.workers.values():
                    mine = [task for task in worker.in_flight.values() if task.session is session]
                    for task in mine:
                        self._settle(worker, task)
                    tasks.extend(mine)
                records = [(task.id, int(Status.BROKEN), 0, text.encode()) for task in tasks]
                # Task 0 is the session itself: it is told even when it has nothing out.
                self._out.append(Report(session.id, [*records, (0, Status.BROKEN, 0, text.encode())]))
