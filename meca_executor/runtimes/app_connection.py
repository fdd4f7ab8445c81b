"""The HTTP connections to one app: a request costs one write, a reply no task and no session."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError, StreamWriter

from .app_process import LOOPBACK

if TYPE_CHECKING:
    from aiohttp import StreamReader
    from aiohttp.http import RawResponseMessage

PIECE_BYTES = 1 << 18  #: a larger body is written in pieces, each when the one before it has left
#: An idle connection is used again only while it is younger than this, so that no server closes it at that moment;
#: a request that meets a closed connection cannot be told from one that was begun.
KEEP_ALIVE_S = 1.0
HEAD = (
    b"POST / HTTP/1.1\r\nHost: %b:%d\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
)


class Unreachable(Exception):
    """The app takes no connections; nothing was sent."""


class AppConnections:
    """Posts to one app, each request on a connection of its own, kept for the next.

    aiohttp's connection is used without its `ClientSession`, whose work for one request (URL, headers, cookies,
    redirects, a writer) takes longer than the exchange. With the session, and a task for each request, a warm call
    of the sample app took 413 µs, and 312 of this process's time; so it takes 232 and 142, and a bare `http.client`
    211 (aiohttp 3.14, Python 3.11; `benchmarks/containers.py` has the whole call). `ResponseHandler` is not in
    aiohttp's documentation; tests/integration/test_apps_http.py passes with 3.11.0 and 3.14.5.
    """

    def __init__(self, address: str = LOOPBACK) -> None:
        """Know no connection yet; belongs to the event loop that runs."""
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []  #: those used last at the end
        self._busy: set[_Connection] = set()
        self._connecting: set[asyncio.Task[_Connection]] = set()
        self._closed = False
        self._sweeper: asyncio.TimerHandle | None = None

    async def post(self, port: int, content: bytes, timeout: float | None) -> tuple[int, bytes]:
        """Return status and body of the reply to one request.

        Args:
            port: Where the app listens at its address.
            content: The body.
            timeout: Seconds for all of it, or None. The connection of a request that fails, is cancelled or takes
                longer is closed.

        Raises:
            Unreachable: Nothing was sent.
            asyncio.TimeoutError: The time is over.
            aiohttp.ClientError: The connection ended before the reply did (that of `close` too), or it is no HTTP.
        """
        limit = None if timeout is None else self._loop.time() + timeout
        connection = self._fresh()
        if connection is None:  # not `or`: aiohttp's has a length, which is 0 when it waits for nothing
            connection = await self._connect(port, timeout)
        timer = None if limit is None else self._loop.call_at(limit, connection.cut, asyncio.TimeoutError())
        self._busy.add(connection)
        try:
            reply = await connection.exchange(HEAD % (self._address.encode(), port, len(content)), content)
        except BaseException:
            connection.drop()
            raise
        finally:
            self._busy.remove(connection)
            if timer is not None:
                timer.cancel()
        self._keep(connection)
        return reply

    def close(self) -> None:
        """Close all connections; requests under way fail. May be called again."""
        self._closed = True
        for task in self._connecting:
            task.cancel()
        for connection in self._busy:
            connection.cut(aiohttp.ServerDisconnectedError())
        for connection in self._idle:
            connection.drop()
        self._idle.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def _fresh(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and self._loop.time() - connection.used < KEEP_ALIVE_S:
                return connection
            connection.drop()
        return None

    async def _connect(self, port: int, timeout: float | None) -> _Connection:
        connecting = self._loop.create_task(_connected(self._address, port))
        self._connecting.add(connecting)
        connecting.add_done_callback(self._connecting.discard)
        try:
            await asyncio.wait({connecting}, timeout=timeout)
            if not connecting.done():
                raise asyncio.TimeoutError
        except BaseException:
            connecting.cancel()
            connecting.add_done_callback(_unwanted)
            raise
        if self._closed:
            _unwanted(connecting)
            raise aiohttp.ServerDisconnectedError
        return connecting.result()

    def _keep(self, connection: _Connection) -> None:
        if self._closed or not connection.reusable:
            connection.drop()
            return
        connection.used = self._loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(KEEP_ALIVE_S, self._sweep)

    def _sweep(self) -> None:
        """Close what nobody used for a while: an app may have a thread or a process for each connection."""
        self._sweeper = None
        idle, self._idle = self._idle, []
        oldest = self._loop.time() - KEEP_ALIVE_S
        for connection in idle:
            if connection.used > oldest and connection.reusable:
                self._idle.append(connection)
            else:
                connection.drop()
        if self._idle:
            self._sweeper = self._loop.call_at(self._idle[0].used + KEEP_ALIVE_S, self._sweep)


class _Connection(ResponseHandler):
    """One connection, and the request on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.used = 0.0  #: when its last request was over
        self._cause: BaseException | None = None

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent on it."""
        return self.is_connected() and not self.should_close

    def cut(self, cause: BaseException) -> None:
        """Close it, and let its request fail for this cause unless the whole reply is here."""
        self._cause = cause
        self.drop()

    def drop(self) -> None:
        """Close it at once."""
        # Not `abort` of aiohttp, after which nobody tells the reader of a reply that has begun.
        if self.transport is not None:
            self.transport.abort()

    async def exchange(self, head: bytes, content: bytes) -> tuple[int, bytes]:
        """Return status and body of the reply."""
        if self.transport is None:  # hung up upon as soon as it was made
            raise aiohttp.ServerDisconnectedError
        self.set_response_params(read_until_eof=True, auto_decompress=False)
        writing = None
        if len(content) <= PIECE_BYTES:
            self.transport.write(head + content)
        else:  # beside the reading, for the reply may come before all is written
            writing = asyncio.create_task(self._write(head, content))
        try:
            return await self._reply()
        except (aiohttp.ClientError, HttpProcessingError) as error:
            if self._cause is not None:
                raise self._cause from error
            if isinstance(error, HttpProcessingError):
                raise aiohttp.ClientPayloadError(str(error)) from error
            raise
        finally:
            if writing is not None and not writing.done():
                writing.cancel()
                self.drop()

    async def _reply(self) -> tuple[int, bytes]:
        message, payload = await self._final_message()
        body = await payload.read()
        framed = message.chunked or "Content-Length" in message.headers
        if self._cause is not None and not framed:  # the end of such a reply is the connection's, which was ours
            raise self._cause
        return message.code, body

    async def _final_message(self) -> tuple[RawResponseMessage, StreamReader]:
        while True:
            message, payload = await self.read()
            if message.code >= 200 or message.code == 101:  # the others say that there is more to come
                return message, payload

    async def _write(self, head: bytes, content: bytes) -> None:
        writer, view = StreamWriter(self, self._loop), memoryview(content)
        with suppress(ConnectionError, aiohttp.ClientError):  # the reader is told too
            await writer.write(head)
            for start in range(0, len(view), PIECE_BYTES):
                await writer.write(view[start : start + PIECE_BYTES])


async def _connected(address: str, port: int) -> _Connection:
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_connection(partial(_Connection, loop), address, port)
    except OSError as error:
        raise Unreachable(str(error)) from error
    return connection


def _unwanted(connecting: asyncio.Task[_Connection]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().drop()
