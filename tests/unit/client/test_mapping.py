"""The results of `map`, over a thread pool of the standard library."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late  # before Python 3.11 another one than the builtin
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.client.mapping import results_in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def mapped(
    pool: ThreadPoolExecutor,
    fn: Callable[..., Any],
    calls: Iterator[tuple[Any, ...]],
    timeout: float | None = None,
    buffersize: int | None = None,
) -> Iterator[Any]:
    """Do what `MecaExecutor.map` does, with another executor's submit."""
    deadline = None if timeout is None else time.monotonic() + timeout
    return results_in_order(weakref.ref(pool), pool.submit, fn, calls, deadline, buffersize)


class Watched:
    """Argument tuples that count how many were read."""

    def __init__(self, most: int | None = None) -> None:
        self.read = 0
        self.most = most

    def __iter__(self) -> Iterator[tuple[int]]:
        for number in itertools.count() if self.most is None else range(self.most):
            self.read += 1
            yield (number,)


def test_results_come_in_the_order_of_the_calls(pool: ThreadPoolExecutor) -> None:
    """Whatever ends first."""
    first = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            first.wait(10)
        elif number == 1:
            first.set()
        return number * 10

    assert list(mapped(pool, work, iter(Watched(10)))) == list(range(0, 100, 10))


def test_calls_may_have_several_arguments(pool: ThreadPoolExecutor) -> None:
    """As of the builtin `map`."""
    assert list(mapped(pool, pow, zip([2, 3], [4, 2], strict=True))) == [16, 9]


def test_all_is_submitted_at_once(pool: ThreadPoolExecutor) -> None:
    """DESIGN rule 13: at the call, before anyone asks for a result."""
    calls = Watched(50)
    mapped(pool, int, iter(calls))
    assert calls.read == 50


@pytest.mark.parametrize("buffersize", [1, 3, 100])
def test_with_a_buffer_calls_are_read_as_results_are_asked_for(pool: ThreadPoolExecutor, buffersize: int) -> None:
    """So many are ahead; an endless iterable will do."""
    calls = Watched()
    results = mapped(pool, int, iter(calls), buffersize=buffersize)
    assert calls.read == buffersize
    assert list(itertools.islice(results, 5)) == [0, 1, 2, 3, 4]
    assert calls.read == buffersize + 5


def test_a_buffer_larger_than_the_input_gives_all_of_it(pool: ThreadPoolExecutor) -> None:
    """Each result once."""
    assert list(mapped(pool, int, iter(Watched(3)), buffersize=10)) == [0, 1, 2]
    assert list(mapped(pool, int, iter(Watched(10)), buffersize=3)) == list(range(10))


def test_no_calls_give_no_results(pool: ThreadPoolExecutor) -> None:
    """Also with a buffer."""
    assert list(mapped(pool, int, iter(()))) == []
    assert list(mapped(pool, int, iter(()), buffersize=2)) == []


def test_an_error_comes_in_its_turn_and_cancels_the_rest(pool: ThreadPoolExecutor) -> None:
    """Results before it are given; what waits behind it is cancelled."""
    futures: list[Future[Any]] = []
    block = threading.Event()

    def submit(fn: Callable[..., Any], *args: Any) -> Future[Any]:
        futures.append(pool.submit(fn, *args))
        return futures[-1]

    def work(number: int) -> int:
        if number == 1:
            raise LookupError("the second")
        if number > 1:
            block.wait(10)
        return number

    results = results_in_order(weakref.ref(pool), submit, work, iter(Watched(20)), None, None)
    assert next(results) == 0
    with pytest.raises(LookupError, match="the second"):
        next(results)
    assert sum(future.cancelled() for future in futures) >= 16
    block.set()
    with pytest.raises(StopIteration):
        next(results)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_result_that_is_not_there_in_time(pool: ThreadPoolExecutor, timeout: float) -> None:
    """The time counts from the call, for all results together; the rest is cancelled."""
    block = threading.Event()
    futures: list[Future[Any]] = []

    def submit(fn: Callable[..., Any], *args: Any) -> Future[Any]:
        futures.append(pool.submit(fn, *args))
        return futures[-1]

    results = results_in_order(
        weakref.ref(pool), submit, lambda _: block.wait(10), iter(Watched(10)), time.monotonic() + timeout, None
    )
    try:
        with pytest.raises(Late):
            next(results)
        assert sum(future.cancelled() for future in futures) >= 8  # two threads may have begun one each
        assert all(future.cancelled() or future.running() for future in futures)
    finally:
        block.set()


def test_a_result_that_is_there_is_given_after_the_time(pool: ThreadPoolExecutor) -> None:
    """Late asking is not late coming."""
    results = mapped(pool, int, iter(Watched(1)), timeout=1e-9)
    pool.shutdown(wait=True)
    assert list(results) == [0]


def test_an_abandoned_iterator_cancels_the_rest(pool: ThreadPoolExecutor) -> None:
    """Who stops asking lets go of what has not begun."""
    block = threading.Event()
    futures: list[Future[Any]] = []

    def submit(fn: Callable[..., Any], *args: Any) -> Future[Any]:
        futures.append(pool.submit(fn, *args))
        return futures[-1]

    def work(number: int) -> int:
        if number:
            block.wait(10)
        return number

    try:
        results = results_in_order(weakref.ref(pool), submit, work, iter(Watched(10)), None, None)
        assert next(results) == 0
        del results
        gc.collect()
        assert sum(future.cancelled() for future in futures) >= 7  # two threads may have begun one each
        assert not any(future.cancel() for future in futures if not future.cancelled())
    finally:
        block.set()


def test_the_iterator_alone_keeps_no_executor_alive() -> None:
    """An executor that nobody holds any more can end; what was submitted is still given."""
    pool = ThreadPoolExecutor(1)
    alive = weakref.ref(pool)
    results = mapped(pool, int, iter(Watched(3)))
    assert next(results) == 0
    pool.shutdown(wait=True)
    del pool
    gc.collect()
    assert alive() is None
    assert list(results) == [1, 2]


def test_results_are_let_go_of_as_they_are_given(pool: ThreadPoolExecutor) -> None:
    """A long map does not keep in memory what its user has dropped."""

    class Result:
        pass

    results = mapped(pool, lambda _: Result(), iter(Watched(3)))
    seen = weakref.ref(next(results))
    next(results)
    pool.shutdown(wait=True)  # a thread lets go of a result a moment after it is given
    gc.collect()
    assert seen() is None


def test_what_a_submit_raises_comes_out(pool: ThreadPoolExecutor) -> None:
    """At the call, and from the iterator when the executor was shut down in between."""
    results = mapped(pool, int, iter(Watched()), buffersize=2)
    assert next(results) == 0
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        list(results)
    with pytest.raises(RuntimeError, match="after shutdown"):
        mapped(pool, int, iter(Watched()))
