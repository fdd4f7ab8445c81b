"""The door: what is asked of a connection before its first word, and how long it may go without a proof."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from .guard import Guard, last_hop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PROOF_S = 10.0  #: who has not proved itself by then is disconnected
UNPROVED = 256  #: connections without a proof at once
REFUSED = "Meca-Refused"  #: header of a refusal: why, in words

log = logging.getLogger("meca.gateway")


@dataclass(eq=False)
class Visit:
    """One websocket."""

    address: str
    proved: bool = False


class Door:
    """Lets websockets in, or refuses them in words.

    Args:
        behind_proxy: The address is the one that the proxy names.
        is_old: Whether a request's websocket speaks the old dialect, which has no proof.
    """

    def __init__(self, behind_proxy: bool, is_old: Callable[[web.Request], bool]) -> None:
        self.guard = Guard()
        self._behind_proxy = behind_proxy
        self._is_old = is_old
        self._loop = asyncio.get_running_loop()
        self._visits: dict[int, Visit] = {}  # by the id of their request
        self._unproved: set[Visit] = set()
        self._heard: set[Any] = set()  # connections that have sent a request
        self._silent: dict[Any, float] = {}  # others, and since when

    def middleware(self) -> Any:
        """Return the aiohttp middleware that stands before everything."""

        @web.middleware
        async def knock(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            self._heard.add(request.protocol)
            if request.query.get("transport") != "websocket" or "sid" in request.query:
                return await handler(request)
            address = self.address(request)
            if (wait := self.guard.refused(address, self._loop.time())) > 0:
                log.warning("%s has to wait %.0f s: too many failed proofs", address, wait)
                return answer(429, too_soon(wait), wait)
            if len(self._unproved) >= UNPROVED:
                log.warning("%s is refused: too many connections without a proof", address)
                return answer(503, f"{UNPROVED} connections that have not proved themselves yet are there already", 1)
            return await self._serve(request, handler, Visit(address))

        return knock

    async def _serve(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]], visit: Visit
    ) -> web.StreamResponse:
        self._visits[id(request)] = visit
        self._unproved.add(visit)
        # A little later than those end that were asked for a proof: they are told why.
        deadline = self._loop.call_later(PROOF_S + 1.0, self._too_late, request, visit)
        try:
            return await handler(request)
        finally:
            deadline.cancel()
            del self._visits[id(request)]
            self._unproved.discard(visit)

    def visit(self, request: web.Request) -> Visit:
        """Return what is known of a websocket that was let in."""
        return self._visits[id(request)]

    def proved(self, visit: Visit) -> None:
        """It may stay."""
        visit.proved = True
        self._unproved.discard(visit)

    def _too_late(self, request: web.Request, visit: Visit) -> None:
        self._unproved.discard(visit)
        if not visit.proved and not self._is_old(request) and request.transport is not None:
            request.transport.abort()

    def address(self, request: web.Request) -> str:
        """Return whom a request comes from."""
        peer = request.remote or ""
        return last_hop(request.headers.getall("X-Forwarded-For", []), peer) if self._behind_proxy else peer

    def sweep(self, server: web.Server | None) -> None:
        """Close what has been there for long and has said nothing at all; to be called once in a while."""
        if server is None:
            return
        there, now = set(server.connections), self._loop.time()
        self._heard &= there
        self._silent = {one: self._silent.get(one, now) for one in there - self._heard}
        for one, since in self._silent.items():
            if now - since >= PROOF_S and one.transport is not None:
                one.transport.abort()


def too_soon(wait: float) -> str:
    """Return what an address is told that has to wait."""
    return f"too many proofs from this address failed; try again in {math.ceil(wait)} s, with the right key"


def answer(status: int, text: str, wait: float) -> web.Response:
    """Return what says why no websocket is opened, to programs and to people."""
    headers = {REFUSED: text, "Retry-After": str(math.ceil(wait))}
    return web.Response(status=status, text=text + "\n", headers=headers)


def wrong_key(key: str) -> str:
    """Return why a client's key is not accepted, and the way out."""
    if not key:
        return (
            "no access key was given; set MECA_ACCESS_KEY and MECA_SECRET_KEY, or run as the user whose key file the "
            "gateway reads"
        )
    return f"access key {key!r} is unknown here, or its secret is another one"


def revoked(key: str) -> str:
    """Return why a client's key is not accepted any more, and the way out."""
    return f"access key {key[:32]!r} was revoked here; ask for another pair (meca keys create)"


class Refusal(Exception):
    """Why a client is not served: a code for its program, a text for its user."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
