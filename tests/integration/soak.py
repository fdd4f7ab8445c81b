"""The engine of the soak test: mixed work, of which every outcome is known beforehand.

A lane is one thread that submits operations by their numbers: seed, lane and number say what an operation is,
whatever happened before. It waits for the oldest when too much is open, and checks each against what it must be.
"""

from __future__ import annotations

import itertools
import random
import re
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meca_executor import MecaExecutor, TaskKilled, TaskTimeout, WorkerDied

from .soak_tasks import HANG_S, Trouble, blob, double, item, make_lock, say, step, stumble, turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

OPEN_TASKS = 2_000  #: a lane has no more tasks open
OPEN_BYTES = 32_000_000  #: nor more bytes of arguments and results
STUCK_S = 45.0  #: what is open for so long after all before it are done never ends
LARGEST = 2_000_000  #: bytes of an argument or a result
LIMIT_S = 1.0  #: for tasks that hang

# -- a lane


@dataclass
class Operation:
    """What was begun and must end as `check` says."""

    kind: str
    number: int
    check: Callable[[], None]
    future: Future[Any] | None = None  #: None: `check` itself waits
    tasks: int = 1
    size: int = 0  #: bytes


class Printed:
    """The words that tasks printed."""

    def __init__(self) -> None:
        self.words: set[str] = set()

    def __call__(self, text: str, stream: str) -> None:
        self.words.update(re.findall(r"<([^<>]+)>", text))


@dataclass
class Lane:
    """One thread's operations on an executor."""

    executor: MecaExecutor
    name: str
    seed: str
    folder: Path
    printed: Printed
    counts: Counter[str] = field(default_factory=Counter)
    open: deque[Operation] = field(default_factory=deque)
    extra: Iterator[int] = field(default_factory=lambda: itertools.count(10**9))  #: numbers for more paths
    open_tasks: int = 0
    open_bytes: int = 0
    to_kill: list[Future[Any]] = field(default_factory=list)
    never: list[Path] = field(default_factory=list)  #: files of tasks that must not run

    def __post_init__(self) -> None:
        ex = self.executor
        self.views = [ex, ex.options(retry=1), ex.options(timeout=HANG_S), ex.options(retry=5, timeout=999)]

    def path(self, number: int) -> str:
        """Return a path of an operation's own."""
        return str(self.folder / f"{self.name}-{number}")

    def run(self, seconds: float) -> Counter[str]:
        """Work for so long, then finish what is open; return how many there were of each kind.

        Raises:
            AssertionError: An operation did not end as it must, or not at all; seed, lane, kind and number are named.
        """
        deadline = time.monotonic() + seconds
        names, weights = list(KINDS), [weight for _, weight in KINDS.values()]
        for number in itertools.count():
            if time.monotonic() > deadline and number >= len(names):
                break
            rng = random.Random(f"{self.seed} {self.name} {number}")
            # Each kind once at the beginning, so that a short run has them all.
            kind = names[number] if number < len(names) else rng.choices(names, weights)[0]
            self._kill()
            self._add(KINDS[kind][0](self, rng, number))
            self.counts[kind] += 1
            while self.open and (self._is_full() or self._is_done(self.open[0])):
                self._settle()
        while self.open:
            self._settle()
        assert not [path for path in self.never if path.exists()], f"{self}: cancelled tasks ran"
        return self.counts

    def __str__(self) -> str:
        return f"seed {self.seed}, lane {self.name}"

    def _kill(self) -> None:
        while self.to_kill:
            self.executor.kill(self.to_kill.pop())

    def _add(self, operation: Operation) -> None:
        self.open.append(operation)
        self.open_tasks += operation.tasks
        self.open_bytes += operation.size

    def _is_full(self) -> bool:
        return self.open_tasks > OPEN_TASKS or self.open_bytes > OPEN_BYTES

    def _is_done(self, operation: Operation) -> bool:
        return operation.future is not None and operation.future.done()

    def _settle(self) -> None:
        self._kill()  # else all workers might hang in what waits to be killed
        operation = self.open.popleft()
        self.open_tasks -= operation.tasks
        self.open_bytes -= operation.size
        about = f"{self}: {operation.kind} number {operation.number}"
        if operation.future is not None and wait([operation.future], STUCK_S).not_done:
            raise AssertionError(f"{about}: stuck, {operation.future!r} on {self.executor!r}")
        try:
            operation.check()
        except (Exception, CancelledError) as error:
            raise AssertionError(f"{about}: {type(error).__name__}: {str(error)[:2000]}") from error


def expect(condition: object, found: object) -> None:
    """Raise an AssertionError that shows what was found, but not megabytes of it."""
    if not condition:
        raise AssertionError(f"found {repr(found)[:500]}")


def error_of(future: Future[Any], *kinds: type[BaseException]) -> BaseException:
    """Return the exception of a done future, which must be one of these classes."""
    error = future.exception()
    expect(type(error) in kinds, error if error is not None else future.result())
    assert error is not None
    return error


# -- the kinds of operations


