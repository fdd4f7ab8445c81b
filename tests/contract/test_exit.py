"""The end of the interpreter, however it comes, with work still to do.

Each script is its own interpreter; that nothing it started outlives it is checked after every test.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.helpers import scripts
from tests.helpers.processes import is_running
from tests.helpers.waiting import wait_until

from .kinds import HOST, Kind, not_on, not_processes, only_ours
from .rooms import Room

if TYPE_CHECKING:
    from pathlib import Path

GOES_ON = "a standing gateway waits ten minutes for a client that is gone: it may come back, and its calls go on"
START = """\
import sys, time
{setup}

def say(text):
    time.sleep(0.01)
    print(text + "\\n", end="", flush=True)  # in one piece: other threads print too

"""


def program(kind: Kind, body: str) -> str:
    """Return a script that runs `body` in its main part, after `make` and `say` are defined."""
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    return START.format(setup=kind.setup) + "if __name__ == '__main__':\n" + indented


def test_waiting_tasks_are_done(kind: Kind, tmp_path: Path) -> None:
    """A program that ends without shutdown ends when its tasks are done, and shows what they print."""
    body = """
ex = make(max_workers=2)
for n in range(8):
    ex.submit(say, f"task {n}")
say("main done")
"""
    done = scripts.run(program(kind, body), tmp_path).expect()
    assert sorted(done.out.splitlines()) == ["main done", *(f"task {n}" for n in range(8))]
    assert done.err == ""


@not_processes
def test_after_a_shutdown_that_does_not_wait(kind: Kind, tmp_path: Path) -> None:
    """The same after `shutdown(wait=False)` (the process pool hangs: CPython issue 83386)."""
    body = """
ex = make(max_workers=1)
futures = [ex.submit(say, f"task {n}") for n in range(5)]
ex.shutdown(wait=False)
"""
    done = scripts.run(program(kind, body), tmp_path).expect()
    assert done.out.splitlines() == [f"task {n}" for n in range(5)]
    assert done.err == ""


@not_processes
def test_after_a_shutdown_that_cancels(kind: Kind, tmp_path: Path) -> None:
    """After `shutdown(wait=False, cancel_futures=True)` the program ends with what had begun."""
    body = """
ex = make(max_workers=1)
futures = [ex.submit(say, f"task {n}") for n in range(500)]
ex.shutdown(wait=False, cancel_futures=True)
"""
    done = scripts.run(program(kind, body), tmp_path).expect()
    assert len(done.out.splitlines()) < 50
    assert done.err == ""


def test_forgotten_executor(kind: Kind, tmp_path: Path) -> None:
    """The same when nothing refers to the executor any longer."""
    done = scripts.run(program(kind, "make(max_workers=1).submit(say, 'task')"), tmp_path).expect()
    assert done.out == "task\n"
    assert done.err == ""


def test_unused_executor(kind: Kind, tmp_path: Path) -> None:
    """A program that makes an executor and does not use it just ends."""
    done = scripts.run(program(kind, "ex = make(max_workers=2)"), tmp_path).expect()
    assert (done.out, done.err) == ("", "")


@pytest.mark.parametrize("ending, code", [("sys.exit(3)", 3), ("raise LookupError('lost')", 1)])
def test_exit_code(kind: Kind, tmp_path: Path, ending: str, code: int) -> None:
    """The program's own exit code and traceback stay, and its tasks are done."""
    body = f"ex = make(max_workers=1)\nfutures = [ex.submit(say, 'task') for _ in range(3)]\n{ending}\n"
    done = scripts.run(program(kind, body), tmp_path).expect(code)
    assert done.out == "task\n" * 3
    assert ("LookupError: lost" in done.err) == (code == 1)


def test_submit_while_the_interpreter_ends(kind: Kind, tmp_path: Path) -> None:
    """At interpreter exit `submit` is a RuntimeError, not a hang."""
    body = """
import atexit
@atexit.register
def too_late():
    try:
        ex.submit(abs, -1)
    except RuntimeError as error:
        print(error, flush=True)
ex = make(max_workers=1)
print(ex.submit(abs, -42).result(), flush=True)
"""
    done = scripts.run(program(kind, body), tmp_path).expect()
    first, second = done.out.splitlines()
    assert first == "42"
    assert second.startswith("cannot schedule new futures after")


@not_processes
def test_first_submit_while_the_interpreter_ends(kind: Kind, tmp_path: Path) -> None:
    """The same when the executor is made and first used at interpreter exit."""
    body = """
import atexit
@atexit.register
def too_late():
    try:
        make(max_workers=1).submit(abs, -1)
    except RuntimeError as error:
        print(error, flush=True)
"""
    done = scripts.run(program(kind, body), tmp_path).expect()
    assert done.out.startswith("cannot schedule new futures after")


