"""The command `meca`, run as a user runs it: in a process of its own, in an empty folder."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import meca_executor
from meca_executor.cli._picture import read_png
from tests.helpers.scripts import Finished, finish
from tests.helpers.scripts import run as run_program

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(meca_executor.__file__).parent.parent
EXAMPLES = ROOT / "example_containers"
GREETING = '{\n    "message": "hello meca dev 0"\n}\n'

# Says on a file that it has the request, and never answers.
SILENT_APP = """
import os, socketserver, time

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(65536)
        open(os.environ["ARRIVED"], "w").close()
        time.sleep(600)

with socketserver.ThreadingTCPServer(("127.0.0.1", int(os.environ["PORT"])), Handler) as server:
    server.daemon_threads = True
    print("meca-init-done", flush=True)
    server.serve_forever()
"""


@contextlib.contextmanager
def meca(*words: str, cwd: Path, stdin: bytes = b"", **env: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command in a process group of its own, and kill the group at the end of the body."""
    given = cwd / ".stdin"
    given.write_bytes(stdin)
    with given.open("rb") as source:
        process = subprocess.Popen(
            [sys.executable, "-m", "meca_executor.cli", *words],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **env},
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            start_new_session=True,
        )
    given.unlink()
    with process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def run(*words: str, cwd: Path, stdin: bytes = b"", **env: str) -> Finished:
    """Run the command to its end."""
    with meca(*words, cwd=cwd, stdin=stdin, **env) as process:
        return finish(process)


def complaint(finished: Finished, code: int) -> str:
    """Return the one line on stderr of a command that failed without any output."""
    finished.expect(code)
    assert not finished.out
    assert finished.err.startswith("meca: ") and finished.err.count("\n") == 1, finished.err
    return finished.err


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[str]:
    """The URL of a standing gateway with two workers and one more app; it must end well when it is told to."""
    app = f"mine:1={EXAMPLES / 'sampleserver'}"
    folder = tmp_path / "gateway"
    folder.mkdir()
    with meca("gateway", "--port", "0", "--workers", "2", "--app", app, "--grace", "2", cwd=folder) as process:
        assert process.stdout
        ready = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", ready)
        assert found, ready + process.communicate(timeout=10)[1]
        yield found.group()
        process.send_signal(signal.SIGTERM)
        finish(process).expect(0)


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    program = """
        import sys
        from meca_executor.cli import main
        code = main(["--help"]) or main(["offload", "--help"])
        sys.exit(code or [name for name in ("socketio", "aiohttp", "tenacity", "asyncio") if name in sys.modules] or 0)
    """
    assert "usage: meca offload" in run_program(program, tmp_path).expect(0).out


def test_demo_draws_checks_and_says_so(tmp_path: Path) -> None:
    finished = run("demo", "--quick", "--workers", "2", "--out", "julia.png", cwd=tmp_path).expect(0)
    assert "!!" not in finished.out
    assert "hello meca dev 0, hello meca dev 1" in finished.out
    assert "[2, 3] -> rows [0, 1], [9, 10] -> rows [4, 3]" in finished.out
    assert "times as fast as in line" in finished.out
    assert re.search(r"all \d checks passed", finished.out)
    assert not finished.err
    assert os.listdir(tmp_path) == ["julia.png"]
    width, rows = read_png((tmp_path / "julia.png").read_bytes())
    assert (width, len(rows) > 200) == (300, True)


def test_demo_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "nowhere/a.png" in complaint(run("demo", "--out", "nowhere/a.png", cwd=tmp_path), 2)


def test_offload_prints_the_reply_as_it_came(tmp_path: Path) -> None:
    data = '{"name": "meca dev 0"}'
    assert run("offload", "sampleserver:latest", data, cwd=tmp_path).expect(0).out == GREETING


def test_offload_reads_standard_input(tmp_path: Path) -> None:
    given = '{"name": "Zoë"}'.encode()
    finished = run("offload", "sampleserver:latest", "-", "--timeout", "30", cwd=tmp_path, stdin=given)
    assert finished.expect(0).out == GREETING.replace("meca dev 0", "Zoë")


def test_offload_reads_a_file(tmp_path: Path) -> None:
    question = EXAMPLES / "knn" / "example_input.bin"
    finished = run("offload", "knn:latest", "--cpu", "1", "--memory", "256", f"@{question}", cwd=tmp_path)
    assert finished.expect(0).out == (EXAMPLES / "knn" / "example_output.bin").read_text() + "\n"


def test_offload_runs_a_folder(tmp_path: Path) -> None:
    finished = run("offload", "mine:1", '{"name": "me"}', "--app", str(EXAMPLES / "sampleserver"), cwd=tmp_path)
    assert '"hello me"' in finished.expect(0).out


