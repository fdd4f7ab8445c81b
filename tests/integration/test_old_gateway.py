"""Programs on the original SDK, as they are, on a gateway of ours; with today's packages and those of its time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from meca_executor import Container, MecaExecutor
from tests.helpers.scripts import Finished, finish
from tests.helpers.waiting import LIMIT, wait_until
from tests.peers.programs import OLD_PROGRAMS, PYTHONS, ROOT, interpreter, run_program, started_program

from .old_tools import old_gateway

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from .standing import Standing

HEAD = """
import asyncio, sys, time
from tests.peers import old_sdk as meca_api

def named(name):
    def callback(task_id, status, response, error, transaction_id):
        print(name, task_id, status, response if len(response) < 100 else len(response), error)
    return callback

async def connected_again(before):
    limit = time.monotonic() + 15
    while meca_api.sio.sid in (before, None) or not meca_api.sio.connected:
        assert time.monotonic() < limit, "it did not come back"
        await asyncio.sleep(0.01)

async def cut():
    before = meca_api.sio.sid
    meca_api.sio.eio.ws._response.connection.transport.abort()
    while meca_api.sio.connected:
        await asyncio.sleep(0.001)
    return before

async def line():
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

async def main():
    await meca_api.initiate_connection()
"""
TAIL = """
    await meca_api.disconnect()

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """A gateway for all tests here; nothing that they do may make it complain."""
    with old_gateway(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway
    assert "Traceback" not in gateway.log and "ERROR" not in gateway.log, gateway.log


@pytest.fixture(params=PYTHONS)
def python(request: pytest.FixtureRequest) -> str:
    """One of the two environments; made before the test begins, as that may take a while."""
    interpreter(request.param)
    return str(request.param)


def said(done: Finished, *beginnings: str) -> list[str]:
    """Return the lines that begin so; the rest is the old SDK's talk. Nothing may have gone wrong inside of it."""
    assert "Traceback" not in done.err, done.err
    return [line for line in done.out.splitlines() if line.startswith(beginnings)]


def run(python: str, gateway: Standing, text: str, *words: str) -> Finished:
    """Run a program to its end, with this in its `main`."""
    return run_program(python, HEAD + text + TAIL, *words, port=gateway.port).expect(0)


# -- programs as they were


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("basic_offload.py", [], ["reply of task 0 hello meca dev 0", "reply of task 1 hello meca dev 1"]),
        ("knn.py", ["1"], ["indices [0, 1]", "points [[1, 2], [3, 4]]"]),
        ("knn.py", ["3"], ["indices [0, 1]", "points [[1, 2], [3, 4]]"]),
    ],
)
def test_programs_run_unchanged(
    gateway: Standing, python: str, name: str, words: list[str], expected: list[str]
) -> None:
    done = run_program(python, OLD_PROGRAMS / name, *words, port=gateway.port).expect(0)
    assert said(done, "reply", "task", "indices", "points", "no ") == expected


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("sampleserver/basic_offload_api.py", [], ["task 0: hello meca dev 0", "task 1: hello meca dev 1"]),
        ("knn/knn_api.py", ["--image", "my_knn_app:latest"], ["indices [0, 1]", "points [[1, 2], [3, 4]]"]),
    ],
)
def test_our_examples_on_the_original_sdk(
    gateway: Standing, python: str, name: str, words: list[str], expected: list[str]
) -> None:
    """They are programs that it would run, too."""
    text = (ROOT / "example_containers" / name).read_text(encoding="utf-8")
    text = text.replace("from meca_executor import meca_api\n", "from tests.peers import old_sdk as meca_api\n")
    done = run_program(python, text, *words, port=gateway.port).expect(0)
    assert said(done, "task", "indices", "points") == expected


def test_offloaded_comes_before_the_result(gateway: Standing, python: str) -> None:
    """Always: the original loses a result that overtakes it. Tasks of no time, one after the other."""
    text = """
    for number in range(50):
        await meca_api.offload_task(str(number), "lab:latest", f"echo {number}", named("got"))
        await meca_api.join()
"""
    done = run(python, gateway, text)
    assert said(done, "got", "task", "join") == [f"got {number} 1 {number} None" for number in range(50)]
    assert done.out.count("offloaded success") == 50


