"""Container calls on another machine, as the gateway sees them: each is asked of the host, and raises what that raised.

While the host is away its calls go on there, and so these wait: for its return, or until it has been away for so long
that it counts as lost. The channel is the caller's (`wire/container_calls.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import ContainerFailed, NoHostFits
from ..settings import MESSAGE_LIMIT
from ..wire.blobs import BLOB_MIN, Arriving, pieces
from ..wire.container_calls import (
    IN_BLOB,
    Call,
    CallEvent,
    CallOrder,
    pack_call,
    pack_piece,
    pack_records,
    raised,
    unpack,
    unpack_end,
    unpack_flags,
)
from ..wire.printed import Log
from ..wire.records import MalformedBatch, Status
from .agent_calls import content_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LATE_S = 5.0  #: what a container wrote is taken for so long after its reply


@dataclass(eq=False)
class Asked:
    """One call."""

    reply: asyncio.Future[bytes]
    written: Log


class RemoteCalls:
    """The container calls that one host has.

    Args:
        name: The host's.
        send: Takes a message for the host.
    """

    def __init__(self, name: str, send: Callable[[bytes], object]) -> None:
        self._name = name
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._asked: dict[int, Asked] = {}
        self._late: dict[int, Log] = {}  # of calls that are over
        self._arriving = Arriving(MESSAGE_LIMIT, shared=False)
        self._arrived: dict[int, bytes] = {}
        self._lost: str | None = None

    def __repr__(self) -> str:
        return f"<RemoteCalls of {self._name}: {self.running}>"

    @property
    def running(self) -> int:
        """How many calls the host has."""
        return len(self._asked)

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
    ) -> bytes:
        """Return a container's reply, as `gateway.ports.ContainerRuntime` has it; errors name the host.

        The host counts the timeout, from when it makes the request: time for which it is away counts once. A caller
        that is cancelled has the work stopped there.

        Raises:
            ContainerFailed: Also (`lost`) when the host is gone.
        """
        if self._lost is not None:
            raise self._gone(self._lost)
        if timeout is not None and math.isinf(timeout):
            timeout = None
        try:
            head = pack_call(Call(ref, timeout, runtime, dict(resource or {}), owner), b"")
        except ValueError as error:  # before the host takes it for garbage
            raise NoHostFits(str(error)) from None
        number = next(self._numbers)
        asked = self._asked[number] = Asked(self._loop.create_future(), Log() if written is None else written)
        asked.written.awaited = True
        in_blob = len(content) >= BLOB_MIN
        for piece in pieces(number, [content]) if in_blob else ():
            self._send(pack_piece(piece))
        ref_flags, payload = (IN_BLOB, head) if in_blob else (0, head + content)
        self._send(pack_records([(number, int(CallOrder.CALL), ref_flags, payload)]))
        try:
            return await asked.reply
        except asyncio.CancelledError:
            if self._asked.pop(number, None) is not None:
                self._arrived.pop(number, None)
                self._send(pack_records([(number, int(CallOrder.CANCEL), 0, b"")]))
            elif not asked.reply.cancelled():
                asked.reply.exception()  # it came at the same moment, and nobody asks for it
            asked.written.end()
            raise

    # -- events -----------------------------------------------------------------------------------

    def on_message(self, message: bytes) -> None:
        """Take in what the host says.

        Raises:
            ValueError: Garbage (`MalformedBatch`); drop the host.
        """
        records, piece = unpack(message)
        if piece is not None and (whole := self._arriving.add(piece)) is not None and whole[0] in self._asked:
            self._arrived[whole[0]] = content_of(whole[1])  # any other call was cancelled meanwhile
        for number, event, ref, payload in records:
            if event == CallEvent.WROTE:
                self._on_wrote(number, ref, payload)
            elif event == CallEvent.REPLY:
                self._on_reply(number, ref, payload)
            else:
                raise MalformedBatch(f"an event {event} of container calls, which is none")

    def _on_wrote(self, number: int, ref: int, text: bytes) -> None:
        mixed, last = unpack_flags(ref)
        asked = self._asked.get(number)
        if (written := self._late.get(number) if asked is None else asked.written) is None:
            return
        written.mixed = written.mixed or mixed
        written.write(text)
        if last:
            written.end()
            self._late.pop(number, None)

    def _on_reply(self, number: int, ref: int, payload: bytes) -> None:
        status, in_blob = unpack_end(ref)
        if (asked := self._asked.get(number)) is None or asked.reply.done():
            return  # it was cancelled, or this comes a second time
        if in_blob:
            if payload or (blob := self._arrived.pop(number, None)) is None:
                raise MalformedBatch(f"the reply to call {number} lies in a blob that did not come")
            payload = blob
        del self._asked[number]
        if not asked.written.ended:
            self._late[number] = asked.written
            self._loop.call_later(LATE_S, self._end_late, number)
        if status is Status.REPLY:
            asked.reply.set_result(payload)
        else:
            text = payload.decode("utf-8", "replace")
            asked.reply.set_exception(raised(status, f"on host {self._name}: {text}"))

    def _end_late(self, number: int) -> None:
        if (written := self._late.pop(number, None)) is not None:
            written.end()

    def lost(self, why: str) -> None:
        """The host is gone, and why; its calls fail so that they may be made again elsewhere. Later calls, too."""
        self._lost = why
        asked, self._asked = self._asked, {}
        for one in asked.values():
            one.written.end()
            if not one.reply.done():
                one.reply.set_exception(self._gone(why))
        for number in list(self._late):
            self._end_late(number)

    def _gone(self, why: str) -> ContainerFailed:
        error = ContainerFailed(f"the call was lost with its host: {why}")
        error.lost = True
        return error
