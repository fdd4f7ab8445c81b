"""Futures: when `cancel` is true, and `wait` and `as_completed` over them."""

from __future__ import annotations

import concurrent.futures as cf
import itertools
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.waiting import LIMIT, wait_until

from . import tasks
from .kinds import across_processes, only_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meca_executor import MecaExecutor

    from .rooms import Room


@pytest.fixture
def silent() -> Iterator[str]:
    """Return the address of someone who takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def held(pool: cf.Executor, room: Room, count: int) -> list[cf.Future[Any]]:
    """Submit so many tasks that stay in the room."""
    return [pool.submit(tasks.stay, str(room.folder), n) for n in range(count)]


def test_cancel_what_has_not_begun(make: Callable[..., cf.Executor], room: Room) -> None:
    """A task in the queue can be cancelled; it never runs, and its future says so."""
    pool = make(max_workers=1)
    futures = held(pool, room, 12)
    room.await_count(1)
    last = futures[-1]
    assert last.cancel()
    assert last.cancel(), "cancelling twice is as good as once"
    assert (last.cancelled(), last.done(), last.running()) == (True, True, False)
    with pytest.raises(cf.CancelledError):
        last.result(LIMIT)
    with pytest.raises(cf.CancelledError):
        last.exception(LIMIT)
    room.open()
    assert [future.result(LIMIT) for future in futures[:-1]] == list(range(11))
    pool.shutdown()
    assert "11" not in room.entered()


def test_cancel_what_runs(pool: cf.Executor, room: Room) -> None:
    """A running task is not cancelled, and goes on to its result."""
    (future,) = held(pool, room, 1)
    room.await_count(1)
    wait_until(future.running, "future running")
    assert not future.cancel()
    assert not future.cancelled()
    room.open()
    assert future.result(LIMIT) == 0


def test_cancel_what_is_done(pool: cf.Executor) -> None:
    """A finished future cannot be cancelled and keeps its result."""
    future = pool.submit(abs, -1)
    assert future.result(LIMIT) == 1
    assert not future.cancel()
    assert future.result() == 1


@across_processes
def test_cancel_leaves_alone_what_was_handed_over(make: Callable[..., cf.Executor], room: Room) -> None:
    """Of long tasks, no more are beyond recall than run, and as many again and one that are ready to run."""
    pool = make(max_workers=2)
    futures = held(pool, room, 30)
    room.await_count(2)
    cancelled = [future for future in futures if future.cancel()]
    assert len(cancelled) >= 30 - 5
    assert cancelled == futures[-len(cancelled) :]
    assert all(future.running() for future in futures[: -len(cancelled)])
    room.open()
    kept = futures[: -len(cancelled)]
    assert [future.result(LIMIT) for future in kept] == list(range(len(kept)))


@only_ours
def test_cancel_before_a_first_time_is_known(make: Callable[..., cf.Executor], room: Room) -> None:
    """Until it has measured how long tasks take, the client keeps all but slots + 1 of them."""
    pool = make(max_workers=2)
    futures = held(pool, room, 30)
    room.await_count(2)
    assert sum(future.cancel() for future in futures) >= 30 - 3


@only_ours
def test_cancel_among_long_tasks(make: Callable[..., cf.Executor], room: Room) -> None:
    """When tasks are known to be long, all but slots + 1 of them stay cancellable."""
    pool = make(max_workers=2)
    assert list(pool.map(tasks.nap, [0.3] * 4, range(4), timeout=LIMIT)) == list(range(4))
    futures = held(pool, room, 30)
    room.await_count(2)
    assert sum(future.cancel() for future in futures) >= 30 - 3


@only_ours
@pytest.mark.timeout(30)
def test_cancel_before_there_is_a_connection(make: Callable[..., cf.Executor], silent: str) -> None:
    """Nothing waits for the connection but the tasks: `submit` and `cancel` do not, and `cancel` is true."""
    pool = make(endpoint=silent, connect_timeout=60.0)
    futures = [pool.submit(abs, n) for n in range(1000)]
    assert all(future.cancel() for future in futures)
    assert cf.wait(futures, timeout=LIMIT).not_done == set()


@only_ours
@pytest.mark.timeout(30)
def test_shutdown_before_there_is_a_connection(make: Callable[..., cf.Executor], silent: str) -> None:
    """With nothing to wait for, `shutdown` does not wait for the connection either."""
    pool = make(endpoint=silent, connect_timeout=60.0)
    future = pool.submit(abs, -1)
    pool.shutdown(cancel_futures=True)
    assert future.cancelled()


def test_cancelled_futures_end_waits(make: Callable[..., cf.Executor], room: Room) -> None:
    """`wait` and `as_completed` see cancelled futures as done, also those cancelled while they wait."""
    pool = make(max_workers=1)
    futures = held(pool, room, 10)
    room.await_count(1)
    assert all(future.cancel() for future in futures[5:])
    room.open()
    assert cf.wait(futures, timeout=LIMIT).not_done == set()
    assert set(cf.as_completed(futures, timeout=LIMIT)) == set(futures)


def test_callback_of_a_cancelled_future(make: Callable[..., cf.Executor], room: Room) -> None:
    """Cancelling calls the callbacks, once."""
    pool = make(max_workers=1)
    futures = held(pool, room, 8)
    room.await_count(1)
    called: list[cf.Future[Any]] = []
    futures[-1].add_done_callback(called.append)
    assert futures[-1].cancel()
    futures[-1].add_done_callback(called.append)
    room.open()
    pool.shutdown()
    assert called == [futures[-1]] * 2


def test_cancelling_from_many_sides(make: Callable[..., cf.Executor], room: Room) -> None:
    """While tasks flow, each future ends either cancelled and never run, or with its result."""
    pool = make(max_workers=2)
    futures = [pool.submit(tasks.enter, str(room.folder), n) for n in range(300)]
    cancelled = {n for n in range(0, 300, 3) if futures[n].cancel()}
    assert cf.wait(futures, timeout=LIMIT).not_done == set()
    pool.shutdown()
    ran = room.entered()
    assert sorted(map(int, ran)) == [n for n in range(300) if n not in cancelled]


def test_wait_for_all(pool: cf.Executor, room: Room) -> None:
    """`wait` returns when all are done, failed ones included."""
    futures: list[cf.Future[Any]] = [pool.submit(abs, -1), pool.submit(tasks.divide, 1, 0), *held(pool, room, 1)]
    assert futures[2] in cf.wait(futures, timeout=0.05).not_done
    room.open()
    assert cf.wait(futures, timeout=LIMIT) == (set(futures), set())


def test_wait_for_the_first(pool: cf.Executor, room: Room) -> None:
    """`FIRST_COMPLETED` returns while others still run."""
    (long,) = held(pool, room, 1)
    short = pool.submit(abs, -1)
    done, not_done = cf.wait([long, short], timeout=LIMIT, return_when=cf.FIRST_COMPLETED)
    assert (done, not_done) == ({short}, {long})


def test_wait_for_the_first_exception(pool: cf.Executor, room: Room) -> None:
    """`FIRST_EXCEPTION` returns at a failure while others still run."""
    (long,) = held(pool, room, 1)
    good, bad = pool.submit(abs, -1), pool.submit(tasks.divide, 1, 0)
    done, not_done = cf.wait([long, good, bad], timeout=LIMIT, return_when=cf.FIRST_EXCEPTION)
    assert bad in done and long in not_done


def test_as_completed_gives_them_as_they_end(pool: cf.Executor, room: Room) -> None:
    """`as_completed` gives what is done first, each future once, however often it was passed."""
    (long,) = held(pool, room, 1)
    room.await_count(1)
    short = pool.submit(abs, -1)
    order = cf.as_completed([long, short, long], timeout=LIMIT)
    assert next(order) is short
    room.open()
    assert list(order) == [long]


def test_as_completed_with_a_timeout(pool: cf.Executor, room: Room) -> None:
    """`as_completed` gives what is there, and then a TimeoutError."""
    (long,) = held(pool, room, 1)
    short = pool.submit(abs, -1)
    given: list[cf.Future[Any]] = []
    with pytest.raises(cf.TimeoutError, match=r"1 .*of 2.* unfinished"):
        given.extend(cf.as_completed([long, short], timeout=0.3))
    assert given == [] or given == [short]


def test_futures_of_several_executors(pool: cf.Executor, room: Room) -> None:
    """`wait` and `as_completed` take futures of different executors together."""
    with cf.ThreadPoolExecutor(1) as threads:
        mixed = list(itertools.chain(held(pool, room, 1), [threads.submit(abs, -5)]))
        done, not_done = cf.wait(mixed, timeout=LIMIT, return_when=cf.FIRST_COMPLETED)
        assert (done, not_done) == ({mixed[1]}, {mixed[0]})
        room.open()
        assert set(cf.as_completed(mixed, timeout=LIMIT)) == set(mixed)


@only_ours
def test_the_package_has_wait_and_as_completed(ours: MecaExecutor) -> None:
    """The names that go with futures can be imported from the package, and are the standard library's."""
    import meca_executor

    assert meca_executor.wait is cf.wait
    assert meca_executor.as_completed is cf.as_completed
    futures = ours.submit(abs, -1), ours.submit(abs, -2)
    assert {future.result() for future in meca_executor.as_completed(futures, timeout=LIMIT)} == {1, 2}


