"""`map` that is given up, shared between threads or read lazily, however its items travel."""

from __future__ import annotations

import gc
import itertools
import os
import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.waiting import LIMIT

from . import tasks
from .kinds import Kind, not_processes, only_ours
from .rooms import Room
from .test_map_chunks import die_until, fail_at, take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meca_executor import MecaExecutor

    from .printing import Lines


def work(folder: str, number: int) -> int:
    """Work for 5 ms and write it down."""
    time.sleep(0.005)
    Room(folder).enter(number)
    return number


def say_number(number: int) -> int:
    """Print and return an item."""
    print(f"<item {number}>")  # noqa: T201  (printing is what is tested)
    return number


def say_and_fail(number: int, bad: int) -> int:
    """Print an item; then raise, in one of them."""
    say_number(number)
    return fail_at(number, bad)


def say_and_die(number: int, bad: int) -> int:
    """Print an item; then end this process, in one of them."""
    say_number(number)
    if number == bad:
        os._exit(5)
    return number


def counting(read: list[int], most: int | None = None) -> Iterator[int]:
    """Yield 0, 1, 2, ... and write down what was asked for."""
    for number in itertools.count() if most is None else range(most):
        read.append(number)
        yield number


def ran_once(room: Room) -> int:
    """Return how many items ran; none did twice."""
    entered = room.entered()
    assert len(set(entered)) == len(entered), Counter(entered).most_common(3)
    return len(entered)


@pytest.fixture
def lazily(pool: Executor) -> Callable[..., Iterator[Any]]:
    """Return `pool.map`, untyped: the stubs of this Python may not know `buffersize`."""
    return pool.map


# -- given up


@pytest.mark.parametrize("way", ["closed", "dropped"])
def test_an_iterator_that_is_given_up(make: Callable[..., Executor], room: Room, way: str) -> None:
    """Half-way through, what has not begun is cancelled, and the executor goes on."""
    pool = make(max_workers=2)
    results = pool.map(work, itertools.repeat(str(room.folder)), range(600), timeout=LIMIT)
    assert take(results, 30) == list(range(30))
    if way == "closed":
        results.close()  # type: ignore[attr-defined]
        assert next(results, "end") == "end"
    else:
        del results
        gc.collect()
    assert pool.submit(abs, -1).result(LIMIT) == 1
    pool.shutdown()
    assert 30 <= ran_once(room) < 300


def test_an_iterator_that_nobody_read(make: Callable[..., Executor], room: Room) -> None:
    """One that was never asked for a result and is dropped does its work all the same."""
    pool = make(max_workers=2)
    pool.map(work, itertools.repeat(str(room.folder)), range(60))
    gc.collect()
    pool.shutdown()
    assert ran_once(room) == 60


def test_shutdown_that_waits_does_all(make: Callable[..., Executor], room: Room) -> None:
    """`shutdown()` in the middle of a `map` returns when all items are done; their results can be read then."""
    pool = make(max_workers=2)
    results = pool.map(work, itertools.repeat(str(room.folder)), range(100))
    assert next(results) == 0
    pool.shutdown()
    assert ran_once(room) == 100
    assert list(results) == list(range(1, 100))


@pytest.mark.parametrize("begun", [0, 40])
def test_shutdown_that_cancels(make: Callable[..., Executor], room: Room, begun: int) -> None:
    """`shutdown(cancel_futures=True)`: what ran has its results, in order, then there is a CancelledError."""
    pool = make(max_workers=2)
    results = pool.map(work, itertools.repeat(str(room.folder)), range(600), timeout=LIMIT)
    given = take(results, begun)
    pool.shutdown(cancel_futures=True)
    with pytest.raises(CancelledError):
        given.extend(results)
    count = ran_once(room)
    assert begun <= count < 300
    assert given == list(range(len(given)))
    assert next(results, "end") == "end"


@only_ours
def test_kill_workers(make: Callable[..., MecaExecutor], room: Room) -> None:
    """`kill_workers()` ends the iterator with an error: it does not wait for what never comes."""
    from meca_executor import ExecutorClosed

    pool = make(max_workers=2)
    results = pool.map(tasks.stay, itertools.repeat(str(room.folder)), range(100), timeout=LIMIT)
    room.await_count(2)
    pool.kill_workers()
    with pytest.raises(ExecutorClosed):
        next(results)


def test_an_executor_that_nobody_holds(kind: Kind, room: Room) -> None:
    """Only the iterator is kept: all items are done, and the executor ends by itself."""
    results = kind.make(max_workers=2).map(work, itertools.repeat(str(room.folder)), range(80), timeout=LIMIT)
    assert next(results) == 0
    gc.collect()
    assert list(results) == list(range(1, 80))
    assert ran_once(room) == 80


@only_ours
def test_an_executor_that_nobody_holds_and_a_buffer(kind: Kind) -> None:
    """An iterator that reads lazily keeps no executor: it gives what was submitted, and ends."""
    results = kind.make(max_workers=1).map(abs, itertools.count(), buffersize=5, timeout=LIMIT)  # type: ignore[call-arg]
    given = list(results)
    assert given == list(range(len(given)))
    assert 5 <= len(given) < 1000


# -- side by side


