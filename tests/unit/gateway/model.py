"""Workers without processes: they take what a broker tells, and do it when the test says so.

Faithful to `runtimes/worker.py` and `runtimes/processes.py` in what the broker can see: calls run in order, a
revocation is read when a call's turn comes, results wait in an outbox until they are sent, and what was sent
is reported before the end.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from meca_executor.gateway.broker import Broker
from meca_executor.gateway.tasks import Instruction, Kill, Options, Report, Revoke, Run, Setup, Spawn, Stop
from meca_executor.wire.printed import owner
from meca_executor.wire.records import MICROS_MAX, Outcomes, Record, Status, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

FLUSH_S = 0.003  #: as worker.FLUSH_S
LOOK_S = 0.02  #: as hub.LOOK_S


class Call(NamedTuple):
    """One call in a worker: which, whose task, what, and the definition it refers to."""

    ordinal: int
    task: int
    definition: int
    payload: bytes


@dataclass(eq=False, repr=False)
class ModelWorker:
    """One worker; what stands on its board has the same names there."""

    number: int
    setup: bytes | None = None
    known: dict[int, bytes] = field(default_factory=dict)  #: definitions that it was sent
    waiting: deque[Call] = field(default_factory=deque)
    running: Call | None = None
    begun: list[bytes] = field(default_factory=list)  #: payloads of calls, in the order in which they began
    started: int = 0
    since: float = 0.0
    revoked: tuple[int, int] = (0, 0)
    outbox: list[Record] = field(default_factory=list)
    setup_failure: str | None = None  #: what its initializer raised; told when it sends
    last_ordinal: int = 0
    stopping: bool = False  #: told to end after what it has
    doomed: bool = False  #: told to die, and not yet dead

    def __repr__(self) -> str:
        told = " stopping" * self.stopping + " doomed" * self.doomed
        runs = "" if self.running is None else f" runs {self.running.payload.decode()}"
        return f"<ModelWorker {self.number}{told}{runs}, {len(self.waiting)} wait, {len(self.outbox)} in the outbox>"

    def begin(self, now: float) -> Call | None:
        """Go on to the next call that is not revoked; None when there is none."""
        assert self.running is None
        while self.waiting:
            call = self.waiting.popleft()
            self.started, self.since = call.ordinal + 1, now  # said before the revocation is read
            if self.revoked[0] <= call.ordinal < self.revoked[1]:
                self.outbox.append((call.task, int(Status.SKIPPED), 0, b""))
                continue
            self.running = call
            self.begun.append(call.payload)
            return call
        return None

    def finish(self, now: float, status: Status = Status.OK) -> Call:
        """End the call that runs; its result, which is its payload again, waits in the outbox."""
        assert self.running is not None
        call, self.running = self.running, None
        micros = min(int((now - self.since) * 1e6), MICROS_MAX)
        self.outbox.append((call.task, int(status), micros, call.payload))
        return call


class ModelRuntime:
    """The workers of a broker, and what came of its tasks."""

    def __init__(self, slots: int) -> None:
        self.broker = Broker(slots)
        self.now = 100.0
        self.workers: dict[int, ModelWorker] = {}
        self.outcomes: dict[tuple[str, int], list[tuple[Status, bytes]]] = {}
        self.printed: list[tuple[str, Status, bytes]] = []
        self.printers: list[int] = []  #: whose text each of them is
        self.broken: dict[str, bytes] = {}  #: sessions that were told that nothing can run, and why
        self.told: list[Instruction] = []  #: all of them, in order
        self._ending: int | None = None

    # -- from the broker

    def do(self, instructions: Iterable[Instruction]) -> None:
        """Carry out what the broker says."""
        for todo in instructions:
            self.told.append(todo)
            if isinstance(todo, Report):
                self._take_in(todo.session, todo.batch)
            elif isinstance(todo, Spawn):
                assert todo.worker not in self.workers
                self.workers[todo.worker] = ModelWorker(todo.worker)
            elif isinstance(todo, Run):
                self._run(*todo[:5])
            elif (worker := self.workers.get(todo.worker)) is not None:
                if isinstance(todo, Setup):
                    assert worker.setup is None, "a worker is told once what it is for"
                    worker.setup = todo.batch
                elif isinstance(todo, Revoke):
                    worker.revoked = (todo.start, todo.stop)
                elif isinstance(todo, Stop):
                    worker.stopping = True
                elif isinstance(todo, Kill):
                    worker.doomed = True

    def _run(self, number: int, definitions: list[Record], ordinal: int, reference: int, batch: bytes) -> None:
        if number == self._ending:
            return  # as a runtime does: the broker is just being told of its last results, and next of its end
        worker = self.workers[number]  # a KeyError: the broker gave tasks to a worker that is gone
        assert worker.setup is not None, "a worker runs nothing before it was told what it is for"
        assert not worker.stopping, "a worker that was told to end gets no more"
        assert not worker.doomed, "a worker that is being killed gets no more"
        calls = decode(batch)
        assert calls, "a batch has calls"
        for id_, _, _, definition in definitions:
            assert id_ not in worker.known, "a definition is sent once"
            worker.known[id_] = definition
        assert ordinal == worker.last_ordinal + 1, "ordinals are consecutive"
        assert reference == 0 or reference in worker.known, "a definition goes before its calls"
        for task, _, _, payload in calls:
            worker.last_ordinal += 1
            worker.waiting.append(Call(worker.last_ordinal, task, reference, payload))

    def _take_in(self, session: str, batch: bytes) -> None:
        for id_, tag, ref, payload in decode(batch):
            if tag in (Status.STDOUT, Status.STDERR):
                task, text = owner(ref, payload)
                self.printed.append((session, Status(tag), text))
                self.printers.append(task)
            elif id_ == 0:
                assert tag == Status.BROKEN
                self.broken[session] = payload
            else:
                self.outcomes.setdefault((session, id_), []).append((Status(tag), payload))

    # -- to the broker

    def open(
        self, session: str, *, owner: str = "me", setup: bytes = b"setup", cap: int = 99, per_worker: int | None = None
    ) -> None:
        """Open a session with function 1 defined and options 0 (no limit) set."""
        self.broker.open(session, owner, setup, cap, per_worker)
        self.broker.define(session, 1, b"reference")
        self.broker.set_options(session, 0, Options())

    def submit(self, session: str, ids: Iterable[int], *, tag: int = 0, ref: int = 1) -> None:
        """Submit tasks; a payload says whose it is."""
        calls = [(id_, 0, 0, f"{session}:{id_}".encode()) for id_ in ids]
        self.do(self.broker.submit(session, [(len(calls), tag, ref, encode(calls))], self.now))

    def send(self, worker: ModelWorker) -> None:
        """What is in a worker's outbox arrives."""
        if worker.outbox:
            records, worker.outbox = worker.outbox, []
            self.do(self.broker.results(worker.number, Outcomes.of(encode(records)), self.now))
        if worker.setup_failure is not None:
            self.do(self.broker.setup_failed(worker.number, worker.setup_failure))
            worker.setup_failure = None

    def look(self, worker: ModelWorker) -> None:
        """The broker is told what a worker is running."""
        self.do(self.broker.looked(worker.number, worker.started, worker.since, self.now))

    def end(self, worker: ModelWorker, how: str = "worker process 1 was killed by SIGKILL") -> None:
        """A worker ends; what it had sent, or had ready in its outbox, arrives before that."""
        del self.workers[worker.number]
        self._ending = worker.number
        self.send(worker)
        self.do(self.broker.ended(worker.number, worker.started, how))
        self._ending = None

    # -- several steps at once

    def work(self, worker: ModelWorker, took: float = 0.001, status: Status = Status.OK) -> Call | None:
        """A worker runs its next call to the end; its result is not sent yet."""
        if worker.running is None and worker.begin(self.now) is None:
            return None
        self.now += took
        return worker.finish(self.now, status)

    def end_those_told(self) -> None:
        """Workers that were told to end or to die, and have nothing left to do, are gone."""
        for worker in list(self.workers.values()):
            if worker.doomed or (worker.stopping and not worker.waiting and worker.running is None):
                self.end(worker)

    def quiet(self, took: float = 0.001) -> None:
        """All runs to its end, however many rounds that needs (there is a limit)."""
        for _ in range(10_000):
            before = len(self.told)
            busy = False
            for worker in list(self.workers.values()):
                busy |= worker.running is not None or bool(worker.waiting)
                if not worker.doomed:
                    self.work(worker, took)
                self.send(worker)
            self.now += LOOK_S
            for worker in list(self.workers.values()):
                self.look(worker)
            self.end_those_told()
            if not busy and len(self.told) == before and not self.broker.busy:
                return
        raise AssertionError("the broker does not come to rest")

    def only(self, session: str) -> dict[int, Status]:
        """Return the outcomes of a session's tasks, each exactly one."""
        found = {id_: outcomes for (name, id_), outcomes in self.outcomes.items() if name == session}
        assert all(len(outcomes) == 1 for outcomes in found.values()), found
        return {id_: outcomes[0][0] for id_, outcomes in found.items()}


