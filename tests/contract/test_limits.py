"""`timeout`, `retry` and `options`: how long an attempt may run, and what is tried again."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait
from typing import TYPE_CHECKING

import pytest
import tenacity

from tests.helpers.processes import is_running
from tests.helpers.waiting import LIMIT, wait_until

from . import tasks
from .kinds import only_ours
from .rooms import Room

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from meca_executor import MecaExecutor

pytestmark = only_ours

LONG_S = 3.0  #: for an attempt that has to begin before it is ended: on a busy machine a worker imports for a second


def hang(folder: str) -> None:
    """Write the attempt down and never return (within a test's patience)."""
    Room(folder).enter(os.getpid())
    time.sleep(60)


def fail_first(folder: str, times: int, error: Exception) -> int:
    """Raise in the first so many attempts; return which attempt succeeds."""
    room = Room(folder)
    room.enter("attempt")
    attempt = len(room.entered())
    if attempt <= times:
        raise error
    return attempt


def count_up(folder: str) -> int:
    """Return which attempt this is."""
    room = Room(folder)
    room.enter("attempt")
    return len(room.entered())


def test_timeout(pool: MecaExecutor, room: Room) -> None:
    """An attempt over its time is ended: TaskTimeout in the future, its process gone, others unharmed."""
    from meca_executor import TaskTimeout

    others = [pool.submit(tasks.nap, 0.01, n) for n in range(10)]
    future = pool.options(timeout=LONG_S).submit(hang, str(room.folder))
    others += [pool.submit(tasks.nap, 0.01, n) for n in range(10, 20)]
    with pytest.raises(TaskTimeout, match=r"3 s") as caught:
        future.result(LIMIT)
    assert isinstance(caught.value, TimeoutError)
    (worker,) = map(int, room.entered())
    wait_until(lambda: not is_running(worker), "worker of the ended attempt gone")
    assert [other.result(LIMIT) for other in others] == list(range(20))
    assert pool.submit(abs, -1).result(LIMIT) == 1


def test_timeout_is_no_timeout_of_result(pool: MecaExecutor, room: Room) -> None:
    """`timeout` of the executor ends the attempt; that of `result()` only the waiting."""
    future = pool.options(timeout=LIMIT).submit(tasks.stay, str(room.folder), "x")
    room.await_count(1)
    with pytest.raises(FutureTimeoutError):
        future.result(timeout=0.01)
    assert not future.done()
    room.open()
    assert future.result(LIMIT) == "x"


def test_timeout_of_the_executor(make: Callable[..., MecaExecutor], room: Room) -> None:
    """`timeout` given to the constructor holds for every task, for `map` too."""
    from meca_executor import TaskTimeout

    pool = make(max_workers=2, timeout=LONG_S)
    with pytest.raises(TaskTimeout):
        pool.submit(hang, str(room.folder)).result(LIMIT)
    with pytest.raises(TaskTimeout):
        list(pool.map(hang, [str(room.folder)] * 2))
    assert pool.submit(tasks.nap, 0.01, 5).result(LIMIT) == 5


def test_timeout_does_not_count_the_waiting(make: Callable[..., MecaExecutor]) -> None:
    """Time in the queue is not counted, on no side of the link."""
    pool = make(max_workers=1, timeout=LONG_S)
    futures = [pool.submit(tasks.nap, 0.6, n) for n in range(6)]
    assert [future.result(LIMIT) for future in futures] == list(range(6))


def test_timeout_does_not_count_the_start_of_workers(make: Callable[..., MecaExecutor]) -> None:
    """Nor is the time that workers and gateway take to start."""
    pool = make(max_workers=2, timeout=0.5)
    assert list(pool.map(abs, range(-5, 0))) == [5, 4, 3, 2, 1]


def test_timeout_of_a_task_that_ignores_signals(pool: MecaExecutor, room: Room) -> None:
    """A task that ignores SIGTERM and SIGINT is ended all the same."""
    from meca_executor import TaskTimeout

    def stubborn(folder: str) -> None:
        import signal

        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        while True:
            with contextlib.suppress(BaseException):
                hang(folder)

    with pytest.raises(TaskTimeout):
        pool.options(timeout=LONG_S).submit(stubborn, str(room.folder)).result(LIMIT)
    (worker,) = map(int, room.entered())
    wait_until(lambda: not is_running(worker), "worker of the ended attempt gone")


def test_user_errors_are_not_retried(pool: MecaExecutor, room: Room) -> None:
    """An int changes how often a lost attempt is made, never what is retried."""
    future = pool.options(retry=5).submit(fail_first, str(room.folder), 9, ValueError("mine"))
    with pytest.raises(ValueError, match="mine"):
        future.result(LIMIT)
    assert len(room.entered()) == 1


def test_timeouts_are_not_retried(pool: MecaExecutor, room: Room) -> None:
    """A TaskTimeout is final unless a `retry_if_*` says otherwise."""
    from meca_executor import TaskTimeout

    with pytest.raises(TaskTimeout):
        pool.options(timeout=LONG_S, retry=5).submit(hang, str(room.folder)).result(LIMIT)
    assert len(room.entered()) == 1


def test_timeouts_are_retried_when_asked(pool: MecaExecutor, room: Room) -> None:
    """With a `retry_if_*` that names it, TaskTimeout is retried, and is the error in the end."""
    from meca_executor import TaskTimeout

    retry = (tenacity.retry_if_exception_type(TaskTimeout), tenacity.stop_after_attempt(2))
    with pytest.raises(TaskTimeout):
        pool.options(timeout=LONG_S, retry=retry).submit(hang, str(room.folder)).result(LIMIT)
    assert len(room.entered()) == 2


def test_user_errors_are_retried_when_asked(pool: MecaExecutor, room: Room) -> None:
    """`retry_if_exception_type` retries that class, three attempts unless told otherwise."""
    retry = tenacity.retry_if_exception_type(ValueError)
    view = pool.options(retry=retry)
    assert view.submit(fail_first, str(room.folder), 2, ValueError("mine")).result(LIMIT) == 3
    other = room.beside("other")
    with pytest.raises(ValueError, match="mine"):
        view.submit(fail_first, str(other.folder), 9, ValueError("mine")).result(LIMIT)
    assert len(other.entered()) == 3
    another = room.beside("another")
    with pytest.raises(LookupError):
        view.submit(fail_first, str(another.folder), 9, LookupError("other")).result(LIMIT)
    assert len(another.entered()) == 1


def test_retry_stops(pool: MecaExecutor, room: Room) -> None:
    """`stop_*` objects, combined by tenacity's own operators, say when it is enough."""
    stop = tenacity.stop_after_attempt(4) | tenacity.stop_after_delay(60)
    view = pool.options(retry=(tenacity.retry_if_exception(lambda error: "mine" in str(error)), stop))
    with pytest.raises(ValueError, match="mine"):
        view.submit(fail_first, str(room.folder), 9, ValueError("mine")).result(LIMIT)
    assert len(room.entered()) == 4


def stamped_failure(folder: str) -> None:
    """Write down when the attempt was made, and raise."""
    Room(folder).enter(time.time())
    raise ValueError("mine")


def test_retry_waits(pool: MecaExecutor, room: Room) -> None:
    """`wait_*` objects set the time between attempts; other tasks run meanwhile."""
    retry = (tenacity.retry_if_exception_type(ValueError), tenacity.stop_after_attempt(3), tenacity.wait_fixed(0.3))
    slow = [pool.options(retry=retry).submit(stamped_failure, str(room.folder)) for _ in range(1)]
    room.await_count(1)
    assert list(pool.map(abs, range(-50, 0), timeout=LIMIT)) == list(range(50, 0, -1))
    assert isinstance(slow[0].exception(LIMIT), ValueError)
    times = [float(stamp) for stamp in room.entered()]
    assert len(times) == 3
    assert all(later - earlier >= 0.29 for earlier, later in itertools.pairwise(times))


def test_waiting_for_a_retry_takes_no_slot(make: Callable[..., MecaExecutor], room: Room) -> None:
    """With one worker, many tasks that wait to be tried again do not keep others from running."""
    retry = (tenacity.retry_if_exception_type(ValueError), tenacity.stop_after_attempt(2), tenacity.wait_fixed(1.0))
    pool = make(max_workers=1)
    waiting = [pool.options(retry=retry).submit(stamped_failure, str(room.folder)) for _ in range(5)]
    room.await_count(5)
    done = [pool.submit(abs, -n) for n in range(20)]
    assert wait(done, timeout=LIMIT).not_done == set()
    assert not any(future.done() for future in waiting)
    assert all(isinstance(future.exception(LIMIT), ValueError) for future in waiting)
    assert len(room.entered()) == 10


def test_shutdown_waits_for_retries(make: Callable[..., MecaExecutor], room: Room) -> None:
    """`shutdown(wait=True)` returns when the last attempt of the last task is over."""
    retry = (tenacity.retry_if_exception_type(ValueError), tenacity.wait_fixed(0.2))
    pool = make(max_workers=1, retry=retry)
    future = pool.submit(fail_first, str(room.folder), 2, ValueError("mine"))
    pool.shutdown()
    assert future.done() and future.result() == 3


def test_retry_by_result(pool: MecaExecutor, room: Room) -> None:
    """`retry_if_result` tries again until the result will do."""
    retry = (tenacity.retry_if_result(lambda number: number < 3), tenacity.stop_after_attempt(5))
    assert pool.options(retry=retry).submit(count_up, str(room.folder)).result(LIMIT) == 3
    assert len(room.entered()) == 3


def test_options_are_a_view(make: Callable[..., MecaExecutor], room: Room) -> None:
    """`options` leaves the executor itself as it was, and views can be made of views."""
    from meca_executor import TaskTimeout

    pool = make(max_workers=2)
    strict = pool.options(timeout=LONG_S)
    both = strict.options(retry=1)
    with pytest.raises(TaskTimeout):
        both.submit(hang, str(room.folder)).result(LIMIT)
    results: list[Any] = [
        pool.submit(tasks.nap, 1.1 * LONG_S, 1),
        strict.submit(tasks.nap, 0, 2),
        both.submit(tasks.nap, 0, 3),
    ]
    assert [future.result(LIMIT) for future in results] == [1, 2, 3]
    assert list(strict.map(abs, [-1, -2], timeout=LIMIT)) == [1, 2]
    assert both.options(timeout=None).submit(tasks.nap, 1.1 * LONG_S, 4).result(LIMIT) == 4


def test_options_after_shutdown(make: Callable[..., MecaExecutor]) -> None:
    """A view refuses new tasks when its executor is shut down."""
    pool = make(max_workers=1)
    view = pool.options(timeout=5)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        view.submit(abs, -1)


@pytest.mark.parametrize("wrong", [{"timeout": -1}, {"timeout": 0}, {"retry": 0}, {"resource": {"cpu": "two"}}])
def test_wrong_options(pool: MecaExecutor, wrong: dict[str, Any]) -> None:
    """A wrong option is refused at once, and named."""
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        pool.options(**wrong)


def test_unknown_option(pool: MecaExecutor) -> None:
    """An unknown option is a TypeError that names it."""
    with pytest.raises(TypeError, match="retries"):
        pool.options(retries=3)  # type: ignore[call-arg]
