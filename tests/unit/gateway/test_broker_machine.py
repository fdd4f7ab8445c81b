"""What holds for the broker whatever happens, in any order: hypothesis plays clients, workers and time."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meca_executor.gateway.broker import START_FAILURES
from meca_executor.gateway.roster import is_overdue
from meca_executor.gateway.tasks import Options, Run
from meca_executor.wire.records import Status, decode

from .model import LOOK_S, ModelRuntime, ModelWorker

LIMIT_S = 0.5  #: of tasks with options 1
BAD = b"the initializer raises"
SETUPS = [b"setup", b"another setup", BAD]
FINISHED = (Status.OK, Status.RAISED, Status.FAILED)


@dataclass
class ModelTask:
    """What is known of a task by those who play the broker's world."""

    limited: bool
    killed: bool = False  #: a client asked for it
    begun: int = 0  #: times that a worker began it
    ended_as: Status | None = None  #: how its worker finished it
    over_limit: bool = False  #: it was seen to run over its limit
    in_dead_worker: bool = False  #: its worker ended while it ran


@dataclass
class ModelSession:
    """An open session."""

    key: tuple[str, bytes, int | None]  #: owner, setup, tasks a worker: who shares workers
    cap: int
    paused: bool = False
    tasks: dict[int, ModelTask] = field(default_factory=dict)


