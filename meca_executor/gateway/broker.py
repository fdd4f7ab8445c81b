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
from ..wire.records import Definition, Record, Status
from .roster import Roster
from .tasks import BrokerSession, BrokerWorker, Instruction, Options, Pool, Report, Run, Task

if TYPE_CHECKING:
    from collections.abc import Iterable

_SKIPPED, _SETUP_FAILED = int(Status.SKIPPED), int(Status.SETUP_FAILED)  # plain: compared for each record
START_FAILURES = 3  #: workers in a row that end before running anything: then nothing will run


class Broker:
    """All sessions' queues and all workers of one gateway."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._roster = Roster(slots)
        self.sessions: dict[str, BrokerSession] = {}
        self._pools: dict[str, Pool] = {}
        self._numbers: dict[Record, int] = {}  # what is defined -> its number here
        self._definitions: list[Record] = [(0, 0, 0, b"")]  # by number; 0 is none

    @property
    def workers(self) -> dict[int, BrokerWorker]:
        """Its workers, by number."""
        return self._roster.workers

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
                self._roster.kill(worker, 0, Status.KILLED, "its session ended")
            elif not pool.sessions and worker.pool is pool:
                self._roster.retire(worker)
        return self._flush(dispatch=True)

    def define(self, session: str, number: int, reference: bytes) -> None:
        """Learn a function's number in a session."""
        self.sessions[session].definitions[number] = self._number_of(Definition.FUNCTION, reference)

    def set_path(self, session: str, path: bytes) -> None:
        """Learn where a session's modules are from now on."""
        self.sessions[session].path = self._number_of(Definition.PATH, path)

    def _number_of(self, what: Definition, content: bytes) -> int:
        definition = (0, int(what), 0, content)
        number = self._numbers.get(definition)
        if number is None:
            number = self._numbers[definition] = len(self._definitions)
            self._definitions.append((number, *definition[1:]))
        return number

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
        self._roster.now = now
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
            self._roster.out.append(Report(session_id, refused))
        return self._flush(dispatch=True)

    def kill(self, session_id: str, task_id: int) -> list[Instruction]:
        """End a task wherever it is; one that is not here is ignored."""
        session = self.sessions[session_id]
        text = b"ended by kill()"
        for task in session.queue:
            if task.id == task_id:
                session.queue.remove(task)
                self._roster.out.append(Report(session_id, [(task_id, Status.KILLED, 0, text)]))
                return self._flush()
        for worker in self.workers.values():
            for ordinal, task in worker.in_flight.items():
                if task.session is session and task.id == task_id:
                    # Over from here on. If it runs, the next look ends it; the one that runs by then is no victim.
                    self._roster.settle(worker, task)
                    self._roster.out.append(Report(session_id, [(task_id, Status.KILLED, 0, text)]))
                    worker.overdue = ordinal
                    if ordinal >= worker.started:
                        self._roster.revoke(worker, ordinal)
                    return self._flush()
        return []

    # -- workers ----------------------------------------------------------------------------------

    def prepare(self, count: int) -> list[Instruction]:
        """Start workers before anyone asks."""
        for _ in range(min(count, self.slots)):
            self._roster.spawn()
        return self._flush()

    def results(self, worker_id: int, records: Iterable[Record], now: float) -> list[Instruction]:
        """Take in what a worker sent; what was settled before is ignored."""
        self._roster.now = now
        worker = self.workers.get(worker_id)
        if worker is None:
            return []
        session, in_flight = worker.session, worker.in_flight
        skipped: list[int] = []
        done: list[Record] = []
        spent: dict[tuple[int, int], list[int]] = {}
        for ordinal, tag, micros, payload in records:
            if tag == _SKIPPED:
                skipped.append(ordinal)
                continue
            if tag == _SETUP_FAILED:
                self._break(worker, payload.decode("utf-8", "replace"))
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
            self._roster.count_done(worker, session, len(done))
            for kind, times in spent.items():
                session.estimates[kind] = batching.updated(session.estimates.get(kind), times)
            self._roster.out.append(Report(session.id, done))
        if skipped:
            self._roster.give_back(worker, skipped)
        self._roster.check_limit(worker)
        if not worker.in_flight:
            worker.idle_since = now
        if worker.pool is not None and worker.started:
            worker.pool.failures = 0
        return self._flush(dispatch=True)

    def printed(self, worker_id: int, stream: Status, text: bytes) -> list[Instruction]:
        """Take in what a worker's process wrote past Python's streams."""
        worker = self.workers.get(worker_id)
        if worker is not None and worker.session is not None:
            self._roster.out.append(Report(worker.session.id, [(0, stream, 0, text)]))
        return self._flush()

    def looked(self, worker_id: int, started: int, since: float, now: float) -> list[Instruction]:
        """Judge what a worker is running: too long for its limit, or for those behind it?"""
        self._roster.now = now
        worker = self.workers.get(worker_id)
        if worker is None or worker.ending is not None:
            return []
        worker.started = max(worker.started, started)
        if worker.reclaiming:
            self._roster.reclaim(worker)
        current = worker.in_flight.get(started - 1)
        if current is None:
            return self._flush(dispatch=True)
        elapsed = now - since
        limit = current.options.timeout
        if current.session is None:
            self._roster.kill(worker, started - 1, Status.KILLED, "ended by kill()")
        elif limit is not None and elapsed > limit:
            told = f"ran longer than its timeout of {limit:g} s and was killed"
            self._roster.kill(worker, started - 1, Status.TIMEOUT, told)
        elif len(worker.in_flight) > 1 and batching.is_stuck(elapsed, current.charge):
            # Longer than thought: those behind it may run elsewhere, and none come until it is done.
            self._roster.revoke(worker, started)
            worker.overdue = started - 1
        return self._flush(dispatch=True)

    def ended(self, worker_id: int, started: int, how: str) -> list[Instruction]:
        """Take in a worker's end. Its last results have been reported before."""
        worker = self.workers.pop(worker_id, None)
        if worker is None:
            return []
        pool, current = worker.pool, worker.in_flight.pop(started - 1, None)
        if current is not None and current.session is not None:
            ordinal, status, text = worker.ending or (started - 1, Status.DIED, how)
            if ordinal != started - 1:  # the one that was to be killed had just ended
                status, text = Status.LOST, "its worker was killed for the task before it"
            session = current.session
            self._roster.settle(worker, current)
            self._roster.out.append(Report(session.id, [(current.id, status, 0, text.encode())]))
        self._roster.give_back(worker, list(worker.in_flight))
        if pool is not None and not started and worker.ending is None and not worker.retired:
            pool.failures += 1
            if pool.failures >= START_FAILURES and pool.broken is None:
                self._fail_pool(pool, f"workers end before they can run anything: {how}")
        return self._flush(dispatch=True)

    # -- inside -----------------------------------------------------------------------------------

    def _flush(self, dispatch: bool = False) -> list[Instruction]:
        if dispatch:
            self._dispatch()
        out, self._roster.out = self._roster.out, []
        return out

    def _dispatch(self) -> None:
        """Give out what can be given out, one batch a session a turn."""
        waiting = deque(session for session in self.sessions.values() if session.queue and not session.paused)
        if waiting:
            self._roster.rivalry(waiting)
        while waiting:
            session = waiting.popleft()
            if self._serve(session):
                # Who was served stands behind the others from now on.
                self.sessions[session.id] = self.sessions.pop(session.id)
                if session.queue:
                    waiting.append(session)

    def _serve(self, session: BrokerSession) -> bool:
        """Give one batch of a session to the best worker there is; False when there is none."""
        estimate = session.estimates.get(session.queue[0].kind)
        worker = self._roster.choose(session)
        if worker is None or (worker.load and self._roster.can_grow(session)):
            worker = self._roster.grow(session) or worker
        if worker is None:
            return False
        size = batching.batch_size(estimate, worker.load, len(session.queue), min(session.cap, self.slots))
        if pool_limit := session.pool.tasks_per_worker:
            size = min(size, pool_limit - worker.next_ordinal + 1)
        if size <= 0:
            return False
        self._run(worker, session, size, estimate)
        return True

    def _run(self, worker: BrokerWorker, session: BrokerSession, size: int, estimate: float | None) -> None:
        calls: list[Record] = []
        charge = batching.TARGET_US if estimate is None else estimate
        ordinal, in_flight, queue = worker.next_ordinal, worker.in_flight, session.queue
        kind = queue[0].kind
        number = session.definitions[kind[1]] if kind[1] else 0
        needed = {session.path, number} - worker.known - {0}
        worker.known |= needed
        for _ in range(size):
            task = queue[0]
            if task.kind != kind:  # another kind: another estimate, another batch
                break
            queue.popleft()
            task.charge = charge
            in_flight[ordinal] = task
            calls.append((ordinal, 0, number, task.payload))
            ordinal += 1
        worker.session = session
        worker.next_ordinal = ordinal
        worker.load += charge * len(calls)
        session.workers[worker.id] = session.workers.get(worker.id, 0) + len(calls)
        self._roster.out.append(Run(worker.id, [self._definitions[number] for number in sorted(needed)], calls))

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
                        self._roster.settle(worker, task)
                    tasks.extend(mine)
                records = [(task.id, int(Status.BROKEN), 0, text.encode()) for task in tasks]
                # Task 0 is the session itself: it is told even when it has nothing out.
                self._roster.out.append(Report(session.id, [*records, (0, Status.BROKEN, 0, text.encode())]))
