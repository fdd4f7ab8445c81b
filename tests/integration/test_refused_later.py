"""A gateway that ends a connection which it had welcomed says why, and its client passes that on."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING

import pytest

from meca_executor import GatewayLost, MecaExecutor
from meca_executor.serve import Gateway
from tests.contract.rooms import Room
from tests.helpers.waiting import wait_until

from .gateways import Gateways
from .key_clients import LIMIT, PLAIN, client, in_a_loop
from .standing import standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .standing import Standing


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Standing]:
    with standing_gateway(tmp_path, "--workers", "1") as standing:
        yield standing


def stay(folder: str) -> None:
    Room(folder).stay("a task")


def test_a_journal_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The reason is told to `on_link`, stands in the state, the log, and in the error of every open future."""
    gateways, heard = Gateways(tmp_path), list[tuple[str, str]]()
    gateways.start(limit_bytes=400_000)
    reason = f"the gateway at {gateways.url} ended the connection: the journal {gateways.journal} cannot be written"
    with (
        caplog.at_level(logging.WARNING, "meca.client"),
        MecaExecutor(gateways.url, resume_window=3.0, on_link=lambda *told: heard.append(told)) as ex,
    ):
        futures = [ex.submit(len, os.urandom(50_000)) for _ in range(40)]
        wait_until(lambda: "resuming" in ex.state, "the link drops", LIMIT)
        state = ex.state
        assert gateways.ended() == 1
        error = futures[-1].exception(LIMIT)
    assert isinstance(error, GatewayLost)
    for text in (state, str(error), caplog.text, dict(heard)["resuming"], dict(heard)["lost"]):
        assert reason in text
    assert "did not come back within 3 s" in str(error)


def test_what_a_gateway_cannot_read(gateway: Standing, tmp_path: Path) -> None:
    """Its session is over, and what it had fails with the reason; a new session begins by itself."""
    room, heard = Room(tmp_path / "room"), list[tuple[str, str]]()
    with MecaExecutor(gateway.url, retry=1, on_link=lambda *told: heard.append(told)) as ex:
        future = ex.submit(stay, str(room.folder))
        room.await_count(1)
        loop = ex._link._loop
        assert loop is not None
        loop.call_soon_threadsafe(ex._link._driver._transmit, b"garbage")  # type: ignore[attr-defined]
        with pytest.raises(GatewayLost, match=r"could not read a frame: a frame of 7 bytes.* its session with it"):
            future.result(LIMIT)
        assert ex.submit(abs, -1).result(LIMIT) == 1
        assert ex.state == "connected"
        wait_until(lambda: len(heard) == 3, "it drops and comes back", LIMIT)
    assert "could not read a frame" in dict(heard)["resuming"]
    assert "a client sent what cannot be read" in gateway.log


def test_what_is_told_is_one_plain_line(caplog: pytest.LogCaptureFixture) -> None:
    """It may quote what others said, and it goes to terminals; the next connection has forgotten it."""

    async def test() -> None:
        gateway = Gateway(dict([PLAIN]), 1, {})
        try:
            url = f"http://127.0.0.1:{await gateway.listen('127.0.0.1', 0)}"
            await asyncio.to_thread(spoil, gateway, url, asyncio.get_running_loop())
        finally:
            await gateway.close()

    def spoil(gateway: Gateway, url: str, loop: asyncio.AbstractEventLoop) -> None:
        heard = list[tuple[str, str]]()
        with client(url, PLAIN, on_link=lambda *told: heard.append(told)) as ex:
            assert ex.submit(abs, -1).result(LIMIT) == 1
            loop.call_soon_threadsafe(gateway.refuse, "a \x1b]0;title\x07 of\nlines")
            wait_until(lambda: len(heard) == 3, "the link drops and comes back", LIMIT)
            assert ex.submit(abs, -2).result(LIMIT) == 2
        reason = f"the gateway at {url} ended the connection: a ?]0;title? of lines"
        assert [word for word, _ in heard] == ["connected", "resuming", "connected", "closed"]
        assert heard[1][1] == reason

    in_a_loop(test)
    assert "\x1b" not in caplog.text