@not_processes
def test_callbacks_still_come(kind: Kind, tmp_path: Path) -> None:
    """Callbacks of tasks that end during the exit are called."""
    body = """
ex = make(max_workers=1)
for n in range(3):
    ex.submit(abs, -n).add_done_callback(lambda f: print("called", f.result(), flush=True))
"""
    done = scripts.run(program(kind, body), tmp_path).expect()
    assert done.out.splitlines() == ["called 0", "called 1", "called 2"]


def test_exit_from_another_thread(kind: Kind, tmp_path: Path) -> None:
    """Tasks submitted by a thread that is still running when the main part ends are done."""
    body = """
import threading
ex = make(max_workers=1)
begun = threading.Event()
def work():
    futures = [ex.submit(say, f"task {n}") for n in range(3)]
    begun.set()
    for future in futures:
        future.result()
threading.Thread(target=work).start()
begun.wait()
"""
    done = scripts.run(program(kind, body), tmp_path).expect()
    assert sorted(done.out.splitlines()) == ["task 0", "task 1", "task 2"]


def staying(room: Room) -> str:
    """Return a main part whose two tasks stay in the room, and which waits for them."""
    return f"""
sys.path.append({str(scripts.TESTS_PARENT)!r})
from tests.contract.tasks import stay_as_pid
ex = make(max_workers=2)
futures = [ex.submit(stay_as_pid, {str(room.folder)!r}) for _ in range(2)]
try:
    print([future.result(timeout=40) for future in futures], flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
    raise
"""


def await_end(room: Room) -> None:
    """Wait for the end of the processes whose tasks stay in the room, wherever they run; the door is closed."""
    workers = [int(pid) for pid in room.entered()]
    wait_until(lambda: not any(map(is_running, workers)), "workers gone")


@only_ours
@not_on(HOST, why=GOES_ON)
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGSEGV"])
def test_exit_by_a_signal(kind: Kind, tmp_path: Path, name: str) -> None:
    """However the program is ended, nothing of it goes on (the process pool's workers do, and hold its outputs)."""
    room = Room(tmp_path / "room")
    number = getattr(signal, name)
    with scripts.started(program(kind, staying(room)), tmp_path) as process:
        room.await_count(2)
        process.send_signal(number)
        assert process.wait(timeout=10) == -number
        scripts.finish(process, timeout=15)
    await_end(room)


@only_ours
@not_on(HOST, why=GOES_ON)
def test_exit_without_cleaning_up(kind: Kind, tmp_path: Path) -> None:
    """After `os._exit` with tasks running, the workers end too."""
    room = Room(tmp_path / "room")
    leaving = "import os\nfrom tests.contract.rooms import Room\n"
    leaving += f"Room({str(room.folder)!r}).await_count(2)\nos._exit(7)\n"
    body, _, _ = staying(room).partition("try:")
    with scripts.started(program(kind, body + leaving), tmp_path) as process:
        assert process.wait(timeout=20) == 7
        scripts.finish(process, timeout=15)
    await_end(room)


@only_ours
def test_interrupt_from_the_keyboard(kind: Kind, tmp_path: Path) -> None:
    """Ctrl-C goes to the whole process group: only the program itself is interrupted, its tasks are not."""
    room = Room(tmp_path / "room")
    with scripts.started(program(kind, staying(room)), tmp_path) as process:
        room.await_count(2)
        os.killpg(process.pid, signal.SIGINT)
        wait_until(lambda: read_line(process) == "interrupted", "KeyboardInterrupt in the main thread")
        room.open()  # at its end the program waits for its tasks, as with the standard library's executors
        done = scripts.finish(process, timeout=15)
    assert done.err.count("Traceback (most recent call last)") == 1, done.err
    assert done.err.rstrip().endswith("KeyboardInterrupt")


def read_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that the program prints."""
    assert process.stdout
    return process.stdout.readline().rstrip()


@only_ours
@not_on(HOST, why=GOES_ON)
def test_second_interrupt_ends_the_waiting(kind: Kind, tmp_path: Path) -> None:
    """Ctrl-C again, while the program waits for its tasks at its end, ends it and them."""
    room = Room(tmp_path / "room")
    with scripts.started(program(kind, staying(room)), tmp_path) as process:
        room.await_count(2)
        os.killpg(process.pid, signal.SIGINT)
        assert read_line(process) == "interrupted"
        for _ in range(20):
            # The interpreter may not yet be where it waits; one more does no harm.
            if process.poll() is not None:
                break
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                continue
        assert process.poll() is not None, "still waiting after 20 interrupts"
        scripts.finish(process, timeout=15)
    await_end(room)
