"""What the scripts time, and that the answers were right: a speed of wrong answers means nothing."""

from __future__ import annotations

import gc
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar, cast

from .peers import optional
from .tasks import noop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from concurrent.futures import Executor, Future

    from .questions import Figures

T = TypeVar("T")
MS, US = 1e3, 1e6  #: in a second
MIB = 1 << 20


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what `work` returns, and the seconds that it took."""
    gc.collect()
    began = perf_counter()
    result = work()
    return result, perf_counter() - began


def gather(executor: Executor, futures: Sequence[Future[T]]) -> list[T]:
    """Return all results in order, by the executor's own way of fetching many where it has one."""
    own = getattr(executor, "gather", None)
    return cast("list[T]", own(futures)) if own else [future.result() for future in futures]


def submit_all(executor: Executor, fn: Callable[[Any], T], values: Iterable[Any]) -> list[T]:
    """Submit one call a value, all at once, and return their results in order."""
    return gather(executor, [executor.submit(fn, value) for value in values])


def rate(work: Callable[[], Sequence[Any]], expected: Sequence[Any]) -> float:
    """Return answers a second of `work`, which gives as many answers as are expected."""
    answers, elapsed_s = timed(work)
    check(answers, expected)
    return len(expected) / elapsed_s


def latencies(call: Callable[[int], int], calls: int) -> list[float]:
    """Return the seconds of each of `calls` calls, made one after the other; each must give its number back."""
    gc.collect()
    took, answers = [], []
    for number in range(calls):
        began = perf_counter()
        answers.append(call(number))
        took.append(perf_counter() - began)
    check(answers, range(calls))
    return took


async def latencies_in_loop(call: Callable[[int], Awaitable[int]], calls: int) -> list[float]:
    """Return the same for a coroutine function, from inside of its loop."""
    gc.collect()
    took, answers = [], []
    for number in range(calls):
        began = perf_counter()
        answers.append(await call(number))
        took.append(perf_counter() - began)
    check(answers, range(calls))
    return took


def p50_and_p99(took: Sequence[float]) -> Figures:
    """Return the median and the 99th percentile of some seconds, in µs."""
    return {"p50": median(took) * US, "p99": quantiles(took, n=100)[98] * US}


def check(answers: Sequence[Any], expected: Sequence[Any]) -> None:
    """Refuse to report a speed for wrong answers."""
    if list(answers) != list(expected):
        raise RuntimeError("wrong answers; the figures would mean nothing")


def warm_up(executor: Executor, calls: int) -> None:
    """Make uncounted calls, so that workers are up, code paths warm and whatever a peer adapts has adapted."""
    check(submit_all(executor, noop, range(calls)), range(calls))
    check(list(executor.map(noop, range(calls))), range(calls))


def rss_bytes(*pids: int) -> int:
    """Return the resident memory of these processes together.

    Raises:
        Missing: psutil is not installed.
    """
    psutil = optional("psutil")
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)
