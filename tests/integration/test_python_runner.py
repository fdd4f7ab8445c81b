"""The python-runner container as a real local process: calls, their ends, and what a false one may reply."""

# ruff: noqa: T201  (what calls print is tested)
from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import cloudpickle
import pytest

from meca_executor import ProtocolMismatch, TaskFailed, TaskTimeout, UntrustedResult, WorkerDied
from meca_executor.runtimes.apps import Apps
from meca_executor.wire.calls import RemoteTraceback
from meca_executor.wire.runner import PYTHON, Outcome, decode_reply, encode_call

from ..helpers.processes import is_running
from ..helpers.waiting import LIMIT, wait_until
from .app_tools import make_app, until_gone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from meca_executor.wire.runner import Trust

FOLDER = Path(__file__).parents[2] / "example_containers" / "python-runner"
REF = "meca-python"


class Runner:
    """The app, started at its first call."""

    def __init__(self, apps: Apps) -> None:
        self.apps = apps

    async def call(self, fn: Callable[..., Any], *args: Any, trust: Trust = "data", **options: Any) -> Outcome:
        """Run a function over there; `options` are those of `decode_reply`, and `timeout`."""
        timeout = options.pop("timeout", LIMIT)
        reply = await self.apps.call(REF, encode_call(fn, args, {}, result=trust), timeout=timeout)
        return decode_reply(reply, trust=trust, **options)

    async def raw(self, content: bytes) -> bytes:
        return await self.apps.call(REF, content, timeout=LIMIT)

    @property
    def port(self) -> int:
        (instance,) = self.apps._current.values()
        return instance.process.port


def run(test: Callable[[Runner], Awaitable[None]], folder: Path = FOLDER) -> None:
    """Run a test on an app that is closed after it."""

    async def main() -> None:
        apps = Apps({REF: folder})
        try:
            await asyncio.wait_for(test(Runner(apps)), 2 * LIMIT)
        finally:
            await apps.close()

    asyncio.run(main())


@dataclass
class Point:
    x: int
    y: int

    def mirrored(self) -> Point:
        return Point(-self.x, -self.y)


class OwnError(Exception):
    pass


def fail(error: Exception) -> NoReturn:
    raise error


def until_exists(path: str) -> None:
    """Wait for a file; an orphan of a killed call would be seen by the check for leftovers."""
    while not os.path.exists(path):
        time.sleep(0.005)


def test_values_closures_and_classes() -> None:
    factor = 3

    async def test(runner: Runner) -> None:
        assert await runner.call(pow, 2, 10) == (1024, None, [])
        assert (await runner.call(lambda values: [value * factor for value in values], (1, 2))).value == [3, 6]
        point = Point(1, 2)
        assert (await runner.call(point.mirrored, allow=[Point])).value == Point(-1, -2)
        refused = (await runner.call(point.mirrored)).error
        assert type(refused) is UntrustedResult
        assert "pass allow=[Point]" in str(refused)
        pickled = (await runner.call(point.mirrored, trust="pickle")).value
        assert type(pickled) is Point
        assert len((await runner.call(bytes, 20_000_000)).value) == 20_000_000
        assert type((await runner.call(object)).error) is UntrustedResult

    run(test)


def test_exceptions_with_their_traceback() -> None:
    async def test(runner: Runner) -> None:
        error = (await runner.call(fail, KeyError("a", 1))).error
        assert type(error) is KeyError
        assert error.args == ("a", 1)
        assert isinstance(error.__cause__, RemoteTraceback)
        assert f'{__file__}", line ' in error.__cause__.tb
        assert ", in fail" in error.__cause__.tb
        told = (await runner.call(fail, OwnError("words"))).error
        assert type(told) is TaskFailed
        assert str(told).endswith("test_python_runner.OwnError: words")
        itself = (await runner.call(fail, OwnError("words"), trust="pickle")).error
        assert type(itself) is OwnError

    run(test)


