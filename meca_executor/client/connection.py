"""One connection to a gateway: Socket.IO, and the proof both ways before anything else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import socketio

from ..errors import GatewayRefused, GatewayUnreachable, ProtocolMismatch, SessionTaken, UsageError
from ..settings import HELLO_LIMIT, NAME_LIMIT
from ..wire import proof
from ..wire.stream import FRAME_LIMIT
from .driver import OtherDialect
from .http import LOGGER, Handshake
from .tls import UntrustedGateway, client_context, why_untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..settings import KeyPair
    from ..wire.tap import Tap


REFUSED = "Meca-Refused"  #: header in which a gateway says why it opens no websocket
TOO_MANY_REQUESTS = 429  #: its status when proofs from this address failed; any other means that it is busy
TOLD_LIMIT = 500  #: characters of what a server says before it has proved itself

log = logging.getLogger("meca.client")


class Welcome(NamedTuple):
    """What a gateway says once both sides have proved themselves."""

    resumed: bool  #: it still has the session
    birth: str  #: of the session that it has
    received: int  #: the last frame that it has of ours
    slots: int
    window: int
    window_bytes: int
    message: int  #: bytes that a task or a result may have
    python: str
    generation: int  #: clients that the session had before this one
    memory: tuple[str | None, str | None]  #: where its memory can be read, and what it read in ours
    lends: bool  #: it takes results from its workers in shared memory
    no_functions: str | None = None  #: why it runs containers only


class Connection:
    """A connected socket that frames go through; `on_frame` and `on_lost` are called in its loop.

    Args:
        url: `http://` or `https://`, whose certificate is checked.
        ca_file: PEM file of the certificates to believe; None believes the system's.

    Raises:
        UsageError: The file cannot be used.
    """

    def __init__(
        self,
        url: str,
        on_frame: Callable[[bytes], None],
        on_lost: Callable[[], None],
        ca_file: str | None = None,
    ) -> None:
        self._url = url
        self._ca_file = ca_file
        self._resuming = False  # what may pass is tried again, so that no session is lost for it
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._challenge: asyncio.Future[Any] = self._loop.create_future()
        self._answer: asyncio.Future[Any] = self._loop.create_future()
        self.on_told: Callable[[dict[str, Any]], object] = lambda told: None  #: answers and news
        self._early: list[bytes] | None = []  # frames that came with the answer, before it was looked at
        self.lost = False  #: it was connected and is no more
        self.told = ""  #: why the gateway ends a connection that it had welcomed
        self._told: object = None  # why the server would not have us in the namespace
        self._tap: Tap | None = None
        tls = client_context(self._ca_file) if url.startswith("https://") else None
        connector = None if tls is None else aiohttp.TCPConnector(ssl=tls)
        self._http = Handshake(aiohttp.ClientSession(connector=connector))
        self._sio = socketio.AsyncClient(
            reconnection=False,
            handle_sigint=False,
            logger=LOGGER,
            engineio_logger=LOGGER,
            http_session=self._http,
            websocket_extra_options={"max_msg_size": 2 * FRAME_LIMIT},
        )
        on = self._sio.on
        on(proof.CHALLENGE, lambda data=None: self._arrived(self._challenge, data), namespace=proof.NAMESPACE)
        on(proof.WELCOME, lambda data=None: self._arrived(self._answer, data), namespace=proof.NAMESPACE)
        on(proof.REFUSED, self._refused, namespace=proof.NAMESPACE)
        on(proof.TOLD, self._on_told, namespace=proof.NAMESPACE)
        on("disconnect", self._disconnected, namespace=proof.NAMESPACE)
        on("connect_error", self._connect_error, namespace=proof.NAMESPACE)

    async def open(self, keys: KeyPair, hello: dict[str, Any], timeout: float, *, again: bool = False) -> Welcome:
        """Connect and prove; returns what the gateway says.

        Args:
            keys: The pair to prove oneself with.
            hello: What is said of oneself.
            timeout: Seconds for all of it.
            again: The gateway had welcomed us before, whatever it has sent since.

        Raises:
            GatewayUnreachable: Nobody answers in `timeout` seconds.
            GatewayRefused: The gateway does not know the key, has no room, or could not prove itself; or its
                certificate is not believed.
            ProtocolMismatch: The gateway speaks another protocol.
            UsageError: The hello is longer than gateways take.
        """
        check_hello(hello)
        self._resuming = again or bool(hello.get("received"))
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
            raise self._failure(error) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise GatewayUnreachable(f"cannot connect to {self._url}: {error}") from error

    def _failure(self, error: BaseException) -> GatewayUnreachable | GatewayRefused:
        """What is to be told of a server that no websocket could be opened to."""
        for cause in causes(error):
            if (why := why_untrusted(cause, self._ca_file)) is not None:
                text = f"the gateway at {self._url} is not spoken to: {why}"
                return GatewayUnreachable(text) if self._resuming else UntrustedGateway(text)
            if isinstance(cause, aiohttp.WSServerHandshakeError) and cause.headers and REFUSED in cause.headers:
                text = f"the gateway at {self._url} refused: {plain(cause.headers[REFUSED])}"
                lasting = cause.status == TOO_MANY_REQUESTS and not self._resuming
                return GatewayRefused(text) if lasting else GatewayUnreachable(text)
        return GatewayUnreachable(f"no gateway answers at {self._url}: {reason_of(error, self._url)}")

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
        return Welcome(**{name: fields[name] for name in Welcome._fields if name in fields})

    def send(self, frame: bytes) -> None:
        """Send a frame, after those before it; one that a lost connection does not take, the stream sends again."""
        if self._tap is not None:
            self._tap.send(frame)

    def ask(self, fields: dict[str, Any]) -> None:
        """Send a short question; on a connection that is lost meanwhile it has no answer."""
        asking = self._loop.create_task(self._sio.emit(proof.ASK, fields, namespace=proof.NAMESPACE))
        asking.add_done_callback(lambda asking: asking.cancelled() or asking.exception())

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
        why = plain(fields.get("text", "no reason given"))
        if self._answer.done():
            self.told = f"the gateway at {self._url} ended the connection: {why}"
            log.warning("%s", self.told)
            return
        kind: type[GatewayUnreachable | GatewayRefused | ProtocolMismatch] = GatewayRefused
        if fields.get("code") == "taken":
            kind = SessionTaken
        elif fields.get("code") == "protocol":
            kind = ProtocolMismatch
        elif fields.get("code") == "wait" and self._resuming:
            kind = GatewayUnreachable
        self._answer.set_exception(kind(f"the gateway at {self._url} refused: {why}"))

    def _on_told(self, data: Any = None) -> None:
        if self._answer.done() and isinstance(data, dict):
            self.on_told(data)

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


def check_hello(hello: dict[str, Any]) -> None:
    """Check what a gateway would refuse.

    Raises:
        UsageError: The session's name, or all of it, is too long.
    """
    name = hello.get("session")
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT:
        raise UsageError(f"session {str(name)[:40]!r}: a session's name has 1 to {NAME_LIMIT} characters")
    if (size := len(proof.to_text(hello))) > HELLO_LIMIT // 2:  # the rest is for the nonce
        raise UsageError(f"the hello has {size:,} characters, and gateways take {HELLO_LIMIT // 2:,}")


def plain(told: object) -> str:
    """Return what a server says that has not proved itself as one line of limited length, fit for a terminal."""
    text = " ".join(str(told)[:TOLD_LIMIT].split())
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def reason_of(error: BaseException, url: str) -> str:
    """Return what is at the bottom of a connection error: the libraries above it only say that there was one."""
    *_, deepest = causes(error)
    if isinstance(deepest, aiohttp.WSServerHandshakeError):
        return f"a server that is no gateway is there (HTTP status {deepest.status})"
    if isinstance(deepest, ConnectionRefusedError):
        return "nothing listens there; is a gateway running?"
    if isinstance(deepest, (aiohttp.ServerDisconnectedError, ConnectionResetError)):
        hint = "" if url.startswith("https:") else "; a gateway with TLS has an endpoint with https://"
        return f"{plain(deepest) or 'the connection was reset'}{hint}"
    return plain(deepest) or type(deepest).__name__


def python_mismatch(theirs: str) -> str | None:
    """Return why functions cannot travel to that Python version, or None when they can."""
    ours = platform.python_version()
    if ours.split(".")[:2] == theirs.split(".")[:2]:
        return None
    return (
        f"functions cannot travel from Python {ours} to the gateway's {theirs}: their code differs; use the same "
        "major.minor version on both sides (containers still run)"
    )
