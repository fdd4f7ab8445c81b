"""The desktop app of the tests, by the frames on its websocket: what a client of the real one gets to see."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from ..helpers.waiting import LIMIT
from .desktop import DesktopApp, desktop_app
from .programs import container

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

MAX_PAYLOAD = 1_000_000


class Wire:
    """One websocket, frame by frame."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse[bool]) -> None:
        self._socket = socket

    async def send(self, frame: str) -> None:
        await self._socket.send_str(frame)

    async def offer(self, ref: str, content: object = "text", task_id: object = "7", **more: object) -> None:
        """Send an `offload` as the original does: JSON in a string in JSON."""
        job = {"task_id": task_id, "container_reference": ref, "content": content, **more}
        await self.send("42" + json.dumps(["offload", json.dumps(job)]))

    async def next(self) -> str | None:
        """Return the next frame; None when the server has closed the connection."""
        message = await self._socket.receive(timeout=LIMIT)
        return str(message.data) if message.type is aiohttp.WSMsgType.TEXT else None

    async def event(self) -> list[Any]:
        """Return the next event: its name and arguments."""
        frame = await self.next()
        assert frame is not None
        assert frame.startswith("42"), frame
        event = json.loads(frame[2:])
        assert isinstance(event, list)
        return event

    async def events(self, count: int) -> list[list[Any]]:
        """Return as many next events, transaction ids replaced by `...`."""
        return [without_transaction(await self.event()) for _ in range(count)]


def without_transaction(event: list[Any]) -> list[Any]:
    return [*event[:5], ...] if event[0] == "job_results_received" and event[5] else event


def result(response: str = "text", *, status: int = 1, error: str | None = None, task_id: str = "7") -> list[Any]:
    return ["job_results_received", status, response, error, task_id, ...]


REGISTERED = ["registered", True]
OFFLOADED = ["offloaded", None, "success"]


@contextlib.asynccontextmanager
async def connected(app: DesktopApp, *, namespace: str = "") -> AsyncIterator[Wire]:
    """Give a socket after the handshake; what comes next is the first event."""
    url = f"{app.url}/socket.io/?EIO=4&transport=websocket"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as socket:
        wire = Wire(socket)
        opened = await wire.next()
        assert opened is not None
        handshake = json.loads(opened.removeprefix("0"))
        assert handshake.pop("sid")
        assert handshake == {"upgrades": [], "pingInterval": 25000, "pingTimeout": 20000, "maxPayload": MAX_PAYLOAD}
        await wire.send(f"40{namespace}")
        if not namespace:
            answer = await wire.next()
            assert answer is not None
            assert answer.startswith('40{"sid":"')
        yield wire


@contextlib.asynccontextmanager
async def ready(app: DesktopApp) -> AsyncIterator[Wire]:
    """Give a socket that has heard that it may work: an earlier job is not refused, but its `offloaded` comes first."""
    async with connected(app) as wire:
        assert await wire.events(1) == [REGISTERED]
        yield wire


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 2 * LIMIT))


@pytest.fixture(scope="module")
def shared() -> Iterator[DesktopApp]:
    """The app with its defaults, one for all tests that leave it as it was."""
    with desktop_app() as app:
        yield app


CASES: dict[str, list[list[Any]]] = {
    "echo:latest": [OFFLOADED, result()],
    "sleep-1ms:latest": [OFFLOADED, result()],
    "double:latest": [OFFLOADED, result(), result()],
    "stray:latest": [OFFLOADED, result("not yours", task_id="somebody-else"), result()],
    "recording:latest": [OFFLOADED, result(error="Error recording task: nonce too low")],
    "fails:latest": [OFFLOADED, result("MECA not enough resources")],
    "fails-gpu:latest": [OFFLOADED, result("not enough GPU available")],
    "fails-paused:latest": [OFFLOADED, result("meca executor not started")],
    "fails-start:latest": [OFFLOADED, result("container failed to start in time")],
    "nohost:latest": [OFFLOADED, ["job_results_received", 0, "", "No host available.", "7", ""]],
    "timeout:latest": [OFFLOADED, result("", status=0, error="Time out.")],
    "refused:latest": [["offloaded", {}, None]],
    "hasty:latest": [result(), OFFLOADED],
    "implied:latest": [result()],
    "silent:latest": [OFFLOADED],
    "mute:latest": [],
    "nohost-once:latest": [OFFLOADED, ["job_results_received", 0, "", "No host available.", "7", ""]],
}


