"""The real broker with simulated workers and clients, in virtual time.

What is simulated: workers run what they are given, one call after the other, each call as long as chance says (fixed
seed), and tell results as `runtimes/worker.py` does; a look at each call that still runs after 20 ms; clients keep a
number of calls under way, one of them ten times as many as the others. What is real: every decision of
`gateway/broker.py`, and the time that it takes on this machine. No network, no process, no journal.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from meca_executor.gateway.broker import Broker
from meca_executor.gateway.hub import LOOK_S
from meca_executor.gateway.tasks import Options, Report, Revoke, Run
from meca_executor.runtimes.worker import FLUSH_S
from meca_executor.wire.records import MICROS_MAX, Outcomes, Status, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meca_executor.gateway.tasks import Instruction
    from meca_executor.wire.records import Record

MEAN_S = 0.05  #: of the calls
SEED = 11
AHEAD = 2  #: calls under way for each worker
GREEDY = 10  #: the first client keeps so many times as many as each of the others
EDGE = 0.2  #: of the time until the clients have no more: the begin, left out of the shares


@dataclass(frozen=True)
class Found:
    """What a run showed."""

    workers: int
    tasks: int
    decisions: int  #: batches given to workers
    events: int  #: what the broker was told
    broker_s: float  #: time that it took for all of them, on this machine
    virtual_s: float  #: how long the work took in its own time
    utilisation: float  #: share of the workers' time that was worked while clients had more
    fairness: float  #: Jain's index of the work done for each client in that time: 1 is equal shares

    @property
    def us_per_decision(self) -> float:
        """Microseconds of the broker's, all told, for each batch that it gave."""
        return self.broker_s / self.decisions * 1e6

    @property
    def decisions_per_s(self) -> float:
        """Batches that it could give in a second."""
        return self.decisions / self.broker_s


@dataclass
class _Worker:
    """What one has, and when it began the call that it runs."""

    number: int
    calls: deque[tuple[int, int]] = field(default_factory=deque)  #: ordinal and task
    outbox: list[Record] = field(default_factory=list)
    running: bool = False
    started: int = 0  #: as on its board: the ordinal behind the one that runs, or ran last
    since: float = 0.0
    flushed_at: float = 0.0
    revoked: tuple[int, int] = (0, 0)


