"""The HTTP session beneath a Socket.IO client: it hears the handshake, and lets go of what the client forgets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from ..wire.desktop import MAX_PAYLOAD
from ..wire.tap import Tap

if TYPE_CHECKING:
    import aiohttp

CLOSE_S = 0.5  #: how long a server may take to answer a websocket's farewell


class Handshake:
    """An aiohttp session for python-engineio, which (4.15) drops two things.

    How large a message the server takes: here it is `max_payload`. And a websocket that ends before its
    handshake is through: here it is closed with the session. `tap` is the last websocket's.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._websockets: list[Any] = []
        self.max_payload = MAX_PAYLOAD
        self.tap: Tap | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def ws_connect(self, *args: Any, **kwargs: Any) -> Any:
        """Connect; the first message is the handshake."""
        ws: Any = await self._session.ws_connect(*args, **kwargs)
        self._websockets.append(ws)
        self.tap = tap = Tap(ws)

        async def first(*args: Any, **kwargs: Any) -> Any:
            ws.receive = tap.receive
            message = await tap.receive(*args, **kwargs)
            if isinstance(message.data, str) and message.data.startswith("0{"):
                self.max_payload = json.loads(message.data[1:]).get("maxPayload") or MAX_PAYLOAD
            return message

        ws.receive = first
        return ws

    async def close(self) -> None:
        """Close all websockets, and the session."""
        for ws in self._websockets:
            with contextlib.suppress(Exception):  # the server may be gone in any way
                await asyncio.wait_for(ws.close(), CLOSE_S)
        await self._session.close()
