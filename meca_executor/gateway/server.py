"""The gateway's front: Socket.IO on aiohttp, and the proof before anything else."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from functools import partial
from typing import TYPE_CHECKING, Any

import socketio
from aiohttp import web

from ..settings import HELLO_LIMIT, KEY_LIMIT, NAME_LIMIT
from ..wire import hosting, kernels, probe, proof, segments
from ..wire.desktop import NAMESPACE as OLD_NAMESPACE
from ..wire.stream import FRAME_LIMIT
from .answers import Answers
from .connection import Connection
from .desktop import DesktopFront, Offer
from .door import PROOF_S, Door, Refusal, revoked, too_soon, wrong_key
from .keeper import limits
from .listening import listen
from .session import Session, SessionInUse, SessionRefused
from .tenures import claim_of, named_id
from .websocket import TAP, serve_taps

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from .desk import Desk, Visitor
    from .hub import Hub
    from .joined import Joined, Joining
    from .owners import Owners

PING_S = 10.0
PONG_S = 20.0
SESSIONS = 256  #: that one access key may have at once
CAP_MOST = 65_536  #: workers of one session; who asks for no number has no limit of its own
LOOK_S = 1.0  #: between two looks at the key file and at silent connections

log = logging.getLogger("meca.gateway")


class Server:
    """Serves the namespace `/meca` of one hub.

    Args:
        hub: Where frames go.
        owners: Of the access keys that may connect.
        joining: Where the sessions of hosts are.
        old_dialect: Serve that on `/` too, and what its clients may have.
        behind_proxy: Something in front ends TLS and names clients' addresses.
        desk: Where the sessions of those are who use kernels; None where there are no kernels.
    """

    def __init__(
        self,
        hub: Hub,
        owners: Owners,
        joining: Joining,
        old_dialect: Offer | None = None,
        behind_proxy: bool = False,
        desk: Desk | None = None,
    ) -> None:
        self._hub = hub
        self._owners = owners
        self._refusing = False  # functions, as the operator was told
        self._desk, self._joining = desk, joining
        self._places: dict[object, Any] = {None: hub, kernels.PURPOSE: desk, hosting.PURPOSE: joining}
        self._revoked: dict[str, str] = {}  # access key -> secret, as it was
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
        self._answers = Answers(hub.broker, joining, self._connections, self._send, self._facts)
        self._sio.on(proof.ASK, self._answers.on_ask, namespace=proof.NAMESPACE)
        serve_taps(self._sio.eio)
        self._door = Door(behind_proxy, self._is_old)
        self._loop = asyncio.get_running_loop()
        self._looking: asyncio.TimerHandle | None = None
        self._front = None if old_dialect is None else DesktopFront(self._sio, hub, old_dialect)
        self._runner: web.AppRunner | None = None
        self._probe = probe.Probe() if segments.available() else None  # shows a client that it can read our memory

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Start to serve, over TLS if there is something to do it with; returns the port, which is a free one for 0.

        Raises:
            OSError: The address cannot be had.
        """
        middlewares = [self._door.middleware()]
        if self._front is not None:
            middlewares.append(self._front.transports.middleware())
        app = web.Application(middlewares=middlewares, client_max_size=FRAME_LIMIT)
        self._sio.attach(app)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.2)
        await self._runner.setup()
        bound = await listen(self._runner, host, port, tls)
        self._look()
        return bound

    @property
    def busy(self) -> bool:
        """Whether clients of the old dialect have jobs under way."""
        return self._front is not None and self._front.busy

    async def close(self) -> None:
        """Stop serving and drop every connection."""
        if self._looking is not None:
            self._looking.cancel()
        self._answers.close()
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
        visit = self._door.visit(environ["aiohttp.request"])
        connection = self._connections[sid] = Connection(sid, proof.make_nonce(), tap, visit)
        tap.on_failure = partial(self._fail, connection)
        connection.deadline = self._loop.call_later(PROOF_S, self._drop, connection)
        self._send(connection, proof.CHALLENGE, {"nonce": connection.nonce, "protocol": proof.PROTOCOL})

    async def _on_disconnect(self, sid: str, reason: object = None) -> None:
        if (connection := self._connections.get(sid)) is not None:
            self._forget(connection)

    async def _on_hello(self, sid: str, answer: object = None) -> None:
        connection = self._connections.get(sid)
        if connection is None or connection.asked or connection.closing:
            return
        connection.asked = True
        key = answer.get("key") if isinstance(answer, dict) else None
        named = key[:KEY_LIMIT] if isinstance(key, str) else ""
        if (delay := self._door.guard.delay(connection.visit.address, named, self._loop.time())) > 0:
            self._loop.call_later(delay, self._hear, connection, answer)
        else:
            self._hear(connection, answer)

    def _hear(self, connection: Connection, answer: object) -> None:
        """Look at a hello, and let its sender in or tell why not."""
        if connection.closing or connection.sid not in self._connections:
            return  # gone while it had to wait
        try:
            self._admit(connection, answer)
        except (Refusal, ValueError) as error:
            refusal = error if isinstance(error, Refusal) else Refusal("protocol", f"the hello cannot be read: {error}")
            log.warning("refused a client: %s", refusal.text)
            self._refuse(connection, refusal)

    def _on_frame(self, connection: Connection, place: Any, session: Any, frame: bytes) -> None:
        if connection.closing:
            return
        try:
            place.on_frame(session, frame)
        except Exception as error:
            if not isinstance(error, (ValueError, KeyError)):
                log.exception("a frame could not be taken in")
            log.warning("a client sent what cannot be read: %s", error)
            self._refuse(connection, Refusal("protocol", f"the gateway could not read a frame: {error}"))
            place.end(session)

    # -- proof ------------------------------------------------------------------------------------

    def _admit(self, connection: Connection, answer: object) -> None:
        if not isinstance(answer, dict):
            raise Refusal("protocol", "the hello is not an object")
        text, nonce, key = answer.get("hello"), answer.get("nonce"), answer.get("key")
        if not isinstance(text, str) or not isinstance(nonce, str) or len(text) + len(nonce) > HELLO_LIMIT:
            raise Refusal("protocol", f"the hello has no text or no nonce, or more than {HELLO_LIMIT:,} characters")
        if isinstance(key, str) and len(key) > KEY_LIMIT:
            raise Refusal("key", f"the access key has {len(key):,} characters, and {KEY_LIMIT} are allowed")
        secret = self._check_proof(connection, key if isinstance(key, str) else "", nonce, text, answer.get("proof"))
        connection.key, connection.secret = str(key), secret
        welcome = self._welcome(connection, str(key), proof.from_text(text))
        signature = proof.gateway_proof(secret, connection.nonce, nonce, welcome)
        place: Any = connection.place
        said = {"welcome": welcome, "proof": signature}
        place.when_kept(connection.session, partial(self._greet, connection, said))

    def _check_proof(self, connection: Connection, key: str, nonce: str, text: str, given: object) -> str:
        """Return the secret that a client has shown to know; raises Refusal when it has not."""
        guard, address, now = self._door.guard, connection.visit.address, self._loop.time()
        if (wait := guard.refused(address, now)) > 0:  # others from there failed since it was let in
            raise Refusal("wait", too_soon(wait))
        secret = self._owners.secrets().get(key)
        if proof.same(given, proof.client_proof(secret or "", connection.nonce, nonce, text)) and secret is not None:
            guard.passed(address, key)
            self._door.proved(connection.visit)
            return secret
        old = self._revoked.get(key)
        if old is not None and proof.same(given, proof.client_proof(old, connection.nonce, nonce, text)):
            raise Refusal("key", revoked(key))  # no guess: it does not count as a failure
        guard.failed(address, key, now)
        raise Refusal("key", wrong_key(key[:32]))

    def _greet(self, connection: Connection, welcome: dict[str, str]) -> None:
        if connection.sid in self._connections and not connection.closing:
            self._send(connection, proof.WELCOME, welcome)
            place: Any = connection.place
            received = connection.received if connection.resumed else 0
            place.connect(connection.session, connection.tap.send, received)

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
        place, claim, owner = self._place(hello.get("purpose")), claim_of(hello, name), self._owners.owner(key)
        told: Any = hosting.Introduction.from_fields(hello.get("host")) if place is self._joining else claim
        sessions: Mapping[str, Session | Visitor | Joined] = place.sessions
        known = name if claim is None else named_id(owner, claim.name)
        if known not in sessions and sum(other.key == key for other in sessions.values()) >= SESSIONS:
            raise Refusal(
                "session",
                f"access key {key} has {SESSIONS} sessions here already; one ends when its executor is shut down, or "
                "some minutes (with a name: seven days) after its program has gone",
            )
        received = hello.get("received", 0)
        connection.received = received if isinstance(received, int) and received >= 0 else 0
        most = wanted if isinstance(wanted, int) and 0 < wanted < CAP_MOST else CAP_MOST
        per_worker = per_worker if isinstance(per_worker, int) and per_worker > 0 else None
        try:
            session, resumed = place.attach(name, owner, most, per_worker, str(hello.get("birth", "")), told)
        except SessionRefused as error:
            raise Refusal("taken" if isinstance(error, SessionInUse) else "session", str(error)) from None
        session.key = key
        if claim is not None and not resumed:
            self._expel(session)
        connection.place, connection.session, connection.resumed = place, session, resumed
        connection.tap.on_frame = partial(self._on_frame, connection, place, session)
        if connection.deadline is not None:
            connection.deadline.cancel()
        fields = {
            "protocol": proof.PROTOCOL,
            "resumed": resumed,
            "birth": session.birth,
            "received": session.stream.acknowledgeable,
            "python": platform.python_version(),
            "memory": self._memory(str(hello.get("memory", "")), session),
            "lends": not self._hub.durable and segments.available() and claim is None,
            "generation": session.now.number if isinstance(session, Session) else 0,
            **self._facts(owner, most),
            **limits(),
        }
        return proof.to_text(fields)

    def _facts(self, owner: str, most: int) -> dict[str, Any]:
        """What changes with the hosts: how many of an owner's calls run at once, and why none do."""
        slots = max(1, min(most, self._hub.broker.hosts.slots_of(owner)))  # with no host yet, one call waits for it
        return {"slots": slots, "no_functions": self._hub.why_no_functions(owner)}

    def _expel(self, session: Session | Visitor | Joined) -> None:
        """Another client has the session now."""
        for other in list(self._connections.values()):
            if other.session is session:
                other.session = None
                self._refuse(other, Refusal("taken", "another client has the session now"))

    def _place(self, purpose: object) -> Any:
        place = self._places.get(purpose) if isinstance(purpose, (str, type(None))) else None
        if place is None:
            raise Refusal("protocol", f"this gateway has no sessions for {str(purpose)[:40]!r}")
        return place

    def _memory(self, offer: str, session: Session | Visitor | Joined) -> list[str | None]:
        """What shows that client and gateway can read each other's memory; nothing where values outlive one of them."""
        if self._probe is None or self._hub.durable or not isinstance(session, Session) or session.tenure is not None:
            return [None, None]
        if (process := probe.pid_of(offer)) == os.getpid():
            return [None, None]  # a client in our own process: what it refers to cannot be told from what is ours
        answer = probe.answer(offer)
        session.process = process if answer is not None else None
        return [self._probe.offer(), answer]

    # -- keys that come and go -----------------------------------------------------------------------

    def _look(self) -> None:
        """Now and then: end what keys had begun that are revoked, and connections that say nothing."""
        self._looking = self._loop.call_later(LOOK_S, self._look)
        self._door.sweep(None if self._runner is None else self._runner.server)
        if self._refusing != (self._owners.why_not() is not None):
            self._refusing = not self._refusing
            how = "are refused" if self._refusing else "are run again"
            log.warning("functions %s: the keys have %s", how, self._owners)
        if (known := self._owners.settled()) is None:
            return
        for connection in list(self._connections.values()):
            session = connection.session
            if session is None or connection.closing or known.get(connection.key) == connection.secret:
                continue
            self._revoked[connection.key] = connection.secret
            log.warning("access key %s was revoked; its client is disconnected", connection.key[:32])
            self._refuse(connection, Refusal("key", revoked(connection.key)))
            if session.send in (None, connection.tap.send):
                connection.place.end(session)  # type: ignore[union-attr,arg-type]  # its own place
        for place in filter(None, self._places.values()):
            for session in [session for session in place.sessions.values() if session.key not in known]:
                place.end(session)
        if self._desk is not None:
            self._desk.revoked(map(self._owners.owner, known))

    def _is_old(self, request: web.Request) -> bool:
        """Whether a websocket's client is on `/`."""
        if self._front is None:
            return False
        for eio_sid, environ in list(self._sio.environ.items()):
            if environ.get("aiohttp.request") is request:
                return self._sio.manager.sid_from_eio_sid(eio_sid, OLD_NAMESPACE) is not None
        return False

    # -- sending ----------------------------------------------------------------------------------

    def _send(self, connection: Connection, event: str, data: Any) -> None:
        connection.outgoing.append((event, data))
        if connection.sender is None:
            connection.sender = self._loop.create_task(self._sending(connection))

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
            connection.sender = self._loop.create_task(self._sending(connection))

    def _forget(self, connection: Connection) -> None:
        self._connections.pop(connection.sid, None)
        if connection.deadline is not None:
            connection.deadline.cancel()
        if connection.session is not None:
            place: Any = connection.place
            place.detach(connection.session, connection.tap.send)
