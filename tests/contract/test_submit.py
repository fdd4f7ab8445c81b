"""`submit`: what it takes, what it gives, in which order and from where it may be called."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.waiting import LIMIT, wait_until

from . import tasks
from .kinds import Kind, across_processes, only_ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from meca_executor import MecaExecutor

    from .rooms import Room


def test_is_an_executor_and_gives_futures(pool: Executor) -> None:
    """An executor and its futures are instances of the standard library's classes."""
    future = pool.submit(pow, 2, 8)
    assert isinstance(pool, Executor)
    assert isinstance(future, Future)
    assert future.result(LIMIT) == 256


def test_positional_and_keyword_arguments(pool: Executor) -> None:
    """Arguments reach the function as they were given."""
    assert pool.submit(tasks.multiply, 2, y=8).result(LIMIT) == 16
    assert pool.submit(tasks.capture).result(LIMIT) == ((), {})


def test_keywords_named_as_the_parameters_of_submit(pool: Executor) -> None:
    """`self` and `fn` are the function's own keywords, not those of `submit`."""
    given = pool.submit(tasks.capture, 1, self=2, fn=3, args=4, kwargs=5)
    assert given.result(LIMIT) == ((1,), {"self": 2, "fn": 3, "args": 4, "kwargs": 5})


def test_keywords_named_as_options(pool: Executor) -> None:
    """Options of an executor are never keywords of `submit`: all of these are the function's own."""
    keywords = {"timeout": 1, "retry": 2, "resource": 3, "container_ref": 4, "runtime": 5, "task_id": 6, "chunksize": 7}
    assert pool.submit(tasks.capture, **keywords).result(LIMIT) == ((), keywords)


@pytest.mark.parametrize("keywords", [{}, {"fn": tasks.capture, "arg": 1}, {"arg": 1}])
def test_without_a_function(pool: Executor, keywords: dict[str, Any]) -> None:
    """`submit` without a positional function is a TypeError at once."""
    submit: Any = pool.submit
    with pytest.raises(TypeError):
        submit(**keywords)


def test_what_cannot_be_called(pool: Executor) -> None:
    """Something that is no function ends in a TypeError, at once or in the future."""
    with pytest.raises(TypeError):
        pool.submit("not a function", 1).result(LIMIT)  # type: ignore[arg-type]


def test_future_tells_its_end(pool: Executor) -> None:
    """A finished future is done, not running, not cancelled, and has no exception."""
    future = pool.submit(tasks.multiply, 6, 7)
    assert future.exception(LIMIT) is None
    assert (future.done(), future.running(), future.cancelled()) == (True, False, False)
    assert "state=finished returned int" in repr(future)


def test_exception_reaches_the_future(pool: Executor) -> None:
    """What the function raises is raised by `result()` and returned by `exception()`."""
    future = pool.submit(tasks.divide, 1, 0)
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        future.result(LIMIT)
    assert type(future.exception(LIMIT)) is ZeroDivisionError


def test_a_failed_task_harms_no_other(pool: Executor) -> None:
    """Tasks before, beside and after one that raises have their results."""
    futures = [pool.submit(tasks.divide, 10, n % 3) for n in range(12)]
    good = [future.result(LIMIT) for n, future in enumerate(futures) if n % 3]
    assert good == [10.0, 5.0] * 4
    assert all(isinstance(future.exception(LIMIT), ZeroDivisionError) for future in futures[::3])


def test_running_while_the_task_runs(pool: Executor, room: Room) -> None:
    """A future is running from the start of its task to its end."""
    future = pool.submit(tasks.stay, str(room.folder), "x")
    room.await_count(1)
    wait_until(future.running, "the future of a started task is running")
    assert not future.done()
    room.open()
    assert future.result(LIMIT) == "x"
    assert not future.running()


def test_result_with_a_timeout(pool: Executor, room: Room) -> None:
    """`result(timeout)` gives up in time, and the task goes on unharmed."""
    from concurrent.futures import TimeoutError as FutureTimeoutError

    future = pool.submit(tasks.stay, str(room.folder), "late")
    with pytest.raises(FutureTimeoutError):
        future.result(timeout=0.02)
    with pytest.raises(FutureTimeoutError):
        future.exception(timeout=0)
    room.open()
    assert future.result(LIMIT) == "late"


def test_one_worker_runs_tasks_in_order(make: Callable[..., Executor], room: Room) -> None:
    """Tasks start in the order in which they were submitted."""
    pool = make(max_workers=1)
    futures = [pool.submit(tasks.enter, str(room.folder), n) for n in range(50)]
    assert [future.result(LIMIT) for future in futures] == list(range(50))
    assert room.entered() == [str(n) for n in range(50)]


def test_no_more_tasks_at_once_than_workers(make: Callable[..., Executor], room: Room) -> None:
    """All workers work at the same time, and no more tasks run than there are workers."""
    pool = make(max_workers=2)
    both = [pool.submit(tasks.stay, str(room.folder), n) for n in range(2)]
    room.await_count(2)
    room.open()
    assert [future.result(LIMIT) for future in both] == [0, 1]
    crowds = list(pool.map(tasks.crowd, [str(room.folder)] * 40, range(40), timeout=LIMIT))
    assert max(crowds) <= 2


