"""The gateway's front: Socket.IO on aiohttp, and the proof before anything else."""

from __future__ import annotations

import asyncio
import logging
import platform
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import socketio
from aiohttp import web

from ..wire import probe, proof, segments
from ..wire.stream import FRAME_LIMIT
from .desktop import DesktopFront
from .hub import Hub, limits
from .session import Session, SessionRefused
from .websocket import TAP, serve_taps

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..wire.tap import Tap

PROOF_S = 10.0  #: who has not proved itself by then is disconnected
PING_S = 10.0
PONG_S = 20.0
NAME_LIMIT = 128  #: characters of a session's name
UNPROVED_BYTES = 64 << 10  #: a hello is not larger than that

log = logging.getLogger("meca.gateway")


@dataclass(eq=False)
class Connection:
    """One Socket.IO connection: unproved at first, then a session's."""

    sid: str
    nonce: str
    tap: Tap  #: frames go through it
    deadline: asyncio.TimerHandle | None = None
    session: Session | None = None
    outgoing: deque[tuple[str, Any]] = field(default_factory=deque)
    sender: asyncio.Task[None] | None = None
    closing: bool = False
    resumed: bool = False  #: the session was there before
    received: int = 0  #: the client's last frame number


class Server:
    """Serves the namespace `/meca` of one hub.

    Args:
        hub: Where frames go.
        secrets: Access key -> secret of those who may connect.
        slots: Tasks that run at once.
        old_dialect: Serve that on `/` too: the names of the containers that may be run, and this host's capacity.
    """

    def __init__(
        self,
        hub: Hub,
        secrets: Mapping[str, str],
        slots: int,
        old_dialect: tuple[frozenset[str], Mapping[str, float]] | None = None,
    ) -> None:
        self._hub = hub
        self._secrets = secrets
        self._slots = slots
        self._connections: dict[str, Connection] = {}
        self._sio = socketio.AsyncServer(
            async_mode="aiohttp",
            async_handlers=False,  # in order, one after the other
            always_connect=True,  # the challenge follows the connect packet
            namespaces=[proof.NAMESPACE] if old_dialect is None else [proof.NAMESPACE, "/"],
            transports=["websocket"] if old_dialect is None else ["websocket", "polling"],
            ping_interval=PING_S,
            ping_timeout=PONG_S,
            max_http_buffer_size=FRAME_LIMIT,
            http_compression=False,
            monitor_clients=True,
        )
        self._sio.on("connect", self._on_connect, namespace=proof.NAMESPACE)
        self._sio.on("disconnect", self._on_disconnect, namespace=proof.NAMESPACE)
        self._sio.on(proof.HELLO, self._on_hello, namespace=proof.NAMESPACE)
        serve_taps(self._sio.eio)
        self._front = None if old_dialect is None else DesktopFront(self._sio, hub, *old_dialect)
        self._runner: web.AppRunner | None = None
        self._probe = probe.Probe() if segments.available() else None  # shows a client that it can read our memory

    async def listen(self, host: str, port: int) -> int:
        """Start to serve; returns the port, which is a free one for 0.

        Raises:
            OSError: The address cannot be had.
        """
        middlewares = [] if self._front is None else [self._front.transports.middleware()]
        app = web.Application(middlewares=middlewares, client_max_size=FRAME_LIMIT)
        self._sio.attach(app)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        bound: int = self._runner.addresses[0][1]
        return bound

    @property
    def busy(self) -> bool:
        """Whether clients of the old dialect have jobs under way."""
        return self._front is not None and self._front.busy

    async def close(self) -> None:
        """Stop serving and drop every connection."""
        for connection in list(self._connections.values()):
            self._forget(connection)
        if self._front is not None:
            self._front.close()
        await self._sio.shutdown()
        if self._probe is not None:
            self._probe.close()
        if self._runner is not None:
            await self._runner.cleanup()

    # -- Socket.IO events -------------------------------------------------------------------------

    async def _on_connect(self, sid: str, environ: object, auth: object = None) -> None:
        if sid in self._connections or not isinstance(environ, dict):
            return  # not a connection: an event that a client named `connect`
        if (tap := environ.get(TAP)) is None:
            raise socketio.exceptions.ConnectionRefusedError(f"{proof.NAMESPACE} is for websockets only")
        connection = self._connections[sid] = Connection(sid, proof.make_nonce(), tap)
        tap.on_failure = partial(self._fail, connection)
        connection.deadline = asyncio.get_running_loop().call_later(PROOF_S, self._drop, connection)
        self._send(connection, proof.CHALLENGE, {"nonce": connection.nonce, "protocol": proof.PROTOCOL})

    async def _on_disconnect(self, sid: str, reason: object = None) -> None:
        if (connection := self._connections.get(sid)) is not None:
            self._forget(connection)

    async def _on_hello(self, sid: str, answer: object = None) -> None:
        connection = self._connections.get(sid)
        if connection is None or connection.session is not None or connection.closing:
            return
        try:
            self._admit(connection, answer)
        except (Refusal, ValueError) as error:
            refusal = error if isinstance(error, Refusal) else Refusal("protocol", f"the hello cannot be read: {error}")
            log.warning("refused a client: %s", refusal.text)
            self._refuse(connection, refusal)

    def _on_frame(self, connection: Connection, session: Session, frame: bytes) -> None:
        if connection.closing:
            return
        try:
            self._hub.on_frame(session, frame)
        except Exception as error:
            if not isinstance(error, (ValueError, KeyError)):
                log.exception("a frame could not be taken in")
            log.warning("a client sent what cannot be read: %s", error)
            self._refuse(connection, Refusal("protocol", f"the gateway could not read a frame: {error}"))
            self._hub.end(session)

    # -- proof ------------------------------------------------------------------------------------

    def _admit(self, connection: Connection, answer: object) -> None:
        if not isinstance(answer, dict):
            raise Refusal("protocol", "the hello is not an object")
        text, nonce, key = answer.get("hello"), answer.get("nonce"), answer.get("key")
        if not isinstance(text, str) or not isinstance(nonce, str) or len(text) > UNPROVED_BYTES:
            raise Refusal("protocol", "the hello has no text or no nonce")
        secret = self._secrets.get(key) if isinstance(key, str) else None
        expected = proof.client_proof(secret or "", connection.nonce, nonce, text)
        if not proof.same(answer.get("proof"), expected) or secret is None:
            raise Refusal("key", wrong_key(str(key or "")[:32]))
        welcome = self._welcome(connection, str(key), proof.from_text(text))
        signature = proof.gateway_proof(secret, connection.nonce, nonce, welcome)
        assert connection.session is not None
        said = {"welcome": welcome, "proof": signature}
        self._hub.when_kept(connection.session, partial(self._greet, connection, connection.session, said))

    def _greet(self, connection: Connection, session: Session, welcome: dict[str, str]) -> None:
        if connection.sid in self._connections and not connection.closing:
            self._send(connection, proof.WELCOME, welcome)
            self._hub.connect(session, connection.tap.send, connection.received if connection.resumed else 0)

    def _welcome(self, connection: Connection, key: str, hello: dict[str, Any]) -> str:
        if hello.get("protocol") != proof.PROTOCOL:
            raise Refusal(
                "protocol",
                f"this gateway speaks protocol {proof.PROTOCOL} and the client {hello.get('protocol')}; "
                "install the same version of meca-executor on both sides",
            )
        name, wanted, per_worker = hello.get("session"), hello.get("max_workers"), hello.get("max_tasks_per_child")
        if not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT:
            raise Refusal("protocol", f"a session's name has 1 to {NAME_LIMIT} characters")
        received = hello.get("received", 0)
        connection.received = received if isinstance(received, int) and received >= 0 else 0
        slots = min(self._slots, wanted) if isinstance(wanted, int) and wanted > 0 else self._slots
        per_worker = per_worker if isinstance(per_worker, int) and per_worker > 0 else None
        try:
            session, resumed = self._hub.attach(name, key, slots, per_worker)
        except SessionRefused as error:
            raise Refusal("session", str(error)) from None
        connection.session, connection.resumed = session, resumed
        connection.tap.on_frame = partial(self._on_frame, connection, session)
        if connection.deadline is not None:
            connection.deadline.cancel()
        fields = {
            "protocol": proof.PROTOCOL,
            "resumed": resumed,
            "received": session.stream.acknowledgeable,
            "slots": slots,
            "python": platform.python_version(),
            "memory": self._memory(str(hello.get("memory", ""))),
            **limits(),
        }
        return proof.to_text(fields)

    def _memory(self, offer: str) -> list[str | None]:
        """What shows that client and gateway can read each other's memory; nothing where values go to disk anyway."""
        if self._probe is None or self._hub.durable:
            return [None, None]
        return [self._probe.offer(), probe.answer(offer)]

    # -- sending ----------------------------------------------------------------------------------

    def _send(self, connection: Connection, event: str, data: Any) -> None:
        connection.outgoing.append((event, data))
        if connection.sender is None:
            connection.sender = asyncio.get_running_loop().create_task(self._sending(connection))

    async def _sending(self, connection: Connection) -> None:
        try:
            while connection.outgoing:
                event, data = connection.outgoing.popleft()
                await self._sio.emit(event, data, to=connection.sid, namespace=proof.NAMESPACE)
            if connection.closing:
                await self._sio.disconnect(connection.sid, namespace=proof.NAMESPACE)
        except Exception:  # the connection is gone, or will be; what it did not get waits in its session
            log.exception("cannot send to a client")
            self._forget(connection)
        finally:
            connection.sender = None

    def _refuse(self, connection: Connection, refusal: Refusal) -> None:
        connection.closing = True
        self._send(connection, proof.REFUSED, {"code": refusal.code, "text": refusal.text})

    def refuse_all(self, text: str) -> None:
        """Drop every client, with a reason; their sessions are not touched."""
        for connection in list(self._connections.values()):
            self._refuse(connection, Refusal("ending", text))

    def _fail(self, connection: Connection) -> None:
        """A frame could not be sent: what the client did not get waits in its session until it comes back."""
        self._forget(connection)
        self._drop(connection)

    def _drop(self, connection: Connection) -> None:
        connection.closing = True
        if connection.sender is None:
            connection.sender = asyncio.get_running_loop().create_task(self._sending(connection))

    def _forget(self, connection: Connection) -> None:
        self._connections.pop(connection.sid, None)
        if connection.deadline is not None:
            connection.deadline.cancel()
        if connection.session is not None:
            self._hub.detach(connection.session, connection.tap.send)


def wrong_key(key: str) -> str:
    """Return why a client's key is not accepted, and the way out."""
    if not key:
        return (
            "no access key was given; set MECA_ACCESS_KEY and MECA_SECRET_KEY, or run as the user whose key file the "
            "gateway reads"
        )
    return f"access key {key!r} is unknown here, or its secret is another one"


class Refusal(Exception):
    """Why a client is not served: a code for its program, a text for its user."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
