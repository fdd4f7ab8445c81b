"""One connection to a gateway: Socket.IO, and the proof both ways before anything else."""

from __future__ import annotations

import asyncio
import contextlib
import platform
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import socketio

from ..errors import GatewayRefused, GatewayUnreachable, ProtocolMismatch
from ..wire import proof
from ..wire.stream import FRAME_LIMIT
from .driver import OtherDialect
from .http import Handshake

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..settings import KeyPair
    from ..wire.tap import Tap


class Welcome(NamedTuple):
    """What a gateway says once both sides have proved themselves."""

    resumed: bool  #: it still has the session
    received: int  #: the last frame that it has of ours
    slots: int
    window: int
    window_bytes: int
    message: int  #: bytes that a task or a result may have
    python: str
    memory: tuple[str | None, str | None]  #: where its memory can be read, and what it read in ours


class Connection:
    """A connected socket that frames go through; `on_frame` and `on_lost` are called in its loop."""

    def __init__(self, url: str, on_frame: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        self._url = url
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._challenge: asyncio.Future[Any] = self._loop.create_future()
        self._answer: asyncio.Future[Any] = self._loop.create_future()
        self._early: list[bytes] | None = []  # frames that came with the answer, before it was looked at
        self.lost = False  #: it was connected and is no more
        self._told: object = None  # why the server would not have us in the namespace
        self._tap: Tap | None = None
        self._http = Handshake(aiohttp.ClientSession())
        self._sio = socketio.AsyncClient(
            reconnection=False,
            handle_sigint=False,
            http_session=self._http,
            websocket_extra_options={"max_msg_size": 2 * FRAME_LIMIT},
        )
        on = self._sio.on
        on(proof.CHALLENGE, lambda data=None: self._arrived(self._challenge, data), namespace=proof.NAMESPACE)
        on(proof.WELCOME, lambda data=None: self._arrived(self._answer, data), namespace=proof.NAMESPACE)
        on(proof.REFUSED, self._refused, namespace=proof.NAMESPACE)
        on("disconnect", self._disconnected, namespace=proof.NAMESPACE)
        on("connect_error", self._connect_error, namespace=proof.NAMESPACE)

    async def open(self, keys: KeyPair, hello: dict[str, Any], timeout: float) -> Welcome:
        """Connect and prove; returns what the gateway says.

        Raises:
            GatewayUnreachable: Nobody answers in `timeout` seconds.
            GatewayRefused: The gateway does not know the key, or could not prove itself.
            ProtocolMismatch: The gateway speaks another protocol.
        """
        try:
            return await asyncio.wait_for(self._open(keys, hello, timeout), timeout)
        except (asyncio.TimeoutError, TimeoutError):
            raise GatewayUnreachable(f"the gateway at {self._url} does not answer within {timeout:.3g} s") from None

    async def _open(self, keys: KeyPair, hello: dict[str, Any], timeout: float) -> Welcome:
        await self._connect(timeout)
        challenge = await self._challenge
        tap = self._http.tap
        assert tap is not None  # connected by websocket
        self._tap, tap.on_frame, tap.on_failure = tap, self._frame, self._disconnected
        return await self._prove(keys, hello, challenge)

    async def _connect(self, timeout: float) -> None:
        try:
            await self._sio.connect(
                self._url, namespaces=[proof.NAMESPACE], transports=["websocket"], wait_timeout=timeout
            )
        except socketio.exceptions.ConnectionError as error:
            if self._told == "Invalid namespace":
                raise OtherDialect(
                    f"the server at {self._url} speaks Socket.IO but is no meca gateway (it has no {proof.NAMESPACE})"
                ) from None
            raise GatewayUnreachable(f"no gateway answers at {self._url}: {reason_of(error)}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise GatewayUnreachable(f"cannot connect to {self._url}: {error}") from error

    async def _prove(self, keys: KeyPair, hello: dict[str, Any], challenge: Any) -> Welcome:
        nonce = challenge.get("nonce") if isinstance(challenge, dict) else None
        if not isinstance(nonce, str) or challenge.get("protocol") != proof.PROTOCOL:
            theirs = challenge.get("protocol") if isinstance(challenge, dict) else None
            raise ProtocolMismatch(
                f"the gateway at {self._url} speaks protocol {theirs}, this client {proof.PROTOCOL}; "
                "install the same version of meca-executor on both sides"
            )
        own, text = proof.make_nonce(), proof.to_text(hello)
        signature = proof.client_proof(keys.secret_key, nonce, own, text)
        await self._sio.emit(
            proof.HELLO,
            {"key": keys.access_key, "nonce": own, "hello": text, "proof": signature},
            namespace=proof.NAMESPACE,
        )
        answer = await self._answer
        welcome = answer.get("welcome") if isinstance(answer, dict) else None
        if not isinstance(welcome, str) or not proof.same(
            answer.get("proof"), proof.gateway_proof(keys.secret_key, nonce, own, welcome)
        ):
            raise GatewayRefused(f"the gateway at {self._url} did not prove that it knows the key; nothing was sent")
        fields = proof.from_text(welcome)
        return Welcome(**{name: fields[name] for name in Welcome._fields})

    def send(self, frame: bytes) -> None:
        """Send a frame, after those before it; one that a lost connection does not take, the stream sends again."""
        if self._tap is not None:
            self._tap.send(frame)

    async def close(self) -> None:
        """Send what is left and disconnect."""
        if self._tap is not None:
            await self._tap.flushed(1.0)
        self._on_lost = lambda: None
        await asyncio.wait([self._loop.create_task(self._hang_up())], timeout=2.0)

    async def _hang_up(self) -> None:
        with contextlib.suppress(Exception):  # it may be half open, or never have been open
            await self._sio.eio.disconnect(abort=True)
        await self._http.close()

    # -- Socket.IO events -------------------------------------------------------------------------

    def _arrived(self, future: asyncio.Future[Any], data: Any) -> None:
        if not future.done():
            future.set_result(data)

    def _refused(self, data: Any = None) -> None:
        fields = data if isinstance(data, dict) else {}
        kind = ProtocolMismatch if fields.get("code") == "protocol" else GatewayRefused
        error = kind(f"the gateway at {self._url} refused: {fields.get('text', 'no reason given')}")
        if not self._answer.done():
            self._answer.set_exception(error)

    def _frame(self, frame: bytes) -> None:
        if self._early is not None:
            self._early.append(frame)
        else:
            self._on_frame(frame)

    def begin(self) -> None:
        """Give on what came, from now on and in between; called when the welcome was taken in."""
        early, self._early = self._early or [], None
        for frame in early:
            self._on_frame(frame)

    def _connect_error(self, data: Any = None) -> None:
        self._told = data.get("message") if isinstance(data, dict) else data

    def _disconnected(self, reason: object = None) -> None:
        gone = GatewayUnreachable(f"the connection to {self._url} was closed")
        for future in (self._challenge, self._answer):
            if not future.done():
                future.set_exception(gone)
                future.exception()  # looked at: nobody may be waiting for it
        self.lost = True
        self._on_lost()


def reason_of(error: BaseException) -> str:
    """Return what is at the bottom of a connection error: the libraries above it only say that there was one."""
    deepest = error
    while (below := deepest.__cause__ or deepest.__context__) is not None:
        deepest = below
    if isinstance(deepest, aiohttp.WSServerHandshakeError):
        return f"a server that is no gateway is there (HTTP status {deepest.status})"
    if isinstance(deepest, ConnectionRefusedError):
        return "nothing listens there; is a gateway running?"
    return f"{deepest}" or type(deepest).__name__


def python_mismatch(theirs: str) -> str | None:
    """Return why functions cannot travel to that Python version, or None when they can."""
    ours = platform.python_version()
    if ours.split(".")[:2] == theirs.split(".")[:2]:
        return None
    return (
        f"functions cannot travel from Python {ours} to the gateway's {theirs}: their code differs; use the same "
        "major.minor version on both sides (containers still run)"
    )
