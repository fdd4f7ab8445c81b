"""What a gateway has to do about transports so that clients of the old SDK get results of any size.

Those clients begin with polling and go over to a websocket, where they drop the connection over 4 MiB
(aiohttp's default in their time). On polling nothing limits them. So for a large result their websocket
is cut, which they answer with a new connection, and that one is not offered a websocket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from engineio.packet import NOOP, Packet  # type: ignore[import-untyped]

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Mapping

    import socketio

WEBSOCKET_LIMIT = 4_000_000  #: bytes of a message that such a client still takes on a websocket


class Transports:
    """The engine.io connections of one server, by their session ids."""

    def __init__(self, sio: socketio.AsyncServer) -> None:
        self._eio = sio.eio
        self._websockets: dict[str, asyncio.Transport] = {}
        self._kept_on_polling = 0
        read_whole_posts(self._eio)

    def middleware(self) -> Any:
        """Return the aiohttp middleware that notes which TCP connection a websocket has."""

        @web.middleware
        async def note(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            sid = request.query.get("sid")
            if sid is None or request.query.get("transport") != "websocket" or request.transport is None:
                return await handler(request)
            self._websockets[sid] = request.transport
            try:
                return await handler(request)
            finally:
                self._websockets.pop(sid, None)

        return note

    def takes(self, eio_sid: str, size: int) -> bool:
        """Whether a client receives a message of that many bytes where it is; one that began with a websocket does."""
        return size <= WEBSOCKET_LIMIT or eio_sid not in self._websockets

    def send_to_polling(self, eio_sid: str) -> None:
        """Cut a client's websocket; until `polling_over` new connections stay on polling."""
        self._kept_on_polling += 1
        self._eio.allow_upgrades = False
        # Without a farewell, after which the client would not come back.
        self._websockets[eio_sid].abort()

    def polling_over(self) -> None:
        """The large result has been fetched, or its client given up."""
        self._kept_on_polling -= 1
        self._eio.allow_upgrades = self._kept_on_polling <= 0

    async def fetched(self, eio_sid: str) -> None:
        """Wait until a client has been given all that was sent to it.

        Raises:
            KeyError: It is gone.
        """
        await self._eio.sockets[eio_sid].queue.join()

    def is_polling(self, eio_sid: str) -> bool:
        """Whether a client is on polling.

        Raises:
            KeyError: It is gone.
        """
        return not self._eio.sockets[eio_sid].upgraded

    async def release(self, eio_sid: str) -> None:
        """Answer the poll of a client with nothing; one that says goodbye waits for that, up to a ping interval."""
        socket = self._eio.sockets.get(eio_sid)
        if socket is not None and socket.queue.empty():
            await socket.queue.put(Packet(NOOP))


def read_whole_posts(eio: Any) -> None:
    """Have a POST's body read to its end.

    python-engineio (4.15) reads it once, and from aiohttp that is what has come so far: an `offload` of some
    hundred kilobytes is cut.
    """
    translate = eio._async["translate_request"]

    async def whole(request: web.Request) -> Mapping[str, Any]:
        environ: dict[str, Any] = translate(request)
        if request.method == "POST":
            environ["wsgi.input"] = _Body(await request.read())
        return environ

    eio._async = {**eio._async, "translate_request": whole}


class _Body:
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self, size: int) -> bytes:
        return self._data[:size]
