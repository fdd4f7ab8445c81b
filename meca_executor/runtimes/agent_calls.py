"""A host's side of container calls: makes those that its gateway orders, and tells what becomes of them.

Which call comes here, and how often it is tried, is the gateway's to say; the host counts its `timeout`. While the link
is down calls go on, and their replies wait in the channel.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..errors import MecaError
from ..settings import MESSAGE_LIMIT, TOLD_LIMIT
from ..wire.blobs import ARRIVING_MOST, BLOB_MIN, Arriving, pieces
from ..wire.container_calls import (
    IN_BLOB,
    CallEvent,
    CallOrder,
    pack_piece,
    pack_records,
    told,
    unpack,
    unpack_call,
)
from ..wire.printed import LAST, MIXED, Log
from ..wire.records import MalformedBatch, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..wire.container_calls import Call
    from ..wire.records import Record

TELL_S = 0.25  #: how often it is told what containers have written since
LATE_S = 0.1  #: what a container writes comes by another way than its reply, and may take so much longer

log = logging.getLogger("meca.host")


class ContainerRuntime(Protocol):
    """Who runs containers on this machine."""

    async def call(
        self,
        ref: str,
        content: bytes,
        *,
        timeout: float | None = None,
        runtime: str | None = None,
        resource: Mapping[str, float] | None = None,
        owner: str = "",
        written: Log | None = None,
    ) -> bytes: ...


@dataclass(eq=False)
class Making:
    """One call."""

    written: Log
    task: asyncio.Task[None]


class AgentCalls:
    """The container calls of one gateway on this machine.

    Args:
        containers: Who runs them, and who is closed by its own maker; None: there are none here.
        send: Takes a message for the gateway.
        has_room: Whether what containers write is sent now; else the last of it waits.
    """

    def __init__(
        self,
        containers: ContainerRuntime | None,
        send: Callable[[bytes], object],
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._containers = containers
        self._send = send
        self._has_room = has_room
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, Making] = {}  # those whose end is to be told
        self._tasks: set[asyncio.Task[None]] = set()  # of all that are not over, cancelled ones too
        self._era = 0  # how often all was reset
        self._arriving = Arriving(MESSAGE_LIMIT, shared=False)
        self._arrived: dict[int, bytes] = {}
        self._clock: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<AgentCalls running={self.running}>"

    @property
    def running(self) -> int:
        """How many calls are under way."""
        return len(self._calls)

    # -- orders -----------------------------------------------------------------------------------

    def on_message(self, message: bytes) -> None:
        """Do what the gateway orders.

        Raises:
            ValueError: Garbage (`MalformedBatch`); drop the link.
        """
        records, piece = unpack(message)
        if piece is not None and (whole := self._arriving.add(piece)) is not None:
            if len(self._arrived) >= ARRIVING_MOST:
                raise MalformedBatch(f"{ARRIVING_MOST} inputs of calls came, and not the calls")
            self._arrived[whole[0]] = content_of(whole[1])
        for number, order, ref, payload in records:
            if order == CallOrder.CALL:
                self._begin(number, ref, payload)
            elif order == CallOrder.CANCEL:
                self._cancel(number)
            else:
                raise MalformedBatch(f"an order {order} about container calls, which is none")

    def _begin(self, number: int, ref: int, payload: bytes) -> None:
        call, content = unpack_call(payload)
        if ref not in (0, IN_BLOB) or (ref and content):
            raise MalformedBatch(f"call {number} has its input in two places ({ref})")
        if ref:
            if number not in self._arrived:
                raise MalformedBatch(f"the input of call {number} did not come")
            content = self._arrived.pop(number)
        if number in self._calls:
            raise MalformedBatch(f"call {number} a second time")
        written = Log()
        task = self._loop.create_task(self._call(number, call, content, written))
        self._calls[number] = Making(written, task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self._clock is None:
            self._clock = self._loop.call_later(TELL_S, self._tell_all)

    def _cancel(self, number: int) -> None:
        if (making := self._calls.pop(number, None)) is not None:
            making.task.cancel()

    def reset(self) -> None:
        """Stop all calls: the gateway is gone, or has given this host up; nothing more is told of them."""
        for number in list(self._calls):
            self._cancel(number)
        self._era += 1
        self._arriving.clear()
        self._arrived.clear()

    async def close(self) -> None:
        """Stop all calls and wait until none is under way."""
        self.reset()
        if self._clock is not None:
            self._clock.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # -- calls ------------------------------------------------------------------------------------

    async def _call(self, number: int, call: Call, content: bytes, written: Log) -> None:
        try:
            if self._containers is None:
                status, reply = Status.NO_HOST, b"it runs no containers"
            else:
                status, reply = (
                    Status.REPLY,
                    await self._containers.call(
                        call.ref,
                        content,
                        timeout=call.timeout,
                        runtime=call.runtime,
                        resource=call.resource,
                        owner=call.owner,
                        written=written,
                    ),
                )
        except MecaError as error:
            status, reply = told(error)
        except Exception as error:  # a defect of ours must reach the future, not only a log
            log.exception("container call failed")
            status, reply = told(error)
        if (making := self._calls.get(number)) is not None and making.written is written:
            del self._calls[number]
            self._finish(number, written, status, reply)

    def _finish(self, number: int, written: Log, status: Status, reply: bytes) -> None:
        wrote = wrote_record(number, written, LAST if written.ended else 0)
        if status is not Status.REPLY:
            reply = reply[:TOLD_LIMIT]
        in_blob = len(reply) >= BLOB_MIN
        for piece in pieces(number, [reply]) if in_blob else ():
            self._send(pack_piece(piece))
        ref = status | IN_BLOB if in_blob else int(status)
        self._send(pack_records([*wrote, (number, int(CallEvent.REPLY), ref, b"" if in_blob else reply)]))
        if not written.ended:
            self._loop.call_later(LATE_S, self._tell_last, number, written, self._era)

    # -- what they write --------------------------------------------------------------------------

    def _tell_all(self) -> None:
        self._clock = self._loop.call_later(TELL_S, self._tell_all) if self._calls else None
        if not self._has_room():
            return
        if records := [record for number, one in self._calls.items() for record in wrote_record(number, one.written)]:
            self._send(pack_records(records))

    def _tell_last(self, number: int, written: Log, era: int) -> None:
        written.end()
        if era == self._era:
            self._send(pack_records(wrote_record(number, written, LAST)))


def wrote_record(number: int, written: Log, flags: int = 0) -> list[Record]:
    """Return the record of what a call's container wrote since; none when there is nothing to say."""
    text = written.take()
    flags |= MIXED if written.mixed else 0
    return [(number, int(CallEvent.WROTE), flags, text)] if text or flags & LAST else []


def content_of(payload: bytes) -> bytes:
    """Return the bytes of a blob that has come into this process's memory."""
    view = getattr(payload, "view", None)
    return bytes(payload if view is None else view)
