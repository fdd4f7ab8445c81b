"""What tasks and apps have started ends with their gateway, also when that is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from meca_executor import Container, MecaExecutor
from meca_executor.runtimes.guardian import Guardian
from tests.contract.rooms import Room
from tests.helpers.processes import CAN_LIST, Process, children, command, is_running, look_up
from tests.helpers.waiting import LIMIT, wait_until

from .app_tools import make_app
from .gateways import Gateways

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not CAN_LIST, reason="processes are listed from /proc, which this system has not")
SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(100)"]


def leave_children(detached: bool) -> tuple[int, list[int]]:
    """Leave a fork with a child of its own and another program behind; return the gateway and their ids."""
    ours, theirs = os.pipe()
    if (forked := os.fork()) == 0:
        grandchild = os.fork()
        if grandchild:
            os.write(theirs, str(grandchild).encode())
        time.sleep(100)
        os._exit(0)
    grandchild = int(os.read(ours, 100))
    program = subprocess.Popen(SLEEPER, stdin=subprocess.DEVNULL, start_new_session=detached)
    program.returncode = 0  # nobody waits for it
    return os.getppid(), [forked, grandchild, program.pid]


def guardian_of(gateway: int) -> Process:
    """Return the process that watches this gateway."""
    (found,) = [one for one in children(gateway) if "guardian_process" in command(one.pid)]
    return found


def none_runs(pids: list[int]) -> Callable[[], bool]:
    return lambda: not any(map(is_running, pids))


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[Gateways]:
    """A gateway without a journal."""
    one = Gateways(tmp_path, journaled=False)
    one.start("--app", f"app={make_app(tmp_path / 'app')}")
    yield one
    if one.process is not None:
        assert one.end(signal.SIGTERM) == 0


def test_embedded() -> None:
    """Children of a task that is over, and of one that runs, end with an embedded gateway that is killed."""
    with MecaExecutor(2) as ex:
        gateway, left = ex.submit(leave_children, False).result(LIMIT)
        guardian = guardian_of(gateway)
        assert all(map(is_running, left))
        os.kill(gateway, signal.SIGKILL)
        wait_until(none_runs([*left, guardian.pid]), "the children and the guardian are gone")
        assert ex.submit(os.getppid).result(LIMIT) != gateway


def test_standing(gateways: Gateways, tmp_path: Path) -> None:
    """The same with `meca gateway`; with it goes a task's child while the task runs."""
    room = Room(tmp_path / "room")
    with MecaExecutor(gateways.url, retry=1) as ex:
        _, left = ex.submit(leave_children, False).result(LIMIT)
        running = ex.submit(start_child_and_stay, str(room.folder))
        (child,) = map(int, room.await_count(1))
        gateways.kill()
        wait_until(none_runs([*left, child]), "the children are gone")
        gateways.start()
        assert running.exception(LIMIT) is not None


def start_child_and_stay(folder: str) -> None:
    """Start a program, say which, and wait for it."""
    with subprocess.Popen(SLEEPER) as child:
        Room(folder).enter(child.pid)


def test_what_a_local_app_started(gateways: Gateways) -> None:
    with MecaExecutor(gateways.url) as ex:
        reply = ex.submit(Container("app"), {"do": "start a child"}).result(LIMIT)
        assert is_running(reply["child"])
        gateways.kill()
        wait_until(none_runs([reply["pid"], reply["child"]]), "the app and its child are gone")
        ex.kill_workers()


def test_a_guardian_that_was_killed_is_replaced(gateways: Gateways) -> None:
    """One that is gone, and one that does not read any more."""
    assert gateways.process is not None
    pid = gateways.process.pid
    with MecaExecutor(gateways.url) as ex:
        _, left = ex.submit(leave_children, False).result(LIMIT)
        first = guardian_of(pid).pid
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: [one for one in children(pid) if "guardian_process" in command(one.pid)], "another one")
        assert guardian_of(pid).pid != first
        assert all(map(is_running, left))  # the old one did nothing
        assert "the guardian process was ended" in gateways.log
        gateways.kill()
        wait_until(none_runs(left), "the children are gone")
        ex.kill_workers()


def test_an_end_as_it_should_be(gateways: Gateways) -> None:
    """The guardian takes no notice of the signals that go to all, and is gone with its gateway."""
    assert gateways.process is not None
    with MecaExecutor(gateways.url) as ex:
        _, left = ex.submit(leave_children, False).result(LIMIT)
        guardian = guardian_of(gateways.process.pid).pid
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(guardian, number)
        assert ex.submit(leave_children, False).result(LIMIT)[0] == gateways.process.pid
        assert guardian_of(gateways.process.pid).pid == guardian
    assert gateways.end(signal.SIGTERM) == 0
    assert none_runs([*left, guardian])()


def test_a_child_that_left_its_group_lives_on(gateways: Gateways) -> None:
    """Who starts a session of its own wants to stay, as documented."""
    with MecaExecutor(gateways.url) as ex:
        _, (forked, grandchild, detached) = ex.submit(leave_children, True).result(LIMIT)
        try:
            gateways.kill()
            wait_until(none_runs([forked, grandchild]), "those of the group are gone")
            assert is_running(detached)
        finally:
            os.kill(detached, signal.SIGKILL)
        ex.kill_workers()


# -- by itself


@contextlib.contextmanager
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEPER, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_what_has_ended_is_left_alone() -> None:
    """Its number may be another's by then: here the first one goes on."""
    guardian = Guardian(os.environ)
    with sleeper() as first, sleeper() as second:
        for process in (first, second):
            guardian.watch(process.pid)
        guardian.done(first.pid)
        guardian.close()
        assert second.wait(LIMIT) == -signal.SIGKILL
        assert first.poll() is None


def test_one_that_hangs_is_replaced() -> None:
    """It is killed before its pipe is closed, so that it ends nothing; the next one knows all groups."""
    guardian = Guardian(os.environ)
    with sleeper() as first:
        guardian.watch(first.pid)
        hanging = guardian._popen
        assert hanging is not None
        os.kill(hanging.pid, signal.SIGSTOP)
        wait_until(lambda: (seen := look_up(hanging.pid)) and seen.state == "T", "it is stopped")
        while guardian._popen is hanging:
            guardian.done(2**22 + 1)  # until the pipe is full; no system has this number
        assert first.poll() is None
        guardian.close()
        assert first.wait(LIMIT) == -signal.SIGKILL


def test_nothing_is_started_for_nothing() -> None:
    guardian = Guardian(os.environ)
    guardian.done(2**22 + 1)
    guardian.check()
    guardian.close()
    assert repr(guardian) == "<Guardian not started groups=[]>"