@only_ours
def test_kill_what_runs(make: Callable[..., MecaExecutor], room: Room) -> None:
    """`kill` ends a running task and its process; its future says so and others go on."""
    from meca_executor import TaskKilled
    from tests.helpers.processes import is_running

    pool = make(max_workers=2)
    victim = pool.submit(tasks.stay_as_pid, str(room.folder))
    (worker,) = map(int, room.await_count(1))
    others = [pool.submit(tasks.nap, 0.01, n) for n in range(5)]
    assert pool.kill(victim)
    assert isinstance(victim.exception(LIMIT), TaskKilled)
    wait_until(lambda: not is_running(worker), "worker of the killed task gone")
    assert [future.result(LIMIT) for future in others] == list(range(5))
    assert pool.submit(abs, -7).result(LIMIT) == 7


@only_ours
def test_kill_what_waits_and_what_is_done(make: Callable[..., MecaExecutor], room: Room) -> None:
    """`kill` ends a waiting task before it begins, and is False for a finished one."""
    from meca_executor import TaskKilled

    pool = make(max_workers=1)
    first, *rest = held(pool, room, 10)
    room.await_count(1)
    assert pool.kill(rest[0]) and pool.kill(rest[-1])
    for future in (rest[0], rest[-1]):
        assert cf.wait([future], timeout=LIMIT).done
        assert future.cancelled() or isinstance(future.exception(), TaskKilled)
        room.open()  # not before: the first one's turn must not come while the word is on its way
    assert first.result(LIMIT) == 0
    assert not pool.kill(first)
    pool.shutdown()
    assert room.entered() == [str(n) for n in range(10) if n not in (1, 9)]
