"""A gateway that takes connections and drops them at once; and what the libraries below say of links."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from meca_executor import MecaExecutor
from meca_executor.client.connection import Connection
from meca_executor.client.http import LOGGER
from tests.helpers.proxy import proxy
from tests.helpers.waiting import LIMIT, wait_until

from .standing import standing_gateway

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

DROPS = 8
PAUSED_S = 2.0  #: the first seven pauses add up to 3 s at least, or a connection has lasted for a second


def test_a_gateway_that_drops_at_once_is_tried_with_growing_pauses(tmp_path: Path) -> None:
    """Then it behaves, and the work is done."""
    dropping = True

    def on_link(word: str, _: str) -> None:
        if word == "connected" and dropping:
            link.cut()

    with standing_gateway(tmp_path, "--workers", "1") as gateway, proxy(gateway.port) as link:
        began = time.monotonic()
        with MecaExecutor(link.url, on_link=on_link) as ex:
            future = ex.submit(abs, -7)
            wait_until(lambda: link.connections >= DROPS, "it has come back often enough", 3 * LIMIT)
            assert time.monotonic() - began > PAUSED_S
            dropping = False
            assert future.result(LIMIT) == 7
            assert ex.submit(abs, -8).result(LIMIT) == 8


def test_no_library_prints_what_it_thinks_of_a_link(caplog: pytest.LogCaptureFixture) -> None:
    """What an event's handler raised is a defect, and is told."""

    async def loggers() -> list[object]:
        connection = Connection("http://127.0.0.1:1", lambda frame: None, lambda: None)
        try:
            return [connection._sio.logger, connection._sio.eio.logger]
        finally:
            await connection.close()

    assert asyncio.run(loggers()) == [LOGGER, LOGGER]
    with caplog.at_level(logging.DEBUG):
        LOGGER.error("packet queue is empty, aborting")
        assert not caplog.records
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            LOGGER.exception("message handler error")
    assert [record.message for record in caplog.records] == ["message handler error"]
