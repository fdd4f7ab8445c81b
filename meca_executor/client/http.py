"""The HTTP session beneath a Socket.IO client: it hears the handshake, and lets go of what the client forgets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

from ..wire.desktop import MAX_PAYLOAD
from ..wire.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import aiohttp

CLOSE_S = 0.5  #: how long a server may take to answer a websocket's farewell
#: For python-socketio and python-engineio, which else print on the program's stderr what they think of a link that
#: drops ("packet queue is empty, aborting"). The link tells of that; what an event's handler raised is passed on.
LOGGER = logging.getLogger("meca.socket")
LOGGER.addFilter(lambda record: bool(record.exc_info))


class Handshake:
    """An aiohttp session for python-engineio, which (4.15) drops two things.

    How large a message the server takes: here it is `max_payload`. And a websocket that ends before its
    handshake is through: here it is closed with the session. `tap` is the last websocket's.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._websockets: list[Any] = []
        self._transports: list[asyncio.Transport] = []  # those with TLS
        self.max_payload = MAX_PAYLOAD
        self.tap: Tap | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def ws_connect(self, *args: Any, **kwargs: Any) -> Any:
        """Connect; the first message is the handshake."""
        ws = await self._connected(self._session.ws_connect(*args, **kwargs))
        self.tap = tap = Tap(ws)

        async def first(*args: Any, **kwargs: Any) -> Any:
            ws.receive = tap.receive
            message = await tap.receive(*args, **kwargs)
            if isinstance(message.data, str) and message.data.startswith("0{"):
                self.max_payload = json.loads(message.data[1:]).get("maxPayload") or MAX_PAYLOAD
            return message

        ws.receive = first
        return ws

    async def _connected(self, opening: Coroutine[Any, Any, Any]) -> Any:
        connecting = asyncio.ensure_future(opening)
        try:
            ws = await asyncio.shield(connecting)
        except asyncio.CancelledError:
            # asyncio (3.11) never closes a socket when it is cancelled just before TLS begins: let that moment pass.
            await asyncio.wait([connecting], timeout=CLOSE_S)
            connecting.cancel()
            await asyncio.wait([connecting], timeout=CLOSE_S)
            if connecting.done() and not connecting.cancelled() and connecting.exception() is None:
                self._note(connecting.result())
            raise
        self._note(ws)
        return ws

    def _note(self, ws: Any) -> None:
        self._websockets.append(ws)
        if ws.get_extra_info("ssl_object") is not None:
            self._transports.append(ws._response.connection.transport)

    async def close(self) -> None:
        """Close all websockets, and the session."""
        for ws in self._websockets:
            with contextlib.suppress(Exception):  # the server may be gone in any way
                await asyncio.wait_for(ws.close(), CLOSE_S)
        await self._session.close()
        for transport in self._transports:  # TLS would wait for an answer, and the loop may end before
            transport.abort()
        await asyncio.sleep(0)  # in which they close
