"""A client of the chaos runs: submits tasks of many kinds until it is told to stop, and checks each outcome.

Run as a program with one argument, the JSON text of `Orders`. It writes a `Told` into its folder at its end; when it is
killed, only what its tasks left is there.
"""

from __future__ import annotations

import faulthandler
import json
import random
import sys
import time
import zlib
from collections import Counter, deque
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meca_executor import (
    AttemptLost,
    ContainerFailed,
    GatewayLost,
    MecaExecutor,
    TaskKilled,
    WorkerDied,
)
from meca_executor.client.link import Link
from meca_executor.wire.records import Status
from tests.helpers import leaks

from .tasks import Name, answer, blob, die, fail, leave_children

if TYPE_CHECKING:
    from collections.abc import Callable

    from meca_executor.wire.records import Record

OPEN = 400  #: operations that are open at once
STUCK_S = 100.0  #: after the last fault nothing takes longer than this
EVER_S = 300.0  #: nor anything at all, faults or not
OFTEN = 50  #: attempts of a task that no fault may end
APP_REF = "chaos:latest"
LARGEST = 2_000_000  #: bytes of an argument or a result


@dataclass
class Orders:
    """What a client is to do."""

    url: str
    client: int
    generation: int
    seed: str
    folder: str  #: its own
    marks: str  #: where tasks leave their lines
    stop: str  #: a file: when it is there, no more tasks are submitted
    links_only: bool  #: no fault but those of the link: each task runs once and has its result
    journal: bool  #: no gateway is lost


@dataclass
class Told:
    """What a client has to say."""

    tasks: int = 0  #: numbers from 0 on
    kinds: Counter[str] = field(default_factory=Counter)
    failed: dict[int, str] = field(default_factory=dict)  #: number -> class of an error that the faults allow
    never: list[int] = field(default_factory=list)  #: cancelled: none of them may have run
    wrong: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    left: str = ""


@dataclass
class Operation:
    """What was begun and must end as `expected` says, or with one of the errors."""

    kind: str
    names: list[Name]
    future: Future[Any]
    expected: Callable[[Any], bool]
    errors: tuple[type[BaseException], ...] = ()
    only_error: bool = False  #: one of these errors must come
    began: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        return f"{self.kind} {self.names[0]}, open for {time.monotonic() - self.began:.1f} s"


class Deliveries:
    """Counts the results that reach the executor, by task; nobody gets two."""

    def __init__(self) -> None:
        self.twice: list[str] = []
        seen, twice = set[int](), self.twice
        settled = Link.settled

        def counting(self: Link, records: list[Record]) -> None:
            for number, status, _, _ in records:
                if number and status & 0xFF in (Status.OK, Status.RAISED, Status.REPLY):
                    if number in seen:
                        twice.append(f"{number:#x} ({Status(status & 0xFF).name})")
                    seen.add(number)
            settled(self, records)

        Link.settled = counting  # type: ignore[method-assign]


