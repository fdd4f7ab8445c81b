"""The websocket that engine.io serves on aiohttp, with a tap for frames."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiohttp import WebSocketError, web

from ..wire.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger("meca.gateway")

TAP = "meca.tap"  #: where a connection's environ has its tap


def serve_taps(eio: Any) -> None:
    """Have an engine.io server give every websocket a `Tap`, found in the connection's environ.

    python-engineio (4.15) takes the class for websockets from a table that it has for each framework.
    """
    eio._async = {**eio._async, "websocket": Websocket}


class Websocket:
    """What python-engineio expects of a websocket: called with the environ, then `wait`, `send`, `close`."""

    def __init__(self, handler: Callable[[Websocket], Awaitable[None]], server: Any) -> None:
        self._handler = handler
        self._ws = web.WebSocketResponse(max_msg_size=server.max_http_buffer_size, compress=False)
        self._tap = Tap(self._ws)

    async def __call__(self, environ: dict[str, Any]) -> web.StreamResponse:
        """Serve one connection to its end."""
        try:
            await self._ws.prepare(environ["aiohttp.request"])
        except ConnectionError:  # it is gone already, and aiohttp notices with any answer
            return web.Response()
        environ[TAP] = self._tap
        await self._handler(self)
        return self._ws

    async def wait(self) -> str | bytes:
        """Return the next message that is engine.io's.

        Raises:
            OSError: There are no more.
        """
        data = (await self._tap.receive()).data
        if isinstance(data, WebSocketError):  # too large, or no websocket's; the client was told by the closing code
            log.warning("a client's connection ends: %s", data)
        if not isinstance(data, (str, bytes)):
            raise OSError("the websocket was closed")
        return data

    async def send(self, message: str | bytes) -> None:
        """Send a message of engine.io's."""
        if isinstance(message, str):
            await self._ws.send_str(message)
        else:
            await self._ws.send_bytes(message)

    async def close(self) -> None:
        """Close the websocket."""
        await self._ws.close()