def test_many_at_once_come_back_as_they_end(gateway: Standing, python: str) -> None:
    """One offload at a time is all that the original can do; results come while others are under way."""
    text = """
    for number in range(10):
        seconds = f"{(10 - number) / 20}"
        await meca_api.offload_task(str(number), "lab:latest", f"sleep {seconds}", named("got"))
    await meca_api.join(10, 20)
"""
    lines = said(run(python, gateway, text), "got", "task", "join")
    assert sorted(lines) == sorted(f"got {number} 1 {(10 - number) / 20} None" for number in range(10))
    assert lines[0] != "got 0 1 0.5 None"


FAILURES = {
    "unlisted:latest": ("echo x", "'unlisted:latest' may not be run here; the operator named: lab:latest, my_knn"),
    "python-template:latest": ("1", "may not be run here"),
    "lab:v2": ("echo x", "may not be run here"),
    "lab": ("fail it went wrong", "HTTP status 500: it went wrong"),
    "lab:latest": ("die", "exit code 3"),
    "sampleserver:latest": ("no JSON", "HTTP status 400"),
    "sampleserver": ("bytes", "HTTP status 400"),
}


@pytest.mark.parametrize("ref", FAILURES)
def test_every_failure_is_status_0_and_its_text(gateway: Standing, python: str, ref: str) -> None:
    """Also of containers that the gateway knows and the operator did not name."""
    content, why = FAILURES[ref]
    text = f"""
    await meca_api.offload_task("7", "{ref}", "{content}", named("got"))
    await meca_api.join(20, 20)
"""
    (line,) = said(run(python, gateway, text), "got", "task timed", "join")
    assert line.startswith("got 7 0  ")
    assert why in line


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        ('"echo x", named("got"), {"cpu": 1, "mem": 64}', 1, "x"),
        ('"echo x", named("got"), {"cpu": 1, "memory": 64}', 1, "x"),
        ('"echo x", named("got"), {"cpu": 10_000, "memory": 64}', 0, "the task needs 10,000 cores"),
        ('"echo x", named("got"), {"mem": 10**12}', 0, "the task needs 1,000,000,000,000 MiB of memory"),
        ('"echo x", named("got"), {"memory": 10**12}', 0, "the task needs 1,000,000,000,000 MiB of memory"),
        ('"echo x", named("got"), {"cpu": 1, "disk": 5}, "microVM"', 1, "x"),
        ('{"a": "dict"}, named("got")', 0, "the job's content is of type dict, not a string"),
        ('5, named("got")', 1, ""),
        ('"bytes", named("got")', 0, "not UTF-8 text; let it reply in base64"),
        ('"echo é漢🎉", named("got")', 1, "é漢🎉"),
    ],
)
def test_inputs_and_resources(gateway: Standing, python: str, arguments: str, status: int, told: str) -> None:
    """Both spellings of memory; what cannot be run is told in words, never silence."""
    text = f"""
    await meca_api.offload_task(7, "lab:latest", {arguments})
    await meca_api.join(20, 20)
"""
    (line,) = said(run(python, gateway, text), "got", "task timed", "join")
    assert line.startswith(f"got 7 {status} ")
    assert told in line


def test_a_callback_that_fails_costs_its_own_task_only(gateway: Standing, python: str) -> None:
    """What the client raises is its own affair; the results behind it come, in order."""
    text = """
    def broken(*_):
        raise KeyError("mine")
    await meca_api.offload_task("1", "lab:latest", "echo 1", broken)
    await meca_api.join(0.5, 1)
    meca_api.waiting.clear()
    for number in range(2, 5):
        await meca_api.offload_task(str(number), "lab:latest", f"echo {number}", named("got"))
        await meca_api.join(20, 20)
"""
    done = run(python, gateway, text)
    assert [line for line in done.out.splitlines() if line.startswith("got")] == [
        f"got {number} 1 {number} None" for number in range(2, 5)
    ]
    assert done.err.count("Traceback") == done.err.count("KeyError: 'mine'") == 1


# -- who hears what