class Client:
    """One run of it."""

    def __init__(self, orders: Orders, executor: MecaExecutor) -> None:
        self.orders = orders
        self.told = Told()
        self.executor = executor
        self.rng = random.Random(f"{orders.seed} {orders.client} {orders.generation}")
        self.open: deque[Operation] = deque()
        self.to_kill: list[tuple[Name, Future[Any]]] = []
        self.views = {count: executor.options(retry=count) for count in (1, 3, OFTEN)}
        lost: tuple[type[BaseException], ...] = () if orders.links_only else (WorkerDied, AttemptLost)
        if not orders.links_only and not orders.journal:
            lost += (GatewayLost,)
        self.lost = lost

    def run(self) -> None:
        """Work until the stop file is there and everything has ended."""
        stop = Path(self.orders.stop)
        kinds = LINK_KINDS if self.orders.links_only else {**LINK_KINDS, **OTHER_KINDS}
        first = list(kinds)
        while not stop.exists():
            kind = first.pop() if first else self.rng.choices(list(kinds), list(kinds.values()))[0]
            self.told.kinds[kind] += 1
            self._kill()
            getattr(self, kind)()
            while self.open and (len(self.open) > OPEN or self.open[0].future.done()):
                self._settle(EVER_S)
            if self.told.stuck:
                return
        stopped = time.monotonic()
        self._kill()
        while self.open and not self.told.stuck:
            self._settle(stopped + STUCK_S - time.monotonic())

    def _settle(self, seconds: float) -> None:
        operation = self.open[0]
        if wait([operation.future], max(0.0, seconds)).not_done:
            self.told.stuck = [f"{one}: {one.future!r}" for one in self.open if not one.future.done()]
            self.told.stuck.append(f"{self.executor!r}, {vars(self.executor._link._driver)}")
            return
        self.open.popleft()
        try:
            result = operation.future.result()
        except (Exception, CancelledError) as error:
            if not isinstance(error, operation.errors) or operation.names[0].retry == OFTEN:
                self.told.wrong.append(f"{operation}: {type(error).__name__}: {str(error)[:500]}")
            else:
                for name in operation.names:
                    self.told.failed[name.number] = type(error).__name__
            return
        if operation.only_error or not operation.expected(result):
            self.told.wrong.append(f"{operation}: {result!r:.300}")

    def _name(self, retry: int) -> Name:
        name = Name(self.orders.client, self.orders.generation, self.told.tasks, retry)
        self.told.tasks += 1
        return name

    def _retry(self) -> int:
        return self.rng.choice([1, 1, 3, 3, OFTEN])

    def _add(self, kind: str, name: Name, future: Future[Any], expected: Callable[[Any], bool], **more: Any) -> None:
        errors = more.pop("errors", ()) + self.lost
        self.open.append(Operation(kind, [name], future, expected, errors, **more))

    # -- the kinds of operations that the link alone may disturb

    def small(self) -> None:
        """A small task; some take a while."""
        name = self._name(self._retry())
        nap = self.rng.uniform(0.0, 0.05) if self.rng.random() < 0.3 else 0.0
        future = self.views[name.retry].submit(answer, self.orders.marks, name, b"", 0, nap)
        self._add("small", name, future, lambda result: result == (name, 0, b""))

    def large(self) -> None:
        """Argument and result of up to 2 MB, in one frame or several, or in shared memory."""
        name = self._name(self._retry())
        given = self.rng.randbytes(int(LARGEST ** self.rng.random()))
        size = int(LARGEST ** self.rng.random())
        crc = zlib.crc32(given)
        future = self.views[name.retry].submit(answer, self.orders.marks, name, given, size)
        self._add("large", name, future, lambda result: result == (name, crc, blob(name, size)))

    def many(self) -> None:
        """Many that travel together: messages of several frames."""
        count, size = self.rng.randint(2, 60), self.rng.choice([10, 1_000, 100_000])
        for _ in range(count):
            name = self._name(self._retry())
            future = self.views[name.retry].submit(answer, self.orders.marks, name, bytes(size), size)
            crc = zlib.crc32(bytes(size))
            self._add("many", name, future, lambda r, n=name, c=crc: r == (n, c, blob(n, size)))  # type: ignore[misc]

    def mapped(self) -> None:
        """A `map`, read to its end here: it travels in chunks."""
        retry = self._retry()
        names = [self._name(retry) for _ in range(self.rng.randint(1, 100))]
        marks, given = [self.orders.marks] * len(names), [b"x"] * len(names)
        results = self.views[retry].map(answer, marks, names, given, [5] * len(names), timeout=EVER_S)
        future: Future[Any] = Future()
        operation = Operation("mapped", names, future, lambda _: True, self.lost)
        crc = zlib.crc32(b"x")
        try:
            wrong = [got for name, got in zip(names, results, strict=True) if got != (name, crc, blob(name, 5))]
            operation.expected = lambda _: not wrong
            future.set_result(wrong)
        except TimeoutError:
            self.told.stuck.append(f"{operation}: {self.executor!r}")
            return
        except Exception as error:
            future.set_exception(error)
        self.open.append(operation)

    def fails(self) -> None:
        """The task's own exception, with its arguments; it is never tried again."""
        name = self._name(self.rng.choice([1, 3]))
        future = self.views[name.retry].submit(fail, self.orders.marks, name)
        self._add("fails", name, future, lambda _: False, errors=(LookupError,))

    def cancelled(self) -> None:
        """What could be cancelled never runs."""
        name = self._name(1)
        future = self.views[1].submit(answer, self.orders.marks, name, b"", 0)
        if future.cancel():
            self.told.never.append(name.number)
        else:
            self._add("cancelled", name, future, lambda result: result == (name, 0, b""))

    def container(self, ends: str = "") -> None:
        """A call of the app."""
        name = self._name(self.rng.choice([1, 3]))
        data = "x" * int(100_000 ** self.rng.random())
        order = json.dumps({"folder": self.orders.marks, "line": name.line, "data": data, "ends": ends})
        errors = () if self.orders.links_only else (ContainerFailed,)
        future = self.executor.offload_task(APP_REF, order, retry=name.retry)
        reply = f"{name.line} {zlib.crc32(data.encode())}"
        self._add("container", name, future, lambda result: result == reply, errors=errors)

    # -- those that bring harm

    def ending_container(self) -> None:
        """A call during or after which the app ends; each attempt of it does the same."""
        self.container(self.rng.choice(["during", "half", "after", "after"]))

    def dies(self) -> None:
        """A task that ends its worker; one of too many deaths fails with its attempts, and nothing else does."""
        name, deaths = self._name(self.rng.choice([1, 3])), self.rng.randint(1, 4)
        future = self.views[name.retry].submit(die, self.orders.marks, name, deaths, self.rng.random() < 0.5)
        self._add("dies", name, future, lambda result: result == name, only_error=deaths >= name.retry)

    def children(self) -> None:
        """A task that leaves children."""
        name = self._name(3)
        future = self.views[3].submit(leave_children, self.orders.marks, name, self.rng.random() < 0.3)
        self._add("children", name, future, lambda result: result == name)

    def killed(self) -> None:
        """`kill`, with the next operation, of a task that takes long."""
        name = self._name(1)
        future = self.views[1].submit(answer, self.orders.marks, name, b"", 0, 20.0)
        self.to_kill.append((name, future))

    def _kill(self) -> None:
        for name, future in self.to_kill:
            self.executor.kill(future)
            if future.cancelled():
                self.told.never.append(name.number)
            else:  # the link may be down for longer than it takes
                self._add("killed", name, future, lambda r, n=name: r == (n, 0, b""), errors=(TaskKilled,))  # type: ignore[misc]
        self.to_kill.clear()


#: name -> weight
LINK_KINDS = {"small": 60, "large": 4, "many": 2, "mapped": 2, "fails": 6, "cancelled": 6, "container": 3}
OTHER_KINDS = {"ending_container": 0.5, "dies": 0.5, "children": 0.3, "killed": 0.5}


def main(orders: Orders) -> None:
    """Do as told, and say what came of it."""
    faulthandler.dump_traceback_later(3600, exit=True)
    leaks.mark_this_run()  # one of its own: what others start is not its
    seen = Deliveries()
    told = Told()
    try:
        with leaks.nothing_left(20.0):
            executor = MecaExecutor(orders.url, retry=3, output=False, connect_timeout=60.0)
            client = Client(orders, executor)
            told = client.told
            client.run()
            if told.stuck:
                executor.kill_workers()
            else:
                executor.shutdown()
            client.views.clear()
            del client, executor
    except AssertionError as error:
        told.left = str(error)
    told.twice = seen.twice
    Path(orders.folder, "told.json").write_text(json.dumps(vars(told)))


if __name__ == "__main__":
    main(Orders(**json.loads(sys.argv[1])))
