"""The link: the one background thread of an executor, its socket inside it.

It alone talks to the gateway and it alone resolves futures. Its loop hands over tasks as the credit
allows, takes outcomes in, and reconnects when the connection drops. What is said on the wire, and how a
session survives a reconnect, is the driver's: `native.py`, or `desktop.py` for the old dialect.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from typing import TYPE_CHECKING, Any

from ..errors import ExecutorClosed, GatewayLost, GatewayUnreachable, InitializerFailed, MecaError
from ..policy.reconnecting import Reconnecting
from ..wire import segments
from ..wire.memory import keep_read_buffers
from ..wire.records import Status
from .driver import OtherDialect
from .lifetime import cancel_all
from .link_state import LinkState
from .native import Native
from .questions import Questions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.lending import Lender
    from ..wire.records import Record
    from .driver import Driver, LinkSettings
    from .embedded import EmbeddedGateway
    from .future import MecaFuture
    from .inventory import Inventory
    from .ledger import Ledger
    from .tasks import Again, Registry, Task

ATTEMPT_S = 15.0  #: one attempt to connect takes no longer
STARTED_S = 90.0  #: the properties that need a connection wait no longer than this
LEFT = "it goes on there; another program with the same session= has its future from recover()"
FORKED = "this executor was made before a fork and belongs to the parent process; make one of your own here"


class Link:
    """The thread and its driver."""

    def __init__(
        self, ledger: Ledger, registry: Registry, settings: LinkSettings, gateway: EmbeddedGateway | None
    ) -> None:
        self.ledger = ledger
        self.registry = registry
        self.settings = settings
        self.endpoint = settings.endpoint
        self.slots = 0
        self.shares = gateway is not None and segments.available()
        self.apps: dict[str, str] = {}
        self.generation: int | None = None
        self.leaving = self.ends_session = self.ends_all = False
        self.inventory: Inventory | None = None
        self.questions = Questions()
        if settings.session is not None:
            from .inventory import Inventory

            self.inventory = Inventory(ledger, settings, lambda: self.proved)
        self._state = LinkState(settings.on_link, settings.name)
        self._driver: Driver = Native(self, gateway)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._awake = False
        self._closing = False
        self._failure: BaseException | None = None
        self._lost: asyncio.Event
        self._deadline = 0.0  # when the present tries to connect end
        self._reconnecting = Reconnecting()
        self._offer: asyncio.TimerHandle | None = None  # for tasks that the gateway would not take
        self._started = threading.Event()  # connected for the first time, or failed
        self._unwanted: asyncio.Event  # closing, and no task is left
        self._thread = threading.Thread(target=self._run, name=settings.name)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Link {self.endpoint or 'embedded'} {self.dialect} {self.state}>"

    @property
    def state(self) -> str:
        """As `MecaExecutor.state`."""
        return str(self._state)

    @property
    def lender(self) -> Lender | None:
        """Who lends shared memory for large calls; None where the gateway cannot read it."""
        return self.ledger.lender if self.shares else None

    @property
    def dialect(self) -> str:
        """The dialect spoken, or tried first."""
        return self._driver.dialect

    @property
    def proved(self) -> bool:
        """Whether the other side has shown that it knows our key; only the native dialect has such a proof."""
        return self.dialect == "native"

    @property
    def why(self) -> str:
        """Why another dialect than the native one is spoken, in brackets; nothing for that one."""
        return "" if self.dialect == "native" else " (the server has no namespace /meca)"

    # -- any thread -------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have the thread look at the queue."""
        if not self._awake and (loop := self._loop) is not None:
            self._awake = True
            with contextlib.suppress(RuntimeError):  # the loop has just ended: its last act was to look
                loop.call_soon_threadsafe(self.pump)

    def close(self) -> None:
        """End the thread once no task is left; does not wait."""
        self._closing = True
        self._awake = False
        self.wake()

    def leave(self) -> None:
        """End the thread once the gateway has all tasks, and leave them to who claims the session; does not wait."""
        self.leaving = True
        self.close()

    def end_with_interpreter(self) -> None:
        """The program is over."""
        if self.settings.session is None:
            self.close()
        else:
            self.leave()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread is gone, and the embedded gateway with it; whether it is. No wait on itself."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
            if not self._thread.is_alive():
                self._state.told()
        return not self._thread.is_alive()

    def abandon(self, error: Callable[[], BaseException]) -> None:
        """End now: every open future fails, and what runs is let go or killed."""
        self._closing = True
        if (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._abandon, error)

    def _abandon(self, error: Callable[[], BaseException]) -> None:
        self.ledger.fail_all(error)
        self.pump()

    def kill(self, task: int) -> None:
        """End a task wherever it is."""
        if (loop := self._loop) is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._kill, task)

    def recover(self) -> dict[str, MecaFuture[Any]]:
        """Return the futures of all tasks in the session, by their names; waits for the gateway to name them.

        Raises:
            MecaError: It could not, and why.
        """
        loop, inventory = self._loop, self.inventory
        if loop is None or inventory is None:
            raise self._failure or ExecutorClosed("the executor was shut down")
        return inventory.ask(loop.call_soon_threadsafe, self._driver.recover, self.settings.resume_window + STARTED_S)

    @property
    def failure(self) -> BaseException | None:
        """Why the link is lost for good, if it is."""
        return self._failure

    def wait_started(self) -> None:
        """Wait for the first connection.

        Raises:
            MecaError: There was none, and why.
        """
        if not self._started.wait(STARTED_S):
            raise GatewayUnreachable(f"no connection to the gateway within {STARTED_S:g} s")
        if self.slots == 0:
            raise self._failure or ExecutorClosed("the executor was shut down before it was connected")

    def after_fork(self) -> None:
        """In a forked child: let go of what belongs to the parent."""
        self.ledger.after_fork(lambda: ExecutorClosed(FORKED))
        self._loop = None
        self._closing = True
        self._state.end_here()
        self._driver.after_fork()

    # -- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        keep_read_buffers()
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self._live())
        except BaseException as error:  # a defect of ours must not leave futures open
            self.give_up(GatewayLost(f"the link failed: {error!r}"))
            raise
        finally:
            self._loop = None
            self._started.set()
            if self.inventory is not None:
                self.inventory.end(self._failure)
            self.questions.end(self._failure)
            self._driver.close()
            self.ledger.lender.close()
            self.registry.objects.clear()
            self._state.change("closed", "the executor was shut down")
            loop.run_until_complete(cancel_all())
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    async def _live(self) -> None:
        self._lost = asyncio.Event()
        self._unwanted = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.pump()  # it may have been closed before there was a loop to tell
        while not (self._closing and self.ledger.idle) and self._failure is None:
            self._lost.clear()
            try:
                await self._connect()
            except MecaError as error:
                if not self._unwanted.is_set():
                    self.give_up(error)
                return
            self._state.change("connected", f"connected to {self.endpoint}, {self.dialect} dialect")
            self._started.set()
            self.pump()
            connected_at = time.monotonic()
            await self._lost.wait()
            self._reconnecting.dropped(time.monotonic() - connected_at)
            done = self._closing and self.ledger.idle
            if not done:
                self._state.change("resuming", self._state.reason or f"the connection to {self.endpoint} dropped")
            await self._driver.leave(done=done)

    async def _connect(self) -> None:
        """Get a connection; tries until the time is up.

        Raises:
            GatewayLost: A connection that dropped did not come back.
            GatewayError: There is none at first, or there never will be one, and why.
        """
        from tenacity import (
            AsyncRetrying,
            retry_if_exception_type,
            stop_after_delay,
            stop_when_event_set,
            wait_random_exponential,
        )

        again, now = self._state.word == "resuming", time.monotonic()
        limit = self.settings.resume_window if again else self.settings.connect_timeout
        self._deadline = limit + (self._state.since if again else now)
        if (pause := self._reconnecting.pause(random.random())) > 0.0:  # nosec B311 # no secret hangs on a pause
            await self._pause(pause)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(GatewayUnreachable),
            stop=stop_after_delay(self._deadline - time.monotonic()) | stop_when_event_set(self._unwanted),  # type: ignore[arg-type]  # it asks is_set()
            wait=wait_random_exponential(multiplier=0.1, max=5.0),
            sleep=self._pause,
            reraise=True,
        )
        try:
            await retrying(self._attempt)
        except GatewayUnreachable as error:
            if not again:
                raise
            why = self._state.reason or f"the connection to the gateway at {self.endpoint} dropped"
            raise GatewayLost(f"{why}, and did not come back within {limit:g} s (resume_window): {error}") from error

    async def _attempt(self) -> None:
        """One attempt; given up when the executor is closed meanwhile and has nothing to wait for."""
        assert self._loop is not None
        self._state.attempts += 1
        self.pump()  # what was queued may have been cancelled since, and nobody told
        limit = min(ATTEMPT_S, max(0.1, self._deadline - time.monotonic()))
        connecting = self._loop.create_task(self._connect_once(limit))
        unwanted = self._loop.create_task(self._unwanted.wait())
        await asyncio.wait((connecting, unwanted), return_when=asyncio.FIRST_COMPLETED)
        unwanted.cancel()
        if not connecting.done():
            connecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await connecting
            return
        raise GatewayUnreachable("not connected: the executor was shut down")

    async def _connect_once(self, limit: float) -> None:
        try:
            await self._driver.connect(limit)
        except OtherDialect:
            # Only a server that has never spoken the native dialect on this link.
            if not self.settings.may_fall_back or self._started.is_set():
                raise
            from .desktop import Desktop

            self._driver = Desktop(self)
            await self._driver.connect(limit)

    async def _pause(self, seconds: float) -> None:
        """Wait between two attempts; shorter when the time is up, or the executor is closed meanwhile."""
        seconds = min(seconds, max(0.0, self._deadline - time.monotonic()))
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(self._unwanted.wait(), seconds)

    # -- for the driver (Host) --------------------------------------------------------------------

    def pump(self) -> None:
        """Hand over what the credit allows; end when there is nothing left to do."""
        self._awake = False
        if self._state.word == "connected":
            if self.leaving:
                self.ledger.hurry()
            while batch := self.ledger.next_batch(time.monotonic()):
                self._driver.hand_over(batch)
            self._driver.tidy()
            if (pause := self.ledger.refused.policy.wait()) > 0.0:
                self._pump_in(pause)
            if self.leaving and self.ledger.handed_over and self._driver.delivered:
                self.ledger.fail_all(lambda: ExecutorClosed(f"left in session {self.settings.session!r}: {LEFT}"))
        elif self._closing:
            self.ledger.drop_cancelled()
        if self._closing and self.ledger.idle:
            self._unwanted.set()
            self._lost.set()

    def _pump_in(self, seconds: float) -> None:
        """Offer again what the gateway would not take."""
        assert self._loop is not None
        if self._offer is not None:
            self._offer.cancel()
        self._offer = self._loop.call_later(seconds, self.pump)

    def settled(self, records: list[Record]) -> None:
        """Outcomes came, and what was printed before them."""
        if told := [record for record in records if record[0] == 0]:  # printed text, or the end of everything
            from .logs import share_out

            share_out([record for record in told if record[1] != Status.BROKEN], self.ledger, self.settings)
            for text in (record[3].decode("utf-8", "replace") for record in told if record[1] == Status.BROKEN):
                self.ledger.fail_all(lambda text=text: InitializerFailed(text))  # type: ignore[misc]
        for again in self.ledger.settle(records):
            self._later(again)

    def attempts_lost(self, why: str) -> None:
        """What was out is lost with its gateway."""
        for again in self.ledger.lost(lambda: GatewayLost(why)):
            self._later(again)

    def down(self, told: str = "") -> None:
        """The connection is gone, and why where the gateway said it."""
        self._state.reason = told
        self._lost.set()

    def give_up(self, error: BaseException) -> None:
        """Nothing more will come: every open future fails."""
        self._failure = error
        self._state.change("lost", str(error))
        kind, text = type(error), str(error)
        self.ledger.fail_all(lambda: kind(text))
        self._lost.set()

    # -- inside -----------------------------------------------------------------------------------

    def _later(self, again: Again) -> None:
        assert self._loop is not None
        self._loop.call_later(again.delay, self._again, again.task)

    def _again(self, task: Task) -> None:
        self.ledger.again(task)
        self.pump()

    def _kill(self, task: int) -> None:
        if self.ledger.kill(task):
            self._driver.kill(task)
            if self._state.word != "connected":
                self.ledger.let_go(task)
                self.pump()
        else:
            self.pump()

    def refuse(self, error: Callable[[], BaseException]) -> None:
        """Have the executor take no more tasks."""
        self.ledger.refuse(error)
