"""python-socketio and aiohttp as the desktop app's wire needs them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import socketio

from ..wire import desktop as old

if TYPE_CHECKING:
    import aiohttp


class Packet(socketio.packet.Packet):  # type: ignore[misc]
    """Socket.IO packets whose JSON escapes no letters: three bytes instead of six or seven."""

    class json:
        dumps = staticmethod(lambda value, **_: old.compact(value))
        loads = staticmethod(json.loads)


class Handshake:
    """An aiohttp session that also hears how large a message the server takes; the client drops that."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.max_payload = old.MAX_PAYLOAD

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def ws_connect(self, *args: Any, **kwargs: Any) -> Any:
        """Connect; the first message is the handshake."""
        ws: Any = await self._session.ws_connect(*args, **kwargs)
        receive = ws.receive

        async def first(*args: Any, **kwargs: Any) -> Any:
            ws.receive = receive
            message = await receive(*args, **kwargs)
            if isinstance(message.data, str) and message.data.startswith("0{"):
                self.max_payload = json.loads(message.data[1:]).get("maxPayload") or old.MAX_PAYLOAD
            return message

        ws.receive = first
        return ws