@pytest.mark.parametrize("ref", CASES)
def test_what_comes_of_a_job(shared: DesktopApp, ref: str) -> None:
    async def test() -> None:
        async with ready(shared) as wire:
            await wire.offer(ref, "text")
            assert await wire.events(len(CASES[ref])) == CASES[ref]
            # Nothing else was on its way: the next is about the next job. For `-once`, the same again is echoed.
            await wire.offer(ref if "-once" in ref else "echo:latest", "text", "8")
            assert await wire.events(2) == [OFFLOADED, result(task_id="8")]

    run(test)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("true", [REGISTERED]),
        ("late-100ms", [REGISTERED]),
        ("repeated", [REGISTERED] * 3),
        ("bare", [["registered"]]),
        ("never", []),
        ("false", [["registered", False]]),
    ],
)
def test_registered(mode: str, expected: list[list[Any]]) -> None:
    async def test(app: DesktopApp) -> None:
        async with connected(app) as wire:
            assert await wire.events(len(expected)) == expected
            await wire.offer("echo:latest")
            # Without a user there is nobody who would work on it, and nobody says so.
            answer = [] if mode == "false" else [result()]
            assert await wire.events(1 + len(answer)) == [OFFLOADED, *answer]
            app.tell("registered true")
            assert await wire.events(1) == [REGISTERED]

    with desktop_app(registered=mode) as app:
        run(lambda: test(app))


def test_everything_goes_to_everybody(shared: DesktopApp) -> None:
    async def test() -> None:
        async with connected(shared) as first, connected(shared) as second:
            assert await second.events(1) == [REGISTERED]
            assert await first.events(2) == [REGISTERED, REGISTERED]  # one of them for the second client
            await second.offer("echo:latest", "mine")
            assert await first.events(1) == [result("mine")]
            assert await second.events(2) == [OFFLOADED, result("mine")]

    run(test)


def test_who_waits_for_registered_never_hears_of_it_when_another_leaves() -> None:
    async def test(app: DesktopApp) -> None:
        async with connected(app) as first:
            async with connected(app):
                pass
            app.wait_for("disconnect")
            app.tell("registered true")
            await first.offer("echo:latest")
            assert await first.events(2) == [OFFLOADED, result()]

    with desktop_app(registered="never") as app:
        run(lambda: test(app))


def test_results_come_in_the_order_of_their_ends(shared: DesktopApp) -> None:
    async def test() -> None:
        async with ready(shared) as wire:
            for content in "abc":
                await wire.offer("hold:latest", content, content)
            assert await wire.events(3) == [OFFLOADED] * 3  # whose each is, only their order tells
            for content in "cab":
                shared.tell(f"release {content}")
                assert await wire.events(1) == [result(content, task_id=content)]

    run(test)


def test_a_result_is_lost_while_nobody_is_there_and_not_when_somebody_is_again(shared: DesktopApp) -> None:
    async def test() -> None:
        before = len(shared.saw("disconnect"))
        async with ready(shared) as wire:
            await wire.offer("hold:latest", "lost")
            await wire.offer("hold:latest", "kept")
            assert await wire.events(2) == [OFFLOADED, OFFLOADED]
        shared.wait_for("disconnect", count=before + 1)
        shared.tell("release lost")
        async with ready(shared) as wire:
            shared.tell("release kept")
            assert await wire.events(1) == [result("kept")]

    run(test)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ('42["offload",{"task_id":"1"}]', "slice is not a function"),  # an object, not a string
        ('42["offload","{}"]', "JSON"),  # `{,"did":...}`
        ('42["offload","{\\"content\\":\\"x\\"}\\n"]', "JSON"),  # cut off is the line end
        ('42["offload","{\\"task_id\\":\\"1\\",\\"content\\":{}}"]', "content is not a string"),
        ('42["offload","{\\"content\\":\\"x\\",\\"resource\\":{\\"cpu\\":0.5}}"]', "resource"),
    ],
)
def test_a_wrong_job_is_accepted_and_vanishes(shared: DesktopApp, frame: str, why: str) -> None:
    async def test() -> None:
        before = len(shared.saw("lost"))
        async with ready(shared) as wire:
            await wire.send(frame)
            assert await wire.events(1) == [OFFLOADED]
        lost = shared.wait_for("lost", count=before + 1)
        assert why in lost[-1]["why"]

    run(test)


