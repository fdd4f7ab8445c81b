"""The results of `map`, in order."""

from __future__ import annotations

import collections
import itertools
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor, Future

T = TypeVar("T")


def results_in_order(
    executor: weakref.ref[Executor],
    submit: Callable[..., Future[T]],
    fn: Any,
    calls: Iterator[tuple[Any, ...]],
    deadline: float | None,
    buffersize: int | None,
) -> Iterator[T]:
    """Submit now (`buffersize` of them, or all) and return the iterator of results.

    Args:
        executor: Asked for at each further submit, so that an iterator alone keeps no executor alive.
        submit: The executor's; used during this call only.
        fn: What is called.
        calls: Argument tuples.
        deadline: When each result must be there, `time.monotonic()`.
        buffersize: Tasks ahead of the result asked for.
    """
    first = calls if buffersize is None else itertools.islice(calls, buffersize)
    futures = collections.deque(submit(fn, *args) for args in first)
    return _results(executor, fn, calls if buffersize is not None else iter(()), futures, deadline)


def _results(
    executor: weakref.ref[Executor],
    fn: Any,
    further: Iterator[tuple[Any, ...]],
    futures: collections.deque[Future[T]],
    deadline: float | None,
) -> Iterator[T]:
    try:
        while futures:
            owner = executor()
            if owner is not None and (args := next(further, None)) is not None:
                futures.append(owner.submit(fn, *args))
            del owner
            yield _result_of(futures.popleft(), deadline)
    finally:
        for future in futures:
            future.cancel()


def _result_of(future: Future[T], deadline: float | None) -> T:
    try:
        return future.result(None if deadline is None else deadline - time.monotonic())
    finally:
        future.cancel()  # it failed or was not there in time; no effect on one that is done
        del future  # no cycle through the traceback
