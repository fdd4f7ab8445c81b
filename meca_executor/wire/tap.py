"""Frames beside Socket.IO's own packets, on one websocket.

A binary websocket message that belongs to no Socket.IO event is a frame of ours: one message, where a binary
event would be two and would pass through every layer of the libraries on both sides. Socket.IO keeps the rest:
connecting, the proof's events, pings, the end.
"""

from __future__ import annotations

import asyncio
import types
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator


class Tap:
    """One end of an aiohttp websocket, a client's or a server's; used in its loop only.

    Attributes:
        on_frame: Called with each frame that comes; None leaves binary messages to Socket.IO.
        on_failure: Called once when a frame cannot be sent.
    """

    def __init__(self, ws: Any) -> None:
        self._ws = ws
        self._receive = ws.receive
        self._outgoing: deque[bytes] = deque()
        self._draining: asyncio.Task[None] | None = None
        self.on_frame: Callable[[bytes], object] | None = None
        self.on_failure: Callable[[], object] = lambda: None

    async def receive(self, *args: Any, **kwargs: Any) -> Any:
        """Return the next message that is not a frame."""
        while True:
            message = await self._receive(*args, **kwargs)
            if self.on_frame is None or type(message.data) is not bytes:
                return message
            self.on_frame(message.data)

    def send(self, frame: bytes) -> None:
        """Send a frame, after those before it."""
        if self._draining is not None:
            self._outgoing.append(frame)
            return
        # It is written in the coroutine's first step, mostly its only one: no turn of the loop is needed.
        sending = self._ws.send_bytes(frame)
        try:
            waits_for = sending.send(None)
        except StopIteration:
            return
        except (OSError, RuntimeError):  # closing, or reset
            self._fail()
            return
        self._draining = asyncio.get_running_loop().create_task(self._drain(_go_on(sending, waits_for)))

    async def _drain(self, first: Awaitable[None]) -> None:
        try:
            await first
            while self._outgoing:
                await self._ws.send_bytes(self._outgoing.popleft())
        except (OSError, RuntimeError):
            self._fail()
        finally:
            self._draining = None

    def _fail(self) -> None:
        self._outgoing.clear()
        tell, self.on_failure = self.on_failure, lambda: None
        tell()

    async def flushed(self, timeout: float) -> None:
        """Wait until all was given to the system, at most so many seconds."""
        if self._draining is not None:
            await asyncio.wait([self._draining], timeout=timeout)


@types.coroutine
def _go_on(coroutine: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on, in a task, with a coroutine that was begun outside of one and waits for something."""
    try:
        while True:
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: PERF203
                waits_for = coroutine.throw(error)
            else:
                waits_for = coroutine.send(value)
    except StopIteration:
        return
