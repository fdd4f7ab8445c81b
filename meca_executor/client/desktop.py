"""The old dialect on a link: tasks of containers, offered one by one to the MECAnywhere desktop app."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import aiohttp
import socketio

from ..errors import GatewayRefused, GatewayUnreachable, NoHostFits
from ..wire import desktop as old
from ..wire.data import printable
from ..wire.records import Status
from .connection import plain
from .desktop_socket import Packet
from .http import LOGGER, Handshake

if TYPE_CHECKING:
    from .chunks import Slice
    from .driver import Host
    from .tasks import Task

OFFLOADED_S = 30.0  #: the app acknowledges an offer within this time, or the attempt counts as lost
#: After so long without `registered` we connect anew: another program's leaving takes it away from all who wait
#: (the app at 60589c5, src/main/main.ts:95). One that is only late then comes on the new connection.
REGISTERED_S = 5.0
SLOTS = 64  #: tasks offered at once where `max_workers` does not say; how many run is the app's affair
FUNCTIONS = (
    "the MECAnywhere desktop app at {url} runs containers only; run functions in one by "
    "ex.options(container_ref='meca-python:3.11').submit(...), or submit a Container(...)"
)


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
        self._names: dict[int, list[str]] = {}  # the other way round
        self._unanswered: deque[Offer] = deque()  # offers without `offloaded`, in order: it names no task
        self._offering: asyncio.Task[None] | None = None
        self._registered: asyncio.Future[None]
        self._was_connected = False
        self._sio: Any = None
        self._http: Handshake | None = None

    # -- connecting -------------------------------------------------------------------------------

    async def connect(self, limit: float) -> None:
        """Connect and wait until the app says that we are registered."""
        url, host = self._host.endpoint, self._host
        sio = self._new_client()
        try:
            await asyncio.wait_for(sio.connect(url, transports=["websocket"], wait_timeout=limit), limit)
            await asyncio.wait_for(self._registered, min(limit, REGISTERED_S))
        except (asyncio.TimeoutError, TimeoutError):
            silent = "does not register this program; is its user logged in?" if sio.connected else "does not answer"
            await self._hang_up()
            raise GatewayUnreachable(f"the desktop app at {url} {silent}") from None
        except (socketio.exceptions.ConnectionError, aiohttp.ClientError, OSError) as error:
            await self._hang_up()
            if isinstance(error, GatewayUnreachable):
                raise
            raise GatewayUnreachable(f"the desktop app at {url} does not answer: {plain(error)}") from error
        except BaseException:
            await self._hang_up()
            raise
        self._was_connected = True
        slots = host.settings.max_workers or SLOTS
        host.slots = slots
        host.ledger.credit.grant(slots, slots + 1, 256 << 20)
        host.ledger.refuse_functions(lambda: NoHostFits(FUNCTIONS.format(url=url)))
        self._offer_again()

    def _new_client(self) -> Any:
        self._registered = self._loop.create_future()
        self._http = Handshake(aiohttp.ClientSession())
        sio = self._sio = socketio.AsyncClient(
            reconnection=False,
            handle_sigint=False,
            logger=LOGGER,
            engineio_logger=LOGGER,
            serializer=Packet,
            http_session=self._http,
            websocket_extra_options={"max_msg_size": 0},  # replies have no limit
        )
        sio.on(old.REGISTERED, self._on_registered)
        sio.on(old.OFFLOADED, self._on_offloaded)
        sio.on(old.RESULT, self._on_result)
        sio.on("disconnect", lambda *_: self._on_disconnect(sio))
        return sio

    def _offer_again(self) -> None:
        """After a drop: results of the gap are lost, so what has attempts left is tried again (DESIGN rule 12)."""
        self._unanswered.clear()
        for offer in list(self._open.values()):
            if offer in self._waiting:
                continue
            if self._host.ledger.has_attempts_left(offer.number):
                self._settle(offer, Status.LOST, b"the connection to the desktop app dropped while it had the task")
            else:
                self._accepted(offer)  # also when that was never said: only a late answer can tell now
        self._go_on()

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

    def hand_over(self, batch: list[Task | Slice]) -> None:
        """Queue offers; they go out one after the other."""
        for task in batch:
            assert not isinstance(task, tuple), "items of a map are functions' calls"
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
            try:
                text = old.encode_job(job_of(offer.task, wire_id))
                size = old.message_bytes(text)
            except UnicodeError as error:
                told = f"the desktop app takes text, and this input is none ({error}); codec='bytes' sends it in base64"
                self._settle(offer, Status.FAILED, told.encode())
                continue
            limit = self._http.max_payload if self._http is not None else old.MAX_PAYLOAD
            if size > limit:
                told = f"its message has {size:,} bytes, and the desktop app takes {limit:,}"
                self._settle(offer, Status.TOO_LARGE, told.encode())
                continue
            await self._offer(offer, wire_id, text)

    async def _offer(self, offer: Offer, wire_id: str, text: str) -> None:
        """One offer, until the app has acknowledged it: the acknowledgement names no task."""
        self._ids[wire_id] = offer.number
        self._names.setdefault(offer.number, []).append(wire_id)
        self._unanswered.append(offer)
        offer.since = time.monotonic()
        try:
            await self._sio.emit(old.OFFLOAD, text)
        except socketio.exceptions.SocketIOError:
            self._waiting.appendleft(offer)  # nothing was sent: after the reconnect it is still the same attempt
            raise
        try:
            await asyncio.wait_for(offer.offloaded.wait(), OFFLOADED_S)
        except (asyncio.TimeoutError, TimeoutError):
            with contextlib.suppress(ValueError):
                self._unanswered.remove(offer)
            self._settle(offer, Status.LOST, f"the desktop app did not take the task within {OFFLOADED_S:g} s".encode())

    def recover(self) -> None:
        """As `Driver`; sessions with a name never come here."""
        raise AssertionError("the old dialect has no sessions")

    @property
    def delivered(self) -> bool:
        """As `Driver`."""
        return True

    def tidy(self) -> None:
        """Nothing: functions do not run there, so no object was sent."""

    def kill(self, task: int) -> None:
        """Let go of a task; the app has no way to end it."""
        if (offer := self._open.get(task)) is not None:
            self._settle(offer, Status.KILLED, b"ended by kill(); the desktop app may still run it")

    # -- in ---------------------------------------------------------------------------------------

    def _on_registered(self, *args: Any) -> None:
        if self._registered.done():
            return  # told again, or meant for another program's connection
        if old.was_refused(args):
            # After a drop the app may have been started again, and its user logs in only now.
            kind = GatewayUnreachable if self._was_connected else GatewayRefused
            url = self._host.endpoint
            self._fail_connection(kind(f"the desktop app at {url} would not register this program; log in to it first"))
        else:
            self._registered.set_result(None)

    def _fail_connection(self, error: BaseException) -> None:
        self._registered.set_exception(error)
        self._registered.exception()  # looked at: nobody may be waiting

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

    def _on_result(self, *args: Any) -> None:
        result = old.read_result(args)
        number = None if result is None else self._ids.get(result.task_id)
        offer = None if number is None else self._open.get(number)
        if result is None or offer is None:
            return  # another program's, a second time, or after its deadline
        with contextlib.suppress(ValueError):
            self._unanswered.remove(offer)  # a result says that it was taken, too
        self._accepted(offer)
        offer.task.future.transaction_id = result.transaction_id
        failure = old.failure_in(result.response) if self._host.settings.strict else None
        if result.status == 1 and failure is None:
            self._settle(offer, Status.REPLY, result.response.encode("utf-8", "surrogatepass"))
        else:
            told = failure or result.error or result.response or "the desktop app gave no reason"
            # A stranger's words; they are shown to people wherever this error is.
            self._settle(offer, Status.FAILED, printable(told).encode())

    def _settle(self, offer: Offer, status: Status, payload: bytes) -> None:
        if self._open.get(offer.number) is not offer:
            return
        del self._open[offer.number]
        with contextlib.suppress(ValueError):
            self._waiting.remove(offer)
        offer.offloaded.set()
        if offer.deadline is not None:
            offer.deadline.cancel()
        # Of an attempt that was lost and has a next one, a late answer is as good as one to the next.
        if status is not Status.LOST or not self._host.ledger.has_attempts_left(offer.number):
            for wire_id in self._names.pop(offer.number, ()):
                del self._ids[wire_id]
        micros = min(int((time.monotonic() - offer.since) * 1e6), 0xFFFF_FFFF)
        self._host.settled([(offer.number, status, micros, payload)])
        self._host.pump()
        self._go_on()

    def _on_disconnect(self, sio: Any) -> None:
        if sio is self._sio:
            if not self._registered.done():
                self._fail_connection(GatewayUnreachable(f"the desktop app at {self._host.endpoint} hung up"))
            self._host.down()


def job_of(task: Task, wire_id: str) -> old.Job:
    """Return a task as the app wants it; GPUs stand beside the resources there."""
    resource = dict(task.options.resource)
    gpus = int(resource.pop("gpu", 0))
    return old.Job(
        wire_id,
        task.options.container_ref or "",
        task.payload.decode(),
        resource or None,
        task.options.runtime,
        gpus > 0,
        gpus,
    )
