"""`map`: its order, when it submits and reads, and what becomes of the rest when it is given up."""

from __future__ import annotations

import gc
import itertools
import sys
import weakref
from concurrent.futures import Executor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.waiting import LIMIT, wait_until

from . import tasks
from .kinds import across_processes, every_kind, only_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .rooms import Room

#: the standard library's map has `buffersize` from Python 3.14 on
takes_buffersize = every_kind if sys.version_info >= (3, 14) else only_ours


@pytest.fixture
def buffered(pool: Executor) -> Callable[..., Iterator[Any]]:
    """Return `pool.map`, untyped: the stubs of this Python may not know `buffersize`."""
    return pool.map


def counted(limit: int | None = None) -> tuple[Iterator[int], list[int]]:
    """Return an iterator over 0, 1, 2, ... and the list of what was read from it so far."""
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count() if limit is None else range(limit):
            read.append(number)
            yield number

    return numbers(), read


def test_results_are_in_the_order_of_the_arguments(pool: Executor) -> None:
    """The first result is that of the first arguments, however long the others take."""
    naps = [0.05, 0, 0.02, 0, 0.01, 0]
    assert list(pool.map(tasks.nap, naps, range(6), timeout=LIMIT)) == list(range(6))


def test_several_iterables_and_the_shortest_ends(pool: Executor) -> None:
    """Arguments are taken from all iterables, as far as the shortest goes."""
    assert list(pool.map(pow, range(5), [2] * 9, timeout=LIMIT)) == [0, 1, 4, 9, 16]
    assert list(pool.map(pow, itertools.count(), [2, 2, 2], timeout=LIMIT)) == [0, 1, 4]


def test_nothing_to_do(pool: Executor) -> None:
    """`map` over nothing gives an empty iterator."""
    assert list(pool.map(abs, [])) == []
    assert list(pool.map(abs, [1], [])) == []


def test_gives_an_iterator(pool: Executor) -> None:
    """`map` gives an iterator, which is read once."""
    results = pool.map(abs, [-1, -2], timeout=LIMIT)
    assert iter(results) is results
    assert [next(results), next(results)] == [1, 2]
    assert next(results, "end") == "end"


@pytest.mark.parametrize("chunksize", [1, 3, 10, 100])
def test_chunks(pool: Executor, chunksize: int) -> None:
    """Any `chunksize` gives the same results, also one that does not divide or exceeds the count."""
    assert list(pool.map(pow, range(10), itertools.repeat(3), chunksize=chunksize, timeout=LIMIT)) == [
        n**3 for n in range(10)
    ]


@across_processes
@pytest.mark.parametrize("chunksize", [0, -1])
def test_chunks_of_nothing(pool: Executor, chunksize: int) -> None:
    """A `chunksize` below 1 is a ValueError at the call."""
    with pytest.raises(ValueError, match="chunksize"):
        pool.map(abs, [1], chunksize=chunksize)


def test_submits_at_the_call(pool: Executor, room: Room) -> None:
    """All tasks are submitted by the call itself, before anything is read from the iterator."""
    numbers, read = counted(12)
    results = pool.map(tasks.enter, itertools.repeat(str(room.folder)), numbers, timeout=LIMIT)
    assert read == list(range(12))
    room.await_count(12)
    assert list(results) == list(range(12))


def test_an_iterable_that_raises(pool: Executor) -> None:
    """An error of the iterable itself is raised by the call."""

    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("no more numbers")

    with pytest.raises(LookupError, match="no more numbers"):
        pool.map(abs, broken())
    assert pool.submit(abs, -3).result(LIMIT) == 3


