"""What goes over the connections between the gateway and a local app: kept ones, and replies of every form."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.errors import ContainerFailed, TaskFailed, TaskTimeout
from meca_executor.runtimes import app_connection
from meca_executor.runtimes.examples import shipped

from ..helpers.waiting import LIMIT
from .app_tools import make_app, run, until

if TYPE_CHECKING:
    from pathlib import Path

    from meca_executor.runtimes.apps import Apps

#: An app without any HTTP library, which sends what it is told: {"send": text, "then": what else}.
#: Without "send" it tells how many connections it has had, how many are open, and the request's head.
LITERAL = """
import json, os, socket, threading, time

had = 0

def serve(connection):
    stream = connection.makefile("rb")
    try:
        while answer(connection, stream):
            pass
    except OSError:
        pass
    connection.close()
    stream.close()

def answer(connection, stream):
    head = []
    while (line := stream.readline().decode()) != "\\r\\n":
        if not line:
            return False
        head.append(line)
    length = next(int(line.partition(":")[2]) for line in head if line.lower().startswith("content-length"))
    if length > 100_000:
        connection.sendall(b"HTTP/1.1 413 Too large\\r\\nContent-Length: 4\\r\\n\\r\\nmuch")
        time.sleep(100)
    order = json.loads(stream.read(length))
    if "begun" in order:
        open(order["begun"], "w").close()
    if "send" in order:
        connection.sendall(order["send"].encode())
    else:
        body = json.dumps({"had": had, "open": threading.active_count() - 1, "head": head})
        connection.sendall(f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n{body}".encode())
    if order.get("then") == "exit":
        os._exit(5)
    if order.get("then") == "leave":
        leave_a_child(order["begun"])
    if order.get("then") == "hang":
        time.sleep(100)
    return order.get("then", "keep") == "keep"

def leave_a_child(file):
    out, into = os.pipe()
    if os.fork() == 0:
        os.setsid()  # now nobody kills it with the app
        os.write(into, b".")
        while os.path.exists(file):
            time.sleep(0.01)
        os._exit(0)
    os.read(out, 1)
    os._exit(7)

server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
print("meca-init-done", flush=True)
while True:
    connection, _ = server.accept()
    had += 1
    threading.Thread(target=serve, args=(connection,), daemon=True).start()
    del connection  # or its end would wait for the next
"""


async def order(apps: Apps, timeout: float | None = None, **what: str) -> bytes:
    return await apps.call("app", json.dumps(what).encode(), timeout=timeout)


async def told(apps: Apps) -> dict[str, Any]:
    answer = json.loads(await order(apps))
    assert isinstance(answer, dict)
    return answer


def test_requests_one_after_another_share_a_connection(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        before = (await told(apps))["had"]
        for _ in range(5):
            assert (await told(apps))["had"] == before

    run(test, {"app": make_app(tmp_path / "app", LITERAL)})


def test_request_is_plain_http(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        first, *fields = (await told(apps))["head"]
        assert first == "POST / HTTP/1.1\r\n"
        names = {field.partition(":")[0]: field.partition(": ")[2].strip() for field in fields}
        assert names["Content-Type"] == "application/json"
        assert names["Accept-Encoding"] == "identity"
        assert names["Host"].startswith("127.0.0.1:")

    run(test, {"app": make_app(tmp_path / "app", LITERAL)})


def test_connections_that_nobody_uses_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_connection, "KEEP_ALIVE_S", 0.2)

    async def test(apps: Apps) -> None:
        answers = await asyncio.gather(*(told(apps) for _ in range(8)))
        assert max(answer["had"] for answer in answers) >= 8
        limit = asyncio.get_running_loop().time() + LIMIT
        while (await told(apps))["open"] != 1:  # the one that asks
            assert asyncio.get_running_loop().time() < limit

    run(test, {"app": make_app(tmp_path / "app", LITERAL)})


@pytest.mark.parametrize(
    ("send", "then", "body"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes", "keep", b"yes"),
        ("HTTP/1.1 200 OK\r\ncontent-length:3\r\nConnection: close\r\n\r\nyes", "close", b"yes"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\ny\r\n2\r\nes\r\n0\r\n\r\n", "keep", b"yes"),
        ("HTTP/1.1 200 OK\r\n\r\nyes", "close", b"yes"),
        ("HTTP/1.0 200 OK\r\n\r\nyes", "close", b"yes"),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes", "keep", b"yes"),
        ("HTTP/1.1 204 No Content\r\n\r\n", "keep", b""),
        ("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 3\r\n\r\nyes", "keep", b"yes"),
    ],
)
def test_replies_of_every_form(tmp_path: Path, send: str, then: str, body: bytes) -> None:
    async def test(apps: Apps) -> None:
        assert await order(apps, send=send, then=then) == body
        assert await told(apps)

    run(test, {"app": make_app(tmp_path / "app", LITERAL)})


@pytest.mark.parametrize(
    "send",
    [
        "",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nyes",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nye",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
    ],
)
def test_replies_that_are_none(tmp_path: Path, send: str) -> None:
    async def test(apps: Apps) -> None:
        with pytest.raises(TaskFailed, match="no valid reply"):
            await order(apps, send=send, then="close")
        assert await told(apps)

    run(test, {"app": make_app(tmp_path / "app", LITERAL)})


def test_more_than_the_reply_is_not_taken_for_the_next(tmp_path: Path) -> None:
    reply = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"

    async def test(apps: Apps) -> None:
        assert await order(apps, send=f"{reply}yes{reply}no!", then="keep") == b"yes"
        assert (await told(apps))["had"]

    run(test, {"app": make_app(tmp_path / "app", LITERAL)})


def test_reply_that_comes_before_the_body_was_read(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        with pytest.raises(TaskFailed, match="413: much"):
            await apps.call("app", b" " * 20_000_000)
        assert await told(apps)

    run(test, {"app": make_app(tmp_path / "app", LITERAL)})


@pytest.mark.parametrize("head", ["", "Content-Length: 30\r\n", "Transfer-Encoding: chunked\r\n"])
def test_timeout_in_the_middle_of_a_reply(tmp_path: Path, head: str) -> None:
    """A reply without a length ends with its connection: not with ours."""

    async def test(apps: Apps) -> None:
        with pytest.raises(TaskTimeout):
            await order(apps, timeout=0.3, send=f"HTTP/1.1 200 OK\r\n{head}\r\n3\r\nyes", then="hang")
        assert await told(apps)

    run(test, {"app": make_app(tmp_path / "app", LITERAL)})


def test_close_in_the_middle_of_a_reply(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    send = "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nyes"

    async def test(apps: Apps) -> None:
        call = asyncio.create_task(order(apps, send=send, then="hang", begun=str(begun)))
        await until(begun.exists)
        await apps.close()
        with pytest.raises(ContainerFailed):
            await call

    run(test, {"app": make_app(tmp_path / "app", LITERAL)})


def test_app_whose_child_keeps_the_connection_open(tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    async def test(apps: Apps) -> None:
        try:
            with pytest.raises(ContainerFailed, match="exit code 7") as caught:
                await order(apps, send="HTTP/1.1 200 OK\r\n\r\nyes", then="leave", begun=str(begun))
        finally:
            begun.unlink()
        assert caught.value.lost

    run(test, {"app": make_app(tmp_path / "app", LITERAL)})


def test_whole_reply_of_an_app_that_ends_with_it(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        send = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes"
        for _ in range(3):
            assert await order(apps, send=send, then="exit") == b"yes"
            await until(lambda: "running=[]" in repr(apps))

    run(test, {"app": make_app(tmp_path / "app", LITERAL)})


@pytest.mark.parametrize("name", sorted(shipped()))
def test_examples_tell_a_caller_who_waits_to_go_on(name: str) -> None:
    """curl asks so before a large body, and waits a second for the answer."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, str(shipped()[name] / "src" / "app.py")]
    with subprocess.Popen(command, env={"PORT": str(port)}, stdout=subprocess.PIPE) as app:
        try:
            assert app.stdout is not None
            assert b"meca-init-done" in app.stdout.readline()
            with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as connection:
                head = b"POST /nowhere HTTP/1.1\r\nHost: app\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
                connection.sendall(head)
                assert connection.recv(1000).startswith(b"HTTP/1.1 100")
                connection.sendall(b"{}")
                assert connection.recv(1000).startswith(b"HTTP/1.1 404")
        finally:
            app.kill()
