"""`shutdown` in all its forms, and executors that nobody shuts down."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import Executor, Future, as_completed, wait
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.waiting import LIMIT, wait_until

from . import tasks
from .kinds import Kind, not_processes, only_ours

if TYPE_CHECKING:
    from collections.abc import Callable

    from .rooms import Room

REFUSAL = "cannot schedule new futures after shutdown"


def test_submit_after_shutdown(make: Callable[..., Executor]) -> None:
    """After shutdown `submit` and `map` raise a RuntimeError in the standard library's words."""
    pool = make()
    pool.shutdown()
    with pytest.raises(RuntimeError, match=REFUSAL):
        pool.submit(pow, 2, 5)
    with pytest.raises(RuntimeError, match=REFUSAL):
        pool.map(abs, [1])


def test_submit_after_shutdown_that_does_not_wait(make: Callable[..., Executor], room: Room) -> None:
    """`shutdown(wait=False)` refuses new tasks while the old ones still run."""
    pool = make()
    future = pool.submit(tasks.stay, str(room.folder))
    room.await_count(1)
    pool.shutdown(wait=False)
    with pytest.raises(RuntimeError, match=REFUSAL):
        pool.submit(pow, 2, 5)
    room.open()
    assert future.result(LIMIT) == ""


def test_shutdown_of_what_was_never_used(make: Callable[..., Executor]) -> None:
    """An executor that had no task shuts down, at once after it was made."""
    make().shutdown()
    make().shutdown(wait=False)
    with make():
        pass


def test_shutdown_twice(make: Callable[..., Executor]) -> None:
    """Shutting down again does nothing."""
    pool = make()
    assert pool.submit(abs, -1).result(LIMIT) == 1
    for wait_for_it in (True, True, False):
        pool.shutdown(wait=wait_for_it)
    with pool:
        pass


def test_shutdown_waits_for_all(make: Callable[..., Executor]) -> None:
    """`shutdown()` returns when every task is done, those that had not begun included."""
    pool = make(max_workers=2)
    futures = [pool.submit(tasks.nap, 0.02, n) for n in range(30)]
    pool.shutdown()
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == list(range(30))


def test_shutdown_blocks_while_a_task_runs(make: Callable[..., Executor], room: Room) -> None:
    """`shutdown(wait=True)` does not return before the last task does."""
    pool = make()
    future = pool.submit(tasks.stay, str(room.folder), "x")
    room.await_count(1)
    order: list[str] = []
    future.add_done_callback(lambda _: order.append("task"))

    def close() -> None:
        pool.shutdown()
        order.append("shutdown")

    closer = threading.Thread(target=close)
    closer.start()
    wait_until(lambda: is_closed(pool), "shutdown begun")
    assert closer.is_alive()
    room.open()
    closer.join(LIMIT)
    assert order == ["task", "shutdown"]


def is_closed(pool: Executor) -> bool:
    """Return whether `submit` is refused; leaves a task behind when it is not."""
    try:
        pool.submit(abs, 0)
    except RuntimeError:
        return True
    return False


def test_leaving_the_context_waits(make: Callable[..., Executor]) -> None:
    """The end of a `with` block waits for its tasks, also when it ends by an exception."""
    with make() as pool:
        entered: object = pool
        first = pool.submit(tasks.nap, 0.05, 1)
    assert first.done() and isinstance(entered, Executor)
    with pytest.raises(LookupError), make() as pool:
        second = pool.submit(tasks.nap, 0.05, 2)
        raise LookupError
    assert (first.result(), second.result()) == (1, 2)


def test_shutdown_without_waiting(make: Callable[..., Executor], room: Room) -> None:
    """`shutdown(wait=False)` returns at once; running and waiting tasks are still done."""
    pool = make(max_workers=1)
    futures = [pool.submit(tasks.stay, str(room.folder), n) for n in range(8)]
    room.await_count(1)
    pool.shutdown(wait=False)
    assert not futures[0].done()
    room.open()
    assert [future.result(LIMIT) for future in futures] == list(range(8))


def test_shutdown_at_once_without_waiting(make: Callable[..., Executor]) -> None:
    """Tasks submitted immediately before `shutdown(wait=False)` are done."""
    pool = make()
    results = pool.map(abs, range(-20, 0), timeout=LIMIT)
    pool.shutdown(wait=False)
    assert list(results) == list(range(20, 0, -1))


@not_processes
def test_shutdown_that_waits_after_one_that_does_not(make: Callable[..., Executor], room: Room) -> None:
    """A later `shutdown(wait=True)` waits for what an earlier one left running."""
    pool = make()
    futures = [pool.submit(tasks.stay, str(room.folder), n) for n in range(5)]
    room.await_count(2)
    pool.shutdown(wait=False)
    opener = threading.Timer(0.1, room.open)
    opener.start()
    pool.shutdown(wait=True)
    opener.join()
    assert all(future.done() for future in futures)


def test_shutdown_that_cancels(make: Callable[..., Executor], room: Room) -> None:
    """`cancel_futures=True` cancels what has not begun; what runs goes to its end."""
    pool = make(max_workers=1)
    futures = [pool.submit(tasks.stay, str(room.folder), n) for n in range(30)]
    room.await_count(1)
    opener = threading.Timer(0.1, room.open)
    opener.start()
    pool.shutdown(cancel_futures=True)
    opener.join()
    check_cancelled(futures, room)


