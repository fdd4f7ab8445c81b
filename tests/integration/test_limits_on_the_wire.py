"""Limits that need a gateway to be seen: frames, results, and programs on the old SDK."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import aiohttp
import pytest
import socketio

from meca_executor import MecaExecutor, TaskTooLarge
from meca_executor.gateway import desktop
from meca_executor.serve import Gateway
from meca_executor.wire.stream import FRAME_LIMIT

from .key_clients import LIMIT, PLAIN, in_a_loop, works
from .standing import EXAMPLES, standing_gateway

if TYPE_CHECKING:
    from pathlib import Path


def result_of(size: int) -> bytes:
    """Return so many bytes, where a million are the limit."""
    from meca_executor.wire import payloads

    payloads.MESSAGE_LIMIT = 1_000_000  # type: ignore[attr-defined]
    return bytes(size)


def test_a_frame(caplog: pytest.LogCaptureFixture) -> None:
    """One more byte than is allowed ends its connection, and no other one; the log says why."""

    async def test() -> None:
        gateway = Gateway(dict([PLAIN]), 1, {})
        try:
            url = f"http://127.0.0.1:{await gateway.listen('127.0.0.1', 0)}"
            async with aiohttp.ClientSession() as session:
                async with session.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket") as ws:
                    with contextlib.suppress(ConnectionError):  # it is refused by its announced size
                        await ws.send_bytes(bytes(FRAME_LIMIT + 1))
                    while (await ws.receive(LIMIT)).type is aiohttp.WSMsgType.TEXT:
                        pass
            assert await asyncio.to_thread(works, url, PLAIN)
        finally:
            await gateway.close()

    in_a_loop(test)
    assert "a client's connection ends: Message size" in caplog.text


def test_a_result(tmp_path: Path) -> None:
    """It fails its own call, with both numbers; the worker lives on."""
    words = ("--workers", "1", "--journal", str(tmp_path / "journal"))  # with which nothing lies in shared memory
    with standing_gateway(tmp_path, *words) as gateway, MecaExecutor(gateway.url) as ex:
        with pytest.raises(TaskTooLarge, match=r"the value has 2,000,0\d\d bytes, and 1,000,000 can travel"):
            ex.submit(result_of, 2_000_000).result(LIMIT)
        assert ex.submit(result_of, 900_000).result(LIMIT) == bytes(900_000)


def test_tasks_of_one_program_on_the_old_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is not taken, in words."""
    assert desktop.JOBS_MOST == 16_384
    monkeypatch.setattr(desktop, "JOBS_MOST", 0)

    async def test() -> None:
        gateway = Gateway({}, 1, {"sampleserver:latest": str(EXAMPLES / "sampleserver")})
        client, told = socketio.AsyncClient(), asyncio.Queue[object]()
        client.on("offloaded", lambda *words: told.put_nowait(words[0]))
        try:
            await client.connect(f"http://127.0.0.1:{await gateway.listen('127.0.0.1', 0)}", transports=["websocket"])
            job = '{"task_id": "1", "container_reference": "sampleserver", "content": "{}"}'
            await client.emit("offload", job)
            answer = await asyncio.wait_for(told.get(), LIMIT)
            assert answer == {"message": "this program has 0 tasks here already; offer more when some have ended"}
        finally:
            await client.disconnect()
            await gateway.close()

    in_a_loop(test)
