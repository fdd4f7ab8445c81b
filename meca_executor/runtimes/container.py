"""One container from its start to its removal."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from ..wire.printed import Log
from .app_connection import AppConnections
from .app_process import CONNECT_GRACE_S, accepts
from .engine import API_S, Ended, Engine, EngineError, Plan, in_thread
from .output import READY_MARK, Output

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 8080  #: the container contract
POLL_S = 0.005  #: between two tries to connect
LIMIT_S = API_S + 5  #: for what has the engine's limit already
SKEW_S = 0.002  #: what comes so soon after a call began was written before
KILLED = 128  #: exit codes above it tell of a signal

log = logging.getLogger("meca.containers")


class Failure(NamedTuple):
    """Why a container will never be ready."""

    text: str
    passing: bool = False  #: another try may go well
    wrote: bytes = b""  #: what it had written by then


class Written:
    """What a container wrote, and the log of the call that gets it. Fed by a thread."""

    def __init__(self) -> None:
        self.output = Output()
        self.early = Log()
        self._logs = [self.early]  #: of the calls whose text may still come; the last one is of the call that runs
        self._since = 0.0  #: when that began

    def write_to(self, log: Log) -> None:
        """Have a log get what is written from now on, and before that when it is the first one."""
        self.early.end()
        self._logs = [*(other for other in self._logs if not (other.ended or other is log)), log]
        self._since = time.monotonic()
        log.write(self.early.take())

    def feed(self, stream: int, data: bytes) -> None:
        """Take in what stdout (0) or stderr (1) has."""
        *before, log = self._logs
        if before := [other for other in before if not other.ended]:  # so soon after them that nobody can tell whose
            for other in (*before, log):
                other.mixed = True
            log = before[-1] if time.monotonic() < self._since + SKEW_S else log
        log.write(data)
        self.output.feed(stream, data)


class RunningContainer:
    """A container of an engine; made in a running event loop, and started by that.

    Attributes:
        ready: Resolves to None once it takes requests, else to why it never will.
        over: Resolves when it has ended.
        ended: Resolves when it was removed.
        connections: To its port, once it is ready.
    """

    def __init__(self, image: asyncio.Future[Engine | Failure], plan: Plan, ready_s: float) -> None:
        """Begin.

        Args:
            image: The engine once it has the image, or why it will not.
            plan: What is made.
            ready_s: Seconds from its start until `meca-init-done`.
        """
        loop = asyncio.get_running_loop()
        self.plan = plan
        self.ready: asyncio.Future[Failure | None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.connections: AppConnections | None = None
        self.times: dict[str, float] = {}  #: seconds that the steps of its start took
        self._image = image
        self._ready_s = ready_s
        self._engine: Engine | None = None
        self._written = Written()
        self._marked = asyncio.Event()
        self.over: asyncio.Future[Ended] = loop.create_future()
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._task = loop.create_task(self._live())

    @property
    def name(self) -> str:
        """What people call it: its image."""
        return self.plan.image

    @property
    def usable(self) -> bool:
        """True while it takes requests, or is about to."""
        return not (self._stopped.done() or self.over.done() or self.ended.done())

    def stop(self) -> None:
        """End it, with all that runs in it, and have it removed."""
        if not self._stopped.done():
            self._stopped.set_result(None)

    async def until_over(self, limit: float) -> bool:
        """Wait until it has ended, at most `limit` seconds; whether it has."""
        await first_of(self.over, self.ended, limit=limit)
        return self.over.done() or self.ended.done()

    def exit_reason(self) -> str:
        """Return how it ended, as in `exit code 3`."""
        if not self.over.done() or self.over.exception() is not None:
            return "the engine does not say how"
        code, out_of_memory = self.over.result()
        memory = self.plan.resource.get("memory")
        if out_of_memory:
            limit = f" of {memory:g} MiB" if memory else ""
            return f"exit code {code}: it needed more memory than its limit{limit}"
        return f"exit code {code}" + (f": signal {code - KILLED}" if code > KILLED else "")

    def last_lines(self) -> str:
        """Return the last lines of its log, and what they are."""
        return self._written.output.told()

    def write_to(self, log: Log) -> None:
        """Have a log get what it writes from now on; the first one gets all that it has written."""
        self._written.write_to(log)

    # -- its life ---------------------------------------------------------------------------------

    async def _live(self) -> None:
        failure: Failure | None = Failure("was stopped before it was ready")
        try:
            failure = await self._serve()
        except EngineError as error:
            failure = Failure(f"could not be started: {error}", error.passing)
        except Exception as error:
            log.exception("a container's life ended")
            failure = Failure(f"could not be started: {type(error).__name__}: {error}")
        finally:
            if self.connections is not None:
                self.connections.close()
            if not self.ready.done():
                told = failure and failure._replace(
                    text=f"{self.name} {failure.text}", wrote=self._written.early.take()
                )
                self.ready.set_result(told)
            await self._remove()
            self.ended.set_result(None)

    async def _serve(self) -> Failure | None:
        await first_of(self._image, self._stopped)
        if self._stopped.done():
            return Failure("was stopped before it was ready")
        engine = self._image.result()
        if isinstance(engine, Failure):
            return engine
        self._engine = engine
        began = time.monotonic()
        await in_thread(lambda: engine.create(self.plan), LIMIT_S, f"create {self.name}")
        created = time.monotonic()
        output = await in_thread(lambda: engine.attach(self.plan.name), LIMIT_S, f"attach {self.name}")
        self._follow(engine, output)
        address = await in_thread(lambda: engine.start(self.plan.name), LIMIT_S, f"start {self.name}")
        self.times = {"create": created - began, "start": time.monotonic() - created}
        failure = await self._until_ready(engine, address)
        self.times["ready"] = time.monotonic() - began - sum(self.times.values())
        if failure is None:
            self.connections = AppConnections(address)
            self.ready.set_result(None)
            await first_of(self.over, self._stopped)
        return failure

    async def _until_ready(self, engine: Engine, address: str) -> Failure | None:
        loop = asyncio.get_running_loop()
        marked = loop.create_task(self._marked.wait())
        try:
            await first_of(marked, self.over, self._stopped, limit=self._ready_s)
        finally:
            marked.cancel()
        if not self._marked.is_set() and self.usable:
            text = f"was not ready within {self._ready_s:g} s (no {READY_MARK.decode()} on its stdout)"
            return Failure(f"{text}; {self.last_lines()}")
        limit = loop.time() + CONNECT_GRACE_S
        while self.usable and not await accepts(PORT, address):
            if loop.time() >= limit:
                return Failure(
                    f"says that it is ready, but nothing takes connections at {address or 'its address'}:{PORT} (the "
                    f"engine is at {engine.url}; its containers are reached from its own machine only)"
                )
            await asyncio.sleep(POLL_S)
        if self.over.done():
            return Failure(f"ended before it was ready ({self.exit_reason()}); {self.last_lines()}")
        return None if self.usable else Failure("was stopped before it was ready")

    def _follow(self, engine: Engine, output: Iterator[tuple[bytes | None, bytes | None]]) -> None:
        """Read what it writes, and learn of its end, in a thread that lives as long as the container."""
        loop = asyncio.get_running_loop()

        def settle(ended: Ended | None, error: BaseException | None) -> None:
            if self.over.done():
                return
            if ended is not None:
                self.over.set_result(ended)
            elif error is not None:
                self.over.set_exception(error)
                self.over.exception()  # seen

        def run() -> None:
            ended, failure = None, None
            try:
                for pair in output:
                    for stream, data in enumerate(pair):
                        if data:
                            self._written.feed(stream, data)
                    if self._written.output.marked and not self._marked.is_set():
                        loop.call_soon_threadsafe(self._marked.set)
                ended = engine.wait(self.plan.name)
            except BaseException as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(settle, ended, failure)

        threading.Thread(target=run, name=f"meca-log-{self.plan.name}", daemon=True).start()

    async def _remove(self) -> None:
        if (engine := self._engine) is None:
            return  # it never was
        try:
            await in_thread(lambda: engine.remove(self.plan.name), LIMIT_S, f"remove {self.name}")
        except EngineError as error:
            log.error("container %s could not be removed: %s", self.plan.name, error)


async def first_of(*futures: asyncio.Future[Any], limit: float | None = None) -> None:
    """Return when one of these is done, or the time is over."""
    await asyncio.wait(futures, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