def test_submits_from_many_threads(pool: Executor) -> None:
    """Threads that submit at the same time all get their own results."""
    start = threading.Barrier(8)
    wrong: list[int] = []

    def submit_many(seed: int) -> None:
        start.wait(LIMIT)
        futures = [pool.submit(tasks.multiply, seed, n) for n in range(100)]
        wrong.extend(n for n, future in enumerate(futures) if future.result(LIMIT) != seed * n)

    threads = [threading.Thread(target=submit_many, args=(seed,)) for seed in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_callbacks_get_the_future_and_keep_their_order(pool: Executor, room: Room) -> None:
    """Callbacks are called with the future, in the order of `add_done_callback`, also when it is done already."""
    future = pool.submit(tasks.stay, str(room.folder), "x")
    calls: list[tuple[int, Future[object]]] = []
    future.add_done_callback(lambda done: calls.append((1, done)))
    future.add_done_callback(lambda done: calls.append((2, done)))
    assert calls == []
    room.open()
    wait_until(lambda: len(calls) == 2, "both callbacks called")
    future.add_done_callback(lambda done: calls.append((3, done)))
    assert calls == [(1, future), (2, future), (3, future)]


def test_callbacks_that_submit(pool: Executor) -> None:
    """A done-callback may submit the next task, and so on."""
    results: list[int] = []
    finished = threading.Event()

    def go_on(done: Future[int]) -> None:
        results.append(done.result())
        if len(results) == 20:
            finished.set()
        else:
            pool.submit(tasks.multiply, done.result() + 1).add_done_callback(go_on)

    pool.submit(tasks.multiply, 0).add_done_callback(go_on)
    assert finished.wait(LIMIT)
    assert results == list(range(20))


def test_a_callback_that_raises(pool: Executor, caplog: pytest.LogCaptureFixture) -> None:
    """An error in a callback is logged; other callbacks and tasks go on."""

    def break_down(_: Future[int]) -> None:
        raise RuntimeError("broken callback")

    called = threading.Event()
    with caplog.at_level(logging.ERROR, logger="concurrent.futures"):
        future = pool.submit(tasks.nap, 0.05, 1)
        future.add_done_callback(break_down)
        future.add_done_callback(lambda _: called.set())
        assert called.wait(LIMIT)
    assert "broken callback" in caplog.text
    assert pool.submit(tasks.multiply, 3, 4).result(LIMIT) == 12


def test_arguments_are_let_go(pool: Executor) -> None:
    """When its task is done, the executor keeps no reference to the arguments, nor to the function's object."""
    thing = tasks.Thing(1)
    gone = threading.Event()
    reference = weakref.ref(thing, lambda _: gone.set())
    assert pool.submit(thing.plus, 2).result(LIMIT) == 3
    del thing
    gc.collect()
    assert gone.wait(LIMIT), gc.get_referrers(reference())


def test_result_is_let_go(pool: Executor) -> None:
    """When the caller has dropped future and result, nothing else holds the result."""
    future = pool.submit(tasks.make_thing, 5)
    reference = weakref.ref(future.result(LIMIT))
    del future
    wait_until(lambda: gc.collect() is not None and reference() is None, "result freed")


@across_processes
def test_tasks_run_in_other_processes(pool: Executor) -> None:
    """No task runs in the caller's process."""
    import os

    assert os.getpid() not in set(pool.map(tasks.pid, range(20), timeout=LIMIT))


@across_processes
def test_the_result_is_a_copy(pool: Executor) -> None:
    """What comes back is equal to what was sent and never the same object."""
    sent = [1, {"a": (2.5, None)}, b"x", "é", {3}, frozenset({4}), tasks.Point(1, 2)]
    received = pool.submit(tasks.echo, sent).result(LIMIT)
    assert received == sent
    assert received is not sent


@only_ours
def test_a_future_of_our_own_can_be_made_by_hand(kind: Kind) -> None:
    """`MecaFuture()` makes a pending future without an executor, as the standard library's does."""
    from meca_executor import MecaFuture

    future: MecaFuture[int] = MecaFuture()
    assert "pending" in repr(future)
    assert future.cancel()


@only_ours
def test_an_unreachable_gateway_fails_in_the_future(kind: Kind) -> None:
    """`submit` raises nothing when nobody answers at the endpoint; the future says so, with the address."""
    from meca_executor import GatewayUnreachable

    with kind.make(endpoint="http://127.0.0.1:9", connect_timeout=0.3) as executor:
        future = executor.submit(pow, 2, 3)
        with pytest.raises(GatewayUnreachable, match=r"127\.0\.0\.1:9") as caught:
            future.result(LIMIT)
    assert isinstance(caught.value, ConnectionError)


@only_ours
def test_repr_tells_state_and_endpoint(ours: MecaExecutor, make: Callable[..., MecaExecutor]) -> None:
    """The executor prints its state and endpoint, and that it is closed after shutdown."""
    ours.submit(pow, 2, 3).result(LIMIT)
    assert repr(ours).startswith("<MecaExecutor")
    assert "connected" in repr(ours) and ours.endpoint in repr(ours)
    assert (ours.state, ours.slots, ours.dialect) == ("connected", 2, "native")
    assert ours.endpoint.startswith("http://127.0.0.1:")
    other = make(max_workers=1)
    other.shutdown()
    assert other.state == "closed" and "closed" in repr(other)
