"""Nothing stays behind; and the fixture that looks for it on every test finds what does."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import leaks, scripts
from tests.helpers.processes import CAN_LIST, is_running
from tests.helpers.waiting import LIMIT, wait_until

from . import tasks
from .kinds import OURS, Kind, only_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .rooms import Room

SLEEPER = [sys.executable, "-c", "import time; time.sleep(30)"]
linux = pytest.mark.skipif(not CAN_LIST, reason="processes are listed from /proc, which this system has not")


def complaint(leave: Callable[[], object]) -> str:
    """Return what the check says about a body that leaves something."""
    with pytest.raises(AssertionError, match="left behind") as caught, leaks.nothing_left(grace=0.05):
        leave()
    return str(caught.value)


@linux
def test_a_child_is_found() -> None:
    """A process that still runs is named, and ended."""
    started: list[subprocess.Popen[bytes]] = []
    text = complaint(lambda: started.append(subprocess.Popen(SLEEPER)))
    assert f"process {started[0].pid} " in text and "time.sleep(30)" in text
    assert started[0].wait(LIMIT) == -9


@linux
def test_a_grandchild_whose_parent_died_is_found() -> None:
    """A process that belongs to nobody any longer is found as well."""
    starter = f"import subprocess; print(subprocess.Popen({SLEEPER!r}, stdout=-3, stderr=-3).pid)"
    pids: list[str] = []

    def leave() -> None:
        done = subprocess.run([sys.executable, "-c", starter], capture_output=True, text=True, timeout=20, check=True)
        pids.append(done.stdout.strip())

    text = complaint(leave)
    assert f"process {pids[0]} " in text


@linux
def test_a_zombie_is_found() -> None:
    """A child that ended and was never waited for is found."""
    started: list[subprocess.Popen[bytes]] = []

    def leave() -> None:
        started.append(subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE))
        assert started[0].stdout and started[0].stdout.read() == b""
        started[0].stdout.close()

    text = complaint(leave)
    assert f"process {started[0].pid} " in text
    started[0].wait(LIMIT)


def test_a_thread_is_found() -> None:
    """A thread that still runs is named."""
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="lingering")
    try:
        assert "thread lingering" in complaint(thread.start)
    finally:
        stop.set()
        thread.join(LIMIT)


def test_a_descriptor_is_found(tmp_path: Path) -> None:
    """A file that is still open is named."""
    opened: list[int] = []
    text = complaint(lambda: opened.append(os.open(tmp_path, os.O_RDONLY)))
    os.close(opened[0])
    assert f"descriptor {opened[0]}" in text


def test_a_temporary_file_is_found() -> None:
    """A file in the temporary folder is named."""
    made: list[str] = []

    def leave() -> None:
        handle, path = tempfile.mkstemp()
        os.close(handle)
        made.append(path)

    text = complaint(leave)
    os.unlink(made[0])
    assert os.path.basename(made[0]) in text


def test_what_ends_in_time_is_no_leak() -> None:
    """What is ending needs not have ended."""
    with leaks.nothing_left():
        pool = ThreadPoolExecutor(1)
        pool.submit(tasks.nap, 0.1)
        pool.shutdown(wait=False)


@linux
@only_ours
def test_after_shutdown_there_is_nothing(kind: Kind, room: Room) -> None:
    """When `shutdown(wait=True)` returns, processes, threads, descriptors and files are gone already.

    The workers on a host, or on nodes, end soon after.
    """
    before = leaks.belongings()
    pool: Any = kind.make(max_workers=2, env={"ROOM": str(room.folder)})  # so that nobody else has use of its workers
    assert list(pool.map(abs, range(-50, 0), timeout=LIMIT)) == list(range(50, 0, -1))
    assert pool.submit(tasks.echo, b"x" * 3_000_000).result(LIMIT)
    futures = [pool.submit(tasks.stay_as_pid, str(room.folder)) for n in range(4)]
    workers = {int(pid) for pid in room.await_count(2)}
    assert all(map(is_running, workers))
    assert kind is not OURS or workers < {process.pid for process in leaks.new_processes(before)}
    room.open()
    pool.shutdown()
    if kind is not OURS:
        wait_until(lambda: not any(map(is_running, workers)), "workers gone")
    assert not any(map(is_running, workers))
    assert leaks.left_since(before) == []
    assert all(future.done() for future in futures)


@linux
@only_ours
def test_after_deaths_there_is_nothing(kind: Kind) -> None:
    """Nor is anything left of workers that died, were ended or were replaced."""
    before = leaks.belongings()
    pool: Any = kind.make(max_workers=2, max_tasks_per_child=2)
    dead = [pool.submit(os._exit, 1), pool.options(timeout=0.2).submit(tasks.nap, 30)]
    assert list(pool.map(abs, range(-10, 0), timeout=LIMIT)) == list(range(10, 0, -1))
    assert all(future.exception(LIMIT) for future in dead)
    pool.shutdown()
    assert leaks.left_since(before) == []


@only_ours
def test_a_program_that_forgets_everything(kind: Kind, tmp_path: Path) -> None:
    """A program with several executors, tasks that run, died and wait, and no shutdown, ends and leaves nothing."""
    source = """
    import os, time
    from meca_executor import MecaExecutor
    first, second = MecaExecutor(max_workers=1), MecaExecutor(max_workers=2)
    kept = [first.submit(time.sleep, 0.2), second.submit(os._exit, 1), second.submit(len, b"x" * 2_000_000)]
    second.submit(abs, -1).add_done_callback(lambda f: kept.append(f))
    lazily = second.map(abs, iter(range(10**9)), buffersize=4)
    next(lazily)
    third = MecaExecutor(max_workers=1)
    """
    scripts.run(kind.program(source), tmp_path).expect()
    # That nothing outlives it is checked after the test, as after every one.
