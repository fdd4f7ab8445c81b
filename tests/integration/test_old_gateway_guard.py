"""The old dialect on a gateway of ours: garbage, web pages, large messages, polling, and what has to end by itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import socketio

from meca_executor.gateway import desktop
from meca_executor.serve import Gateway
from tests.helpers.processes import command, descendants
from tests.helpers.waiting import LIMIT

from .app_tools import make_app, until
from .old_tools import LAB, old_gateway
from .test_old_gateway_wire import OFFLOADED, REGISTERED, Wire, connected, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from .standing import Standing


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """A gateway for all tests here; nothing that they do may break it."""
    with old_gateway(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


async def works(port: int) -> None:
    """Check that a new client is served."""
    async with connected(port) as wire:
        assert await wire.event() == REGISTERED
        await wire.offload("echo fine")
        assert [await wire.event(), await wire.result()] == [OFFLOADED, [1, "fine", None, "7"]]


# -- garbage


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "one string"),
        ([{}], "one string"),
        ([None, 1, 2, 3], "one string"),
        ([5], "one string"),
        (["{"], "not JSON"),
        (["[" * 100_000], "not JSON"),
        (["[]"], "not a JSON object"),
        (["{}"], "task_id"),
    ],
)
def test_what_is_no_job_is_told_so(gateway: Standing, arguments: list[object], why: str) -> None:
    """By an `offloaded` with its two arguments; the connection goes on."""

    async def test() -> None:
        async with connected(gateway.port) as wire:
            assert await wire.event() == REGISTERED
            await wire.send("42" + json.dumps(["offload", *arguments]))
            name, error, result = await wire.event()
            assert (name, result) == ("offloaded", None)
            assert why in error["message"]
            await wire.offload("echo x")
            assert [await wire.event(), await wire.result()] == [OFFLOADED, [1, "x", None, "7"]]

    run(test)


GARBAGE = {
    "unknown event": ['42["unknown",1,{"a":[]}]'],
    "native frame": ['42["frame","x"]', '42["hello",{"key":"x"}]'],
    "reserved connect": ['42["connect"]', '42["connect",{"HTTP_HOST":"localhost"}]'],
    "reserved disconnect": ['42["disconnect"]'],
    "no event": ["42{}", "42[]", "42"],
    "empty message": ["4"],
    "no packet": ["x", ""],
    "foreign ack": ["43999[]", "43[]"],
    "error packet": ["44{}"],
    "second connect": ["40", "40{}"],
    "another namespace": ["40/other,", "40/meca,"],
    "leaves": ["41"],
    "not JSON": ["42[", "42" + "[" * 100_000],
    "number for a name": ["42[5]", "42[null]", '42[["offload"]]'],
    "binary": ['451-["offload",{"_placeholder":true,"num":0}]', "bytes"],
    "binary without an end": ['459-["offload",{"_placeholder":true,"num":0}]'],
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_breaks_nothing(gateway: Standing, garbage: str) -> None:
    """Ignored, or the end of that connection; never of the gateway, and nobody else sees it."""

    async def until_served(wire: Wire) -> bool:
        """Return whether the connection still serves; a closed one, or one out of the namespace, does not."""
        await wire.offload("echo still")
        frame: str | None = ""
        while frame is not None and not frame.startswith(("41", "44")):
            if "still" in frame:
                return True
            frame = await wire.frame()
        return False

    async def test() -> None:
        async with connected(gateway.port) as other:
            assert await other.event() == REGISTERED
            for frame in GARBAGE[garbage]:
                async with connected(gateway.port) as wire:
                    assert await wire.event() == REGISTERED
                    await wire.send(frame.encode() if frame == "bytes" else frame)
                    if garbage in ("unknown event", "native frame", "reserved connect", "foreign ack"):
                        assert await until_served(wire)
                    elif garbage == "reserved disconnect":
                        assert not await until_served(wire)
            await other.offload("echo other")
            assert [await other.event(), await other.result()] == [OFFLOADED, [1, "other", None, "7"]]
        await works(gateway.port)

    run(test)


# -- web pages, other protocols


@pytest.mark.parametrize("transport", ["polling", "websocket"])
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://evil.example", False),
        ("http://evil.example:{port}", False),
        ("https://127.0.0.1:{port}", False),
        ("null", False),
        ("http://127.0.0.1:{port}", True),
        (None, True),
    ],
)
def test_a_foreign_origin_is_refused(gateway: Standing, transport: str, origin: str | None, allowed: bool) -> None:
    """A web page may open a WebSocket to anywhere; it says whose page it is."""

    async def test() -> None:
        url = f"{gateway.url}/socket.io/?EIO=4&transport={transport}"
        headers = {} if origin is None else {"Origin": origin.format(port=gateway.port)}
        async with aiohttp.ClientSession(headers=headers) as session:
            if transport == "polling":
                async with session.get(url) as response:
                    assert response.status == (200 if allowed else 400)
            elif allowed:
                async with session.ws_connect(url) as socket:
                    assert str(await socket.receive_str()).startswith("0")
            else:
                with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                    await session.ws_connect(url)
                assert caught.value.status == 400

    run(test)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:3001", "127.0.0.1.evil.example", "[", ""])
def test_a_page_whose_name_was_made_to_lead_here_is_refused(gateway: Standing, host: str) -> None:
    """Its origin is then the address that it asks for; but that is not a name of this machine."""

    async def test() -> None:
        async with connected(gateway.port, Host=host) as wire:
            await wire.offload("echo x")
            assert (await wire.frame() or "41").startswith("41")

    run(test)
    gateway.await_log("not a name of this machine")


@pytest.mark.parametrize("host", ["localhost:3001", "127.0.0.1", "[::1]:3001", "LOCALHOST"])
def test_the_names_of_this_machine(gateway: Standing, host: str) -> None:
    """Whatever the port: a tunnel may have another."""

    async def test() -> None:
        async with connected(gateway.port, Host=host) as wire:
            assert await wire.event() == REGISTERED

    run(test)


def test_clients_of_an_older_protocol_are_refused(gateway: Standing) -> None:
    """Engine.IO 3, as socket.io 2 speaks it."""

    async def test() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{gateway.url}/socket.io/?EIO=3&transport=polling") as response,
        ):
            assert response.status == 400

    run(test)


def test_gpus_are_a_wish(gateway: Standing) -> None:
    """Logged, and the task runs; a program that always says that it wants none is not worth a line."""

    async def test() -> None:
        async with connected(gateway.port) as wire:
            assert await wire.event() == REGISTERED
            for task_id, wish in (("none", (False, 0)), ("two", (True, 2))):
                await wire.offload("echo x", task_id, use_gpu=wish[0], gpu_count=wish[1])
                assert [await wire.event(), await wire.result()] == [OFFLOADED, [1, "x", None, task_id]]

    run(test)
    gateway.await_log("task two: use_gpu is ignored")
    assert "task none" not in gateway.log


# -- large messages, polling


def test_messages_larger_than_the_originals(gateway: Standing) -> None:
    """2 MB are taken; what is over the limit ends the connection, as on the original, and nothing else."""

    async def test() -> None:
        async with connected(gateway.port) as wire:
            assert await wire.event() == REGISTERED
            await wire.offload("echo " + "x" * 2_000_000)
            assert await wire.event() == OFFLOADED
            assert (await wire.result())[1] == "x" * 2_000_000
            with contextlib.suppress(ConnectionError, aiohttp.ClientError):
                await wire.offload("echo " + "x" * 5_000_000)
            assert await wire.frame() is None
        await works(gateway.port)

    run(test)


def test_a_client_on_polling(gateway: Standing, tmp_path: Path) -> None:
    """As behind some proxies: large jobs in pieces, more results at once than a poll may hold, a quick goodbye."""
    gate = tmp_path / "gate"
    results: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
    offloaded: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    async def test() -> None:
        client = socketio.AsyncClient()
        client.on("offloaded", lambda *arguments: offloaded.put_nowait(arguments))
        client.on("job_results_received", lambda *arguments: results.put_nowait(arguments[:4]))
        await client.connect(gateway.url, transports=["polling"])
        contents = ["echo " + "é" * 100_000, *[f"wait {gate}"] * 40]
        for number, content in enumerate(contents):
            job = {"task_id": str(number), "container_reference": "lab:latest", "content": content}
            await client.emit("offload", json.dumps(job))
            assert await asyncio.wait_for(offloaded.get(), LIMIT) == (None, "success")
        assert await asyncio.wait_for(results.get(), LIMIT) == (1, "é" * 100_000, None, "0")
        gate.touch()
        got = [await asyncio.wait_for(results.get(), LIMIT) for _ in range(40)]
        assert sorted(got) == sorted((1, str(gate), None, str(number)) for number in range(1, 41))
        began = time.monotonic()
        await client.disconnect()
        assert time.monotonic() - began < 5.0  # else a poll waits for a ping, 10 s

    run(test)


# -- what ends by itself


@contextlib.asynccontextmanager
async def own_gateway(folder: Path) -> AsyncIterator[int]:
    """Give the port of a gateway in this process, whose limits of time a test may change."""
    gateway = Gateway({}, 1, {"lab:latest": str(make_app(folder / "lab", LAB))})
    try:
        yield await gateway.listen("127.0.0.1", 0)
    finally:
        await gateway.close()


def app_runs(folder: Path) -> bool:
    """Whether an app of this folder runs."""
    return any(f"{folder}/lab/src/app.py" in command(process.pid) for process in descendants(os.getpid()))


def test_a_job_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended after the original's 600 s, in its words."""
    assert desktop.JOB_S == 600
    monkeypatch.setattr(desktop, "JOB_S", 0.3)

    async def test() -> None:
        async with own_gateway(tmp_path) as port, connected(port) as wire:
            assert await wire.event() == REGISTERED
            await wire.offload(f"wait {tmp_path / 'never'}")
            assert [await wire.event(), await wire.result()] == [OFFLOADED, [0, "", "Time out.", "7"]]
            await wire.offload("echo x")
            assert [await wire.event(), await wire.result()] == [OFFLOADED, [1, "x", None, "7"]]

    run(test)


def test_a_client_that_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its jobs are ended after a time, and what it would have heard is forgotten."""
    monkeypatch.setattr(desktop, "KEPT_S", 0.3)

    async def test() -> None:
        async with own_gateway(tmp_path) as port:
            async with connected(port) as wire:
                assert await wire.event() == REGISTERED
                await wire.offload(f"wait {tmp_path / 'never'}")
                assert await wire.event() == OFFLOADED
                await until((tmp_path / "never.begun").exists)
                assert app_runs(tmp_path)
            await until(lambda: not app_runs(tmp_path))
            await works(port)

    run(test)


def test_a_gateway_that_ends_with_jobs_under_way(tmp_path: Path) -> None:
    """It does not wait for clients, and leaves nothing."""

    async def test() -> None:
        async with own_gateway(tmp_path) as port, connected(port) as wire:
            assert await wire.event() == REGISTERED
            await wire.offload(f"wait {tmp_path / 'never'}")
            await until((tmp_path / "never.begun").exists)

    run(test)
    assert not app_runs(tmp_path)
