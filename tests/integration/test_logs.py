"""`future.logs()` where something is in between: a link that drops, another program's session, the desktop app."""

# ruff: noqa: T201  (printing is what is tested)
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meca_executor import Container, MecaExecutor, UsageError
from tests.contract.rooms import Room
from tests.helpers.proxy import proxy
from tests.helpers.waiting import LIMIT, wait_until
from tests.peers.desktop import desktop_app

from .standing import standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .standing import Standing


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Standing]:
    with standing_gateway(tmp_path, "--workers", "2") as standing:
        yield standing


def count(folder: str) -> None:
    """Print before and after the door is open."""
    print("before")
    Room(folder).stay("in")
    print("after")
    Room(folder).enter("out")


def test_over_a_link_that_drops(gateway: Standing, tmp_path: Path) -> None:
    """What is printed while the link is down comes when it is back: once, and in order."""
    room = Room(tmp_path / "room")
    with proxy(gateway.port) as link, MecaExecutor(link.url, output=False) as ex:
        future = ex.submit(count, str(room.folder))
        try:
            wait_until(lambda: future.logs() == "before\n", "it runs")
            link.down()
            wait_until(lambda: ex.state.startswith("resuming"), "the client has noticed")
        finally:
            room.open()
        room.await_count(2)
        link.up()
        future.result(LIMIT)
        assert future.logs() == "before\nafter\n"


def test_of_recovered_tasks(gateway: Standing, tmp_path: Path) -> None:
    """Who claims the session has what they print from then on."""
    room = Room(tmp_path / "room")
    first = MecaExecutor(gateway.url, session="s", output=False)
    first.submit(count, str(room.folder))
    room.await_count(1)
    first.detach()
    with MecaExecutor(gateway.url, session="s", output=False, connect_timeout=LIMIT) as ex:
        (future,) = ex.recover().values()
        room.open()
        future.result(LIMIT)
        assert future.logs().endswith("after\n")
        greeting = ex.submit(Container("sampleserver:latest"), {"name": "x"})
        greeting.result(LIMIT)
        wait_until(lambda: greeting.logs() == "meca-init-done\n", "what it wrote is here")


def test_the_desktop_app_tells_none() -> None:
    """That is said, with what would help."""
    with desktop_app() as app, MecaExecutor(app.url) as ex:
        future = ex.submit(Container("echo:latest"), "x")
        assert future.result(LIMIT) == "x"
        with pytest.raises(UsageError, match="the MECAnywhere desktop app does not tell"):
            future.logs()
