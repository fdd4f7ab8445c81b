"""`future.logs()`: what a task printed is in its own future, and nobody else's."""

# ruff: noqa: T201  (printing is what is tested)
from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from meca_executor import Container, WorkerDied
from meca_executor.client.future import MIXED_TEXT
from meca_executor.wire.printed import KEPT
from tests.helpers.waiting import LIMIT, wait_until
from tests.integration.app_tools import make_app

from .kinds import HOST, not_on, only_ours
from .printing import Lines, say
from .rooms import Room

if TYPE_CHECKING:
    from collections.abc import Callable

    from meca_executor import MecaExecutor
    from meca_executor.client.future import MecaFuture

pytestmark = only_ours
NO_APPS = "`apps=` is for an embedded gateway; a standing one is started with its apps"


def speak(number: int) -> int:
    print("out", number)
    print("err", number, file=sys.stderr)
    print("end", number, end="")
    return number


def expected(number: int, text: str) -> bool:
    """Both streams are there, each in its order; between the two there is none."""
    rest = text.replace(f"err {number}\n", "", 1)
    return rest == f"out {number}\nend {number}" and len(rest) < len(text)


def whole(future: MecaFuture[Any]) -> set[str]:
    """Return the lines of an app's call that has ended, when the last of them has come, on a busy machine too."""
    wait_until(lambda: future.log_whole, "all of it has come")
    return set(future.logs().splitlines())


TALKER = """
    import os, sys, threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    two = threading.Barrier(2)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            if text == "pair":
                two.wait(40)
            sys.stdout.write(f"asked {text}\\n")  # in one piece: two threads may do so at once
            sys.stderr.write(f"grumble {text}\\n")
            if text == "pair":
                two.wait(40)
            if text == "end":
                os._exit(3)
            self.send_response(500 if text == "fail" else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()
        def log_message(self, *args):
            pass

    print("starting")
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
    print("meca-init-done", flush=True)
    server.serve_forever()
"""


def test_each_of_many_short_tasks_has_its_own(pool: MecaExecutor) -> None:
    """They run in batches, one after the other in the same processes; every second one prints nothing."""
    futures = [pool.submit(speak, n) if n % 2 else pool.submit(abs, n) for n in range(400)]
    for number, future in enumerate(futures):
        assert future.result(LIMIT) == number
        text = future.logs()
        assert expected(number, text) if number % 2 else text == ""


def test_while_it_runs(pool: MecaExecutor, room: Room) -> None:
    """What it has printed until now is there; the rest at its end."""

    def count(folder: str) -> None:
        print("one")
        Room(folder).stay("in")
        print("two")

    future = pool.submit(count, str(room.folder))
    wait_until(lambda: future.logs() == "one\n", "the first line is here")
    assert not future.done()
    room.open()
    future.result(LIMIT)
    assert future.logs() == "one\ntwo\n"


def test_of_failed_tasks(make: Callable[..., MecaExecutor]) -> None:
    """One that raised, one whose worker died, and all attempts of one that was made again."""

    def stumble() -> None:
        print("before")
        raise LookupError

    def die() -> None:
        print("last words")
        sys.stdout.flush()
        os._exit(3)

    pool = make(max_workers=1, output=False)
    future = pool.submit(stumble)
    assert isinstance(future.exception(LIMIT), LookupError)
    assert future.logs() == "before\n"
    again = pool.options(retry=2).submit(die)
    assert isinstance(again.exception(LIMIT), WorkerDied)
    assert again.logs() == "last words\n" * 2


def test_of_killed_tasks(pool: MecaExecutor) -> None:
    """What it had printed until then."""

    def hang() -> None:
        print("here", flush=True)
        while True:
            pass

    future = pool.submit(hang)
    wait_until(lambda: future.logs() == "here\n", "it runs")
    pool.kill(future)
    assert future.exception(LIMIT) is not None
    assert future.logs() == "here\n"


def test_of_programs(make: Callable[..., MecaExecutor]) -> None:
    """What a task's child processes write stands in order with what it prints itself."""

    def both(number: int) -> None:
        print("print", number)
        sys.stdout.flush()
        subprocess.run([sys.executable, "-S", "-c", f"print('program', {number})"], check=True, timeout=LIMIT)

    pool = make(max_workers=1, output=False)
    futures = [pool.submit(both, number) for number in range(4)]
    for number, future in enumerate(futures):
        future.result(LIMIT)
        assert future.logs() == f"print {number}\nprogram {number}\n"