def bytes_there_and_back(lane: Lane, rng: random.Random, number: int) -> Operation:
    """Argument and result from nothing to 2 MB, small ones more often; some take a while."""
    size, back = (int(LARGEST ** rng.random()) - 1 for _ in range(2))
    nap = rng.uniform(0, 0.05) if rng.random() < 0.05 else 0.0
    given = blob(-number, size)
    future = rng.choice(lane.views).submit(turn, number, given, back, nap)
    crc = zlib.crc32(given)

    def check() -> None:
        expect(future.result() == (crc, blob(number, back)), future)

    return Operation("bytes", number, check, future, size=size + back)


def array(lane: Lane, rng: random.Random, number: int) -> Operation:
    """A numpy array, where numpy is; the result is writable."""
    try:
        import numpy
    except ImportError:
        return marked(lane, rng, number)
    given = numpy.random.default_rng(number).integers(0, 1000, int(200_000 ** rng.random()))
    future = rng.choice(lane.views).submit(double, given)

    def check() -> None:
        result = future.result()
        expect(numpy.array_equal(result, given * 2) and result.flags.writeable, result)

    return Operation("array", number, check, future, size=2 * given.nbytes)


def marked(lane: Lane, rng: random.Random, number: int) -> Operation:
    """With one attempt, a task runs once."""
    future = lane.views[1].submit(step, lane.path(number))
    return Operation("marked", number, lambda: expect(future.result() == 1, future), future)


def cancelled(lane: Lane, rng: random.Random, number: int) -> Operation:
    """A cancelled task never runs; one that could not be cancelled has its result."""
    future = rng.choice(lane.views[:2]).submit(step, lane.path(number))
    if future.cancel():
        lane.never.append(Path(lane.path(number)))
        return Operation("cancelled", number, lambda: expect(future.cancelled(), future), future)
    return Operation("cancelled", number, lambda: expect(future.result() == 1, future), future)


def killed(lane: Lane, rng: random.Random, number: int) -> Operation:
    """`kill` at once: the task is cancelled, ended, or was done."""
    future = rng.choice(lane.views).submit(turn, number, b"", 10)
    there = lane.executor.kill(future)

    def check() -> None:
        if not there or (not future.cancelled() and future.exception() is None):
            expect(future.result() == (0, blob(number, 10)), future)
        elif not future.cancelled():
            error_of(future, TaskKilled)

    return Operation("killed", number, check, future)


def in_company(
    lane: Lane, rng: random.Random, number: int, view: MecaExecutor, guilty: MecaExecutor, **deeds: Any
) -> tuple[Future[int], Sequence[Future[int]]]:
    """Submit a task that will come to harm among tasks that have one attempt and must not; return it and them."""
    paths = [lane.path(next(lane.extra)) for _ in range(rng.randint(0, 40))]
    once, half = view.options(retry=1), rng.randint(0, len(paths))
    before = [once.submit(step, path) for path in paths[:half]]
    future = guilty.submit(step, lane.path(number), **deeds)
    return future, before + [once.submit(step, path) for path in paths[half:]]


def check_company(company: Sequence[Future[int]]) -> None:
    """Each must have run once."""
    late = wait(company, STUCK_S).not_done
    expect(not late, f"stuck beside it: {late}")
    for other in company:
        expect(other.result() == 1, f"beside it: {other}")


def killed_while_it_hangs(lane: Lane, rng: random.Random, number: int) -> Operation:
    """`kill` after the next operation: nothing else ends this one."""
    future, company = in_company(lane, rng, number, lane.executor, lane.executor, hangs=True)
    lane.to_kill.append(future)

    def check() -> None:
        expect(future.cancelled() or error_of(future, TaskKilled), future)
        check_company(company)

    return Operation("hangs", number, check, future, 1 + len(company))


def timed_out(lane: Lane, rng: random.Random, number: int) -> Operation:
    """A task over its limit is a TaskTimeout."""
    view = lane.executor.options(timeout=LIMIT_S)
    future, company = in_company(lane, rng, number, view, view.options(retry=rng.randint(1, 3)), hangs=True)

    def check() -> None:
        error_of(future, TaskTimeout)
        check_company(company)

    return Operation("timed out", number, check, future, 1 + len(company))


def dies(lane: Lane, rng: random.Random, number: int) -> Operation:
    """A task that loses its workers is tried as often as its view says, no more and no less."""
    deaths, attempts, view = rng.randint(1, 3), rng.randint(1, 4), lane.executor
    deeds: dict[str, Any] = {"deaths": deaths, "by_signal": rng.random() < 0.5}
    future, company = in_company(lane, rng, number, view, view.options(retry=attempts), **deeds)

    def check() -> None:
        if attempts > deaths:
            expect(future.result() == deaths + 1, future)
        else:
            error_of(future, WorkerDied)
        ran = Path(lane.path(number)).stat().st_size
        expect(ran == min(deaths + 1, attempts), f"{ran} runs of {attempts}, {deaths} to die")
        check_company(company)

    return Operation("dies", number, check, future, 1 + len(company))


