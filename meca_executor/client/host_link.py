"""The link of a host to the gateway that it joined: one outgoing connection, which comes back whenever it drops.

Messages travel in a stream, so that each arrives once and in order over any number of connections. What is in them is
not looked at here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from typing import TYPE_CHECKING

from ..errors import GatewayError, GatewayLost, GatewayRefused, GatewayUnreachable, MecaError, SessionTaken
from ..policy.reconnecting import Reconnecting
from ..wire import proof
from ..wire.hosting import PURPOSE
from ..wire.records import Kind
from ..wire.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..settings import KeyPair
    from ..wire.hosting import Introduction
    from .connection import Connection

ACK_S = 0.05
ATTEMPT_S = 15.0  #: one attempt to connect takes no longer
PAUSE_S = 5.0  #: between two attempts, at most
AWAY_BYTES = 16 << 20  #: that are kept while there is no connection, before what is printed is left out
LATE_S = 30.0  #: a gateway may notice so much later than we do that the connection is gone

log = logging.getLogger("meca.host")


class HostLink:
    """A host's session with a gateway.

    Args:
        url: The gateway.
        keys: The pair to prove oneself with.
        introduction: What the host says of itself.
        on_message: Called with each message that comes; a `ValueError` from it drops the connection for good.
        on_state: Called with True when a connection is there that goes on with what was, and with False when the
            gateway knows nothing of that, or has given it up.
        ca_file: PEM file of the certificates to believe; None believes the system's.
    """

    def __init__(
        self,
        url: str,
        keys: KeyPair,
        introduction: Introduction,
        on_message: Callable[[bytes], object],
        on_state: Callable[[bool], object],
        ca_file: str | None = None,
    ) -> None:
        self.url = url
        self.failure: MecaError | None = None  #: why it ended by itself
        self.ended = asyncio.Event()
        self._keys = keys
        self._introduction = introduction
        self._on_message = on_message
        self._on_state = on_state
        self._ca_file = ca_file
        self._session = secrets.token_hex(16)
        self._birth = ""
        self._stream = Stream()
        self._connection: Connection | None = None
        self._lost = asyncio.Event()
        self._joined = False
        self._away_since: float | None = None
        self._told = ""
        self._acknowledging = False
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<HostLink {self.url} {'connected' if self._connection is not None else 'not connected'}>"

    @property
    def idle(self) -> bool:
        """Whether there is no connection, and nothing that waits for one."""
        return self._connection is None and not self._stream.unacked_bytes

    def has_room(self) -> bool:
        """Whether more may be sent of what nobody counts on: while the host is away it is kept here."""
        return self._connection is not None or self._stream.unacked_bytes < AWAY_BYTES

    async def join(self, timeout: float) -> None:
        """Connect for the first time; from then on the link lives by itself, until `close`, or `ended` is set.

        Raises:
            GatewayError: There is no connection within `timeout` seconds, or the gateway does not take the host.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                await self._attempt(max(0.1, min(ATTEMPT_S, deadline - time.monotonic())))
                break
            except GatewayUnreachable:
                if time.monotonic() + 0.2 > deadline:
                    raise
            await asyncio.sleep(0.2)
        self._joined = True
        self._task = asyncio.create_task(self._live())

    async def _live(self) -> None:
        reconnecting = Reconnecting()
        try:
            while not self._closing:
                began = time.monotonic()
                await self._lost.wait()
                reconnecting.dropped(time.monotonic() - began)
                await self._drop()
                if not self._closing:
                    log.warning("the connection to %s is gone%s; it is tried again", self.url, self._told)
                    self._away_since = time.monotonic()
                    await asyncio.sleep(reconnecting.pause(secrets.randbelow(1000) / 1000))
                    await self._come_back()
        except MecaError as error:
            self.failure = error
        except asyncio.CancelledError:
            pass
        except Exception as error:  # a defect of ours
            log.exception("the link of the host failed")
            self.failure = GatewayLost(f"the link of the host failed: {error!r}")
        finally:
            await self._drop()
            self.ended.set()

    async def _come_back(self) -> None:
        """Connect again, for as long as it takes; a gateway that refuses the host ends it."""
        pause = 0.05
        while not self._closing:
            try:
                await self._attempt(ATTEMPT_S)
                log.warning("the connection to %s is back", self.url)
                return
            except GatewayUnreachable as error:
                self._look_at_grace(error)
            await asyncio.sleep(pause * (0.5 + secrets.randbelow(1000) / 2000))
            pause = min(PAUSE_S, 2 * pause)

    def _look_at_grace(self, error: GatewayError) -> None:
        """After the grace time nobody waits for what runs here."""
        given_up = self._introduction.grace + LATE_S
        if self._away_since is not None and time.monotonic() - self._away_since > given_up:
            self._away_since = None
            log.warning("no connection for more than %g s (%s): what runs here is ended", given_up, error)
            self._begin_anew()

    def _begin_anew(self) -> None:
        self._stream, self._birth = Stream(), ""
        self._on_state(False)

    async def _attempt(self, limit: float) -> None:
        from .connection import Connection  # heavy: aiohttp and socketio

        connection = Connection(self.url, self._on_frame, lambda: self._on_lost(connection), self._ca_file)
        hello = {
            "protocol": proof.PROTOCOL,
            "purpose": PURPOSE,
            "session": self._session,
            "received": self._stream.received,
            "birth": self._birth,
            "host": self._introduction.fields(),
        }
        self._lost.clear()
        try:
            welcome = await connection.open(self._keys, hello, limit, again=self._joined)
        except GatewayRefused as error:
            await connection.close()
            if not self._joined or not isinstance(error, SessionTaken):
                raise
            raise GatewayUnreachable(str(error)) from error
        except BaseException:
            await connection.close()
            raise
        if not welcome.resumed:
            self._begin_anew()
        self._birth, self._away_since, self._told = welcome.birth, None, ""
        self._connection = connection
        if welcome.resumed:
            for frame in self._stream.replay(welcome.received):
                connection.send(frame)
            self._on_state(True)
        connection.begin()
        if connection.lost:
            self._lost.set()

    def _on_lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self._told = f" ({connection.told})" if connection.told else ""
            self._lost.set()

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def close(self) -> None:
        """Send what is left and disconnect."""
        self._closing = True
        await self._drop()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    # -- messages ---------------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Send a message, now or when the connection is back."""
        for frame in self._stream.send(Kind.HOSTING, message):
            self._transmit(frame)

    def _transmit(self, frame: bytes) -> None:
        if self._connection is not None:
            self._connection.send(frame)

    def _on_frame(self, frame: bytes) -> None:
        stream = self._stream
        try:
            message = stream.receive(frame)
            if message is not None and message.kind is Kind.HOSTING:
                self._on_message(message.body)
        except ValueError as error:
            self.failure = GatewayLost(f"the gateway at {self.url} sent what cannot be read: {error}")
            self._closing = True
            self._lost.set()
            return
        if stream is not self._stream:
            return
        if stream.ack_due:
            self._transmit(stream.acknowledge())
        elif stream.ack_owed and not self._acknowledging:
            self._acknowledging = True
            asyncio.get_running_loop().call_later(ACK_S, self._acknowledge)

    def _acknowledge(self) -> None:
        self._acknowledging = False
        if self._stream.ack_owed:
            self._transmit(self._stream.acknowledge())
