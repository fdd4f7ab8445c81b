"""What a gateway listens on: one port for all addresses of a host, and TLS handshakes that end."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable

HANDSHAKE_S = 10.0  #: for TLS, as long as there is for the proof after it
BACKLOG = 128
TRIES = 20  #: to find a port that is free on every address

Address = tuple[socket.AddressFamily, tuple[object, ...]]


class Site(web.BaseSite):
    """Serves on a socket that is bound already.

    aiohttp's own sites (3.14) leave a TLS handshake asyncio's minute.
    """

    def __init__(self, runner: web.AppRunner, bound: socket.socket, tls: ssl.SSLContext | None) -> None:
        super().__init__(runner, ssl_context=tls, backlog=BACKLOG)
        self._bound = bound
        self._tls = tls

    @property
    def name(self) -> str:
        """Where it is."""
        return f"{'http' if self._tls is None else 'https'}://{self._bound.getsockname()}"

    async def start(self) -> None:
        """Begin to serve."""
        await super().start()
        server = self._runner.server
        assert server is not None  # the runner is set up
        limit = None if self._tls is None else HANDSHAKE_S
        self._server = await asyncio.get_running_loop().create_server(
            server, sock=self._bound, ssl=self._tls, backlog=BACKLOG, ssl_handshake_timeout=limit
        )


async def listen(runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None) -> int:
    """Serve on all addresses of a host, and return the port.

    Raises:
        OSError: As `bind`.
    """
    sockets = await bind(host, port)
    bound: int = sockets[0].getsockname()[1]
    try:
        for one in sockets:
            await Site(runner, one, tls).start()
    except BaseException:
        for one in sockets:
            one.close()
        raise
    return bound


async def bind(host: str, port: int) -> list[socket.socket]:
    """Return sockets that listen on all addresses of a host, on one port; 0 finds one that is free on each of them.

    Raises:
        OSError: The host is none of this machine, or the port is taken.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return bind_all(dict.fromkeys((family, tuple(address)) for family, _, _, _, address in found), port)


def bind_all(addresses: Iterable[Address], port: int, tries: int = TRIES) -> list[socket.socket]:
    """Return sockets that listen on these addresses, as `bind`; those of a protocol that is off here are left out."""
    places = list(addresses)
    try:
        return _bind_once(places, port)
    except OSError as error:  # free on the first address, and not on another
        if port or error.errno != errno.EADDRINUSE or tries <= 1:
            raise
    return bind_all(places, port, tries - 1)


def _bind_once(places: list[Address], port: int) -> list[socket.socket]:
    bound: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, (host, _, *rest) in places:
            try:
                bound.append(_bound(family, (host, port, *rest)))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error  # such as ::1 where IPv6 is off
                continue
            port = port or bound[0].getsockname()[1]
        if absent is not None and not bound:
            raise absent
    except BaseException:
        for one in bound:
            one.close()
        raise
    return bound


def _bound(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        one.bind(address)
        one.listen(BACKLOG)  # now: two may be bound to one port, and only one of them listens
        one.setblocking(False)
    except BaseException:
        one.close()
        raise
    return one