class Clock:
    """Runs a model in time: calls take as long as told, results and looks come as they do in life."""

    def __init__(self, runtime: ModelRuntime, step: float = 0.0005) -> None:
        self.runtime = runtime
        self.step = step
        self._flushed: dict[int, float] = {}
        self._looked = runtime.now

    def run(self, seconds: float, took: float) -> None:
        """Let so much time go by, each call taking `took` seconds."""
        runtime = self.runtime
        until = runtime.now + seconds
        while runtime.now < until:
            runtime.now += self.step
            for worker in list(runtime.workers.values()):
                self._go_on(worker, took)
            if runtime.now - self._looked >= LOOK_S:
                self._looked = runtime.now
                for worker in list(runtime.workers.values()):
                    runtime.look(worker)
            runtime.end_those_told()

    def _go_on(self, worker: ModelWorker, took: float) -> None:
        runtime = self.runtime
        if worker.running is not None and runtime.now - worker.since >= took:
            worker.finish(runtime.now)
        if worker.running is None:
            ended = worker.begin(runtime.now) is None
            if worker.outbox and (ended or runtime.now - self._flushed.get(worker.number, 0.0) > FLUSH_S):
                self._flushed[worker.number] = runtime.now
                runtime.send(worker)


def runtime_with(slots: int = 1, **session: object) -> ModelRuntime:
    """Return a runtime with one session, "a"."""
    runtime = ModelRuntime(slots)
    runtime.open("a", **session)  # type: ignore[arg-type]
    return runtime


def only_worker(runtime: ModelRuntime) -> ModelWorker:
    """Return the one worker that there is."""
    (worker,) = runtime.workers.values()
    return worker


def measured(runtime: ModelRuntime, session: str = "a", took: float = 0.0001) -> None:
    """Let one task of a session run, so that its kind has an estimate."""
    runtime.submit(session, [10**6])
    runtime.quiet(took)
    del runtime.outcomes[session, 10**6]