def test_what_is_printed() -> None:
    def chat() -> None:
        print("out")
        sys.stderr.write("err\n")
        os.write(1, "Jürgen \ud800".encode("utf-8", "surrogatepass") + b"\xff\n")
        subprocess.run(["echo", "of a subprocess"], check=True)
        print("no newline", end="")

    def flood() -> None:
        for _ in range(300):
            print("x" * 9_999)

    async def test(runner: Runner) -> None:
        printed = (await runner.call(chat)).printed
        out = "".join(text for stream, text in printed if stream == "stdout")
        assert out == "out\nJürgen \\xed\\xa0\\x80\\xff\nof a subprocess\nno newline"
        assert [text for stream, text in printed if stream == "stderr"] == ["err\n"]
        assert (await runner.call(pow, 2, 2)).printed == []
        failed = await runner.call(lambda: fail(ValueError(print("before"))))
        assert failed.printed == [("stdout", "before\n")]
        (first, note) = (await runner.call(flood)).printed
        assert first == ("stdout", ("x" * 9_999 + "\n") * 104 + "x" * (2**20 - 104 * 10_000))
        assert note == ("stderr", f"\n({3_000_000 - 2**20} more bytes of output are not shown)\n")

    run(test)


def test_each_call_has_a_process_of_its_own() -> None:
    def leave_a_trace() -> tuple[int, bool, str, float]:
        seen = hasattr(sys, "trace_of_a_call")
        vars(sys)["trace_of_a_call"] = True
        return os.getpid(), seen, os.getcwd(), random.random()

    async def test(runner: Runner) -> None:
        values = [(await runner.call(leave_a_trace)).value for _ in range(3)]
        assert len({pid for pid, *_ in values}) == 3
        assert not any(seen for _, seen, *_ in values)
        assert all(Path(folder) != FOLDER / "src" for *_, folder, _ in values)
        assert len({number for *_, number in values}) == 3

    run(test)


def test_calls_at_once_do_not_mix(tmp_path: Path) -> None:
    def meet(number: int, count: int, folder: str) -> int:
        print(f"{number} begins")
        Path(folder, str(number)).touch()
        for other in range(count):
            until_exists(os.path.join(folder, str(other)))
        print(f"{number} ends")
        return number

    async def test(runner: Runner) -> None:
        count = 10
        outcomes = await asyncio.gather(*(runner.call(meet, n, count, str(tmp_path)) for n in range(count)))
        for number, outcome in enumerate(outcomes):
            assert outcome == (number, None, [("stdout", f"{number} begins\n{number} ends\n")])

    run(test)


def close_all_and_exit() -> NoReturn:
    os.closerange(0, 100)
    os._exit(4)


@pytest.mark.parametrize(
    ("end", "how"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "killed by SIGKILL"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), "killed by SIGTERM"),
        (os.abort, "killed by SIGABRT"),
        (lambda: os._exit(0), "exit code 0"),
        (lambda: os._exit(3), "exit code 3"),
        (close_all_and_exit, "exit code 4"),
    ],
    ids=["SIGKILL", "SIGTERM", "abort", "exit 0", "exit 3", "closed"],
)
def test_a_call_that_ends_its_process_fails_alone(end: Callable[[], object], how: str, tmp_path: Path) -> None:
    def last_words() -> None:
        print("last words")
        end()

    def wait() -> str:
        until_exists(str(tmp_path / "ended"))
        return "lives"

    async def test(runner: Runner) -> None:
        other = asyncio.create_task(runner.call(wait))
        outcome = await runner.call(last_words)
        assert type(outcome.error) is WorkerDied
        assert str(outcome.error) == f"the call ended its process in the container ({how})"
        assert outcome.printed == [("stdout", "last words\n")]
        (tmp_path / "ended").touch()
        assert (await other).value == "lives"
        assert (await runner.call(sys.exit, 5)).error is not None
        assert (await runner.call(pow, 2, 3)).value == 8

    run(test)