def test_of_programs_after_prints(make: Callable[..., MecaExecutor]) -> None:
    """What is written past Python is never put to a task before, which printed."""
    pool = make(max_workers=1, output=False)
    for number in range(3):
        pool.submit(say, "print", number).result(LIMIT)
        future = pool.submit(os.write, 1, b"raw\n")
        future.result(LIMIT)
        assert future.logs() == "raw\n"


def test_output_and_logs_have_the_same(talker: tuple[MecaExecutor, Lines]) -> None:
    """The marks that tell whose text it is are nowhere to be seen."""
    pool, lines = talker
    futures = [pool.submit(speak, number) for number in range(50)]
    list(pool.map(say, range(50), timeout=LIMIT))  # a map's items have no future
    assert all(expected(number, future.logs()) for number, future in enumerate(futures) if not future.exception(LIMIT))
    whole = lines.text() + lines.text("stderr")
    assert "\x00" not in whole and "\ufffd" not in whole
    for number in range(50):
        assert lines.text("stderr").count(f"err {number}\n") == 1
        assert whole.count(f"out {number}\n") == 1


def test_the_last_of_much_text(pool: MecaExecutor) -> None:
    """64 KiB are kept, and it is said that there was more."""

    def chatter() -> None:
        for n in range(10_000):
            print("line", n, "." * 60)

    future = pool.options().submit(chatter)
    future.result(LIMIT)
    first, _, rest = future.logs().partition("\n")
    assert first.endswith("bytes before this are cut]")
    assert len(rest) == KEPT
    assert rest.endswith(f"line 9999 {'.' * 60}\n")


def test_a_task_that_puts_a_file_in_the_place_of_stdout(pool: MecaExecutor) -> None:
    """Its file has what it printed and nothing else; afterwards all is as before."""

    def captured() -> bytes:
        sys.stdout.flush()
        with tempfile.TemporaryFile() as file:
            saved = os.dup(1)
            os.dup2(file.fileno(), 1)
            try:
                print("into the file")
                sys.stdout.flush()
            finally:
                os.dup2(saved, 1)
                os.close(saved)
            print("into the log")
            file.seek(0)
            return file.read()

    future = pool.submit(captured)
    assert future.result(LIMIT) == b"into the file\n"
    assert future.logs() == "into the log\n"


def test_of_a_function_in_a_container(pool: MecaExecutor) -> None:
    """Behind what the container itself wrote."""
    future = pool.options(container_ref="meca-python:latest").submit(speak, 5)
    assert future.result(LIMIT) == 5
    assert "out 5\n" in future.logs() and "end 5" in future.logs()


@not_on(HOST, why=NO_APPS)
def test_of_an_app(make: Callable[..., MecaExecutor], room: Room) -> None:
    """What it writes during the call, failed ones too; and before, when it is started for it."""
    pool = make(max_workers=1, retry=1, apps={"talker": str(make_app(room.folder / "talker", TALKER))})
    logs = {}
    for text in ("one", "two", "fail", "end"):
        future = pool.submit(Container("talker", codec="text"), text)
        future.exception(LIMIT)
        logs[text] = whole(future)
    assert logs["one"] == {"starting", "meca-init-done", "asked one", "grumble one"}
    for text in ("two", "fail", "end"):
        assert logs[text] == {f"asked {text}", f"grumble {text}"}


@not_on(HOST, why=NO_APPS)
def test_of_an_app_with_several_calls(make: Callable[..., MecaExecutor], room: Room) -> None:
    """It cannot tell them apart: each has what was written meanwhile, and says so; not so when it had one."""
    pool = make(max_workers=2, apps={"talker": str(make_app(room.folder / "talker", TALKER))})
    talker = Container("talker", codec="text")
    pool.submit(talker, "first").result(LIMIT)
    both = [pool.submit(talker, "pair"), pool.submit(talker, "pair")]
    assert [future.result(LIMIT) for future in both] == ["", ""]
    for future in both:
        assert {MIXED_TEXT.rstrip(), "grumble pair"} <= whole(future)
        assert future.logs().startswith(MIXED_TEXT)
    alone = pool.submit(talker, "alone")
    alone.result(LIMIT)
    assert whole(alone) == {"asked alone", "grumble alone"}