def test_offload_says_why_a_task_failed(tmp_path: Path) -> None:
    assert "400" in complaint(run("offload", "sampleserver:latest", "no json", cwd=tmp_path), 1)
    assert "nobody/knows:1" in complaint(run("offload", "nobody/knows:1", cwd=tmp_path), 1)


@pytest.mark.parametrize("stdin", [b"\xff\xfe", b"caf\xe9"])
def test_offload_refuses_bytes_that_are_not_text(tmp_path: Path, stdin: bytes) -> None:
    assert "not UTF-8" in complaint(run("offload", "sampleserver:latest", "-", cwd=tmp_path, stdin=stdin), 2)


def test_offload_refuses_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert "'none.json'" in complaint(run("offload", "sampleserver:latest", "@none.json", cwd=tmp_path), 2)


def test_offload_refuses_an_app_elsewhere(tmp_path: Path) -> None:
    app = str(EXAMPLES / "sampleserver")
    finished = run("offload", "mine:1", "--app", app, "--endpoint", "http://127.0.0.1:9", cwd=tmp_path)
    assert "--app" in complaint(finished, 2)


def test_no_gateway_is_exit_code_3(tmp_path: Path, unused_port: int) -> None:
    url = f"http://127.0.0.1:{unused_port}"
    assert url in complaint(run("offload", "knn:latest", "--endpoint", url, cwd=tmp_path), 3)
    finished = run("demo", "--debug", cwd=tmp_path, MECA_ENDPOINT=url).expect(3)
    assert "Traceback" in finished.err and url in finished.err.splitlines()[-1]


def test_interrupt_ends_an_offload_quietly(tmp_path: Path) -> None:
    (tmp_path / "silent" / "src").mkdir(parents=True)
    (tmp_path / "silent" / "src" / "app.py").write_text(SILENT_APP)
    arrived = tmp_path / "arrived"
    os.mkfifo(arrived)
    with meca("offload", "silent:1", "--app", "silent", cwd=tmp_path, ARRIVED=str(arrived)) as process:
        arrived.open().close()  # returns when the app opens its end
        os.killpg(process.pid, signal.SIGINT)  # all of them get it, as from a terminal
        assert complaint(finish(process), 130) == "meca: interrupted\n"


def test_interrupt_ends_the_demo_quietly(tmp_path: Path) -> None:
    with meca("demo", cwd=tmp_path) as process:
        assert process.stdout
        process.stdout.readline()
        os.killpg(process.pid, signal.SIGINT)
        finished = finish(process)
    assert (finished.code, finished.err) == (130, "meca: interrupted\n")


def test_doctor_finds_a_sound_installation(tmp_path: Path) -> None:
    lines = run("doctor", cwd=tmp_path).expect(0).out.splitlines()
    assert [line[:2] for line in lines] == ["ok"] * len(lines)
    subjects = [line.split()[1] for line in lines]
    assert subjects[-5:] == ["endpoint", "gateway", "dialect", "workers", "container"]
    assert {"Python", "meca-executor", "aiohttp", "python-socketio", "cloudpickle", "tenacity"} < set(subjects)


def test_doctor_says_how_to_mend_an_endpoint(tmp_path: Path, unused_port: int) -> None:
    out = run("doctor", cwd=tmp_path, MECA_ENDPOINT=f"http://127.0.0.1:{unused_port}").expect(1).out
    assert re.search(r"^ok  endpoint .*\(MECA_ENDPOINT\)", out, re.MULTILINE)
    assert re.search(r"^!!  gateway .*\n .*meca gateway --port", out, re.MULTILINE)
    assert re.search(r"^--  workers", out, re.MULTILINE)


def test_doctor_says_that_an_endpoint_is_wrong(tmp_path: Path) -> None:
    out = run("doctor", cwd=tmp_path, MECA_ENDPOINT="here").expect(1).out
    assert re.search(r"^!!  endpoint .*'here' is not a URL.*\n .*MECA_ENDPOINT", out, re.MULTILINE)


def test_standing_gateway_serves_every_verb(standing: str, tmp_path: Path) -> None:
    finished = run("offload", "mine:1", '{"name": "meca dev 0"}', "--endpoint", standing, cwd=tmp_path)
    assert finished.expect(0).out == GREETING
    run("demo", "--quick", cwd=tmp_path, MECA_ENDPOINT=standing).expect(0)
    assert standing in run("doctor", cwd=tmp_path, MECA_ENDPOINT=standing).expect(0).out


def test_a_second_gateway_on_the_same_port_says_so(standing: str, tmp_path: Path) -> None:
    port = standing.rpartition(":")[2]
    assert port in complaint(run("gateway", "--port", port, cwd=tmp_path), 2)


def test_output_may_be_cut_off(tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m meca_executor.cli demo --quick | head -n 1"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.count("\n") == 1
    assert not done.stderr