class BrokerMachine(RuleBasedStateMachine):
    """Clients that submit, kill and leave; workers that run, hang, print, die; looks at any time."""

    @initialize(slots=st.integers(1, 3), prepared=st.integers(0, 3))
    def start(self, slots: int, prepared: int) -> None:
        self.slots = slots
        self.runtime = ModelRuntime(slots)
        self.sessions: dict[str, ModelSession] = {}
        self.opened = 0
        self.failed_starts: dict[tuple[str, bytes, int | None], int] = {}
        self.keys: dict[int, tuple[str, bytes, int | None]] = {}  #: worker -> for whom it runs
        self.checked = 0  #: instructions that were looked at
        self.runtime.do(self.runtime.broker.prepare(prepared))

    # -- helpers

    def task_of(self, payload: bytes) -> tuple[str, ModelTask | None]:
        """Return whose a call is, and the task; None when its session has ended."""
        name, _, id_ = payload.decode().partition(":")
        session = self.sessions.get(name)
        return name, session.tasks[int(id_)] if session else None

    def pick(self, data: st.DataObject, **wanted: bool) -> ModelWorker:
        """Draw a worker that has these properties (running, waiting, doomed, ...)."""
        return data.draw(st.sampled_from(self.workers(**wanted)))

    def workers(self, **wanted: bool) -> list[ModelWorker]:
        """Return the workers of which each of these is true or false."""
        return [
            worker
            for worker in self.runtime.workers.values()
            if all(bool(getattr(worker, name)) == value for name, value in wanted.items())
        ]

    def is_up(self, worker: ModelWorker) -> bool:
        """Whether its initializer has run."""
        return worker.setup is not None and worker.setup != BAD

    # -- clients

    @precondition(lambda self: len(self.sessions) < 4)
    @rule(
        owner=st.sampled_from(["me", "me", "me", "you"]),  # often the same pool
        setup=st.sampled_from([SETUPS[0], SETUPS[0], *SETUPS]),
        cap=st.integers(1, 4),
        per_worker=st.sampled_from([None, None, None, 1, 3]),
    )
    def open_session(self, owner: str, setup: bytes, cap: int, per_worker: int | None) -> None:
        self.opened += 1
        name = f"s{self.opened}"
        self.runtime.open(name, owner=owner, setup=setup, cap=cap, per_worker=per_worker)
        self.runtime.broker.set_options(name, 1, Options(timeout=LIMIT_S))
        self.runtime.broker.define(name, 2, b"reference 2 of " + owner.encode())
        self.sessions[name] = ModelSession((owner, setup, per_worker), min(cap, self.slots))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), count=st.integers(1, 30), tag=st.integers(0, 1), ref=st.integers(0, 2))
    def submit(self, data: st.DataObject, count: int, tag: int, ref: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.sessions)))
        tasks = self.sessions[name].tasks
        new = range(len(tasks) + 1, len(tasks) + count + 1)
        tasks.update({id_: ModelTask(limited=tag == 1) for id_ in new})
        self.runtime.submit(name, new, tag=tag, ref=ref)

    @precondition(lambda self: any(session.tasks for session in self.sessions.values()))
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(name for name, session in self.sessions.items() if session.tasks)))
        tasks = self.sessions[name].tasks
        id_ = data.draw(st.sampled_from([id_ for id_ in tasks if (name, id_) not in self.runtime.outcomes] or [1]))
        tasks[id_].killed = True
        self.runtime.do(self.runtime.broker.kill(name, id_))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def pause_or_go_on(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.sessions)))
        session = self.sessions[name]
        session.paused = not session.paused
        self.runtime.do(self.runtime.broker.pause(name, session.paused))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def close_session(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.sessions)))
        del self.sessions[name]
        self.runtime.do(self.runtime.broker.close(name))

    # -- workers

    def begin(self, worker: ModelWorker) -> None:
        call = worker.begin(self.runtime.now)
        if call is None:
            return
        name, task = self.task_of(call.payload)
        if task is not None:
            task.begun += 1
            assert task.begun == 1, f"{call} was begun before"
            settled = (name, int(call.payload.partition(b":")[2])) in self.runtime.outcomes
            assert settled or not task.killed or worker.doomed, f"{call} began after it was killed"

    def finish(self, worker: ModelWorker, status: Status) -> None:
        _, task = self.task_of(worker.finish(self.runtime.now, status).payload)
        if task is not None:
            task.ended_as = status

    @precondition(lambda self: any(worker.waiting or worker.running for worker in self.runtime.workers.values()))
    @rule(
        data=st.data(),
        count=st.integers(1, 12),
        took=st.sampled_from([0.0, 0.0001, 0.001, 0.005, 0.03]),
        status=st.sampled_from(FINISHED),
        on=st.booleans(),
    )
    def work(self, data: st.DataObject, count: int, took: float, status: Status, on: bool) -> None:
        """A worker runs some calls; their results stay in its outbox; `on`: it goes on with the next one."""
        worker = data.draw(st.sampled_from([w for w in self.runtime.workers.values() if w.waiting or w.running]))
        if not self.is_up(worker):
            return
        for _ in range(count):
            if worker.running is None:
                self.begin(worker)
            if worker.running is None:
                break
            self.runtime.now += took
            self.finish(worker, status)
        if on and worker.running is None:
            self.begin(worker)

    @precondition(lambda self: self.workers(waiting=True))
    @rule(data=st.data(), before=st.integers(0, 2), seconds=st.sampled_from([0.03, 2 * LIMIT_S]), goes_on=st.booleans())
    def hangs(self, data: st.DataObject, before: int, seconds: float, goes_on: bool) -> None:
        """A worker runs a call for long and is looked at; `goes_on`: it has ended by the time the answer comes."""
        worker = self.pick(data, waiting=True)
        if not self.is_up(worker):
            return
        for _ in range(before + 1):
            if worker.running is not None:
                self.finish(worker, Status.OK)
            self.begin(worker)
        self.look_at_all(seconds, 1)
        if goes_on and worker.running is not None:
            self.finish(worker, Status.OK)
            self.begin(worker)

    @precondition(lambda self: self.workers(outbox=True))
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        self.runtime.send(self.pick(data, outbox=True))

    @precondition(lambda self: self.runtime.workers)
    @rule(delay=st.sampled_from([0.0, LOOK_S, 0.1, 2 * LIMIT_S]), times=st.integers(1, 3))
    def look_at_all(self, delay: float, times: int) -> None:
        """Time goes by, then each worker is looked at, as the gateway does while one is busy."""
        for _ in range(times):
            self.runtime.now += max(delay, LOOK_S)
            for worker in list(self.runtime.workers.values()):
                if worker.running is not None and self.runtime.now - worker.since > LIMIT_S:
                    _, task = self.task_of(worker.running.payload)
                    if task is not None:
                        task.over_limit = task.limited
                self.runtime.look(worker)

    @precondition(lambda self: self.workers())
    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        """A worker ends by itself: it crashed, or somebody killed it."""
        self.end(self.pick(data))

    @precondition(lambda self: self.workers(doomed=True))
    @rule(data=st.data())
    def is_killed(self, data: st.DataObject) -> None:
        """A worker that was told to die is dead; until then it may have gone on."""
        self.end(self.pick(data, doomed=True))

    @precondition(lambda self: self.workers(stopping=True, waiting=False, running=False))
    @rule(data=st.data())
    def stops(self, data: st.DataObject) -> None:
        self.end(self.pick(data, stopping=True, waiting=False, running=False))

    @precondition(lambda self: any(worker.setup == BAD for worker in self.runtime.workers.values()))
    @rule(data=st.data())
    def initializer_fails(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from([w for w in self.runtime.workers.values() if w.setup == BAD]))
        worker.setup_failure = "Traceback"
        self.end(worker)

    def end(self, worker: ModelWorker) -> None:
        if worker.running is not None:
            _, task = self.task_of(worker.running.payload)
            if task is not None:
                task.in_dead_worker = True
        key = self.keys.get(worker.number)
        if key is not None and not worker.started:
            self.failed_starts[key] = self.failed_starts.get(key, 0) + 1
        self.runtime.end(worker)

    @rule()
    def all_becomes_quiet(self) -> None:
        """When every worker does what it is told and nobody asks for more, every task gets its outcome."""
        for name, session in self.sessions.items():
            if session.paused:
                session.paused = False
                self.runtime.do(self.runtime.broker.pause(name, False))
        for _ in range(3000):
            if not self.runtime.broker.busy and not self.workers(stopping=True) and not self.workers(doomed=True):
                break
            self.one_round()
        else:
            raise AssertionError("the broker does not come to rest")
        for name, session in self.sessions.items():
            missing = [id_ for id_ in session.tasks if (name, id_) not in self.runtime.outcomes]
            assert not missing, f"tasks {missing} of {name} were forgotten"

    def one_round(self) -> None:
        for worker in list(self.runtime.workers.values()):
            if worker.setup == BAD:
                worker.setup_failure = "Traceback"
                self.end(worker)
                continue
            while worker.running is not None or (worker.waiting and not worker.doomed):
                if worker.running is None:
                    self.begin(worker)
                if worker.running is not None:
                    self.finish(worker, Status.OK)
            self.runtime.send(worker)
            if worker.doomed or worker.stopping:
                self.end(worker)
        self.runtime.now += LOOK_S
        for worker in list(self.runtime.workers.values()):
            self.runtime.look(worker)

    # -- what always holds

    @invariant()
    def all_is_well(self) -> None:
        self.workers_are_used_as_told()
        self.no_more_workers_than_slots()
        self.a_worker_has_one_sessions_tasks()
        self.what_is_printed_has_the_right_owner()
        self.caps_are_kept()
        self.workers_are_looked_for_where_they_are()
        self.no_worker_begins_more_than_it_may()
        self.each_open_task_is_in_one_place()
        self.outcomes_are_true()

    def workers_are_used_as_told(self) -> None:
        """Runs go to workers of the session's own setup, with the right function, and not while it is paused."""
        told, self.checked = self.runtime.told[self.checked :], len(self.runtime.told)
        for todo in told:
            if isinstance(todo, Run):
                definition = todo.reference
                for _, _, _, payload in decode(todo.calls):
                    session = self.sessions.get(payload.decode().partition(":")[0])
                    if session is None:
                        continue  # it ended right after
                    assert not session.paused
                    assert self.keys.setdefault(todo.worker, session.key) == session.key
                    worker = self.runtime.workers.get(todo.worker)
                    if worker is not None:
                        assert worker.setup == session.key[1]
                        assert definition == 0 or worker.known[definition] in (
                            b"reference",
                            b"reference 2 of " + session.key[0].encode(),
                        )

    def no_more_workers_than_slots(self) -> None:
        assert len(self.workers(stopping=False, doomed=False)) <= self.slots

    def a_worker_has_one_sessions_tasks(self) -> None:
        for worker in self.runtime.broker.workers.values():
            assert len({group.session.id for group in worker.in_flight if group.session is not None}) <= 1

    def what_is_printed_has_the_right_owner(self) -> None:
        for worker in self.runtime.workers.values():
            if worker.running is not None:
                name, task = self.task_of(worker.running.payload)
                seen = self.runtime.broker.workers[worker.number].session
                assert task is None or (seen is not None and seen.id == name)

    def workers_are_looked_for_where_they_are(self) -> None:
        """What is kept up to date is what a look at all workers would find."""
        roster = self.runtime.broker._roster
        staying = {
            id_: worker for id_, worker in roster.workers.items() if not worker.retired and worker.ending is None
        }
        for host in roster.hosts.all.values():
            assert host.workers == {id_: worker for id_, worker in roster.workers.items() if worker.host is host}
            assert host.live == host.workers.keys() & staying.keys()
        assert roster._resting == {id_: w for id_, w in staying.items() if w.pool is not None and not w.in_flight}
        assert roster._fresh.ranks.keys() == {id_ for id_, worker in staying.items() if worker.pool is None}
        for pool in {worker.pool for worker in roster.workers.values() if worker.pool is not None}:
            mine = {id_: worker for id_, worker in staying.items() if worker.pool is pool}
            assert pool.live == mine.keys()
            assert pool.idle.ranks.keys() == {id_ for id_, worker in mine.items() if not worker.in_flight}
        for session in self.runtime.broker.sessions.values():
            busy = {id_: w for id_, w in staying.items() if w.session is session and w.in_flight and not is_overdue(w)}
            assert session.busy.ranks == {id_: worker.load for id_, worker in busy.items()}

    def caps_are_kept(self) -> None:
        running: dict[str, int] = {}
        for worker in self.workers(doomed=False, running=True):
            assert worker.running is not None
            name, task = self.task_of(worker.running.payload)
            if task is not None and not task.killed:
                running[name] = running.get(name, 0) + 1
        assert all(count <= self.sessions[name].cap for name, count in running.items())

    def no_worker_begins_more_than_it_may(self) -> None:
        for worker in self.runtime.workers.values():
            key = self.keys.get(worker.number)
            assert key is None or key[2] is None or len(worker.begun) <= key[2]

    def each_open_task_is_in_one_place(self) -> None:
        """Queued, or in one worker, or settled: never two of these, never none."""
        places: dict[tuple[str, int], int] = {}
        broker = self.runtime.broker
        held = [(group, id_) for open_ in broker.sessions.values() for group in open_.queue for id_ in group.ids]
        for worker in broker.workers.values():
            for group in worker.in_flight:
                held += [(group, id_) for at, id_ in enumerate(group.ids, group.ordinal) if at not in worker.void]
        for group, id_ in held:
            if group.session is not None:
                places[group.session.id, id_] = places.get((group.session.id, id_), 0) + 1
        for open_ in broker.sessions.values():
            assert open_.queued == sum(map(len, open_.queue))
        for worker in broker.workers.values():
            assert len(worker.in_flight) == sum(map(len, worker.in_flight))
        for name, session in self.sessions.items():
            for id_ in session.tasks:
                outcomes = len(self.runtime.outcomes.get((name, id_), ()))
                assert outcomes + places.get((name, id_), 0) == 1, f"{name}:{id_}"

    def outcomes_are_true(self) -> None:
        """Each says what really happened to the task: nobody is blamed for another."""
        for name, session in self.sessions.items():
            for id_, task in session.tasks.items():
                for status, payload in self.runtime.outcomes.get((name, id_), ()):
                    self.check_outcome(f"{name}:{id_}", session, task, status, payload)

    def check_outcome(self, name: str, session: ModelSession, task: ModelTask, status: Status, payload: bytes) -> None:
        if status in FINISHED:
            assert status == task.ended_as, name
            assert payload == name.encode()
        elif status == Status.KILLED:
            assert task.killed, name
        elif status == Status.TIMEOUT:
            assert task.over_limit, name
            assert task.in_dead_worker, name
        elif status in (Status.DIED, Status.LOST):
            assert task.in_dead_worker, name
        else:
            assert status == Status.BROKEN, name
            failed_starts = self.failed_starts.get(session.key, 0)
            assert session.key[1] == BAD or failed_starts >= START_FAILURES, name


BrokerMachine.TestCase.settings = settings(
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=150,
    phases=[Phase.generate, Phase.shrink],
    report_multiple_bugs=False,
    stateful_step_count=40,
)
TestBroker = BrokerMachine.TestCase
