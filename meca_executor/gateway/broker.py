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
from ..wire.records import Definition, Record, Status, decode, encode
from .groups import Group, are_alike, group_of
from .hosts import HERE, BrokerHost
from .printing import attributed
from .roster import Roster, open_calls
from .tasks import BrokerSession, BrokerWorker, Forget, Instruction, Options, Pool, Report, Run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..wire.records import Outcomes
    from .backlog import Lane

START_FAILURES = 3  #: workers in a row that end before running anything: then nothing will run


class Broker:
    """All sessions' queues and all workers of one gateway.

    Args:
        slots: Workers on the gateway's own machine.
        here: That machine, when more is to be said of it.

    Attributes:
        workers: By number.
        hosts: The machines that have workers.
    """

    def __init__(self, slots: int, here: BrokerHost | None = None) -> None:
        self._roster = Roster(here or BrokerHost(HERE, "here", slots))
        self.workers, self.hosts = self._roster.workers, self._roster.hosts
        self.sessions: dict[str, BrokerSession] = {}
        self._pools: dict[str, Pool] = {}
        self._numbers: dict[Record, int] = {}  # what is defined -> its number here
        self._definitions: list[Record] = [(0, 0, 0, b"")]  # by number; 0 is none

    @property
    def busy(self) -> bool:
        """Whether any worker has something to do."""
        return any(worker.in_flight for worker in self.workers.values())

    # -- sessions ---------------------------------------------------------------------------------

    def open(self, session: str, owner: str, setup: bytes, cap: int, tasks_per_worker: int | None) -> None:
        """Begin a session; workers are shared with sessions of the same owner and setup."""
        key = f"{owner}/{tasks_per_worker}/{setup.hex()}"
        pool = self._pools.setdefault(key, Pool(key, setup, tasks_per_worker, owner=owner))
        pool.sessions += 1
        self.sessions[session] = BrokerSession(session, pool, cap)

    def close(self, session: str) -> list[Instruction]:
        """Forget a session; its running tasks are killed."""
        if (gone := self.sessions.pop(session, None)) is None:
            return []
        gone.queue.take_all()
        self._forget(set(gone.objects))
        pool = gone.pool
        pool.sessions -= 1
        if not pool.sessions:
            self._pools.pop(pool.key, None)
        for worker in list(self.workers.values()):
            mine = [group for group in worker.in_flight if group.session is gone]
            for group in mine:
                group.session = None
            if mine:
                self._roster.kill(worker, 0, Status.KILLED, "its session ended")
            elif not pool.sessions and worker.pool is pool:
                self._roster.retire(worker)
        return self._flush(dispatch=True)

    def define(self, session: str, number: int, reference: bytes) -> None:
        """Learn a function's number in a session; a `ValueError` when it has too many."""
        self.sessions[session].define(number, self._number_of(Definition.FUNCTION, reference))

    def set_path(self, session: str, path: bytes) -> None:
        """Learn where a session's modules are from now on."""
        self.sessions[session].path = self._number_of(Definition.PATH, path)

    def _number_of(self, what: Definition, content: bytes) -> int:
        definition = (0, int(what), 0, content)
        if (number := self._numbers.get(definition)) is None:
            number = self._numbers[definition] = len(self._definitions)
            self._definitions.append((number, *definition[1:]))
        return number

    def put(self, session: str, number: int, payload: bytes, what: Definition = Definition.OBJECT) -> None:
        """Learn an object that calls of a session mention, or code that they import."""
        self.sessions[session].objects[number] = (number, int(what), 0, payload)
        if what == Definition.CODE:
            self.sessions[session].code.add(number)

    def forget(self, session: str, number: int) -> list[Instruction]:
        """Have an object forgotten; workers that have code which is forgotten are none for the session any more."""
        self.sessions[session].objects.pop(number, None)
        self.sessions[session].code.discard(number)
        self._forget({number})
        return self._flush()

    def _forget(self, numbers: set[int]) -> None:
        for worker in self.workers.values():
            if (had := worker.objects & numbers - worker.code) and not worker.retired and worker.ending is None:
                worker.objects -= had
                self._roster.out.append(Forget(worker.id, sorted(had)))

    def set_options(self, session: str, number: int, options: Options) -> None:
        """Learn an options id of a session; a `ValueError` when it has too many."""
        self.sessions[session].learn(number, options)

    def pause(self, session: str, paused: bool) -> list[Instruction]:
        """Stop or go on starting a session's tasks."""
        self.sessions[session].paused = paused
        return [] if paused else self._flush(dispatch=True)

    # -- tasks ------------------------------------------------------------------------------------

    def submit(self, session_id: str, groups: Iterable[Record], now: float) -> list[Instruction]:
        """Queue calls, in groups `(count, options id, definition id, batch)`; each gets one outcome in a `Report`.

        Raises:
            ValueError: A group is not what it says (`MalformedBatch`).
        """
        self._roster.now = now
        session = self.sessions[session_id]
        for count, tag, ref, batch in groups:
            options = session.options.get(tag)
            group = group_of(session, (tag, ref), options or Options(), batch, count)
            if session.pool.broken is not None:
                self._refuse(session, group.ids, Status.BROKEN, session.pool.broken)
            elif options is None or (ref and ref not in session.definitions):
                self._refuse(session, group.ids, Status.FAILED, f"options {tag} or function {ref} was never sent")
            elif count:
                session.queue.append(group)
        return self._flush(dispatch=True)

    def kill(self, session_id: str, task_id: int) -> list[Instruction]:
        """End a task wherever it is; one that is not here is ignored."""
        session = self.sessions[session_id]
        if session.queue.take_out(task_id):
            self._refuse(session, [task_id], Status.KILLED, "ended by kill()")
            return self._flush()
        for worker in self.workers.values():
            ordinal = worker.in_flight.find(session, task_id)
            if ordinal is not None and ordinal not in worker.void:
                # Over from here on. If it runs, the next look ends it; the one that runs by then is no victim.
                worker.void.add(ordinal)
                self._refuse(session, [task_id], Status.KILLED, "ended by kill()")
                self._roster.hold(worker, ordinal)
                if ordinal >= worker.started:
                    self._roster.revoke(worker, ordinal)
                return self._flush()
        return []

    def _refuse(self, session: BrokerSession, ids: list[int], status: Status, text: str) -> None:
        self._report(session, [(id_, int(status), 0, text.encode()) for id_ in ids])

    def _report(self, session: BrokerSession, records: list[Record]) -> None:
        if records:
            self._roster.out.append(Report(session.id, encode(records)))

    # -- workers ----------------------------------------------------------------------------------

    def prepare(self, count: int) -> list[Instruction]:
        """Start workers here before anyone asks."""
        for _ in range(min(count, self.hosts.here.slots)):
            self._roster.spawn(self.hosts.here)
        return self._flush()

    def results(self, worker_id: int, outcomes: Outcomes, now: float) -> list[Instruction]:
        """Take in what a worker sent; what was settled before is ignored."""
        self._roster.now = now
        worker = self.workers.get(worker_id)
        if worker is None:
            return []
        first = worker.done + 1
        worker.done += outcomes.total
        worker.started = max(worker.started, worker.done + 1)
        groups = worker.in_flight.take(first, first + outcomes.total)
        for group in groups:
            self._roster.settle(worker, group)
        if outcomes.plain and not worker.void and are_alike(groups, outcomes.total, worker.session):
            self._passed_on(groups[0], outcomes)
        else:
            self._looked_through(worker, first, groups, outcomes)
        self._roster.check_limit(worker)
        if not worker.in_flight:
            worker.idle_since = now
        self._roster.note(worker)
        if worker.pool is not None and worker.started:
            worker.pool.failures.pop(worker.host.id, None)
        return self._flush(dispatch=True)

    def _passed_on(self, group: Group, outcomes: Outcomes) -> None:
        """All outcomes are for one session and of one kind: they go on as they came."""
        session = group.session
        assert session is not None
        session.measured(group.kind, outcomes.micros, outcomes.total)
        self._roster.out.append(Report(session.id, outcomes.batch, outcomes.shared))

    def _looked_through(self, worker: BrokerWorker, first: int, groups: list[Group], outcomes: Outcomes) -> None:
        """Outcomes one by one: some were skipped, or are of no interest any more."""
        open_ = open_calls(worker, groups)
        done: list[Record] = []
        spent: dict[tuple[int, int], list[int]] = {}
        skipped: list[Group] = []
        for ordinal, record in enumerate(decode(outcomes.batch), first):
            if (group := open_.get(ordinal)) is None:
                continue
            if record[1] == Status.SKIPPED:
                skipped.append(group.part(ordinal - group.ordinal, ordinal - group.ordinal + 1))
            else:
                done.append(record)
                spent.setdefault(group.kind, []).append(record[2])
        if (session := worker.session) is not None:
            for kind, times in spent.items():
                session.measured(kind, sum(times), len(times))
            if done:
                self._roster.out.append(Report(session.id, encode(done), outcomes.shared))
            session.queue.put_back(skipped)

    def setup_failed(self, worker_id: int, text: str) -> list[Instruction]:
        """A worker's initializer raised: nothing can run in its pool."""
        worker = self.workers.get(worker_id)
        if worker is not None:
            worker.retired = True
            self._roster.note(worker)
            if worker.pool is not None:
                self._fail_pool(worker.pool, f"the initializer failed in a worker:\n{text}")
        return self._flush(dispatch=True)

    def printed(self, worker_id: int, stream: Status, text: bytes) -> list[Instruction]:
        """Take in what a worker's process wrote."""
        worker = self.workers.get(worker_id)
        if worker is not None and worker.session is not None:
            self._report(worker.session, attributed(worker, stream, text))
        return self._flush()

    def looked(self, worker_id: int, started: int, since: float, now: float) -> list[Instruction]:
        """Judge what a worker is running: too long for its limit, or for those behind it?"""
        self._roster.now = now
        worker = self.workers.get(worker_id)
        if worker is None or worker.ending is not None:
            return []
        worker.started, worker.since = max(worker.started, started), since
        if worker.reclaiming:
            self._roster.reclaim(worker)
        current = worker.in_flight.at(started - 1)
        if current is None:
            return self._flush(dispatch=True)
        elapsed = now - since
        limit = current.options.timeout
        if current.session is None or started - 1 in worker.void:
            self._roster.kill(worker, started - 1, Status.KILLED, "ended by kill()")
        elif limit is not None and elapsed > limit:
            told = f"ran longer than its timeout of {limit:g} s and was killed"
            self._roster.kill(worker, started - 1, Status.TIMEOUT, told)
        elif len(worker.in_flight) > 1 and batching.is_stuck(elapsed, current.charge):
            # Longer than thought: those behind it may run elsewhere, and none come until it is done.
            self._roster.revoke(worker, started)
            self._roster.hold(worker, started - 1)
        return self._flush(dispatch=True)

    def ended(self, worker_id: int, started: int, how: str) -> list[Instruction]:
        """Take in a worker's end. Its last results have been reported before."""
        worker = self._roster.remove(worker_id)
        if worker is None:
            return []
        pool = worker.pool
        for current in worker.in_flight.take(started - 1, started):
            self._roster.settle(worker, current)
            if current.session is not None and started - 1 not in worker.void:
                ordinal, status, text = worker.ending or (started - 1, Status.DIED, how)
                if ordinal != started - 1:  # the one that was to be killed had just ended
                    status, text = Status.LOST, "its worker was killed for the task before it"
                self._refuse(current.session, current.ids, status, text)
        self._roster.give_back(worker, worker.in_flight.take_all())
        if pool is not None and not started and worker.ending is None and not worker.retired:
            pool.failures[worker.host.id] += 1
            if pool.failures[worker.host.id] >= START_FAILURES and pool.broken is None:
                pool.barred[worker.host.id] = how
                for stuck, told in self.hosts.stuck([pool]):
                    self._fail_pool(stuck, told)
        return self._flush(dispatch=True)

    # -- hosts ------------------------------------------------------------------------------------

    def changed(self, now: float) -> list[Instruction]:
        """Something was changed about the hosts; idle workers of one that has fewer slots now end."""
        self._roster.now = now
        self._roster.trim()
        return self._flush(dispatch=True)

    def drain(self, host: BrokerHost) -> None:
        """A host is to leave: it gets no more, and what its workers have not begun runs elsewhere."""
        host.draining = True
        self._roster.drain(host)

    def vanished(self, host: BrokerHost, how: str) -> None:
        """A host is gone with its workers: whatever these had may have begun there."""
        self.hosts.drop(host, self._pools.values())
        for session, ids in self._roster.vanished(host):
            self._refuse(session, ids, Status.LOST, how)
        for pool, told in self.hosts.stuck(self._pools.values()):
            self._fail_pool(pool, told)

    # -- inside -----------------------------------------------------------------------------------

    def _flush(self, dispatch: bool = False) -> list[Instruction]:
        if dispatch:
            self._dispatch()
        out, self._roster.out = self._roster.out, []
        return out

    def _dispatch(self) -> None:
        """Give out what can be given out, one batch a session a turn."""
        now, looked = self._roster.now, self.hosts.is_waiting
        waiting = deque([s for s in self.sessions.values() if s.queue and not s.paused and looked(s, now)])
        if waiting:
            self._roster.rivalry(waiting)
        in_vain = set[object]()
        while waiting:
            session = waiting.popleft()
            if in_vain and self._roster.kin(session) in in_vain:
                continue  # what there was not for another one, there is not for this one
            if not self._serve(session):
                in_vain.add(self._roster.kin(session))
            else:
                # Who was served stands behind the others from now on.
                self.sessions[session.id] = self.sessions.pop(session.id)
                if session.queue:
                    waiting.append(session)

    def _serve(self, session: BrokerSession) -> bool:
        """Give one batch of a session to the best worker there is; False when there is none."""
        for lane in session.queue.lanes:  # a third quicker than any()
            if self._serve_lane(session, lane):
                return True
        return False

    def _serve_lane(self, session: BrokerSession, lane: Lane) -> bool:
        estimate = session.estimates.get(lane.kind)
        worker = self._roster.choose(session, lane)
        if worker is None or (worker.load and self._roster.can_grow(session)):
            worker = self._roster.grow(session, lane) or worker
        if worker is None:
            return False
        slots = min(session.cap, self.hosts.slots_of(session.pool.owner)) or 1
        size = batching.batch_size(estimate, worker.load, lane.count, slots)
        if pool_limit := session.pool.tasks_per_worker:
            size = min(size, pool_limit - worker.next_ordinal + 1)
        if size <= 0:
            return False
        self._run(worker, session, lane, size, estimate)
        session.queue.served(lane)
        self.hosts.served(lane)
        return True

    def _run(self, worker: BrokerWorker, session: BrokerSession, lane: Lane, size: int, estimate: float | None) -> None:
        number = session.definitions[lane.kind[1]] if lane.kind[1] else 0
        needed = {session.path, number} - worker.known - {0}
        worker.known |= needed
        ordinal, batches = worker.next_ordinal, []
        for group in lane.take(size):  # another kind: another estimate, another batch
            group.charge = batching.TARGET_US if estimate is None else estimate
            group.ordinal = worker.next_ordinal
            worker.in_flight.add(group)
            worker.next_ordinal += len(group)
            worker.load += group.charge * len(group)
            batches.append(group.data)
        count = worker.next_ordinal - ordinal
        worker.session, worker.shape = session, lane.shape
        session.workers[worker.id] = session.workers.get(worker.id, 0) + count
        definitions = [self._definitions[number] for number in sorted(needed)]
        definitions += [session.objects[number] for number in session.objects.keys() - worker.objects]
        worker.objects |= session.objects.keys()
        worker.code |= session.code
        self._roster.note(worker)
        self._roster.out.append(Run(worker.id, definitions, ordinal, number, b"".join(batches), session.id))

    def _fail_pool(self, pool: Pool, text: str) -> None:
        """Nothing can run in this pool: every task of its sessions fails, those to come too."""
        pool.broken = text
        for session in self.sessions.values():
            if session.pool is pool:
                groups = self._roster.withdraw(session)
                # Task 0 is the session itself: it is told even when it has nothing out.
                self._refuse(session, [id_ for group in groups for id_ in group.ids] + [0], Status.BROKEN, text)
