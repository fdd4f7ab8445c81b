"""The old dialect on a gateway of ours, frame by frame: order, arities, who hears what, and what it does not let in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from meca_executor.gateway.peer import process_at
from tests.helpers.waiting import LIMIT

from .old_tools import old_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

    from .standing import Standing

REGISTERED, OFFLOADED = ["registered", True], ["offloaded", None, "success"]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """A gateway for all tests here; nothing that they do may break it."""
    with old_gateway(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway
    assert "Traceback" not in gateway.log, gateway.log


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 2 * LIMIT))


class Wire:
    """A websocket to a gateway that says what it is told to say, and acknowledges events unless told otherwise."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse[bool], acknowledges: bool) -> None:
        self._socket = socket
        self._acknowledges = acknowledges

    async def send(self, frame: str | bytes) -> None:
        await (self._socket.send_str(frame) if isinstance(frame, str) else self._socket.send_bytes(frame))

    async def offload(self, content: object, task_id: object = "7", ref: str = "lab:latest", **more: object) -> None:
        """Offload as the original does: JSON in a string in JSON."""
        job = {"task_id": task_id, "container_reference": ref, "content": content, **more}
        await self.send("42" + json.dumps(["offload", json.dumps(job)]))

    async def frame(self) -> str | None:
        """Return the next frame but pings; None at the end of the connection."""
        while True:
            message = await self._socket.receive(timeout=LIMIT)
            if message.type is not aiohttp.WSMsgType.TEXT:
                return None
            frame = str(message.data)
            if frame != "2":
                if self._acknowledges and (number := re.match(r"42(\d+)\[", frame)):
                    await self.send(f"43{number[1]}[]")
                return frame
            await self.send("3")

    async def event(self) -> list[Any]:
        """Return the next event: its name and its arguments."""
        frame = await self.frame()
        assert frame is not None and frame.startswith("42"), frame
        event = json.loads(frame[frame.index("[") :])
        assert isinstance(event, list)
        return event

    async def result(self) -> list[Any]:
        """Return the next event's arguments but the last: it is a result, with a transaction id."""
        name, *arguments = await self.event()
        assert (name, len(arguments), len(arguments[-1])) == ("job_results_received", 5, 36)
        return arguments[:-1]

    def abort(self) -> None:
        """Cut the connection."""
        connection = self._socket._response.connection
        assert connection is not None and connection.transport is not None
        connection.transport.abort()


@contextlib.asynccontextmanager
async def connected(port: int, *, acknowledges: bool = True, **headers: str) -> AsyncIterator[Wire]:
    """Give a connection to `/`; what comes next is the first event."""
    url = f"http://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.ws_connect(url, max_msg_size=0) as socket,
    ):
        wire = Wire(socket, acknowledges)
        assert (await wire.frame() or "").startswith('0{"sid"')
        await wire.send("40")
        assert (await wire.frame() or "").startswith('40{"sid"')
        yield wire


# -- order and arities


@pytest.mark.parametrize("acknowledges", [True, False])
def test_order_and_arities(gateway: Standing, acknowledges: bool) -> None:
    """One argument, two, five; `offloaded` first. A client in another language need not acknowledge anything."""

    async def test() -> None:
        async with connected(gateway.port, acknowledges=acknowledges) as wire:
            assert await wire.event() == REGISTERED
            for number in range(10):
                await wire.offload(f"echo {number}", str(number))
                assert await wire.event() == OFFLOADED
                assert await wire.result() == [1, str(number), None, str(number)]

    run(test)


def test_many_offloads_in_one_go(gateway: Standing) -> None:
    """Each `offloaded` comes before its own result, and there is one for each."""

    async def test() -> None:
        async with connected(gateway.port) as wire:
            assert await wire.event() == REGISTERED
            for number in range(100):
                await wire.offload("echo x", str(number))
            offloaded, results = 0, list[int]()
            while len(results) < 100:
                name, *arguments = await wire.event()
                offloaded += name == "offloaded"
                if name == "job_results_received":
                    results.append(int(arguments[3]))
                    assert results[-1] < offloaded
            assert (offloaded, sorted(results)) == (100, list(range(100)))

    run(test)