class Simulation:
    """One run.

    Args:
        workers: How many there are.
        tasks: How many calls there are in all.
        sessions: Clients, each with a session.
        mean_s: Mean length of a call.
        ahead: Calls that the clients keep under way for each worker.
    """

    def __init__(self, workers: int, tasks: int, sessions: int = 8, mean_s: float = MEAN_S, ahead: int = AHEAD) -> None:
        self._count = workers
        self._mean_s = mean_s
        self._random = random.Random(SEED)
        self._broker = Broker(workers)
        self._workers: dict[int, _Worker] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._now = 0.0
        self._broker_s = 0.0
        self._decisions = self._told = self._done = 0
        self._numbers = itertools.count(1)
        self._spans: list[tuple[float, float, str]] = []  # of each call: from, to, whose
        self._tasks = tasks
        self._left = tasks
        self._exhausted = 0.0  # when the clients had nothing more to submit
        self._names = [f"s{number}" for number in range(sessions)]
        share = max(1, ahead * workers // sessions)
        self._windows = {name: share * (GREEDY if name == "s0" else 1) for name in self._names}
        self._session_of: dict[int, str] = {}

    def run(self) -> Found:
        """Return what it showed.

        Raises:
            RuntimeError: Not every call came to its end, once.
        """
        for name in self._names:
            self._broker.open(name, "me", b"setup", self._count, None)
            self._broker.set_options(name, 0, Options())
            self._broker.define(name, 1, b"reference")
        self._tell(lambda: self._broker.prepare(self._count))
        for name in self._names:
            self._submit(name, self._windows[name])
        while self._events:
            self._now, _, act = heapq.heappop(self._events)
            act()
        if self._done != self._tasks:
            raise RuntimeError(f"{self._done:,} of {self._tasks:,} calls came to an end")
        end = self._exhausted or self._now
        begin = EDGE * end
        shares = dict.fromkeys(self._names, 0.0)
        for start, stop, name in self._spans:
            shares[name] += max(0.0, min(stop, end) - max(start, begin))
        return Found(
            workers=self._count,
            tasks=self._tasks,
            decisions=self._decisions,
            events=self._told,
            broker_s=self._broker_s,
            virtual_s=self._now,
            utilisation=sum(shares.values()) / (self._count * (end - begin)),
            fairness=jain(list(shares.values())),
        )

    # -- the broker

    def _tell(self, ask: Callable[[], list[Instruction]]) -> None:
        began = perf_counter()
        todos = ask()
        self._broker_s += perf_counter() - began
        self._told += 1
        for todo in todos:
            if isinstance(todo, Run):
                self._decisions += 1
                self._give(todo)
            elif isinstance(todo, Report):
                self._report(todo)
            elif isinstance(todo, Revoke):
                worker = self._workers[todo.worker]
                worker.revoked = (todo.start, todo.stop)
                self._later(LOOK_S, partial(self._look, worker))

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self._now + seconds, next(self._order), act))

    # -- clients

    def _submit(self, name: str, count: int) -> None:
        count = min(count, self._left)
        if not count:
            return
        self._left -= count
        if not self._left:
            self._exhausted = self._now
        numbers = [next(self._numbers) for _ in range(count)]
        for number in numbers:
            self._session_of[number] = name
        batch = encode((number, 0, 0, b"call") for number in numbers)
        self._tell(lambda: self._broker.submit(name, [(count, 0, 1, batch)], self._now))

    def _report(self, report: Report) -> None:
        records = decode(report.batch)
        if any(status != Status.OK for _, status, _, _ in records):
            raise RuntimeError(f"a call came to another end: {records[:3]}")
        self._done += len(records)
        self._later(0.0, lambda: self._submit(report.session, len(records)))

    # -- workers

    def _give(self, run: Run) -> None:
        worker = self._workers.setdefault(run.worker, _Worker(run.worker))
        worker.calls.extend(
            (ordinal, number) for ordinal, (number, _, _, _) in enumerate(decode(run.calls), run.ordinal)
        )
        if not worker.running:
            worker.flushed_at = self._now
            self._go_on(worker)

    def _go_on(self, worker: _Worker) -> None:
        """Begin its next call; results go before, when they have waited or nothing else is to be done."""
        while worker.calls:
            if worker.outbox and self._now - worker.flushed_at > FLUSH_S:
                worker.running = True  # what comes meanwhile waits its turn
                self._flush(worker)
                worker.running = False
            ordinal, task = worker.calls.popleft()
            worker.started = ordinal + 1
            if worker.revoked[0] <= ordinal < worker.revoked[1]:
                worker.outbox.append((task, int(Status.SKIPPED), 0, b""))
                continue
            worker.running, worker.since = True, self._now
            took = self._random.expovariate(1 / self._mean_s)
            self._later(took, partial(self._end, worker, task))
            if took > LOOK_S:
                self._later(LOOK_S, partial(self._look_at, worker, worker.started))
            return
        if worker.outbox:
            self._flush(worker)

    def _flush(self, worker: _Worker) -> None:
        worker.flushed_at, records, worker.outbox = self._now, worker.outbox, []
        self._tell(lambda: self._broker.results(worker.number, Outcomes.of(encode(records)), self._now))

    def _look_at(self, worker: _Worker, started: int) -> None:
        if worker.running and worker.started == started:
            self._look(worker)

    def _look(self, worker: _Worker) -> None:
        self._tell(lambda: self._broker.looked(worker.number, worker.started, worker.since, self._now))

    def _end(self, worker: _Worker, task: int) -> None:
        self._spans.append((worker.since, self._now, self._session_of.pop(task)))
        micros = min(int((self._now - worker.since) * 1e6), MICROS_MAX)
        worker.outbox.append((task, int(Status.OK), micros, b"result"))
        worker.running = False
        self._go_on(worker)


def jain(shares: Sequence[float]) -> float:
    """Return how equal shares are: from 1 / their number, when one has all, to 1."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0
