"""Containers of an engine: calls, and the containers that the warm pool wants for them."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import time
from typing import TYPE_CHECKING

import aiohttp

from ..errors import ContainerFailed, NoHostFits, TaskFailed, TaskTimeout, UsageError
from ..policy.placement import why_never
from ..policy.warm import Fail, Give, Remove, Shape, Start, Todo, WarmPool
from ..wire.data import printable
from ..wire.printed import Log
from .app_connection import Unreachable
from .apps import DEATH_GRACE_S, EXCERPT_CHARS
from .container import PORT, Failure, RunningContainer
from .engine import API_S, Engine, EngineError, Plan, in_thread
from .engine_settings import NO_ENGINE, EngineSettings, container_name, find_engine, full_name

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

SAY_S = 2.0  #: between two lines about how far a pull is
PATIENCE_S = 0.2  #: about a third of what a start takes
CLOSE_S = 20.0  #: for all containers to be removed at the end
CLOSING = Failure("no container is started any more: the gateway is closing")

log = logging.getLogger("meca.containers")


class Containers:
    """Runs calls of containers: started when one is missing, kept warm, removed when idle.

    Belongs to the event loop of its first call, and to that loop's thread.
    """

    def __init__(self, settings: EngineSettings, slots: int, capacity: Mapping[str, float]) -> None:
        """Know where the engine is; nobody is asked yet.

        Args:
            settings: What the operator says.
            slots: Containers that start or work at once.
            capacity: What this host has of each resource.
        """
        self.settings = settings
        self.url = find_engine(os.environ, settings)
        self._capacity = capacity
        self._pool = WarmPool(slots, capacity, settings.idle_s, PATIENCE_S)
        self._numbers = itertools.count(1)
        self._engine: Engine | None = None
        self._opening: asyncio.Task[Engine] | None = None
        self._running: dict[int, RunningContainer] = {}
        self._given: dict[int, asyncio.Future[RunningContainer | Failure]] = {}  #: calls that wait
        self._images: dict[str, asyncio.Task[Engine | Failure]] = {}  #: being looked for, or pulled
        self._clock: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"<Containers at {self.url} running={len(self._running)}>"

    # -- calls ------------------------------------------------------------------------------------

    def shape_of(self, ref: str, runtime: str | None, resource: Mapping[str, float], owner: str = "") -> Shape:
        """Return what container a call of this owner needs.

        Raises:
            NoHostFits: This host has too little, or no such runtime.
        """
        if (why := why_never(resource, self._capacity)) is not None:
            raise NoHostFits(why)
        try:
            engine_runtime = self.settings.engine_runtime(runtime)
        except KeyError:
            known = ", ".join(sorted({"container", *self.settings.runtimes}))
            raise NoHostFits(
                f"no runtime {runtime!r} here (known: {known}); the gateway's operator names it: "
                f"meca gateway --runtime {runtime}=ENGINE_RUNTIME"
            ) from None
        return Shape(full_name(ref), engine_runtime, tuple(sorted((k, v) for k, v in resource.items() if v)), owner)

    async def call(
        self, shape: Shape, content: bytes, *, timeout: float | None = None, written: Log | None = None
    ) -> bytes:
        """Return a container's reply to one input.

        Args:
            shape: What container.
            content: Body of the request; its type is given as JSON.
            timeout: Seconds for the request alone, not for waiting, a pull or a start. When they are over, or when
                the caller is cancelled, the container is removed, and its work with it.
            written: Gets what the container writes, some of it perhaps a moment after its reply; and what one that
                was started for this call wrote before.

        Raises:
            ContainerFailed: The image cannot be had, the container did not get ready, or (`lost`) it ended during
                the call.
            TaskFailed: It replied with a status of 400 or more, or with no HTTP at all.
            TaskTimeout: No reply in time.
        """
        if self._closed:
            raise failed(CLOSING)
        loop, number = asyncio.get_running_loop(), next(self._numbers)
        given = self._given[number] = loop.create_future()
        self._do(self._pool.ask(number, shape, loop.time()))
        try:
            container = await given
        except asyncio.CancelledError:
            self._do(self._pool.withdraw(number, loop.time()))
            raise
        finally:
            self._given.pop(number, None)
        written = Log() if written is None else written
        if isinstance(container, Failure):
            written.write(container.wrote)
            raise failed(container)
        container.write_to(written)
        reusable = False
        try:
            reply = await self._exchange(container, content, timeout)
            reusable = True
        except TaskFailed:
            reusable = container.usable
            raise
        finally:
            self._do(self._pool.done(number, loop.time(), reusable=reusable))
        return reply

    async def _exchange(self, container: RunningContainer, content: bytes, timeout: float | None) -> bytes:
        """Make the request and return the reply, or say what its failure means."""
        assert container.connections is not None
        try:
            status, reply = await container.connections.post(PORT, content, timeout)
        except asyncio.TimeoutError:
            text = f"{container.name} gave no reply within the timeout of {timeout:g} s and is stopped"
            raise TaskTimeout(f"{text}; {container.last_lines()}") from None
        except Unreachable as error:
            over = await container.until_over(DEATH_GRACE_S)
            raise lost(container, None if over else f"takes no connections any more ({error})") from error
        except aiohttp.ClientError as error:
            if await container.until_over(DEATH_GRACE_S):
                raise lost(container) from error
            reason = printable(str(error)) or type(error).__name__
            raise TaskFailed(f"{container.name} gave no valid reply ({reason}); {container.last_lines()}") from error
        if status >= 400:
            excerpt = printable(reply.decode("utf-8", "replace"))[:EXCERPT_CHARS]
            raise TaskFailed(f"{container.name} refused the task, HTTP status {status}: {excerpt}")
        return reply

    # -- the engine -------------------------------------------------------------------------------

    async def has_image(self, ref: str) -> bool:
        """Return whether the engine has an image already; False when there is no engine that answers."""
        if self.url is None:
            return False
        try:
            engine = await self._open()
            return await in_thread(lambda: engine.has_image(full_name(ref)), API_S, "look for an image")
        except (EngineError, UsageError):
            return False

    async def why_not(self) -> str | None:
        """Return why there is no engine that could run containers; None when there is one, connected."""
        if self.url is None:
            return NO_ENGINE
        try:
            await self._open()
        except (EngineError, UsageError) as error:
            return str(error)
        return None

    def sweep_soon(self) -> None:
        """Connect and remove what gateways left that were killed; in the background, and only if there is an engine."""
        if self.url is not None:
            self._spawn(self._sweep())

    async def _sweep(self) -> None:
        if (why := await self.why_not()) is not None:
            log.warning("no containers: %s", why)

    async def _open(self) -> Engine:
        """Return the engine, connected; at the first time what killed gateways left is removed."""
        if self._opening is None or (self._opening.done() and self._engine is None):
            self._opening = asyncio.get_running_loop().create_task(self._connect())
        return await asyncio.shield(self._opening)

    async def _connect(self) -> Engine:
        if self.url is None:
            raise EngineError(NO_ENGINE)
        url = self.url
        engine = await in_thread(lambda: Engine(url, self.settings), API_S, "connect")
        if left := await in_thread(engine.sweep, API_S, "sweep"):
            log.warning("removed %d containers of gateways that are gone: %s", len(left), ", ".join(left))
        self._engine = engine
        return engine

    def prepared(self, ref: str) -> asyncio.Task[Engine | Failure]:
        """Return what sees to it that an image is there, one for all that wait; it gives the engine, or why not."""
        if (engine := self._images.get(ref)) is None:
            engine = self._images[ref] = asyncio.get_running_loop().create_task(self._prepared(ref))
        return engine

    async def _prepared(self, ref: str) -> Engine | Failure:
        """See to it that an image is there; the engine that has it, or why there is none."""
        try:
            engine = await self._open()
            policy = self.settings.pull
            if policy != "always" and await in_thread(lambda: engine.has_image(ref), API_S, "look for an image"):
                return engine
            if policy == "never":
                return Failure("is not on this host, and no images are pulled here (--pull never)")
            log.info("pulling %s", ref)
            await in_thread(lambda: engine.pull(ref, Progress(ref)), self.settings.pull_s, f"pull {ref}")
            log.info("pulled %s", ref)
        except EngineError as error:
            return Failure(f"could not be had: {error}", error.passing)
        except UsageError as error:
            return Failure(f"cannot be run: {error}")
        finally:
            self._images.pop(ref, None)
        return engine

    # -- doing what the pool says -------------------------------------------------------------------

    def _do(self, todos: list[Todo]) -> None:
        for todo in todos:
            if isinstance(todo, Give):
                self._give(todo)
            elif isinstance(todo, Start):
                self._start(todo)
            elif isinstance(todo, Remove):
                self._running[todo.container].stop()
            elif isinstance(todo, Fail) and (given := self._given.get(todo.call)) is not None and not given.done():
                given.set_result(todo.why)
        if (due := self._pool.next_due) is not None and not self._closed:
            if self._clock is not None and due < self._clock.when():
                self._clock.cancel()
                self._clock = None
            if self._clock is None:
                self._clock = asyncio.get_running_loop().call_at(due, self._tick)

    def _give(self, todo: Give) -> None:
        given = self._given.get(todo.call)
        # One that is cancelled is about to be withdrawn; then its container is free again.
        if given is not None and not given.done():
            given.set_result(self._running[todo.container])

    def _tick(self) -> None:
        self._clock = None
        self._do(self._pool.tick(asyncio.get_running_loop().time()))

    def _start(self, todo: Start) -> None:
        number, shape = todo.container, todo.shape
        engine = self.prepared(shape.image)
        name = container_name(shape.image, secrets.token_hex(6))
        plan = Plan(name, shape.image, shape.runtime, dict(shape.resource), todo.gpus)
        container = self._running[number] = RunningContainer(engine, plan, self.settings.ready_s)
        container.ready.add_done_callback(lambda ready: self._on_ready(number, ready.result()))
        container.over.add_done_callback(lambda _: self._do(self._pool.ended(number)))
        container.ended.add_done_callback(lambda _: self._on_gone(number))

    def _on_ready(self, number: int, failure: Failure | None) -> None:
        if failure is None:
            self._do(self._pool.started(number, asyncio.get_running_loop().time()))
        else:
            self._do(self._pool.failed(number, failure))

    def _on_gone(self, number: int) -> None:
        del self._running[number]
        self._do(self._pool.gone(number))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    # -- end --------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Remove all containers and wait until they are gone; calls in flight fail. May be called again."""
        self._closed = True
        if self._clock is not None:
            self._clock.cancel()
        self._do(self._pool.close(CLOSING))
        if alive := [container.ended for container in self._running.values()]:
            await asyncio.wait(alive, timeout=CLOSE_S)
        for task in (*self._images.values(), *self._background):
            task.cancel()
        if self._opening is not None:
            await asyncio.wait({self._opening}, timeout=CLOSE_S)
        if (engine := self._engine) is not None:
            self._engine = None
            try:
                await in_thread(engine.tidy, CLOSE_S, "tidy")
            except EngineError as error:
                log.error("containers may be left behind: %s", error)
            engine.close()


class Progress:
    """Tells now and then how far a pull is."""

    def __init__(self, ref: str) -> None:
        self._ref = ref
        self._next = time.monotonic() + SAY_S

    def __call__(self, text: str) -> None:
        """Say it, unless something was said just before."""
        if (now := time.monotonic()) >= self._next:
            self._next = now + SAY_S
            log.info("pulling %s: %s", self._ref, text)


def failed(why: Failure) -> ContainerFailed:
    """Return the error for a container that is not to be had."""
    error = ContainerFailed(why.text)
    error.lost = why.passing
    return error


def lost(container: RunningContainer, otherwise: str | None = None) -> ContainerFailed:
    """Return the error for a container that had been ready."""
    how = otherwise or f"ended during the call ({container.exit_reason()})"
    error = ContainerFailed(f"{container.name} {how}; {container.last_lines()}")
    error.lost = True
    return error
