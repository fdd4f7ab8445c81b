"""Each shipped example as a real local process, and their programs at the client's side."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from meca_executor.errors import TaskFailed
from meca_executor.runtimes.apps import Apps
from meca_executor.runtimes.examples import shipped

from ..helpers.scripts import PACKAGE_PARENT, SCRIPT_LIMIT
from ..helpers.waiting import LIMIT

EXAMPLES = shipped()
ROWS = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]  #: the original's own data set


Input = bytes | str | Mapping[str, Any]


def encode(content: Input) -> bytes:
    """Return bytes and strings as they are, anything else as JSON."""
    if isinstance(content, bytes):
        return content
    return (content if isinstance(content, str) else json.dumps(content)).encode()


def ask(ref: str, *contents: Input) -> list[bytes | BaseException]:
    """Return the replies, or errors, of one app to several inputs at once."""

    async def main() -> list[bytes | BaseException]:
        apps = Apps(EXAMPLES)
        try:
            calls = (apps.call(ref, encode(content), timeout=LIMIT) for content in contents)
            return await asyncio.gather(*calls, return_exceptions=True)
        finally:
            await apps.close()

    return asyncio.run(main())


def refused(ref: str, *contents: Input) -> list[str]:
    """Return the `error` texts of an app's refusals (status 400)."""
    texts = []
    for error in ask(ref, *contents):
        assert isinstance(error, TaskFailed)
        assert "status 400" in str(error)
        texts.append(json.loads(str(error).partition("400: ")[2])["error"])
    return texts


@pytest.mark.parametrize("ref", EXAMPLES)
def test_example_output_is_the_answer_to_example_input(ref: str) -> None:
    folder = EXAMPLES[ref]
    if folder.name == "python-runner" and sys.version_info[:2] != (3, 11):
        pytest.skip("its example input is a call of Python 3.11, as its image has it")
    replies = ask(ref, *[(folder / "example_input.bin").read_bytes()] * 3)
    assert replies == [(folder / "example_output.bin").read_bytes()] * 3


@pytest.mark.parametrize("ref", EXAMPLES)
def test_what_is_not_json_is_refused(ref: str) -> None:
    texts = refused(ref, b"", b"{", b"\xff\xfe\x00", "[" * 100_000, "1" * 5000)
    assert all("bad input" in text for text in texts[:4])


def test_sampleserver() -> None:
    assert ask("sampleserver", {"name": "meca dev 0"}, {}, '{"name": "J\u00fcrgen \U0001f600 \\ud800"}') == [
        b'{\n    "message": "hello meca dev 0"\n}',
        b'{\n    "message": "hello "\n}',
        '{\n    "message": "hello J\u00fcrgen \U0001f600 ?"\n}'.encode(),
    ]
    assert "must be a string" in refused("sampleserver", {"name": 1})[0]
    assert "JSON object" in refused("sampleserver", "[]")[0]


def test_python_template_echoes() -> None:
    assert ask("python-template", '{ "a":1.50 }', "null", '"\\ud800"') == [b'{"a": 1.5}', b"null", b'"\\ud800"']


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 5, 6, 100])
def test_knn_gives_the_originals_answers_for_any_number_of_processes(processes: int) -> None:
    more = {"dataset": ROWS, "k": 2, "num_processes": processes}
    points = ([2, 3], [9, 10], [6, 7])
    assert ask("knn", *({"point": point, **more} for point in points)) == [b"[0, 1]", b"[4, 3]", b"[2, 3]"]


def test_knn_agrees_with_sorting_all() -> None:
    chance = random.Random(5)
    rows = [[chance.randrange(10), chance.randrange(10)] for _ in range(500)]  # a small grid, so that many are equal
    query = {"dataset": rows, "point": [4, 4], "k": 200}
    order = sorted(range(500), key=lambda at: (rows[at][0] - 4) ** 2 + (rows[at][1] - 4) ** 2)
    replies = ask("knn", *({**query, "num_processes": processes} for processes in (1, 2, 7)))
    assert [json.loads(reply) for reply in replies if isinstance(reply, bytes)] == [order[:200]] * 3


def test_knn_refuses_in_words() -> None:
    good = {"dataset": ROWS, "point": [2, 3], "k": 2, "num_processes": 1}
    texts = refused("knn", {**good, "k": 6}, {**good, "point": [1]}, {"k": 1}, "[]")
    assert texts == [
        "bad input: k is 6 and dataset has only 5 rows",
        "bad input: row 0 of dataset has 2 numbers and point has 1",
        "bad input: dataset, point missing",
        "bad input: expected a JSON object with dataset, point, k and num_processes",
    ]


async def raw(request: bytes) -> bytes:
    """Return what the template's server sends for a hand-written request, up to the end of the connection."""
    apps = Apps(EXAMPLES)
    try:
        await apps.call("python-template", b"1")
        (instance,) = apps._current.values()
        reader, writer = await asyncio.open_connection("127.0.0.1", instance.process.port)
        writer.write(request)
        reply = await asyncio.wait_for(reader.read(), LIMIT)
        writer.close()
        await writer.wait_closed()
        return reply
    finally:
        await apps.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("POST /other HTTP/1.0\r\nContent-Length: 2", 404),
        ("GET / HTTP/1.0", 404),
        ("POST / HTTP/1.1", 411),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked", 411),
        ("POST / HTTP/1.0\r\nContent-Length: -2", 411),
        ("PUT / HTTP/1.0", 501),
    ],
)
def test_other_requests(head: str, status: int) -> None:
    reply = asyncio.run(raw(f"{head}\r\n\r\n{{}}".encode()))
    assert reply.startswith((f"HTTP/1.1 {status} ".encode(), f"HTTP/1.0 {status} ".encode()))


def test_connection_is_kept_for_more_requests() -> None:
    first = "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n11"
    missing = "POST /missing HTTP/1.1\r\nContent-Length: 2\r\n\r\n22"
    last = "POST / HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n33"
    reply = asyncio.run(raw((first + missing + last).encode()))
    assert reply.count(b"HTTP/1.1 200 OK") == 2
    assert reply.count(b"HTTP/1.1 404 ") == 1
    assert reply.endswith(b"33")


def run_client(name: str, *arguments: str) -> str:
    """Return what a client program prints, run from its own folder as its README says."""
    ref, _, file = name.partition("/")
    done = subprocess.run(
        [sys.executable, file, *arguments],
        cwd=EXAMPLES[f"{ref}:latest"],
        env={**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SCRIPT_LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("tasks", ["1", "2", "3", "4", "5", "100"])
def test_knn_client_merges_any_number_of_tasks(tasks: str) -> None:
    assert run_client("knn/knn.py", "--tasks", tasks) == "indices [0, 1]\npoints [[1, 2], [3, 4]]\n"


def test_sampleserver_client() -> None:
    expected = "hello meca dev 0\nhello meca dev 1\n"
    assert run_client("sampleserver/basic_offload.py", "--image", "sampleserver") == expected