def test_what_a_call_leaves_running_is_killed(tmp_path: Path) -> None:
    def leave(folder: str) -> list[int]:
        sleep = [sys.executable, "-S", "-c", "import time; time.sleep(100)"]
        plain = subprocess.Popen(sleep)
        session = subprocess.Popen(sleep, start_new_session=True)
        nested = f"import subprocess, time; print(subprocess.Popen({sleep}).pid, flush=True); time.sleep(100)"
        parent = subprocess.Popen([sys.executable, "-c", nested], stdout=subprocess.PIPE, start_new_session=True)
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        return [plain.pid, session.pid, parent.pid, child]

    def leave_and_die(folder: str) -> None:
        Path(folder, "pids").write_text(json.dumps(leave(folder)))
        os._exit(1)

    def twice() -> str:
        return "child" if os.fork() == 0 else "parent"

    async def test(runner: Runner) -> None:
        pids = (await runner.call(leave, str(tmp_path))).value
        assert not any(map(is_running, pids))
        assert type((await runner.call(leave_and_die, str(tmp_path))).error) is WorkerDied
        assert not any(map(is_running, json.loads((tmp_path / "pids").read_text())))
        assert (await runner.call(twice)).value == "parent"

    if sys.platform != "linux":
        pytest.skip("descendants in sessions of their own are found on Linux only")
    run(test)


def hold(folder: str) -> None:
    """Tell the process ids of this call and of a child, and stay."""
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(100)"])
    path = Path(folder, "pids")
    path.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
    path.with_suffix(".new").rename(path)
    time.sleep(100)


def test_a_call_whose_caller_hangs_up_is_killed(tmp_path: Path) -> None:
    async def test(runner: Runner) -> None:
        assert (await runner.call(pow, 2, 3)).value == 8
        body = encode_call(hold, (str(tmp_path),), {})
        _, writer = await asyncio.open_connection("127.0.0.1", runner.port)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        await writer.drain()
        limit = time.monotonic() + LIMIT
        while not (tmp_path / "pids").exists():
            assert time.monotonic() < limit
            await asyncio.sleep(0.005)
        writer.close()
        await until_gone(*map(int, (tmp_path / "pids").read_text().split()))
        assert (await runner.call(pow, 2, 4)).value == 16

    run(test)


def test_a_timeout_ends_the_call(tmp_path: Path) -> None:
    async def test(runner: Runner) -> None:
        assert (await runner.call(pow, 2, 3)).value == 8
        with pytest.raises(TaskTimeout):
            await runner.call(hold, str(tmp_path), timeout=1.0)
        if (tmp_path / "pids").exists():
            await until_gone(*map(int, (tmp_path / "pids").read_text().split()))
        assert (await runner.call(pow, 2, 4)).value == 16

    run(test)


class Evil:
    """Its pickle makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "x")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_mismatch_is_told_before_anything_is_read(tmp_path: Path) -> None:
    evil = b64(pickle.dumps(Evil(tmp_path / "read")))

    async def test(runner: Runner) -> None:
        for pickled in (evil, "no base64 *"):
            request = {"python": "2.7", "runner": pickled, "call": pickled, "result": "data"}
            outcome = decode_reply(await runner.raw(json.dumps(request).encode()))
            assert type(outcome.error) is ProtocolMismatch
            assert f"this container runs Python {PYTHON}, and the call was made by Python 2.7" in str(outcome.error)
            assert "use an image with that Python" in str(outcome.error)

    run(test)
    assert not list(tmp_path.iterdir())


def test_what_is_no_call_is_refused() -> None:
    good = json.loads(encode_call(pow, (2, 3), {}))

    async def test(runner: Runner) -> None:
        wrong = [json.dumps({**good, **change}).encode() for change in ({"call": 5}, {"call": "*"}, {"python": None})]
        for content in (b"{", b"[]", b"{}", *wrong):
            with pytest.raises(TaskFailed, match=r"status 400.*bad input"):
                await runner.raw(content)
        for pickled in (b"", b"no pickle", pickle.dumps(5)):
            packed = {**good, "runner": b64(zlib.compress(pickled))}
            error = decode_reply(await runner.raw(json.dumps(packed).encode())).error
            assert type(error) in (TaskFailed, WorkerDied)
        error = decode_reply(await runner.raw(json.dumps({**good, "runner": b64(b"x")}).encode())).error
        assert f"with cloudpickle {cloudpickle.__version__} cannot read the call" in str(error)

    run(test)


def test_the_examples() -> None:
    sent = (FOLDER / "example_input.bin").read_bytes()

    async def test(runner: Runner) -> None:
        reply = await runner.raw(sent)
        if PYTHON == json.loads(sent)["python"]:
            assert reply == (FOLDER / "example_output.bin").read_bytes()
            assert decode_reply(reply).value == 2**10
        else:
            assert type(decode_reply(reply).error) is ProtocolMismatch

    run(test)


# -- as in an image: an interpreter with cloudpickle and nothing else


@contextlib.contextmanager
def bare_server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Start the app as the image does, where only the standard library and cloudpickle can be imported."""
    packages = folder / "packages"
    packages.mkdir()
    (packages / "cloudpickle").symlink_to(Path(cloudpickle.__file__).parent)
    for _ in range(5):  # another process may take the port in between
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-S", "-u", "app.py"],
            cwd=FOLDER / "src",
            env={**os.environ, "PYTHONPATH": str(packages), "PORT": str(port)},
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                assert process.stdout is not None
                if process.stdout.readline() == "meca-init-done\n":
                    yield process, port
                    return
            finally:
                process.kill()
    raise AssertionError("it does not start")