def test_what_it_got_is_what_it_sends_back(gateway: Standing) -> None:
    """Task ids of any letters, the empty one, and one twice; numbers became text on the original, too."""

    async def test() -> None:
        async with connected(gateway.port) as wire:
            assert await wire.event() == REGISTERED
            for task_id in ("", "é🎉\\\"'", "same", "same", 5, "\ud800"):
                await wire.offload("echo x", task_id)
                assert await wire.event() == OFFLOADED
                assert await wire.result() == [1, "x", None, str(task_id)]

    run(test)


# -- who hears what


def test_results_go_to_who_offloaded(gateway: Standing, tmp_path: Path) -> None:
    """Not to another client, also not to one of the same process."""

    async def test() -> None:
        async with connected(gateway.port) as first, connected(gateway.port) as second:
            for wire in (first, second):
                assert await wire.event() == REGISTERED
            await first.offload(f"wait {tmp_path / 'gate'}")
            assert await first.event() == OFFLOADED
            await second.offload("echo second")
            assert [await second.event(), await second.result()] == [OFFLOADED, [1, "second", None, "7"]]
            (tmp_path / "gate").touch()
            assert await first.result() == [1, str(tmp_path / "gate"), None, "7"]
            await second.offload("echo again")
            assert [await second.event(), await second.result()] == [OFFLOADED, [1, "again", None, "7"]]

    run(test)


def test_what_it_has_not_heard_comes_after_a_reconnect(gateway: Standing) -> None:
    """`registered` anew, then the rest in its order: without its `offloaded` the original could not take a result."""

    async def test() -> None:
        async with connected(gateway.port, acknowledges=False) as wire:
            assert await wire.event() == REGISTERED
            await wire.offload("echo x")
            await wire.offload("fail", "8")
            wire.abort()
        async with connected(gateway.port) as wire:
            assert await wire.event() == REGISTERED
            events = [await wire.event() for _ in range(4)]
            told = [sum(event == OFFLOADED for event in events[:count]) for count in range(5)]
            heard = [event[1:-1] for event in events if event != OFFLOADED]
            assert told[4] == 2 and all(2 * told[count] >= count for count in range(5)), events
            assert sorted(heard)[1] == [1, "x", None, "7"]
            await wire.offload("echo last", "9")
            assert [await wire.event(), await wire.result()] == [OFFLOADED, [1, "last", None, "9"]]

    run(test)


OTHER = """
import asyncio, sys
sys.path[:0] = {path!r}
from tests.integration.test_old_gateway_wire import OFFLOADED, REGISTERED, connected

async def main():
    async with connected({port}) as wire:
        assert await wire.event() == REGISTERED
        await wire.offload("echo other")
        assert await wire.event() == OFFLOADED
        print(await wire.result())

asyncio.run(main())
"""


def test_another_process_hears_nothing_of_it(gateway: Standing, tmp_path: Path) -> None:
    """What ends while its client is away waits for that process."""

    async def test() -> None:
        async with connected(gateway.port) as wire:
            assert await wire.event() == REGISTERED
            await wire.offload(f"wait {tmp_path / 'gate'}")
            assert await wire.event() == OFFLOADED
            wire.abort()
        (tmp_path / "gate").touch()
        program = OTHER.format(path=[path for path in sys.path if path], port=gateway.port)
        other = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT
        )
        assert (other.stdout, other.stderr) == ("[1, 'other', None, '7']\n", "")
        async with connected(gateway.port) as wire:
            assert await wire.event() == REGISTERED
            assert await wire.result() == [1, str(tmp_path / "gate"), None, "7"]

    run(test)


def test_the_process_at_the_other_end() -> None:
    """Found by its socket; nobody's, where there is none."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            own = client.getsockname()[1]
            name = process_at(own, port)
            assert name is not None
            assert name.startswith(f"{os.getpid()}@")
            assert name == process_at(own, port)
            assert process_at(own, 1) is None
