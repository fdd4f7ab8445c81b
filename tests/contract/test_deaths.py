"""Workers that die: only what they ran is lost, after its attempts."""

from __future__ import annotations

import ctypes
import os
import signal
from concurrent.futures import BrokenExecutor, wait
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.processes import embedded_gateways, is_running
from tests.helpers.waiting import LIMIT, wait_until

from . import tasks
from .kinds import HOST, not_on, only_ours
from .rooms import Room

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from meca_executor import MecaExecutor

pytestmark = only_ours
NO_GATEWAY = "the gateway of hosts is not the program's own; that it dies is in tests/integration/test_hosts.py"


def leave(_: object = None) -> None:
    """End this process with exit code 7."""
    os._exit(7)


def kill_self(_: object = None) -> None:
    """End this process by SIGKILL, as the system does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)


def segfault(_: object = None) -> None:
    """Read from address 0."""
    ctypes.string_at(0)


def abort(_: object = None) -> None:
    """End this process as a failed assertion of C code does."""
    os.abort()


def counted(folder: str, end: Callable[[], None]) -> None:
    """Write the attempt down, and die."""
    Room(folder).enter(os.getpid())
    end()


class DiesOnArrival:
    """Kills the process that unpickles it, if that is not the one given."""

    def __init__(self, spared: int) -> None:
        self.spared = spared

    def __reduce__(self) -> tuple[Any, ...]:
        return die_unless, (self.spared,)


def die_unless(spared: int) -> str:
    """End this process unless it is the one given."""
    if os.getpid() != spared:
        os._exit(9)
    return "spared"


class DiesWhenPickled:
    """Kills the process that pickles it."""

    def __reduce__(self) -> tuple[Any, ...]:
        os._exit(9)


WAYS = [(leave, "exit.*7"), (kill_self, "SIGKILL"), (segfault, "SIGSEGV"), (abort, "SIGABRT")]


@pytest.mark.parametrize(("end", "words"), WAYS, ids=[end.__name__ for end, _ in WAYS])
def test_a_task_that_kills_its_worker(pool: MecaExecutor, room: Room, end: Callable[[], None], words: str) -> None:
    """It is tried three times in three processes, then is a WorkerDied that says how; innocents succeed."""
    from meca_executor import WorkerDied

    others = [pool.submit(tasks.nap, 0.01, n) for n in range(10)]
    killer = pool.submit(counted, str(room.folder), end)
    others += [pool.submit(tasks.nap, 0.01, n) for n in range(10, 20)]
    with pytest.raises(WorkerDied, match=words) as caught:
        killer.result(LIMIT)
    assert isinstance(caught.value, BrokenExecutor)
    assert len(room.entered()) == len(set(room.entered())) == 3
    assert [other.result(LIMIT) for other in others] == list(range(20))
    assert pool.submit(abs, -1).result(LIMIT) == 1


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_attempts(pool: MecaExecutor, room: Room, attempts: int) -> None:
    """`retry=N` is N attempts in all; with 1, what kills its worker runs once."""
    from meca_executor import WorkerDied

    with pytest.raises(WorkerDied):
        pool.options(retry=attempts).submit(counted, str(room.folder), leave).result(LIMIT)
    assert len(room.entered()) == attempts


def die_at_first(folder: str, name: str) -> str:
    """Die in the first attempt, succeed in the second."""
    room = Room(folder)
    room.enter(name)
    if room.entered().count(name) == 1:
        os._exit(1)
    return name


def test_an_attempt_that_succeeds(pool: MecaExecutor, room: Room) -> None:
    """A task whose worker died once has its result from the second attempt."""
    futures = [pool.submit(die_at_first, str(room.folder), f"task{n}") for n in range(4)]
    assert [future.result(LIMIT) for future in futures] == [f"task{n}" for n in range(4)]
    assert sorted(room.entered()) == sorted([f"task{n}" for n in range(4)] * 2)


def test_innocents_of_the_same_worker(make: Callable[..., MecaExecutor], room: Room) -> None:
    """With one worker and a queue, each innocent task runs exactly once, in order."""
    from meca_executor import WorkerDied

    pool = make(max_workers=1)
    assert pool.submit(abs, -1).result(LIMIT) == 1
    before = [pool.submit(tasks.enter, str(room.folder), n) for n in range(20)]
    killer = pool.submit(leave)
    after = [pool.submit(tasks.enter, str(room.folder), n) for n in range(20, 40)]
    assert isinstance(killer.exception(LIMIT), WorkerDied)
    assert [future.result(LIMIT) for future in before + after] == list(range(40))
    assert sorted(map(int, room.entered())) == list(range(40))


def test_many_killers(pool: MecaExecutor) -> None:
    """Many tasks that kill, among many that do not: each has its own end."""
    from meca_executor import WorkerDied

    one_shot = pool.options(retry=1)
    futures: list[Future[Any]] = [one_shot.submit(leave) if n % 5 == 0 else pool.submit(abs, -n) for n in range(40)]
    assert wait(futures, timeout=LIMIT * 2).not_done == set()
    for n, future in enumerate(futures):
        if n % 5 == 0:
            assert isinstance(future.exception(), WorkerDied)
        else:
            assert future.result() == n


def test_killed_from_outside(pool: MecaExecutor, room: Room) -> None:
    """A worker killed while its task runs is replaced, and the task runs again."""
    future = pool.submit(tasks.stay_as_pid, str(room.folder))
    first = int(room.await_count(1)[0])
    os.kill(first, signal.SIGKILL)
    second = int(room.await_count(2)[1])
    room.open()
    assert first != second == future.result(LIMIT)


def test_killed_while_idle(make: Callable[..., MecaExecutor]) -> None:
    """Workers that are killed while they have nothing to do are replaced; no task fails."""
    pool = make(max_workers=2, retry=1)
    seen = set(pool.map(tasks.pid, range(20), timeout=LIMIT))
    for worker in seen:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, seen)), "workers dead")
    assert not seen.intersection(pool.map(tasks.pid, range(20), timeout=LIMIT))


def test_with_children_of_its_own(pool: MecaExecutor, room: Room) -> None:
    """When a worker is ended by a time limit, what its task started is ended with it."""
    from meca_executor import TaskTimeout

    future = pool.options(timeout=5.0).submit(start_child_and_stay, str(room.folder))
    worker, child = map(int, room.await_count(2))
    assert isinstance(future.exception(LIMIT), TaskTimeout)
    wait_until(lambda: not is_running(worker) and not is_running(child), "worker and its child gone")


def start_child_and_stay(folder: str) -> None:
    """Start a program that runs for a minute, and wait for it."""
    import subprocess
    import sys

    room = Room(folder)
    room.enter(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        room.enter(child.pid)


def test_dies_when_arguments_arrive(pool: MecaExecutor) -> None:
    """Arguments that kill the worker that reads them are a WorkerDied, and harm nobody else."""
    from meca_executor import WorkerDied

    others = [pool.submit(tasks.nap, 0.01, n) for n in range(10)]
    killer = pool.submit(tasks.echo, DiesOnArrival(spared=os.getpid()))
    others += [pool.submit(tasks.nap, 0.01, n) for n in range(10, 20)]
    assert isinstance(killer.exception(LIMIT), WorkerDied)
    assert [other.result(LIMIT) for other in others] == list(range(20))


def test_dies_when_the_result_is_pickled(pool: MecaExecutor) -> None:
    """A result that kills its worker on the way out is a WorkerDied, and harms nobody else."""
    from meca_executor import WorkerDied

    others = [pool.submit(tasks.nap, 0.01, n) for n in range(10)]
    killer = pool.submit(DiesWhenPickled)
    others += [pool.submit(tasks.nap, 0.01, n) for n in range(10, 20)]
    assert isinstance(killer.exception(LIMIT), WorkerDied)
    assert [other.result(LIMIT) for other in others] == list(range(20))


def test_closed_descriptors(pool: MecaExecutor) -> None:
    """A task that closes all descriptors of its worker is lost, or not; others are not."""
    others = [pool.submit(tasks.nap, 0.01, n) for n in range(10)]
    rude = pool.submit(os.closerange, 0, 200)
    others += [pool.submit(tasks.nap, 0.01, n) for n in range(10, 20)]
    assert wait([rude], timeout=LIMIT).done
    assert [other.result(LIMIT) for other in others] == list(range(20))


def gateway_of(pool: MecaExecutor) -> int:
    """Return the process id of the embedded gateway of this executor, which is the last that was made."""
    assert pool.submit(tasks.pid).result(LIMIT)
    return embedded_gateways()[-1]


@not_on(HOST, why=NO_GATEWAY)
def test_the_gateway_dies_once(make: Callable[..., MecaExecutor], room: Room) -> None:
    """The embedded gateway is restarted, and running and waiting tasks run again."""
    pool = make(max_workers=2)
    gateway = gateway_of(pool)
    futures = [pool.submit(tasks.stay, str(room.folder), n) for n in range(8)]
    room.await_count(2)
    os.kill(gateway, signal.SIGKILL)
    room.await_count(4)
    room.open()
    assert [future.result(LIMIT) for future in futures] == list(range(8))
    assert gateway_of(pool) != gateway


@not_on(HOST, why=NO_GATEWAY)
def test_the_gateway_dies_once_and_there_is_one_attempt(make: Callable[..., MecaExecutor], room: Room) -> None:
    """With `retry=1` what had begun is not run again, and says so; what had not is done."""
    from meca_executor import MecaError

    pool = make(max_workers=1, retry=1)
    gateway = gateway_of(pool)
    futures = [pool.submit(tasks.stay, str(room.folder), n) for n in range(8)]
    room.await_count(1)
    os.kill(gateway, signal.SIGKILL)
    error = futures[0].exception(LIMIT)
    assert isinstance(error, BrokenExecutor) and isinstance(error, MecaError)
    room.open()
    assert futures[-1].result(LIMIT) == 7
    assert wait(futures, timeout=LIMIT).not_done == set()
    assert len(room.entered()) == len(set(room.entered())), "a task began twice"


@not_on(HOST, why=NO_GATEWAY)
def test_the_gateway_dies_twice(make: Callable[..., MecaExecutor], room: Room) -> None:
    """A second death within a minute breaks the executor: open futures and later submits say so."""
    pool = make(max_workers=1)
    first = gateway_of(pool)
    os.kill(first, signal.SIGKILL)
    second = gateway_of(pool)
    assert second != first
    futures = [pool.submit(tasks.stay, str(room.folder), n) for n in range(4)]
    room.await_count(1)
    os.kill(second, signal.SIGKILL)
    assert wait(futures, timeout=LIMIT).not_done == set()
    assert all(isinstance(future.exception(), BrokenExecutor) for future in futures)
    with pytest.raises(BrokenExecutor):
        pool.submit(abs, -1)
    pool.shutdown()


@not_on(HOST, why=NO_GATEWAY)
def test_the_gateway_dies_during_shutdown(make: Callable[..., MecaExecutor], room: Room) -> None:
    """`shutdown` returns although the gateway died, and no future stays open."""
    pool = make(max_workers=1)
    gateway = gateway_of(pool)
    futures = [pool.submit(tasks.stay, str(room.folder), n) for n in range(3)]
    room.await_count(1)
    pool.shutdown(wait=False)
    os.kill(gateway, signal.SIGKILL)
    room.open()
    pool.shutdown(wait=True)
    assert all(future.done() for future in futures)
