"""The link of kernels: one connection to a gateway, which comes back when it drops; requests and what answers them.

All of it lives in the portal's loop. What arrives is acknowledged when it has been taken, or when little is waiting:
a reader that is slow holds up the kernel, and not this process's memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ..errors import GatewayLost, GatewayUnreachable, KernelBusy, KernelEnded, KernelError, MecaError, UsageError
from ..settings import KeyPair
from ..wire import proof
from ..wire.kernels import PURPOSE, Say, pack, unpack
from ..wire.records import Kind, decode, encode
from ..wire.stream import Stream
from .embedded import KEY, EmbeddedGateway
from .portal import aside

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..wire.kernels import Note
    from .connection import Connection, Welcome

ACK_S = 0.05
ATTEMPT_S = 15.0  #: one attempt to connect takes no longer
PAUSE_S = 2.0  #: between two attempts, at most
BACKLOG_BYTES = 8 << 20  #: of output that nobody has taken yet: more is not asked for
ERRORS: dict[str, type[MecaError]] = {"ended": KernelEnded, "busy": KernelBusy, "usage": UsageError}


class Exchange:
    """One request: its events as they come, and its reply."""

    def __init__(self, link: KernelLink, number: int) -> None:
        self.number = number
        self.reply: asyncio.Future[Note] = asyncio.get_running_loop().create_future()
        self._link = link
        self._events: deque[Note] = deque()
        self._there = asyncio.Event()

    def take(self, note: Note) -> None:
        """Something came for it."""
        if note.say is Say.EVENT:
            self._events.append(note)
            self._link.backlog += len(note.body)
        elif note.say is Say.REPLY:
            self._finish(note, None)
        else:
            kind = ERRORS.get(str(note.head.get("error")), KernelError)
            self._finish(None, kind(str(note.head.get("text"))))
        self._there.set()

    def fail(self, error: BaseException) -> None:
        """Nothing more will come."""
        self._finish(None, error)
        self._there.set()

    def _finish(self, note: Note | None, error: BaseException | None) -> None:
        if not self.reply.done():
            if error is not None:
                self.reply.set_exception(error)
                self.reply.exception()  # looked at: nobody may be waiting for it
            elif note is not None:
                self.reply.set_result(note)

    async def next(self) -> Note | None:
        """Return the next event; None after the last.

        Raises:
            MecaError: The request failed, and why.
        """
        while not self._events:
            if self.reply.done():
                self.reply.result()
                return None
            self._there.clear()
            await self._there.wait()
        note = self._events.popleft()
        self._link.took(len(note.body))
        return note

    def drop(self) -> None:
        """Nobody reads it any more."""
        self._link.took(sum(len(note.body) for note in self._events))
        self._events.clear()
        self._link.forget(self.number)


class KernelLink:
    """A session with one gateway.

    Args:
        endpoint: Its URL; None starts one that ends with the link.
        keys: The pair to prove oneself with.
        connect_timeout: Seconds in which it must first answer.
        resume_window: Seconds for which a connection that dropped is tried again.
    """

    def __init__(
        self, endpoint: str | None, keys: KeyPair | None, connect_timeout: float = 10.0, resume_window: float = 600.0
    ) -> None:
        self.endpoint = endpoint
        self.holders = 0
        self.failure: MecaError | None = None
        self.backlog = 0  #: bytes of output that nobody has taken
        self._gateway = EmbeddedGateway(None, {}, ready=False) if endpoint is None else None
        self._keys = keys or KeyPair("", "")
        self._connect_s, self._resume_s = connect_timeout, resume_window
        self._session = secrets.token_hex(16)
        self._birth = ""
        self._stream = Stream(hold=True)
        self._connection: Connection | None = None
        self._numbers = itertools.count(1)
        self._exchanges: dict[int, Exchange] = {}
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._acknowledging = False
        self._closing = False

    def __repr__(self) -> str:
        state = "connected" if self._connection is not None else "not connected"
        return f"<KernelLink {self.endpoint or 'embedded'} {state}>"

    async def start(self) -> None:
        """Connect; many may wait for it.

        Raises:
            GatewayError: There is no connection, and why.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._live())
        await asyncio.shield(self._first)

    # -- requests -----------------------------------------------------------------------------------

    def open(self, head: Mapping[str, Any], body: bytes = b"") -> Exchange:
        """Send a request.

        Raises:
            MecaError: The link is gone for good, and why.
        """
        if self.failure is not None:
            raise type(self.failure)(str(self.failure))
        exchange = Exchange(self, next(self._numbers))
        self._exchanges[exchange.number] = exchange
        exchange.reply.add_done_callback(lambda _: self.forget(exchange.number))
        self._tell(pack(exchange.number, Say.ASK, head, body))
        return exchange

    async def ask(self, head: Mapping[str, Any], body: bytes = b"") -> Note:
        """Send a request, and return the reply.

        Raises:
            MecaError: It failed, and why.
        """
        exchange = self.open(head, body)
        try:
            return await exchange.reply
        finally:
            exchange.drop()

    def forget(self, number: int) -> None:
        """Nothing that still comes for this request is wanted."""
        self._exchanges.pop(number, None)

    def took(self, size: int) -> None:
        """Somebody has read output."""
        was = self.backlog
        self.backlog = max(0, was - size)
        if was > BACKLOG_BYTES // 2 >= self.backlog:
            self._stream.commit(self._stream.received)
            self._acknowledge()

    # -- the connection -----------------------------------------------------------------------------

    async def _live(self) -> None:
        try:
            while not self._closing:
                self._lost.clear()
                await self._connect()
                if not self._first.done():
                    self._first.set_result(None)
                await self._lost.wait()
                await self._drop()
        except MecaError as error:
            self._give_up(error)
        except Exception as error:  # a defect of ours must not leave anybody waiting
            self._give_up(GatewayLost(f"the link to the gateway failed: {error!r}"))
            raise
        finally:
            await self._drop()

    async def _connect(self) -> None:
        again = self._first.done()
        deadline = time.monotonic() + (self._resume_s if again else self._connect_s)
        pause = 0.05
        while True:
            try:
                await self._attempt(min(ATTEMPT_S, max(0.1, deadline - time.monotonic())))
                return
            except GatewayUnreachable as error:
                if time.monotonic() + pause > deadline:
                    if not again:
                        raise
                    raise GatewayLost(
                        f"host lost: the connection to {self.endpoint} dropped and did not come back within "
                        f"{self._resume_s:g} s: {error}"
                    ) from error
            await asyncio.sleep(pause * (0.5 + secrets.randbelow(1000) / 2000))
            pause = min(PAUSE_S, 2 * pause)

    async def _attempt(self, limit: float) -> None:
        from .connection import Connection  # heavy: aiohttp and socketio

        if self._gateway is not None:
            if not self._gateway.alive and self._first.done():
                raise GatewayLost(f"host lost: the embedded gateway died: {self._gateway.how_it_ended()}")
            self.endpoint = await aside(self._gateway.endpoint)
            self._keys = KeyPair(KEY, self._gateway.token)
        assert self.endpoint is not None
        connection = Connection(self.endpoint, self._on_frame, lambda: self._on_lost(connection))
        hello = {
            "protocol": proof.PROTOCOL,
            "purpose": PURPOSE,
            "session": self._session,
            "received": self._stream.received,
            "birth": self._birth,
        }
        try:
            welcome = await connection.open(self._keys, hello, limit)
            self._on_welcome(welcome)
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        if welcome.resumed:
            for frame in self._stream.replay(welcome.received):
                connection.send(frame)
        connection.begin()
        if connection.lost:
            self._lost.set()

    def _on_welcome(self, welcome: Welcome) -> None:
        known, self._birth = self._birth, welcome.birth
        if known and not welcome.resumed:
            raise GatewayLost(
                f"host lost: the gateway at {self.endpoint} was started again, or forgot this session; kernels that "
                "it had are gone, unless they were kept"
            )

    def _on_lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self._lost.set()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def _give_up(self, error: MecaError) -> None:
        self.failure = error
        if not self._first.done():
            self._first.set_exception(error)
            self._first.exception()
        for exchange in list(self._exchanges.values()):
            exchange.fail(type(error)(str(error)))

    async def close(self) -> None:
        """Leave; the gateway ends what belongs to the session alone. An embedded gateway ends, too."""
        self._closing = True
        if self._task is not None:
            if self._connection is not None and self.failure is None and self._gateway is None:
                self._tell(pack(0, Say.ASK, {"do": "bye"}))
            self._lost.set()
            if self._connection is None:
                self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._give_up(KernelEnded("the kernel was closed here"))
        if self._gateway is not None:
            await aside(self._gateway.close)

    # -- frames -------------------------------------------------------------------------------------

    def _tell(self, record: tuple[int, int, int, bytes]) -> None:
        for frame in self._stream.send(Kind.KERNEL, encode([record])):
            if self._connection is not None:
                self._connection.send(frame)

    def _on_frame(self, frame: bytes) -> None:
        stream = self._stream
        try:
            message = stream.receive(frame)
            if message is not None and message.kind is Kind.KERNEL:
                for note in map(unpack, decode(message.body)):
                    if (exchange := self._exchanges.get(note.number)) is not None:
                        exchange.take(note)
        except ValueError as error:
            self._give_up(GatewayLost(f"the gateway at {self.endpoint} sent what cannot be read: {error}"))
            self._closing = True
            self._lost.set()
            return
        if self.backlog <= BACKLOG_BYTES:
            stream.commit(stream.received)
        if stream.ack_due:
            self._acknowledge()
        elif stream.ack_owed and not self._acknowledging:
            self._acknowledging = True
            asyncio.get_running_loop().call_later(ACK_S, self._acknowledge_later)

    def _acknowledge_later(self) -> None:
        self._acknowledging = False
        self._acknowledge()

    def _acknowledge(self) -> None:
        if self._stream.ack_owed and self._connection is not None:
            self._connection.send(self._stream.acknowledge())
