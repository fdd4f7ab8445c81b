"""The old dialect on a gateway: programs on the original MECAnywhere SDK, on `/`, as they are.

They have no key, so they come from this machine only and may run the containers that the operator named,
never functions. Each hears of its own jobs only; what ends while its connection is down it hears when the
same process is back. To the wire's rules and why: `wire/desktop.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from uuid import uuid4

from ..policy.placement import why_never
from ..wire import desktop as old
from ..wire.records import Status
from .peer import process_at
from .tasks import Options
from .transports import Transports

if TYPE_CHECKING:
    from collections.abc import Mapping

    import socketio

    from .hub import Hub

JOB_S = 600.0  #: as the original's backend
KEPT_S = 600.0  #: results wait so long for their client to come back
HEARD_S = 2.0  #: a client that acknowledges does so within this time, also when it is busy
FETCH_S = 60.0  #: a client takes what it is sent within this time, or is given up
RELEASE_S = 1.0  #: a poll waits no longer for an answer
JOBS_MOST = 16_384  #: of one client, under way at once
LOOPBACK = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger("meca.gateway")

Event = tuple[str, tuple[Any, ...]]


@dataclass(eq=False)
class Client:
    """One program: its connection, and what it has not heard yet."""

    name: str
    sid: str | None = None
    unheard: deque[Event] = field(default_factory=deque)
    more: asyncio.Event = field(default_factory=asyncio.Event)
    sender: asyncio.Task[None] | None = None
    jobs: set[asyncio.Task[None]] = field(default_factory=set)
    expiry: asyncio.TimerHandle | None = None
    acknowledges: bool | None = None  #: whether it says that it has handled an event; None: not known yet
    polling: bool = False  #: was sent away to come back on polling


class Offer(NamedTuple):
    """What the old dialect's clients may have of this host.

    Attributes:
        containers: The names of those that may be run.
        runtimes: The names of those that the operator has.
        capacity: How much there is of each resource.
    """

    containers: frozenset[str]
    runtimes: frozenset[str]
    capacity: Mapping[str, float]


class DesktopFront:
    """Serves the old dialect beside the native one.

    Args:
        sio: The gateway's Socket.IO server.
        hub: Runs the containers.
        offer: What clients may have.
    """

    def __init__(self, sio: socketio.AsyncServer, hub: Hub, offer: Offer) -> None:
        self._sio = sio
        self._hub = hub
        self._offer = offer
        self.transports = Transports(sio)
        self._clients: dict[str, Client] = {}  # by name
        self._connected: dict[str, Client] = {}  # by connection
        sio.on("connect", self._on_connect, namespace=old.NAMESPACE)
        sio.on("disconnect", self._on_disconnect, namespace=old.NAMESPACE)
        sio.on(old.OFFLOAD, self._on_offload, namespace=old.NAMESPACE)

    @property
    def busy(self) -> bool:
        """Whether a job runs, or a client that is here has something to hear."""
        return any(client.jobs or (client.sid is not None and client.unheard) for client in self._clients.values())

    def close(self) -> None:
        """Let go of all clients; their jobs end."""
        for client in list(self._clients.values()):
            self._forget(client)

    # -- Socket.IO events -------------------------------------------------------------------------

    async def _on_connect(self, sid: str, environ: Mapping[str, Any], auth: object = None) -> bool | None:
        if sid in self._connected:
            return None  # not a connection: an event that a client named `connect`
        if not is_for_us(environ):
            log.warning("refused a connection to %r: not a name of this machine", environ.get("HTTP_HOST"))
            return False
        name = await asyncio.to_thread(_process_of, environ) or sid
        if not self._sio.manager.is_connected(sid, old.NAMESPACE):
            return None  # gone already
        if name in self._clients and self._clients[name].sid is not None:
            name = sid  # a second connection of one process is a client of its own
        client = self._clients.setdefault(name, Client(name))
        if client.expiry is not None:
            client.expiry.cancel()
        client.sid = sid
        self._connected[sid] = client
        client.unheard.appendleft((old.REGISTERED, (True,)))
        client.more.set()
        client.sender = asyncio.get_running_loop().create_task(self._sending(client, sid))
        return None

    async def _on_disconnect(self, sid: str, *reason: object) -> None:
        if self._sio.manager.is_connected(sid, old.NAMESPACE):
            # An event that a client named `disconnect`: the real app ends the connection, too.
            await self._sio.disconnect(sid, namespace=old.NAMESPACE)
            return
        client = self._connected.pop(sid, None)
        if client is None:
            return
        client.sid = None
        await self.transports.release(self._sio.manager.eio_sid_from_sid(sid, old.NAMESPACE))
        if client.sender is not None:
            client.sender.cancel()
        # `registered` is told anew; what else it has not heard waits, and stays in order.
        client.unheard = deque(event for event in client.unheard if event[0] != old.REGISTERED)
        if client.jobs or client.unheard:
            client.expiry = asyncio.get_running_loop().call_later(KEPT_S, self._forget, client)
        else:
            self._forget(client)

    async def _on_offload(self, sid: str, *args: Any) -> None:
        client = self._connected.get(sid)
        if client is None:
            return
        try:
            job = old.decode_job(args)
        except old.MalformedJob as error:
            if error.task_id is None:
                self._tell(client, old.OFFLOADED, {"message": str(error)}, None)
            else:
                self._tell(client, old.OFFLOADED, None, "success")
                self._tell_result(client, error.task_id, None, str(error))
            return
        if len(client.jobs) >= JOBS_MOST:
            told = f"this program has {JOBS_MOST:,} tasks here already; offer more when some have ended"
            self._tell(client, old.OFFLOADED, {"message": told}, None)
            return
        self._tell(client, old.OFFLOADED, None, "success")
        running = asyncio.get_running_loop().create_task(self._run(client, job))
        client.jobs.add(running)
        running.add_done_callback(client.jobs.discard)

    # -- jobs -------------------------------------------------------------------------------------

    async def _run(self, client: Client, job: old.Job) -> None:
        status, payload = await self._outcome(job)
        if status is Status.TIMEOUT:
            payload = b"Time out."  # the original's word for it
        try:
            text = payload.decode("utf-8", "strict" if status is Status.REPLY else "replace")
        except UnicodeDecodeError:
            status, text = Status.FAILED, "the container's reply is not UTF-8 text; let it reply in base64"
        self._tell_result(client, job.task_id, *((text, None) if status is Status.REPLY else (None, text)))

    def _tell_result(self, client: Client, task_id: str, reply: str | None, error: str | None) -> None:
        self._tell(client, old.RESULT, int(error is None), reply or "", error, task_id, str(uuid4()))

    async def _outcome(self, job: old.Job) -> tuple[Status, bytes]:
        resource, runtime = self._wishes(job)
        if with_tag(job.container_ref) not in self._offer.containers:
            named = ", ".join(sorted(self._offer.containers)) or "none"
            told = f"container {job.container_ref!r} may not be run here; the operator named: {named}"
            return Status.NO_HOST, told.encode()
        if (why := why_never(resource, self._offer.capacity)) is not None:
            return Status.NO_HOST, why.encode()
        options = Options(timeout=JOB_S, container_ref=job.container_ref, runtime=runtime, resource=resource)
        return await self._hub.calls.ask(options, job.content.encode("utf-8", "surrogatepass"), old.NAMESPACE)

    def _wishes(self, job: old.Job) -> tuple[dict[str, float], str | None]:
        """Return the resources and the runtime of a job; here a GPU and a runtime are wishes, as they always were."""
        resource, runtime = dict(job.resource or {}), job.runtime
        if job.use_gpu or job.gpu_count:
            if self._offer.capacity.get("gpu"):
                resource["gpu"] = max(1, job.gpu_count)
            else:
                log.warning("task %s: use_gpu is ignored, this gateway gives no GPU to containers", job.task_id)
        if runtime is not None and runtime not in self._offer.runtimes:
            log.warning("task %s: runtime %r is ignored, this gateway has none of that name", job.task_id, runtime)
            runtime = None
        return resource, runtime

    # -- sending ----------------------------------------------------------------------------------

    def _tell(self, client: Client, event: str, *args: Any) -> None:
        client.unheard.append((event, args))
        client.more.set()

    async def _sending(self, client: Client, sid: str) -> None:
        """Send events one by one, each heard before the next is sent.

        A Python client acknowledges by itself when its handler has run. Without waiting for that, an
        `offloaded` and its result run side by side there, and on polling more than 16 packets in one answer
        end the session (python-engineio).
        """
        eio_sid = self._sio.manager.eio_sid_from_sid(sid, old.NAMESPACE)
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError, KeyError):
            while True:
                while client.unheard:
                    event, args = client.unheard[0]
                    if event == old.RESULT and not self.transports.takes(eio_sid, len(json.dumps(args))):
                        client.polling = True
                        self.transports.send_to_polling(eio_sid)
                        return
                    if not await self._say(client, sid, event, args):
                        await asyncio.wait_for(self.transports.fetched(eio_sid), FETCH_S)
                    client.unheard.popleft()
                self._polling_over(client)
                client.more.clear()
                await self._until_more(client, eio_sid)

    async def _until_more(self, client: Client, eio_sid: str) -> None:
        """Wait for the next event. On polling a client may have said goodbye in vain (python-engineio drops that
        when its last request is still under way) and wait for the answer to its poll: it gets one."""
        while not client.more.is_set():
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                polling = self.transports.is_polling(eio_sid)
                await asyncio.wait_for(client.more.wait(), RELEASE_S if polling else None)
                return
            await self.transports.release(eio_sid)

    async def _say(self, client: Client, sid: str, event: str, args: tuple[Any, ...]) -> bool:
        """Send an event; whether the client said that it has handled it."""
        heard = asyncio.Event()

        def on_heard(*_: object) -> None:
            client.acknowledges = True
            heard.set()

        callback = None if client.acknowledges is False else on_heard
        await self._sio.emit(event, args, to=sid, namespace=old.NAMESPACE, callback=callback)
        if callback is not None:
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(heard.wait(), HEARD_S)
            if client.acknowledges is None:
                client.acknowledges = False  # another language's client: do not wait again
        return heard.is_set()

    def _polling_over(self, client: Client) -> None:
        if client.polling:
            client.polling = False
            self.transports.polling_over()

    def _forget(self, client: Client) -> None:
        self._clients.pop(client.name, None)
        self._polling_over(client)
        if client.expiry is not None:
            client.expiry.cancel()
        if client.sender is not None:
            client.sender.cancel()
        for job in list(client.jobs):
            job.cancel()


def with_tag(ref: str) -> str:
    """Return an image name with its tag: no tag is `latest`, as Docker has it."""
    return ref if ":" in ref.rpartition("/")[2] or "@" in ref else f"{ref}:latest"


def is_for_us(environ: Mapping[str, Any]) -> bool:
    """Whether a request names this machine; that of a web page whose name was made to lead here does not."""
    try:
        return urlsplit(f"//{environ.get('HTTP_HOST', '')}").hostname in LOOPBACK
    except ValueError:
        return False


def _process_of(environ: Mapping[str, Any]) -> str | None:
    request = environ.get("aiohttp.request")
    transport = request.transport if request is not None else None
    if transport is None:
        return None
    peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
    return process_at(peer[1], own[1]) if peer and own else None