@pytest.mark.parametrize(("task_id", "comes_back"), [("", "0"), (5, "5")])
def test_a_task_id_comes_back_as_a_string(shared: DesktopApp, task_id: object, comes_back: str) -> None:
    async def test() -> None:
        async with ready(shared) as wire:
            await wire.offer("echo:latest", "x", task_id)
            assert await wire.events(2) == [OFFLOADED, result("x", task_id=comes_back)]

    run(test)


@pytest.mark.parametrize("beyond", [0, 1])
def test_a_message_beyond_the_limit_ends_the_connection(shared: DesktopApp, beyond: int) -> None:
    async def test() -> None:
        async with ready(shared) as wire:
            job = '{"task_id":"7","container_reference":"echo:latest","content":"%s"}'
            rest = MAX_PAYLOAD - len("42" + json.dumps(["offload", job % ""])) + beyond
            await wire.send("42" + json.dumps(["offload", job % ("x" * rest)]))
            if beyond:
                assert await wire.next() is None
            else:
                assert await wire.events(2) == [OFFLOADED, result("x" * rest)]

    run(test)


def test_an_answer_has_no_limit(shared: DesktopApp) -> None:
    async def test() -> None:
        async with ready(shared) as wire:
            await wire.offer("big:latest")
            assert await wire.events(2) == [OFFLOADED, result("x" * 6_000_000)]

    run(test)


def test_another_namespace_is_refused(shared: DesktopApp) -> None:
    async def test() -> None:
        async with connected(shared, namespace="/meca,") as wire:
            assert await wire.next() == '44/meca,{"message":"Invalid namespace"}'

    run(test)


@pytest.mark.parametrize("name", ["disconnect", "connect"])
def test_a_reserved_name_ends_the_connection(shared: DesktopApp, name: str) -> None:
    async def test() -> None:
        async with ready(shared) as wire:
            await wire.send(f'42["{name}"]')
            assert await wire.next() is None

    run(test)


def test_the_ways_in_which_it_leaves() -> None:
    async def test(app: DesktopApp) -> None:
        async with ready(app) as wire:
            await wire.offer("drop-once:latest", "x")
            assert await wire.events(1) == [OFFLOADED]
            assert await wire.next() is None
        async with ready(app) as wire:
            await wire.offer("drop-once:latest", "x")
            assert await wire.events(2) == [OFFLOADED, result("x")]
            app.tell("kick")
            assert await wire.next() == "41"
        async with ready(app) as wire:
            app.tell("drop")
            assert await wire.next() is None
        port = app.port
        app.restart()
        assert app.port == port
        async with ready(app):
            pass

    with desktop_app() as app:
        run(lambda: test(app))


def test_a_real_container() -> None:
    async def test(app: DesktopApp) -> None:
        async with ready(app) as wire:
            await wire.offer("sampleserver:latest", '{"name": "you"}')
            assert await wire.events(2) == [OFFLOADED, result('{\n    "message": "hello you"\n}')]
            # The container's own refusal is a result like any other.
            await wire.offer("sampleserver:latest", "[]")
            offloaded, (_, status, response, *_) = await wire.events(2)
            assert (offloaded, status) == (OFFLOADED, 1)
            assert "bad input" in response
            await wire.offer("sampleserver:v2", "x")
            assert "No such image" in (await wire.events(2))[1][2]

    with container("sampleserver") as url, desktop_app(apps={"sampleserver:latest": url}) as app:
        run(lambda: test(app))


def test_without_node_a_test_is_skipped_but_not_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"Node\.js"), desktop_app():
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"Node\.js"), desktop_app():
        pass
