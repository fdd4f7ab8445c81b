"""Frames beside a websocket's own messages, between a real aiohttp server and client."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from meca_executor.wire.tap import Tap

from ..helpers.waiting import LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

MEGABYTE = 1 << 20
LINK_BYTES = 16 * MEGABYTE  #: more than the system's buffers and aiohttp's hold on loopback


class End:
    """One end of the link: what came, and its tap."""

    def __init__(self, ws: Any, transport: asyncio.Transport | None) -> None:
        self.ws = ws
        self.transport = transport
        self.tap = Tap(ws)
        self.frames: list[bytes] = []
        self.texts: list[str] = []
        self.failures = 0
        self.tap.on_frame = self.frames.append
        self.tap.on_failure = self._on_failure

    def _on_failure(self) -> None:
        self.failures += 1

    async def read(self) -> None:
        """Read until the other end closes."""
        while (message := await self.tap.receive()).type is aiohttp.WSMsgType.TEXT:
            self.texts.append(message.data)

    @property
    def waits(self) -> bool:
        """Whether frames wait because the other end does not read."""
        return self.tap._draining is not None


@contextlib.asynccontextmanager
async def link() -> AsyncIterator[tuple[End, End]]:
    """Connect two ends; nobody reads yet."""
    served: asyncio.Future[End] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def serve(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(max_msg_size=0, compress=False)
        await ws.prepare(request)
        served.set_result(End(ws, request.transport))
        await over.wait()
        return ws

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"http://127.0.0.1:{port}/", max_msg_size=0, timeout=QUICKLY) as ws,
        ):
            connection = ws._response.connection
            assert connection is not None
            yield End(ws, connection.transport), await served
            over.set()
    finally:
        over.set()
        await runner.cleanup()


QUICKLY = aiohttp.ClientWSTimeout(ws_close=0.1)


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test in a loop of its own."""

    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), LIMIT))

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


async def until(predicate: Callable[[], object]) -> None:
    """Return when this holds; the limit is the test's."""
    while not predicate():  # noqa: ASYNC110 - what is awaited is the other library's doing, and sets no event
        await asyncio.sleep(0.001)


def frames(count: int, size: int) -> list[bytes]:
    """Frames that each say which one it is."""
    return [number.to_bytes(4, "little") * (size // 4) for number in range(count)]


@in_a_loop
async def test_frames_come_in_order_however_much_waits() -> None:
    """Megabytes in both directions at once, sent without a pause to an end that does not read yet."""
    async with link() as ends:
        sent = [frames(LINK_BYTES // size, size) for size in (64 << 10, 100 << 10)]
        for end, those in zip(ends, sent, strict=True):
            for frame in those:
                end.tap.send(frame)
            assert end.waits, "not enough to make the link wait"
        readers = [asyncio.create_task(end.read()) for end in ends]
        for end, those in zip(reversed(ends), sent, strict=True):
            await until(lambda end=end, those=those: len(end.frames) == len(those))  # type: ignore[misc]
            assert end.frames == those
        await until(lambda: not any(end.waits for end in ends))
        ends[0].tap.send(b"one more")
        await until(lambda: ends[1].frames[-1] == b"one more")
        await ends[0].ws.close()
        await asyncio.wait(readers)
        assert [end.failures for end in ends] == [0, 0]


@in_a_loop
async def test_text_passes_to_the_receiver_and_frames_do_not() -> None:
    """Each has its own way, and its order."""
    async with link() as (here, there):
        reading = asyncio.create_task(there.read())
        for number in range(100):
            here.tap.send(b"frame %d" % number)
            await here.ws.send_str(f"text {number}")
        await until(lambda: len(there.texts) == len(there.frames) == 100)
        assert there.texts == [f"text {number}" for number in range(100)]
        assert there.frames == [b"frame %d" % number for number in range(100)]
        await here.ws.close()
        await reading


@in_a_loop
async def test_without_a_taker_binary_messages_are_the_receivers() -> None:
    """Until the link is agreed upon, they are the other library's own."""
    async with link() as (here, there):
        there.tap.on_frame = None
        here.tap.send(b"a binary event")
        message = await there.tap.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.BINARY, b"a binary event")


@in_a_loop
async def test_an_empty_frame_and_a_large_one_are_frames() -> None:
    """Nothing is too small or too large."""
    async with link() as (here, there):
        reading = asyncio.create_task(there.read())
        large = bytes(range(256)) * (LINK_BYTES // 256)
        for frame in (b"", large, b""):
            here.tap.send(frame)
        await until(lambda: len(there.frames) == 3)
        assert there.frames == [b"", large, b""]
        await here.ws.close()
        await reading


def cut(end: End) -> None:
    """Break the connection as a network does: no farewell."""
    assert end.transport is not None
    end.transport.abort()


@in_a_loop
async def test_a_failure_is_told_once() -> None:
    """Of an end that has nothing on its way: the first frame that cannot be sent, and none of those behind it."""
    async with link() as (here, there):
        cut(there)
        reading = asyncio.create_task(here.read())
        await reading
        for _ in range(5):
            here.tap.send(b"frame")
        await until(lambda: here.failures)
        assert here.failures == 1


@in_a_loop
async def test_a_failure_of_what_waits_is_told_once() -> None:
    """Frames that wait for a reader when the connection breaks are let go of."""
    async with link() as (here, _):
        for frame in frames(2 * LINK_BYTES // MEGABYTE, MEGABYTE):
            here.tap.send(frame)
        assert here.waits
        cut(here)
        await until(lambda: here.failures)
        assert not here.tap._outgoing
        for _ in range(5):
            here.tap.send(b"frame")
        assert not here.waits
        assert here.failures == 1


@in_a_loop
async def test_flushed_waits_for_the_reader() -> None:
    """At most so long; what was given to the system arrives."""
    async with link() as (here, there):
        sent = frames(2 * LINK_BYTES // MEGABYTE, MEGABYTE)
        await here.tap.flushed(0.0)  # nothing is on its way
        for frame in sent:
            here.tap.send(frame)
        await here.tap.flushed(0.01)
        assert here.waits
        reading = asyncio.create_task(there.read())
        await here.tap.flushed(LIMIT)
        assert not here.waits
        await until(lambda: len(there.frames) == len(sent))
        assert there.frames == sent
        await here.ws.close()
        await reading


@pytest.mark.parametrize("turns", [0, 3])
def test_a_sender_that_is_cancelled_is_no_obstacle(turns: int) -> None:
    """As at the end of a loop, begun or not: nobody waits for it, and what had gone was whole."""

    async def run() -> None:
        async with link() as (here, there):
            sent = frames(2 * LINK_BYTES // MEGABYTE, MEGABYTE)
            for frame in sent:
                here.tap.send(frame)
            for _ in range(turns):
                await asyncio.sleep(0)
            draining = here.tap._draining
            assert draining is not None
            draining.cancel()
            await asyncio.wait([draining])
            assert draining.cancelled()
            await here.tap.flushed(LIMIT)
            reading = asyncio.create_task(there.read())
            await here.ws.close()
            await reading
            assert there.frames == sent[: len(there.frames)]
            assert here.failures == 0

    asyncio.run(asyncio.wait_for(run(), LIMIT))