def test_an_exception_comes_at_its_place(pool: Executor) -> None:
    """The results before a failed task are given, then its exception, then nothing."""
    results = pool.map(tasks.divide, [6, 6, 6, 6], [2, 3, 0, 6], timeout=LIMIT)
    assert [next(results), next(results)] == [3.0, 2.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_an_exception_in_a_chunk(pool: Executor) -> None:
    """A failed task in a chunk is raised when its chunk's turn comes, and no later."""
    results = pool.map(tasks.divide, [6] * 9, [1, 1, 1, 1, 0, 1, 1, 1, 1], chunksize=3, timeout=LIMIT)
    given = list(itertools.islice(results, 3))
    with pytest.raises(ZeroDivisionError):
        given += list(results)
    assert given == [6.0, 6.0, 6.0]


def test_timeout(pool: Executor, room: Room) -> None:
    """What is not there `timeout` seconds after the call is a TimeoutError; what is there comes before."""
    folder = str(room.folder)
    results = pool.map(tasks.capture, [1, 2], timeout=LIMIT)
    assert len(list(results)) == 2
    held = pool.map(tasks.stay, [folder, folder], [1, 2], timeout=0.1)
    with pytest.raises(FutureTimeoutError):
        next(held)


def test_the_rest_is_cancelled_when_given_up(make: Callable[..., Executor], room: Room) -> None:
    """Closing the iterator cancels what has not begun."""
    pool = make(max_workers=1)
    before = room.beside("before")
    blocker = pool.submit(tasks.stay, str(room.folder), "blocker")
    room.await_count(1)
    results = pool.map(tasks.enter, itertools.repeat(str(before.folder)), range(60), timeout=0.02)
    with pytest.raises(FutureTimeoutError):
        next(results)
    del results
    gc.collect()
    room.open()
    assert blocker.result(LIMIT) == "blocker"
    pool.shutdown()
    # Up to two had been handed over and count as running: as many as a process pool keeps ready.
    assert len(before.entered()) <= 3


def test_the_rest_is_cancelled_after_an_exception(make: Callable[..., Executor], room: Room) -> None:
    """A failed task cancels those after it that have not begun."""
    pool = make(max_workers=1)
    after = room.beside("after")
    failing = pool.map(fail_first, range(60), itertools.repeat(str(room.folder)), itertools.repeat(str(after.folder)))
    with pytest.raises(ZeroDivisionError):
        next(failing)
    room.open()
    pool.shutdown()
    assert len(after.entered()) < 30


def test_results_are_let_go(pool: Executor) -> None:
    """The iterator keeps no reference to a result that it has given."""
    for thing in pool.map(tasks.make_thing, range(10), timeout=LIMIT):
        reference = weakref.ref(thing)
        del thing
        wait_until(lambda ref=reference: gc.collect() is not None and ref() is None, "result freed")  # type: ignore[misc]


def test_many(pool: Executor) -> None:
    """Thousands of short tasks come back complete and in order."""
    assert list(pool.map(abs, range(-3000, 0), chunksize=1, timeout=60)) == list(range(3000, 0, -1))


@takes_buffersize
def test_buffersize_reads_as_results_are_taken(buffered: Callable[..., Iterator[Any]]) -> None:
    """With `buffersize` only so many arguments are read ahead, so that they may go on for ever."""
    numbers, read = counted()
    results = buffered(tasks.multiply, numbers, itertools.repeat(2), buffersize=3, timeout=LIMIT)
    assert read == [0, 1, 2]
    for taken in range(1, 8):
        assert next(results) == 2 * (taken - 1)
        assert taken <= len(read) - 2 <= taken + 1
    results.close()  # type: ignore[attr-defined]


@takes_buffersize
def test_buffersize_larger_than_the_work(buffered: Callable[..., Iterator[Any]]) -> None:
    """A buffer that is never full changes nothing."""
    assert list(buffered(abs, range(-4, 0), buffersize=100, timeout=LIMIT)) == [4, 3, 2, 1]


@takes_buffersize
@pytest.mark.parametrize(("buffersize", "chunksize"), [(1, 1), (2, 1), (5, 4), (1, 7)])
def test_buffersize_changes_no_result(buffered: Callable[..., Iterator[Any]], buffersize: int, chunksize: int) -> None:
    """All results come, in order, whatever the buffer and the chunks."""
    results = buffered(abs, range(-25, 0), buffersize=buffersize, chunksize=chunksize, timeout=LIMIT)
    assert list(results) == list(range(25, 0, -1))


@takes_buffersize
def test_buffersize_and_an_iterable_that_raises(buffered: Callable[..., Iterator[Any]]) -> None:
    """An error of the iterable is raised where it is read, and ends the iterator."""

    def broken() -> Iterator[int]:
        yield from range(5)
        raise LookupError("no more numbers")

    results = buffered(abs, broken(), buffersize=2, timeout=LIMIT)
    with pytest.raises(LookupError, match="no more numbers"):
        list(results)


@takes_buffersize
@pytest.mark.parametrize("buffersize", [0, -3])
def test_buffersize_of_nothing(buffered: Callable[..., Iterator[Any]], buffersize: int) -> None:
    """A `buffersize` below 1 is a ValueError at the call."""
    with pytest.raises(ValueError, match="buffersize"):
        buffered(abs, [1], buffersize=buffersize)


@takes_buffersize
@pytest.mark.parametrize("buffersize", ["3", 2.5])
def test_buffersize_of_another_type(buffered: Callable[..., Iterator[Any]], buffersize: object) -> None:
    """A `buffersize` that is no integer is a TypeError at the call."""
    with pytest.raises(TypeError, match="buffersize"):
        buffered(abs, [1], buffersize=buffersize)


@only_ours
def test_buffersize_when_given_up(buffered: Callable[..., Iterator[Any]], room: Room) -> None:
    """An abandoned lazy `map` reads and runs nothing more."""
    numbers, read = counted()
    results = buffered(tasks.enter, itertools.repeat(str(room.folder)), numbers, buffersize=2, timeout=LIMIT)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    seen = len(read)
    assert next(results, "end") == "end"
    assert len(read) == seen <= 4


def fail_first(number: int, folder: str, after: str) -> None:
    """Raise in the first task at once; let the others wait for the door, one after the other."""
    if number == 0:
        raise ZeroDivisionError
    tasks.stay(folder, number)
    tasks.enter(after, number)
