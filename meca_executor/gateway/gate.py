"""How many container calls a session has at once, which may change while some of them wait."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Gate:
    """Lets calls through in order, as an asynchronous context manager of each.

    Args:
        most: How many may be inside at once, as things are now.
    """

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __repr__(self) -> str:
        return f"<Gate inside={self._inside} waiting={len(self._waiting)}>"

    def look(self) -> None:
        """Let through whom there is room for now."""
        while self._waiting and self._inside < self._most():
            if not (turn := self._waiting.popleft()).done():
                self._inside += 1
                turn.set_result(None)

    async def __aenter__(self) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self.look()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn came at the same moment
                self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._inside -= 1
        self.look()
