"""Calls of containers: under way in the hub's loop, as many at once as their session may have."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING

from ..errors import MecaError, UsageError
from ..wire.container_calls import told
from ..wire.printed import LAST, MIXED, Log
from ..wire.printed import record as printed
from ..wire.records import Record, Status, encode
from .gate import Gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from .keeper import Keeper
    from .ports import ContainerRuntime
    from .session import Session
    from .tasks import Options

MICROS_MAX = 0xFFFF_FFFF
TELL_S = 0.25  #: how often it is told what a container has written since
LATE_S = 0.1  #: what a container writes comes by another way than its reply, and may take so much longer
AWAITED_S = 2.0  #: from another machine even longer: its text is waited for, but not for more than this

log = logging.getLogger("meca.gateway")


class ContainerCalls:
    """What is asked of containers.

    Args:
        containers: Who runs them.
        report: Told `(session id, batch of outcomes)`.
        keeper: Writes down what begins.
    """

    def __init__(self, containers: ContainerRuntime, report: Callable[[str, bytes], object], keeper: Keeper) -> None:
        self._containers = containers
        containers.changed = self._changed
        self._gates: weakref.WeakSet[Gate] = weakref.WeakSet()
        self._report = report
        self._keeper = keeper
        self._refused: dict[str, str] = {}  # container name -> why its folder is none

    def gate(self, session: Session) -> Gate:
        """Return what lets so many calls of a session through as it may have at once."""
        cap, owner = session.cap, session.owner
        gate = Gate(lambda: max(1, min(cap, self._containers.slots(owner))))
        self._gates.add(gate)
        return gate

    def _changed(self) -> None:
        for gate in list(self._gates):
            gate.look()

    def why_never(self, options: Options, owner: str) -> str | None:
        """Return why no machine that there is can ever make such a call; None when one can, or has words of its own."""
        assert options.container_ref is not None
        return self._containers.why_never(options.container_ref, options.runtime, options.resource, owner)

    def add(self, ref: str, folder: str) -> None:
        """Learn where a container's folder is; one that is none fails the calls of it."""
        try:
            self._containers.add(ref, folder)
        except UsageError as error:
            self._refused[ref] = str(error)

    def begin(self, session: Session, record: Record, options: Options) -> None:
        """Call a container."""
        number = record[0]
        call = session.calls[number] = asyncio.get_running_loop().create_task(self._call(session, record, options))
        call.add_done_callback(lambda call: self._over(session, number, call))

    async def _call(self, session: Session, record: Record, options: Options) -> None:
        began = time.monotonic()
        writing = Writing(record[0], partial(self._report, session.id))
        try:
            async with session.gate:
                await self._written_down(session, record)
                began = time.monotonic()
                writing.begin()
                status, payload = await self.ask(options, record[3], session.owner, writing.log, record[0])
        finally:
            writing.finish()
            session.calls.pop(record[0], None)
        micros = min(int((time.monotonic() - began) * 1e6), MICROS_MAX)
        self._report(session.id, encode([(record[0], status, micros, payload)]))

    async def _written_down(self, session: Session, record: Record) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeper.started(session, encode([record]))
        self._keeper.then(partial(_settle, done))
        await done

    def _over(self, session: Session, number: int, call: asyncio.Task[None]) -> None:
        # Not in the call itself: one that is cancelled before its first step never runs a line.
        session.calls.pop(number, None)
        if call.cancelled():
            self._report(session.id, encode([(number, Status.KILLED, 0, b"ended by kill()")]))

    async def ask(
        self, options: Options, content: bytes, owner: str, written: Log | None = None, task: int = 0
    ) -> tuple[Status, bytes]:
        """Return how a container's call ended, and its reply or why not."""
        assert options.container_ref is not None
        if (refusal := self._refused.get(options.container_ref)) is not None:
            return Status.NO_HOST, refusal.encode()
        try:
            reply = await self._containers.call(
                options.container_ref,
                content,
                timeout=options.timeout,
                runtime=options.runtime,
                resource=options.resource,
                owner=owner,
                written=written,
                task=task,
            )
            return Status.REPLY, reply
        except MecaError as error:
            return told(error)
        except Exception as error:  # a defect of ours must reach the future, not only a log
            log.exception("container call failed")
            return Status.FAILED, f"the gateway failed: {type(error).__name__}: {error}".encode()

    async def close(self) -> None:
        """End all containers and wait until they are gone."""
        await self._containers.close()


class Writing:
    """What a container writes during one call: told while it runs, at its end, and a moment later.

    Args:
        task: Whose call it is.
        report: Told batches of records.
    """

    def __init__(self, task: int, report: Callable[[bytes], object]) -> None:
        self.log = Log()
        self._task = task
        self._report = report
        self._told = False  # anything
        self._clock: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """The call begins."""
        self._clock = asyncio.get_running_loop().call_later(TELL_S, self._tell_again)

    def finish(self) -> None:
        """The call is over, and its outcome told next."""
        if self._clock is not None:
            self._clock.cancel()
            self._tell(LAST if self.log.ended else 0)
            if not self.log.ended:
                loop = asyncio.get_running_loop()
                loop.call_later(LATE_S, self._tell_last, loop.time() + AWAITED_S)

    def _tell_again(self) -> None:
        self._tell()
        self.begin()

    def _tell_last(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        if self.log.awaited and not self.log.ended and loop.time() < until:
            loop.call_later(LATE_S, self._tell_last, until)
            return
        self.log.end()
        self._tell(LAST)

    def _tell(self, flags: int = 0) -> None:
        text = self.log.take()
        if text or (flags and self._told):
            self._told = True
            self._report(encode([printed(self._task, Status.LOGGED, text, flags | (MIXED if self.log.mixed else 0))]))


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
