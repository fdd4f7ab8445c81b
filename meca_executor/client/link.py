"""The link: the one background thread of an executor, its socket inside it.

It alone talks to the gateway and it alone resolves futures. Its loop hands over tasks as the credit
allows, takes in results in order, and reconnects when the link drops: with the same session while the
gateway lives, so that work goes on and each result arrives once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import ExecutorClosed, GatewayError, GatewayLost, GatewayUnreachable, InitializerFailed, MecaError
from ..settings import KeyPair
from ..wire import proof
from ..wire.records import Kind, Status, decode, encode
from ..wire.stream import Stream, StreamBroken
from .embedded import KEY, EmbeddedGateway, worker_environment

if TYPE_CHECKING:
    from .connection import Connection, Welcome
    from .ledger import Again, Ledger
    from .tasks import Registry, Task

ACK_S = 0.05  #: an acknowledgement waits no longer than this for a frame to travel with
RESUME_S = 600.0  #: how long a lost link is tried again before its tasks are given up
RESTART_S = 60.0  #: an embedded gateway that dies twice within this time is not started again
FORKED = "this executor belongs to the parent process; make one of your own in the child"
STARTED_S = 90.0  #: the properties that need a connection wait no longer than this

Error = Callable[[], BaseException]


@dataclass(frozen=True)
class LinkSettings:
    """What a link needs to know; all checked before."""

    endpoint: str | None  #: None: an embedded gateway
    keys: KeyPair | None
    connect_timeout: float
    max_workers: int | None
    max_tasks_per_child: int | None
    initializer: bytes  #: pickled (function, arguments), or nothing
    apps: dict[str, str] = field(default_factory=dict)
    on_output: Callable[[str, str], object] | None = None
    name: str = "MecaExecutor-link"


class Link:
    """The thread, its connection and its session with a gateway."""

    def __init__(
        self, ledger: Ledger, registry: Registry, settings: LinkSettings, gateway: EmbeddedGateway | None
    ) -> None:
        self._ledger = ledger
        self._registry = registry
        self._settings = settings
        self._gateway = gateway
        self._session = secrets.token_hex(16)
        self._stream = Stream()
        self._sent_references = 1
        self._sent_options = 0
        self._connection: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awake = False
        self._closing = False
        self._failure: BaseException | None = None
        self._lost: asyncio.Event
        self._started = threading.Event()  # connected for the first time, or failed
        self._unwanted = threading.Event()  # closing, and no task is left
        self._restarted_at: float | None = None
        self._new_apps: dict[str, str] = {}
        self._max_message = 0
        self.endpoint = settings.endpoint
        self.slots = 0
        self.state = "connecting"
        self._thread = threading.Thread(target=self._run, name=settings.name)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Link {self.endpoint or 'embedded'} {self.state}>"

    # -- any thread -------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the thread look at the queue."""
        if not self._awake and (loop := self._loop) is not None:
            self._awake = True
            with contextlib.suppress(RuntimeError):  # the loop has just ended: its last act was to look
                loop.call_soon_threadsafe(self._pump)

    def close(self) -> None:
        """End the thread once no task is left; does not wait."""
        self._closing = True
        self._awake = False
        self.wake()

    def join(self) -> None:
        """Wait until the thread is gone, and the embedded gateway with it; a no-op on the thread itself."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def kill(self, task: int) -> None:
        """End a task wherever it is."""
        if (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._kill, task)

    def wait_started(self) -> None:
        """Wait for the first connection.

        Raises:
            MecaError: There was none, and why.
        """
        if not self._started.wait(STARTED_S):
            raise GatewayUnreachable(f"no connection to the gateway within {STARTED_S:g} s")
        if self._failure is not None and self.slots == 0:
            raise self._failure

    def refuse(self, error: Callable[[], BaseException]) -> None:
        """Have the executor take no more tasks."""
        self._ledger.refuse(error)

    def add_app(self, ref: str, folder: str) -> None:
        """Tell the embedded gateway where a container's folder is."""
        self._new_apps[ref] = folder

    def after_fork(self) -> None:
        """In a forked child: let go of what belongs to the parent."""
        self._ledger.after_fork(lambda: ExecutorClosed(FORKED))
        self._loop = None
        self._closing = True
        self.state = "closed"
        if self._gateway is not None:
            self._gateway.forget()

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self._live())
        except BaseException as error:  # a defect of ours must not leave futures open
            self._give_up(error if isinstance(error, MecaError) else GatewayLost(f"the link failed: {error!r}"))
            if not isinstance(error, MecaError):
                raise
        finally:
            self._loop = None
            self._started.set()
            if self._gateway is not None:
                self._gateway.close()
            self.state = "closed" if self._failure is None else "lost"
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _live(self) -> None:
        self._lost = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        while not (self._closing and self._ledger.idle):
            self._lost.clear()
            try:
                await self._connect()
            except (GatewayError, GatewayLost) as error:
                self._give_up(error)
                return
            self._pump()
            await self._lost.wait()
            connection, self._connection = self._connection, None
            self.state = "resuming"
            if connection is not None:
                await self._leave(connection)

    async def _connect(self) -> None:
        """Get a proved connection; tries until the time is up."""
        from tenacity import (
            AsyncRetrying,
            retry_if_exception_type,
            stop_after_delay,
            stop_when_event_set,
            wait_exponential_jitter,
        )

        limit = RESUME_S if self._started.is_set() else self._settings.connect_timeout
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(GatewayUnreachable),
            stop=stop_after_delay(limit) | stop_when_event_set(self._unwanted),
            wait=wait_exponential_jitter(initial=0.05, max=5.0, jitter=0.1),
            sleep=self._pause,
            reraise=True,
        ):
            with attempt:
                await self._connect_once(limit)

    async def _pause(self, seconds: float) -> None:
        """Wait between two attempts; shorter when the executor is closed meanwhile."""
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(self._lost.wait(), seconds)

    async def _connect_once(self, limit: float) -> None:
        from .connection import Connection  # heavy: aiohttp and socketio, while the gateway starts

        url, keys = self._gateway_address()
        connection = Connection(url, self._on_frame, lambda: self._on_lost(connection))
        hello = {
            "protocol": proof.PROTOCOL,
            "session": self._session,
            "received": self._stream.received,
            "max_workers": self._settings.max_workers,
            "max_tasks_per_child": self._settings.max_tasks_per_child,
        }
        try:
            welcome = await connection.open(keys, hello, min(limit, 15.0))
        except BaseException:
            await connection.close()
            raise
        self._connection = connection
        self._on_welcome(welcome)

    def _gateway_address(self) -> tuple[str, KeyPair]:
        """Where to connect; starts an embedded gateway again if it died, once a minute."""
        if self._gateway is None:
            assert self.endpoint is not None
            return self.endpoint, self._settings.keys or KeyPair("", "")
        if not self._gateway.alive:
            how, now = self._gateway.how_it_ended(), time.monotonic()
            if self._restarted_at is not None and now - self._restarted_at < RESTART_S:
                raise GatewayLost(f"the embedded gateway died twice within {RESTART_S:g} s: {how}")
            self._restarted_at = now
            self._gateway.close()
            self._gateway = EmbeddedGateway(self._settings.max_workers, self._settings.apps)
        self.endpoint = self._gateway.endpoint()
        return self.endpoint, KeyPair(KEY, self._gateway.token)

    def _on_welcome(self, welcome: Welcome) -> None:
        from .connection import python_mismatch

        credit = self._ledger.credit
        credit.slots, credit.window, credit.window_bytes = welcome.slots, welcome.window, welcome.window_bytes
        self.slots, self._max_message = welcome.slots, welcome.message
        if (mismatch := python_mismatch(welcome.python)) is not None:
            self._ledger.refuse_functions(lambda: type(mismatch)(str(mismatch)))
        if welcome.resumed:
            for frame in self._stream.replay(welcome.received):
                self._transmit(frame)
        else:
            self._begin_session()
        self.state = "connected"
        self._started.set()

    def _begin_session(self) -> None:
        """A gateway that does not know us: what another one had is lost with it."""
        self._stream = Stream()
        self._sent_references, self._sent_options = 1, 0
        environment = json.dumps(worker_environment(embedded=self._gateway is not None)).encode()
        self._tell(Kind.SETUP, encode([(0, 0, 0, environment), (0, 0, 0, self._settings.initializer)]))
        why = f"the gateway at {self.endpoint} ended while it had the task"
        for again in self._ledger.lost(lambda: GatewayLost(why)):
            self._later(again)

    def _on_lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self._lost.set()

    def _give_up(self, error: BaseException) -> None:
        self._failure = error
        self.state = "lost"
        kind, text = type(error), str(error)
        self._ledger.fail_all(lambda: kind(text))

    async def _leave(self, connection: Connection) -> None:
        if self._closing and self._ledger.idle and self._gateway is None:
            bye = encode([(0, 0, 0, json.dumps({"type": "bye"}).encode())])
            for frame in self._stream.send(Kind.CONTROL, bye):
                connection.send(frame)
        await connection.close()

    # -- out --------------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Hand over what the credit allows; end when there is nothing left to do."""
        self._awake = False
        if self.state == "connected" and self._connection is not None:
            while batch := self._ledger.next_batch(time.monotonic()):
                self._hand_over(batch)
        if self._closing and self._ledger.idle:
            self._unwanted.set()
            self._lost.set()

    def _hand_over(self, batch: list[Task]) -> None:
        registry = self._registry
        references, options = registry.references, registry.options
        if self._sent_references < len(references):
            new = range(self._sent_references, len(references))
            self._tell(Kind.DEFINE, encode((number, 0, 0, references[number]) for number in new))
            self._sent_references = new.stop
        if self._sent_options < len(options):
            new = range(self._sent_options, len(options))
            self._tell(Kind.OPTIONS, encode((number, 0, 0, options[number].wire()) for number in new))
            self._sent_options = new.stop
        while self._new_apps:
            ref, folder = self._new_apps.popitem()
            app = json.dumps({"type": "app", "ref": ref, "folder": folder}).encode()
            self._tell(Kind.CONTROL, encode([(0, 0, 0, app)]))
        self._tell(Kind.TASKS, encode((task.number, *task.kind, task.payload) for task in batch))

    def _tell(self, kind: Kind, body: bytes) -> None:
        for frame in self._stream.send(kind, body):
            self._transmit(frame)

    def _transmit(self, frame: bytes) -> None:
        if self._connection is not None:
            self._connection.send(frame)

    def _later(self, again: Again) -> None:
        assert self._loop is not None
        self._loop.call_later(again.delay, self._again, again.task)

    def _again(self, task: Task) -> None:
        self._ledger.again(task)
        self._pump()

    def _kill(self, task: int) -> None:
        if self._ledger.kill(task):
            self._tell(Kind.KILL, encode([(task, 0, 0, b"")]))
        else:
            self._pump()

    # -- in ---------------------------------------------------------------------------------------

    def _on_frame(self, frame: bytes) -> None:
        stream = self._stream
        try:
            message = stream.receive(frame)
            if message is not None and message.kind is Kind.RESULTS:
                self._on_results(message.body)
        except (StreamBroken, ValueError) as error:
            self._give_up(GatewayLost(f"the gateway at {self.endpoint} sent what cannot be read: {error}"))
            self._closing = True
            self._lost.set()
            return
        if stream.ack_due:
            self._transmit(stream.acknowledge())
        elif stream.ack_owed:
            assert self._loop is not None
            self._loop.call_later(ACK_S, self._acknowledge)
        self._pump()

    def _acknowledge(self) -> None:
        if self._stream.ack_owed and self.state == "connected":
            self._transmit(self._stream.acknowledge())

    def _on_results(self, body: bytes) -> None:
        records = decode(body)
        for number, status, _, payload in records:
            if number == 0:  # the session itself: printed text, or the end of everything
                if status == Status.BROKEN:
                    self._on_broken(payload.decode("utf-8", "replace"))
                else:
                    self._print(status, payload)
        for again in self._ledger.settle(records):
            self._later(again)

    def _on_broken(self, text: str) -> None:
        self._ledger.fail_all(lambda: InitializerFailed(text))

    def _print(self, status: int, text: bytes) -> None:
        if self._settings.on_output is not None:
            with contextlib.suppress(Exception):  # a broken sink must not cost a result
                stream = "stdout" if status == Status.STDOUT else "stderr"
                self._settings.on_output(text.decode("utf-8", "replace"), stream)