def test_shutdown_that_cancels_and_does_not_wait(make: Callable[..., Executor], room: Room) -> None:
    """`shutdown(wait=False, cancel_futures=True)` cancels before it returns."""
    pool = make(max_workers=1)
    futures = [pool.submit(tasks.stay, str(room.folder), n) for n in range(30)]
    room.await_count(1)
    pool.shutdown(wait=False, cancel_futures=True)
    # The process pool leaves it to a thread of its own, and so a moment later.
    wait_until(lambda: sum(future.cancelled() for future in futures) >= 27, "waiting futures cancelled")
    room.open()
    wait_until(lambda: all(future.done() for future in futures), "all futures done")
    check_cancelled(futures, room)


@only_ours
@pytest.mark.parametrize("wait_for_it", [True, False])
def test_shutdown_that_cancels_ends_waits(make: Callable[..., Executor], room: Room, wait_for_it: bool) -> None:
    """`wait` and `as_completed` see what shutdown cancelled (with the standard library's they wait for ever)."""
    pool = make(max_workers=1)
    futures = [pool.submit(tasks.stay, str(room.folder), n) for n in range(30)]
    room.await_count(1)
    room.open()
    pool.shutdown(wait=wait_for_it, cancel_futures=True)
    assert wait(futures, timeout=LIMIT).not_done == set()
    assert set(as_completed(futures, timeout=LIMIT)) == set(futures)


def check_cancelled(futures: list[Future[Any]], room: Room) -> None:
    """Assert that the last futures are cancelled and never ran, and the first have results."""
    assert all(future.done() for future in futures)
    kept = [future.result() for future in futures if not future.cancelled()]
    # Running: 1; handed over and ready to run: at most 2 (the process pool's rule).
    assert 1 <= len(kept) <= 3
    assert kept == list(range(len(kept)))
    assert room.entered() == [str(n) for n in kept]


def test_shutdown_after_a_quick_cancel(make: Callable[..., Executor]) -> None:
    """A future cancelled immediately before shutdown does not keep it waiting."""
    pool = make(max_workers=1)
    assert pool.submit(int).result(LIMIT) == 0
    future = pool.submit(int)
    future.cancel()
    pool.shutdown(wait=True)
    assert future.done()


def test_shutdown_from_a_callback(make: Callable[..., Executor]) -> None:
    """A done-callback may shut the executor down without waiting."""
    pool = make()
    closed = threading.Event()

    def close(_: Future[int]) -> None:
        pool.shutdown(wait=False)
        closed.set()

    pool.submit(tasks.nap, 0.02, 1).add_done_callback(close)
    assert closed.wait(LIMIT)
    with pytest.raises(RuntimeError, match=REFUSAL):
        pool.submit(int)


@not_processes
def test_shutdown_from_several_threads(make: Callable[..., Executor], room: Room) -> None:
    """Several threads may shut down at the same time; all return."""
    pool = make()
    future = pool.submit(tasks.stay, str(room.folder))
    room.await_count(1)
    threads = [threading.Thread(target=pool.shutdown) for _ in range(4)]
    for thread in threads:
        thread.start()
    room.open()
    for thread in threads:
        thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads)
    assert future.result(0) == ""


def test_forgotten_with_work_to_do(kind: Kind, room: Room) -> None:
    """When the last reference to an executor goes, its tasks are still done, and then it ends by itself."""
    pool = kind.make(max_workers=1)
    futures = [pool.submit(tasks.stay, str(room.folder), n) for n in range(6)]
    del pool
    gc.collect()
    room.open()
    assert [future.result(LIMIT) for future in futures] == list(range(6))


def test_forgotten_iterator_holder(kind: Kind) -> None:
    """The results of `map` arrive although only the iterator is kept."""
    results = kind.make(max_workers=2).map(abs, range(-10, 0), timeout=LIMIT)
    gc.collect()
    assert list(results) == list(range(10, 0, -1))


def test_forgotten_and_idle(kind: Kind) -> None:
    """An idle executor that nobody refers to any longer ends by itself."""
    pool = kind.make(max_workers=1)
    assert pool.submit(abs, -1).result(LIMIT) == 1
    del pool


def test_forgotten_unused(kind: Kind) -> None:
    """An executor that was made and dropped at once leaves nothing."""
    kind.make(max_workers=1)


@only_ours
def test_many_one_after_the_other(kind: Kind) -> None:
    """Executors made and shut down one after the other do not add up to anything."""
    for number in range(4):
        with kind.make(max_workers=1) as pool:
            assert pool.submit(abs, -number).result(LIMIT) == number


def test_two_at_once(make: Callable[..., Executor]) -> None:
    """Two executors work side by side, and the end of one does not touch the other."""
    first, second = make(), make()
    assert first.submit(abs, -1).result(LIMIT) == second.submit(abs, -1).result(LIMIT)
    first.shutdown()
    assert second.submit(abs, -2).result(LIMIT) == 2
