"""The link drops and comes back: the session goes on, each result arrives once, each task runs once."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meca_executor import MecaExecutor
from tests.helpers.proxy import proxy
from tests.helpers.waiting import LIMIT, wait_until

from .standing import standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .standing import Standing


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Standing]:
    with standing_gateway(tmp_path, "--workers", "2") as standing:
        yield standing


def mark(folder: str, number: int) -> int:
    """Leave a line for each run, and wait until the test lets all go."""
    with open(f"{folder}/ran", "a") as file:
        file.write(f"{number}\n")
    gate = Path(folder, "open")
    deadline = time.monotonic() + LIMIT
    while not gate.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return number


def note(folder: str, number: int) -> int:
    """Leave a line for each run."""
    with open(f"{folder}/noted", "a") as file:
        file.write(f"{number}\n")
    return number


def test_work_goes_on_while_the_link_is_down(gateway: Standing, tmp_path: Path) -> None:
    """What runs when the link is cut is not run again, and its results arrive after the reconnect."""
    with proxy(gateway.port) as link, MecaExecutor(link.url) as ex:
        futures = [ex.submit(mark, str(tmp_path), number) for number in range(2)]
        wait_until(lambda: (tmp_path / "ran").exists() and len((tmp_path / "ran").read_text()) >= 4, "both run")
        link.cut()
        wait_until(lambda: link.connections >= 2, "the client comes back")
        (tmp_path / "open").touch()
        assert [future.result(LIMIT) for future in futures] == [0, 1]
        assert sorted((tmp_path / "ran").read_text().split()) == ["0", "1"]


def test_many_cuts_under_load(gateway: Standing, tmp_path: Path) -> None:
    """The link is cut again and again while thousands of tasks go by: none is lost, none runs twice."""
    with proxy(gateway.port) as link, MecaExecutor(link.url) as ex:
        futures = [ex.submit(note, str(tmp_path), number) for number in range(3000)]
        for done in (200, 700, 1300, 2000):
            futures[done].result(LIMIT)
            before = link.connections
            link.cut()
            wait_until(lambda before=before: link.connections > before, "the client comes back")  # type: ignore[misc]
        assert [future.result(LIMIT) for future in futures] == list(range(3000))
        assert sorted(map(int, (tmp_path / "noted").read_text().split())) == list(range(3000))


def test_results_that_come_together_with_the_welcome(gateway: Standing, tmp_path: Path) -> None:
    """After a reconnect the gateway's welcome and the results it kept may arrive in one piece."""
    with proxy(gateway.port, gather=0.05) as link, MecaExecutor(link.url) as ex:
        for turn in range(3):
            (tmp_path / "open").unlink(missing_ok=True)
            (tmp_path / "ran").unlink(missing_ok=True)
            futures = [ex.submit(mark, str(tmp_path), number) for number in range(2)]
            wait_until(lambda: (tmp_path / "ran").exists() and len((tmp_path / "ran").read_text()) >= 4, "both run")
            before = link.connections
            link.cut()
            (tmp_path / "open").touch()  # so that results wait for the client when it comes back
            assert [future.result(LIMIT) for future in futures] == [0, 1], turn
            assert link.connections > before


def test_state_tells_of_the_link(gateway: Standing) -> None:
    """`state` is connected, resuming while the link is down, and closed at the end."""
    with proxy(gateway.port) as link:
        ex = MecaExecutor(link.url)
        assert ex.submit(abs, -1).result(LIMIT) == 1
        assert ex.state == "connected"
        link.cut()
        wait_until(lambda: link.connections >= 2 and ex.state == "connected", "it comes back")
        assert ex.submit(abs, -2).result(LIMIT) == 2
        ex.shutdown()
        assert ex.state == "closed"


def test_clients_that_are_gone_at_once(gateway: Standing) -> None:
    """Reset between the request and the websocket's upgrade: the gateway's log has nothing of it."""
    request = (
        b"GET /socket.io/?transport=websocket&EIO=4 HTTP/1.1\r\nHost: x\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", gateway.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(request)
    with MecaExecutor(gateway.url) as ex:
        assert ex.submit(abs, -1).result(LIMIT) == 1
    assert gateway.log == ""