def test_several_clients_at_once_with_the_same_ids(gateway: Standing, tmp_path: Path) -> None:
    """Each hears of its own tasks only: what is not its own would be an error inside of it. A native one beside."""
    text = """
    await line()
    for number in range(15):
        await meca_api.offload_task(str(number), "lab:latest", f"echo {sys.argv[1]} {number}", named("got"))
    await meca_api.join(20, 20)
"""
    for which in PYTHONS:
        interpreter(which)
    with contextlib.ExitStack() as stack:
        programs = {
            name: stack.enter_context(started_program(which, HEAD + text + TAIL, name, port=gateway.port))
            for which in PYTHONS
            for name in (f"{which}1", f"{which}2")
        }
        for program in programs.values():
            assert program.stdout
            assert "registered: True" in program.stdout.readline()
        for program in programs.values():
            go_on(program)
        ex = stack.enter_context(MecaExecutor(gateway.url))
        native = list(ex.map(Container("lab:latest"), [f"echo {number}" for number in range(30)], timeout=LIMIT))
        assert native == [str(number) for number in range(30)]
        for name, program in programs.items():
            lines = said(finish(program).expect(0), "got", "task", "join")
            assert sorted(lines) == sorted(f"got {number} 1 {name} {number} None" for number in range(15))


@pytest.mark.parametrize("ends", ["while it is away", "when it is back"])
def test_a_result_finds_its_client_again(gateway: Standing, python: str, tmp_path: Path, ends: str) -> None:
    """The same process on a new connection: each result once, and not lost in between as on the original."""
    gate = tmp_path / "gate"
    text = f"""
    await meca_api.offload_task("1", "lab:latest", "wait {gate}", named("got"))
    before = await cut()
    print("away")
    await line()
    await connected_again(before)
    print("back")
    await line()
    await meca_api.offload_task("2", "lab:latest", "echo 2", named("got"))
    await meca_api.join(20, 20)
"""

    with started_program(python, HEAD + text + TAIL, port=gateway.port) as program:
        lines = until(program, "away")
        wait_until((tmp_path / "gate.begun").exists, "the container has the request")
        if ends == "while it is away":
            gate.touch()
        go_on(program)
        lines += until(program, "back")
        gate.touch()
        go_on(program)
        assert program.stdout and program.stderr
        # By the same reader as above, which may have read ahead; the program has time limits of its own.
        done = Finished(0, "\n".join([*lines, program.stdout.read()]), program.stderr.read())
        assert program.wait(LIMIT) == 0
    lines = said(done, "got", "registered", "task", "join")
    assert lines[:2] == ["registered: True", "registered: True"]
    assert sorted(lines[2:]) == [f"got 1 1 {gate} None", "got 2 1 2 None"]


def go_on(program: subprocess.Popen[str]) -> None:
    """Let a program go on that waits for a line."""
    assert program.stdin
    program.stdin.write("go\n")
    program.stdin.flush()


def until(program: subprocess.Popen[str], line: str) -> list[str]:
    """Return what a program prints until it prints this line."""
    assert program.stdout
    lines: list[str] = []
    while line not in lines:
        assert program.poll() is None or lines
        lines.append(program.stdout.readline().rstrip())
        assert lines[-1], f"it ended without {line!r}: {lines}"
    return lines


@pytest.mark.parametrize("letter", ["x", "é"])
def test_a_result_of_any_size(gateway: Standing, python: str, letter: str) -> None:
    """6 MB as JSON, where a websocket of the original is closed; a small task before and after it."""
    count = 6_000_000 if letter == "x" else 1_000_000
    text = f"""
    for number, order in enumerate(("echo a", "letters {letter} {count}", "echo b", "letters {letter} {count}")):
        await meca_api.offload_task(str(number), "lab:latest", order, named("got"))
        await meca_api.join(20, 20)
"""
    lines = said(run(python, gateway, text), "got", "task", "join")
    assert lines == ["got 0 1 a None", f"got 1 1 {count} None", "got 2 1 b None", f"got 3 1 {count} None"]


def test_large_and_small_results_of_several_clients(gateway: Standing) -> None:
    """One that has to come back for its large result holds up nobody."""
    text = """
    for number in range(3):
        order = "letters x 5000000" if sys.argv[1] == "large" else "echo small"
        await meca_api.offload_task(str(number), "lab:latest", order, named("got"))
    await meca_api.join(20, 20)
"""
    for which in PYTHONS:
        interpreter(which)
    with contextlib.ExitStack() as stack:
        programs = [
            (size, stack.enter_context(started_program(which, HEAD + text + TAIL, size, port=gateway.port)))
            for which in PYTHONS
            for size in ("large", "small")
        ]
        for size, program in programs:
            lines = said(finish(program).expect(0), "got", "task", "join")
            reply = "5000000" if size == "large" else "small"
            assert sorted(lines) == [f"got {number} 1 {reply} None" for number in range(3)]
