"""The old dialect on a link: tasks of containers, offered one by one to the MECAnywhere desktop app."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import aiohttp
import socketio

from ..errors import GatewayRefused, GatewayUnreachable, NoHostFits
from ..wire import desktop as old
from ..wire.records import Status

if TYPE_CHECKING:
    from .driver import Host
    from .tasks import Task

OFFLOADED_S = 30.0  #: the app acknowledges an offer within this time, or the attempt counts as lost
SLOTS = 64  #: tasks offered at once where `max_workers` does not say; how many run is the app's affair
FUNCTIONS = (
    "the MECAnywhere desktop app at {url} runs containers only; run functions in one by "
    "ex.options(container_ref='meca-python:3.11').submit(...), or submit a Container(...)"
)


class Packet(socketio.packet.Packet):  # type: ignore[misc]
    """Socket.IO packets whose JSON escapes no letters: three bytes instead of six or seven."""

    class json:
        dumps = staticmethod(lambda value, **_: old.compact(value))
        loads = staticmethod(json.loads)


class Offer:
    """A task on its way through the app."""

    __slots__ = ("deadline", "number", "offloaded", "since", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.number = task.number
        self.offloaded = asyncio.Event()
        self.since = time.monotonic()
        self.deadline: asyncio.TimerHandle | None = None


class Desktop:
    """One connection at a time to the app; what was offered is matched by ids of our own."""

    dialect = "desktop"

    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._prefix = secrets.token_hex(8)  # ids are unique among all programs: results go to every client
        self._serial = itertools.count(1)
        self._waiting: deque[Offer] = deque()
        self._open: dict[int, Offer] = {}  # task number -> its present offer
        self._ids: dict[str, int] = {}  # wire id -> task number, old attempts' ids included
        self._unanswered: deque[Offer] = deque()  # offers without `offloaded`, in order: it names no task
        self._offering: asyncio.Task[None] | None = None
        self._registered: asyncio.Future[None]
        self._sio: Any = None
        self._http: Handshake | None = None

    # -- connecting -------------------------------------------------------------------------------

    async def connect(self, limit: float) -> None:
        """Connect and wait until the app says that we are registered."""
        url, host = self._host.endpoint, self._host
        self._registered = self._loop.create_future()
        self._http = Handshake(aiohttp.ClientSession())
        sio = socketio.AsyncClient(
            reconnection=False,
            handle_sigint=False,
            serializer=Packet,
            http_session=self._http,
            websocket_extra_options={"max_msg_size": 0},  # replies have no limit
        )
        sio.on(old.REGISTERED, self._on_registered)
        sio.on(old.OFFLOADED, self._on_offloaded)
        sio.on(old.RESULT, self._on_result)
        sio.on("disconnect", lambda *_: self._on_disconnect(sio))
        self._sio = sio
        try:
            await asyncio.wait_for(sio.connect(url, transports=["websocket"], wait_timeout=limit), limit)
            await asyncio.wait_for(self._registered, limit)
        except (asyncio.TimeoutError, TimeoutError):
            await self._hang_up()
            raise GatewayUnreachable(
                f"the desktop app at {url} did not register this program within {limit:.3g} s; is its user logged in?"
            ) from None
        except (socketio.exceptions.ConnectionError, aiohttp.ClientError, OSError) as error:
            await self._hang_up()
            raise GatewayUnreachable(f"the desktop app at {url} does not answer: {error}") from error
        except GatewayRefused:
            await self._hang_up()
            raise
        slots = host.settings.max_workers or SLOTS
        host.slots = slots
        host.ledger.credit.grant(slots, slots + 1, 256 << 20)
        host.ledger.refuse_functions(lambda: NoHostFits(FUNCTIONS.format(url=url)))
        self._offer_again()

    def _offer_again(self) -> None:
        """After a drop: results of the gap are lost, so what has attempts left is tried again (DESIGN rule 12)."""
        self._unanswered.clear()
        for offer in list(self._open.values()):
            offer.offloaded.set()
            if offer not in self._waiting and self._host.ledger.has_attempts_left(offer.number):
                self._settle(offer, Status.LOST, b"the connection to the desktop app dropped while it had the task")

    async def leave(self, *, done: bool) -> None:
        """Drop the connection."""
        if self._offering is not None:
            self._offering.cancel()
            self._offering = None
        await self._hang_up()

    async def _hang_up(self) -> None:
        sio, self._sio = self._sio, None
        if sio is not None:
            with contextlib.suppress(Exception):
                await sio.eio.disconnect(abort=True)
        if self._http is not None:
            await self._http.close()

    def close(self) -> None:
        """Nothing outlives the loop."""

    def after_fork(self) -> None:
        """Nothing is shared with the parent but its socket, which is left alone."""

    # -- out --------------------------------------------------------------------------------------

    def hand_over(self, tasks: list[Task]) -> None:
        """Queue offers; they go out one after the other."""
        for task in tasks:
            offer = self._open[task.number] = Offer(task)
            self._waiting.append(offer)
        self._go_on()

    def _go_on(self) -> None:
        if self._waiting and self._offering is None and self._sio is not None:
            self._offering = self._loop.create_task(self._offer_all())
            self._offering.add_done_callback(self._offered)

    def _offered(self, offering: asyncio.Task[None]) -> None:
        if offering is self._offering:
            self._offering = None
        if offering.cancelled():
            return
        if offering.exception() is not None:
            self._host.down()  # the connection is gone under it
        elif len(self._open) - len(self._waiting) < self._host.slots:
            self._go_on()  # for what came between its end and this call

    async def _offer_all(self) -> None:
        while self._waiting and len(self._open) - len(self._waiting) < self._host.slots:
            offer = self._waiting.popleft()
            if self._open.get(offer.number) is not offer:
                continue
            wire_id = f"{self._prefix}-{next(self._serial)}"
            text = old.encode_job(job_of(offer.task, wire_id))
            limit = self._http.max_payload if self._http is not None else old.MAX_PAYLOAD
            if (size := old.message_bytes(text)) > limit:
                told = f"its message has {size:,} bytes, and the desktop app takes {limit:,}"
                self._settle(offer, Status.TOO_LARGE, told.encode())
                continue
            await self._offer(offer, wire_id, text)

    async def _offer(self, offer: Offer, wire_id: str, text: str) -> None:
        """One offer, until the app has acknowledged it: the acknowledgement names no task."""
        self._ids[wire_id] = offer.number
        self._unanswered.append(offer)
        offer.since = time.monotonic()
        await self._sio.emit(old.OFFLOAD, text)
        try:
            await asyncio.wait_for(offer.offloaded.wait(), OFFLOADED_S)
        except (asyncio.TimeoutError, TimeoutError):
            with contextlib.suppress(ValueError):
                self._unanswered.remove(offer)
            self._settle(offer, Status.LOST, f"the desktop app did not take the task within {OFFLOADED_S:g} s".encode())

    def kill(self, task: int) -> None:
        """Let go of a task; the app has no way to end it."""
        if (offer := self._open.get(task)) is not None:
            self._settle(offer, Status.KILLED, b"ended by kill(); the desktop app may still run it")

    # -- in ---------------------------------------------------------------------------------------

    def _on_registered(self, *args: Any) -> None:
        if self._registered.done():
            return  # told again, or meant for another program's connection
        if old.was_refused(args):
            self._registered.set_exception(
                GatewayRefused(
                    f"the desktop app at {self._host.endpoint} would not register this program; log in to the app first"
                )
            )
        else:
            self._registered.set_result(None)

    def _on_offloaded(self, *args: Any) -> None:
        if not self._unanswered:
            return
        offer = self._unanswered.popleft()
        if (error := old.offload_error(args)) is not None:
            self._settle(offer, Status.FAILED, f"the desktop app did not take the task: {error}".encode())
        else:
            self._accepted(offer)

    def _accepted(self, offer: Offer) -> None:
        """The app has the task: from here on its time counts."""
        if not offer.offloaded.is_set():
            offer.offloaded.set()
            offer.since = time.monotonic()
            limit = offer.task.options.timeout or old.BACKEND_LIMIT_S
            offer.deadline = self._loop.call_later(limit, self._expire, offer, limit)
            offer.task.future.accept()

    def _expire(self, offer: Offer, limit: float) -> None:
        told = f"no answer from the desktop app within {limit:g} s; it may still run there"
        self._settle(offer, Status.TIMEOUT, told.encode())
        self._host.pump()

    def _on_result(self, *args: Any) -> None:
        result = old.read_result(args)
        number = None if result is None else self._ids.get(result.task_id)
        offer = None if number is None else self._open.get(number)
        if result is None or offer is None:
            return  # another program's, a second time, or after its deadline
        with contextlib.suppress(ValueError):
            self._unanswered.remove(offer)  # a result says that it was taken, too
        offer.task.future.transaction_id = result.transaction_id
        failure = old.failure_in(result.response) if self._host.settings.strict else None
        if result.status == 1 and failure is None:
            self._settle(offer, Status.REPLY, result.response.encode("utf-8", "surrogatepass"))
        else:
            told = failure or result.error or result.response or "the desktop app gave no reason"
            self._settle(offer, Status.FAILED, told.encode("utf-8", "replace"))
        self._host.pump()

    def _settle(self, offer: Offer, status: Status, payload: bytes) -> None:
        if self._open.pop(offer.number, None) is None:
            return
        offer.offloaded.set()
        if offer.deadline is not None:
            offer.deadline.cancel()
        if status is not Status.LOST:  # else a late answer to this offer is as good as one to the next
            self._ids = {wire_id: number for wire_id, number in self._ids.items() if number != offer.number}
        micros = min(int((time.monotonic() - offer.since) * 1e6), 0xFFFF_FFFF)
        self._host.settled([(offer.number, status, micros, payload)])
        self._go_on()

    def _on_disconnect(self, sio: Any) -> None:
        if sio is self._sio:
            if not self._registered.done():
                self._registered.set_exception(
                    GatewayUnreachable(f"the desktop app at {self._host.endpoint} closed the connection")
                )
                self._registered.exception()  # looked at: nobody may be waiting
            self._host.down()


def job_of(task: Task, wire_id: str) -> old.Job:
    """Return a task as the app wants it; GPUs stand beside the resources there."""
    resource = dict(task.options.resource)
    gpus = int(resource.pop("gpu", 0))
    return old.Job(
        wire_id,
        task.options.container_ref or "",
        task.payload.decode("utf-8", "surrogatepass"),
        resource or None,
        task.options.runtime,
        gpus > 0,
        gpus,
    )


class Handshake:
    """An aiohttp session that also hears how large a message the server takes; the client drops that."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.max_payload = old.MAX_PAYLOAD

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def ws_connect(self, *args: Any, **kwargs: Any) -> Any:
        """Connect; the first message is the handshake."""
        ws: Any = await self._session.ws_connect(*args, **kwargs)
        receive = ws.receive

        async def first(*args: Any, **kwargs: Any) -> Any:
            ws.receive = receive
            message = await receive(*args, **kwargs)
            if isinstance(message.data, str) and message.data.startswith("0{"):
                self.max_payload = int(json.loads(message.data[1:]).get("maxPayload", old.MAX_PAYLOAD))
            return message

        ws.receive = first
        return ws