def post(port: int, content: bytes) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    try:
        connection.request("POST", "/", content)
        return connection.getresponse().read()
    finally:
        connection.close()


def test_the_image_needs_nothing_of_ours(tmp_path: Path) -> None:
    def look() -> tuple[list[bool], set[Any]]:
        import importlib.util

        return [importlib.util.find_spec(name) is not None for name in ("meca_executor", "numpy")], {1, (2.5, "data")}

    def from_elsewhere(module: Any) -> Any:
        return module.__name__

    with bare_server(tmp_path) as (_, port):
        for trust in ("data", "pickle"):
            outcome = decode_reply(post(port, encode_call(look, (), {}, result=trust)), trust=trust)
            assert outcome == (([False, False], {1, (2.5, "data")}), None, [])
        error = decode_reply(post(port, encode_call(fail, (UntrustedResult("words"),), {}))).error
        assert str(error) == "meca_executor.UntrustedResult: words"
        missing = decode_reply(post(port, encode_call(from_elsewhere, (pytest,), {}))).error
        assert isinstance(missing, ModuleNotFoundError)
        assert missing.name == "pytest"
        assert "run the call in an image that does" in str(missing)


def test_a_signal_ends_the_server(tmp_path: Path) -> None:
    """As `docker stop` sends it; the first process of a container does not end by itself then."""
    with bare_server(tmp_path) as (process, port):
        body = encode_call(hold, (str(tmp_path),), {})
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            wait_until(lambda: (tmp_path / "pids").exists(), "the call begins")
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
        # Not its first process any more, so this ends with its caller.
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        wait_until(lambda: not any(map(is_running, pids)), "the call ends")


# -- a container that is not what it claims


FALSE = """
import base64, json, os, pickle
from http.server import BaseHTTPRequestHandler, HTTPServer

class Evil:
    def __reduce__(self):
        return open, (PATH, "x")

evil = base64.b64encode(pickle.dumps(Evil())).decode()
REPLIES = {
    "pickle": {"kind": "value", "pickle": evil},
    "pickle as data": {"kind": "value", "data": evil},
    "error": {"kind": "error", "data": evil, "pickle": evil},
}

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        order = self.rfile.read(int(self.headers["Content-Length"])).decode()
        text = json.dumps({"printed": [["stdout", "\\x1b[2Jcleared"]], "outcome": REPLIES[order]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass

if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
    print("meca-init-done", flush=True)
    server.serve_forever()
"""


def test_a_false_container_runs_nothing_here(tmp_path: Path) -> None:
    made = tmp_path / "made"
    folder = make_app(tmp_path / "app", FALSE.replace("PATH", repr(str(made))))

    async def test(runner: Runner) -> None:
        for order in ("pickle", "pickle as data", "error"):
            outcome = decode_reply(await runner.raw(order.encode()))
            assert type(outcome.error) is UntrustedResult
            assert outcome.printed == [("stdout", "cleared")]
            assert not made.exists()
        trusted = decode_reply(await runner.raw(b"pickle"), trust="pickle")
        trusted.value.close()
        assert made.exists()  # so the check above means something

    run(test, folder)


def test_no_thread_of_ours_is_needed() -> None:
    """The server is one thread, or its forks would be unsafe."""

    async def test(runner: Runner) -> None:
        assert (await runner.call(threading.active_count)).value == 1

    run(test)