def raises(lane: Lane, rng: random.Random, number: int) -> Operation:
    """The user's own exception, with its arguments and where it was raised."""
    future = rng.choice(lane.views).submit(stumble, number)

    def check() -> None:
        error = error_of(future, Trouble)
        expect(error.args == (number, "stumbled") and "in stumble" in str(error.__cause__), error)

    return Operation("raises", number, check, future)


def cannot_travel(lane: Lane, rng: random.Random, number: int) -> Operation:
    """Argument or result cannot be pickled."""
    view = rng.choice(lane.views)
    lock: Any = threading.Lock()
    future: Future[Any] = view.submit(make_lock, number) if rng.random() < 0.5 else view.submit(str, lock)
    return Operation(
        "cannot travel", number, lambda: expect("lock" in str(error_of(future, TypeError)), future), future
    )


def closure(lane: Lane, rng: random.Random, number: int) -> Operation:
    """What a closure refers to is sent as it is at the call."""
    seen = [number] * rng.randint(1, 50)
    count = len(seen)
    future = rng.choice(lane.views).submit(lambda more: [*seen, more], number)
    seen.clear()
    return Operation("closure", number, lambda: expect(future.result() == [number] * (count + 1), future), future)


def prints(lane: Lane, rng: random.Random, number: int) -> Operation:
    """What a task prints is there when its future is done."""
    word = f"{lane.name} {number}"
    future = rng.choice(lane.views).submit(say, word)

    def check() -> None:
        expect(future.result() == word and word in lane.printed.words, f"no {word!r} among what was printed")

    return Operation("prints", number, check, future)


def burst(lane: Lane, rng: random.Random, number: int) -> Operation:
    """Many at once, taken as they complete."""
    count = rng.randint(2, 300)
    futures: dict[Future[Any], int] = {rng.choice(lane.views).submit(pow, n, 2): n for n in range(count)}

    def check() -> None:
        for future in as_completed(futures, STUCK_S):
            expect(future.result() == futures[future] ** 2, future)

    return Operation("burst", number, check, tasks=count)


def mapped(lane: Lane, rng: random.Random, number: int) -> Operation:
    """A `map` of any length, with or without something bad somewhere in it, read to its end or given up."""
    count = rng.choice([0, 1, 2, rng.randint(3, 40), rng.randint(3, 600)])
    how = rng.choices(["raises", "hangs", "dies once", "is slow", "is nothing"], [6, 1, 1, 3, 5])[0]
    bad = rng.randrange(count) if count else 0
    view = lane.executor.options(timeout=LIMIT_S) if how == "hangs" else rng.choice(lane.views[::2])
    fixed = itertools.repeat(lane.path(number)), range(count), itertools.repeat(bad), itertools.repeat(how)
    results = view.map(item, *fixed, timeout=HANG_S)
    stop = rng.randrange(count) if count and rng.random() < 0.3 else count
    return Operation("mapped", number, lambda: check_map(results, count, stop, bad, how), tasks=count)


def check_map(results: Iterator[Any], count: int, stop: int, bad: int, how: str) -> None:
    """Read `stop` of `count` results; the bad item is an error at its place if it is of that kind."""
    errors: dict[str, type[Exception]] = {"raises": Trouble, "hangs": TaskTimeout}
    error = errors.get(how)
    for number in range(stop):
        if error is not None and number == bad:
            try:
                found = next(results)
            except error:
                expect(next(results, None) is None, "a result behind an error")
                return
            raise AssertionError(f"item {number} of {count} should be a {error.__name__}, not {found!r}")
        expect((found := next(results)) == (number, blob(number, number % 50)), (number, count, how, found))
    if stop == count:
        expect((found := next(results, None)) is None, found)


Begin = Callable[[Lane, random.Random, int], Operation]
#: name -> function and weight; what ends a worker is rare, as a start takes far longer than a task
KINDS: dict[str, tuple[Begin, float]] = {
    "bytes": (bytes_there_and_back, 40),
    "array": (array, 3),
    "marked": (marked, 15),
    "cancelled": (cancelled, 8),
    "killed": (killed, 1),
    "hangs": (killed_while_it_hangs, 0.3),
    "timed out": (timed_out, 0.2),
    "dies": (dies, 0.4),
    "raises": (raises, 6),
    "cannot travel": (cannot_travel, 2),
    "closure": (closure, 6),
    "prints": (prints, 5),
    "burst": (burst, 0.5),
    "mapped": (mapped, 2),
}


def soak(endpoint: str, names: list[str], seed: str, seconds: float, folder: Path) -> Counter[str]:
    """Work on one executor from so many lanes as there are names; return how many operations there were of each kind.

    Raises:
        AssertionError: As `Lane.run`.
    """
    printed = Printed()
    ours = MecaExecutor(endpoint, max_workers=2, output=printed)
    with ours as executor, ThreadPoolExecutor(len(names)) as threads:
        lanes = [Lane(executor, name, seed, folder, printed) for name in names]
        running = [threads.submit(lane.run, seconds) for lane in lanes]
        try:
            return sum((future.result() for future in as_completed(running)), Counter())
        except BaseException:
            executor.kill_workers()  # what is open may never end
            raise