def test_two_maps_from_two_threads(pool: Executor) -> None:
    """Each gets its own results, in its own order, and an error of one is not seen by the other."""
    start = threading.Barrier(2, timeout=LIMIT)

    def read(bad: int) -> list[int]:
        start.wait()
        given = []
        try:
            for number in pool.map(fail_at, range(1500), itertools.repeat(bad), timeout=60):
                given.append(number)  # noqa: PERF402  (kept when an error comes)
        except LookupError as error:
            given.append(-error.args[1])
        return given

    with ThreadPoolExecutor(2) as threads:
        whole, broken = threads.map(read, [-1, 700])
    assert whole == list(range(1500))
    assert broken == [*range(700), -700]


def test_two_maps_read_in_turn(pool: Executor) -> None:
    """One thread may read several iterators, a result from each in turn."""
    maps = [pool.map(divmod, range(500), itertools.repeat(n), timeout=60) for n in (3, 5, 7)]
    for number, given in enumerate(zip(*maps, strict=True)):
        assert given == tuple(divmod(number, n) for n in (3, 5, 7))


def test_one_iterator_and_submits_from_other_threads(pool: Executor) -> None:
    """Calls that are submitted while a `map` goes on are not held up by it, and get their own results."""
    over = threading.Event()

    def submit() -> list[int]:
        given: list[int] = []
        while not over.is_set() or not given:
            given.append(pool.submit(tasks.multiply, len(given), 3).result(LIMIT))
        return given

    with ThreadPoolExecutor(2) as threads:
        others = [threads.submit(submit) for _ in range(2)]
        try:
            assert list(pool.map(tasks.multiply, range(2000), itertools.repeat(2), timeout=60)) == [*range(0, 4000, 2)]
        finally:
            over.set()
        for other in others:
            given = other.result(LIMIT)
            assert given == [*range(0, 3 * len(given), 3)]


@not_processes  # its workers take turns strictly in the order of submission
@pytest.mark.parametrize("count", [2000])
def test_a_submit_behind_a_slow_map(make: Callable[..., Executor], room: Room, count: int) -> None:
    """A call submitted behind a `map` runs when all its items have begun, though the slow one still runs."""
    pool = make(max_workers=2)
    results = pool.map(abs, range(-count, 0), timeout=LIMIT)
    held = pool.map(tasks.stay, [str(room.folder)], ["held"], timeout=LIMIT)
    behind = pool.submit(abs, -1)
    room.await_count(1)
    assert behind.result(LIMIT) == 1
    assert list(results) == list(range(count, 0, -1))
    room.open()
    assert list(held) == ["held"]


# -- lazily


@only_ours
@pytest.mark.parametrize("buffersize", [1, 10, 500])
def test_a_buffer_bounds_what_is_read(lazily: Callable[..., Iterator[Any]], buffersize: int) -> None:
    """However quick the items are, no more are read than taken and buffered, and one."""
    read: list[int] = []
    results = lazily(abs, counting(read), buffersize=buffersize, timeout=LIMIT)
    for taken in range(1, 1200):
        assert next(results) == taken - 1
        assert len(read) <= taken + buffersize + 1
    results.close()  # type: ignore[attr-defined]
    assert next(results, "end") == "end"


@only_ours
def test_a_buffer_behind_a_slow_item(lazily: Callable[..., Iterator[Any]], room: Room) -> None:
    """While the first item runs, those in the buffer are done, and no others."""
    stay_first = _StayFirst(str(room.folder))
    results = lazily(stay_first, counting([]), buffersize=20, timeout=LIMIT)
    assert sorted(map(int, room.await_count(20))) == list(range(20))
    room.open()
    assert take(results, 100) == list(range(100))
    results.close()  # type: ignore[attr-defined]


class _StayFirst:
    """Waits for the door in item 0; writes all down."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __call__(self, number: int) -> int:
        (tasks.stay if number == 0 else tasks.enter)(self.folder, number)
        return number


@only_ours
def test_a_buffer_and_an_error(lazily: Callable[..., Iterator[Any]]) -> None:
    """The error comes at its place, and nothing is read after it."""
    read: list[int] = []
    results = lazily(fail_at, counting(read), itertools.repeat(300), buffersize=50, timeout=LIMIT)
    assert take(results, 300) == list(range(300))
    with pytest.raises(LookupError):
        next(results)
    seen = len(read)
    assert next(results, "end") == "end"
    assert len(read) == seen <= 352


@only_ours
def test_a_buffer_and_workers_that_die(lazily: Callable[..., Iterator[Any]], room: Room) -> None:
    """Items that lose their workers are tried again, whatever the buffer."""
    deaths = {5: 1, 60: 2}
    fixed = itertools.repeat(str(room.folder)), counting([], 120), itertools.repeat(deaths)
    assert list(lazily(die_until, *fixed, buffersize=30, timeout=LIMIT)) == list(range(120))
    assert Counter(room.entered()) == Counter({str(n): 1 + deaths.get(n, 0) for n in range(120)})


# -- what items print


@only_ours
@pytest.mark.parametrize("end", [say_and_fail, say_and_die])
def test_prints_come_before_results(talker: tuple[MecaExecutor, Lines], end: Callable[[int, int], int]) -> None:
    """What an item printed is there when its result is given, or its error."""
    pool, lines = talker
    view = pool.options(retry=1)
    results = view.map(end, range(300), itertools.repeat(250), timeout=LIMIT)
    for number in range(250):
        assert next(results) == number
        assert f"<item {number}>" in lines.text()
    with pytest.raises((LookupError, RuntimeError)):
        next(results)
    if end is say_and_fail:
        assert "<item 250>" in lines.text()
