"""A host's side of what its gateway orders: starts workers, passes messages on, looks at them, and tells what happens.

It decides nothing: which call runs, for how long, and what its end means is the gateway's to say. The channel is the
caller's (`wire/hosting.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..settings import MESSAGE_LIMIT
from ..wire.blobs import PIECE_BYTES, Arriving, mention, mentioned, pieces
from ..wire.container_calls import is_of_calls
from ..wire.hosting import (
    Event,
    Order,
    pack_end,
    pack_look,
    pack_outcomes,
    pack_piece,
    pack_records,
    unpack,
    unpack_range,
)
from ..wire.lending import LENT
from ..wire.printed import LeftOut
from ..wire.records import Definition, Kind, MalformedBatch, Outcomes, Status, decode, encode, starts
from .agent_calls import AgentCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.records import Record
    from .agent_calls import ContainerRuntime
    from .fleet import Workers
    from .processes import Events

LOOK_S = 0.02  #: how often workers that have something to do are looked at


@dataclass(eq=False)
class Work:
    """One worker; it has a number of the gateway's, and one of this host's that no other ever has."""

    number: int
    local: int
    in_flight: int = 0  #: calls that it has
    revoked: int = 0  #: the last revocation that was passed on
    settled: int = 0  #: the last one that it has had the time to see
    told: tuple[int, int] = (0, 0)  #: what was last told of a look
    left_out: defaultdict[Status, LeftOut] = field(default_factory=lambda: defaultdict(LeftOut))  # of each stream


class Agent:
    """Owns this host's workers while a gateway has use of them, and makes its container calls.

    Args:
        start: Makes the runtime of the workers; it is given who is told what happens.
        send: Takes a message for the gateway.
        containers: Who runs containers here; whoever made it closes it, after `close`. None: there are none.
        has_room: Whether what workers print is sent; else it is left out, and later said how much that was.
    """

    def __init__(
        self,
        start: Callable[[Events], Workers],
        send: Callable[[bytes], object],
        containers: ContainerRuntime | None = None,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._send = send
        self._has_room = has_room
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._works: dict[int, Work] = {}  # by the gateway's number
        self._locals: dict[int, Work] = {}  # by this host's
        self._events: list[Record] = []  # of this turn of the loop
        self._looking = False
        self._blobs: dict[int, bytes] = {}  # large objects, as long as a worker may need them
        self._arriving = Arriving(MESSAGE_LIMIT, shared=True)
        self._sent_blobs = itertools.count(1)
        self.on_leave: Callable[[], object] = lambda: None  #: called when the gateway needs this host no more
        self._workers = start(self)
        self._calls = AgentCalls(containers, send, has_room)

    def __repr__(self) -> str:
        return f"<Agent of {len(self._works)} workers, {self._busy} with calls, {self._calls.running} container calls>"

    @property
    def running(self) -> int:
        """How many workers have calls, and how many container calls are under way."""
        return self._busy + self._calls.running

    @property
    def _busy(self) -> int:
        return sum(1 for work in self._works.values() if work.in_flight)

    # -- the host's own doing ---------------------------------------------------------------------

    def leave(self, *, drain: bool) -> None:
        """Ask the gateway to let this host go when what runs is done; or tell it that the host goes now."""
        self._tell(0, Event.DRAIN if drain else Event.GONE)
        self._flush()

    def resumed(self) -> None:
        """The link is back: what runs, and since when, is told anew."""
        for work in self._works.values():
            work.told = (0, 0)
            self._tell_left_out(work)
        self._look_soon()

    def reset(self) -> None:
        """End all workers and container calls: the gateway that had use of them is gone, or has given them up."""
        for work in self._works.values():
            self._workers.kill(work.local)
        self._works.clear()
        self._locals.clear()
        self._events.clear()
        self._blobs.clear()
        self._arriving.clear()
        self._calls.reset()

    async def close(self) -> None:
        """End all workers and container calls, and wait until they are gone."""
        self.reset()
        await asyncio.gather(self._workers.close(), self._calls.close())

    # -- orders -----------------------------------------------------------------------------------

    def on_message(self, message: bytes) -> None:
        """Do what the gateway orders.

        Raises:
            ValueError: Garbage (`MalformedBatch`); drop the link.
        """
        if is_of_calls(message):
            self._calls.on_message(message)
            return
        records, piece = unpack(message)
        if piece is not None and (whole := self._arriving.add(piece)) is not None:
            self._blobs[whole[0]] = whole[1]
        for number, order, ref, payload in records:
            if order == Order.SPAWN:
                self._spawn(number)
            elif order == Order.DROP:
                self._blobs.pop(number, None)
            elif order == Order.RESET:
                self.reset()
            elif order == Order.LEAVE:
                self.on_leave()
            elif (work := self._works.get(number)) is not None:
                self._do(work, Order(order), ref, payload)

    def _spawn(self, number: int) -> None:
        work = self._works[number] = Work(number, next(self._numbers))
        self._locals[work.local] = work
        self._workers.spawn(work.local)

    def _do(self, work: Work, order: Order, ref: int, payload: bytes) -> None:
        if order is Order.SEND:
            kind = Kind(ref)
            if kind is Kind.CALLS:
                work.in_flight += sum(len(starts(calls)) - 1 for _, _, _, calls in decode(payload))
                self._look_soon()
            elif kind is Kind.DEFINE:
                payload = encode(map(self._with_blob, decode(payload)))
            self._workers.send(work.local, kind, payload)
        elif order is Order.REVOKE:
            work.revoked = ref
            self._workers.revoke(work.local, *unpack_range(payload))
        elif order is Order.STOP:
            self._workers.stop(work.local)
        elif order is Order.KILL:
            self._workers.kill(work.local)

    def _with_blob(self, record: Record) -> Record:
        number, what, ref, payload = record
        if what != Definition.OBJECT or (blob := mentioned(payload)) is None:
            return record
        if blob not in self._blobs:
            raise MalformedBatch(f"object {number} lies in blob {blob}, which did not come")
        return number, what, ref, self._blobs[blob]

    # -- looks ------------------------------------------------------------------------------------

    def _look_soon(self) -> None:
        if not self._looking and self._busy:
            self._looking = True
            self._loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._looking = False
        self._workers.look()
        self._look_soon()

    def on_look(self, local: int, started: int, since: float) -> None:
        """What a worker runs; told when it is another call than before."""
        if (work := self._locals.get(local)) is None:
            return
        if (started, work.settled) != work.told:
            work.told = started, work.settled
            self._tell(work.number, Event.LOOK, work.settled, pack_look(started, time.monotonic() - since))
        work.settled = work.revoked  # by the next look it has read this one's

    # -- events -----------------------------------------------------------------------------------

    def on_outcomes(self, local: int, outcomes: Outcomes) -> None:
        """Results came; one in shared memory goes in pieces, and the memory is the worker's again."""
        if (work := self._locals.get(local)) is None:
            return
        work.in_flight -= outcomes.total
        held = outcomes.shared
        if held is None:
            self._tell(work.number, Event.OUTCOMES, 0, pack_outcomes(outcomes))
            return
        assert held.segment is not None
        ((task, status, micros, _),) = decode(outcomes.batch)
        event, size = Event.BLOB, held.segment.size
        if size > MESSAGE_LIMIT:  # the gateway would not take it, and this host no more
            event, status = Event.OUTCOMES, int(Status.TOO_LARGE)
            content = f"the value has {size:,} bytes, and {MESSAGE_LIMIT:,} can travel from another host".encode()
        else:
            content = mention(blob := next(self._sent_blobs))
            self._flush()
            for piece in pieces(blob, held.segment.parts(PIECE_BYTES)):
                self._send(pack_piece(piece))
        held.segment.close()
        self._workers.send(local, Kind.DEFINE, encode([(0, Definition.FREED, 0, held.lent_as)]))
        told = Outcomes(encode([(task, status & ~LENT, micros, content)]), 1, micros, plain=True)
        self._tell(work.number, event, 0, pack_outcomes(told))

    def on_setup_failed(self, local: int, text: str) -> None:
        """The initializer raised."""
        if (work := self._locals.get(local)) is not None:
            self._tell(work.number, Event.SETUP_FAILED, 0, text.encode("utf-8", "backslashreplace"))

    def on_printed(self, local: int, stream: Status, text: bytes) -> None:
        """A worker's process wrote to its stdout or stderr."""
        if (work := self._locals.get(local)) is None:
            return
        if self._has_room():
            self._tell(work.number, Event.PRINTED, int(stream), work.left_out[stream].take() + text)
        else:
            work.left_out[stream].add(text)

    def _tell_left_out(self, work: Work) -> None:
        for stream, left_out in work.left_out.items():
            if text := left_out.take():
                self._tell(work.number, Event.PRINTED, int(stream), text)

    def on_end(self, local: int, started: int, how: str) -> None:
        """A worker is gone."""
        if (work := self._locals.pop(local, None)) is not None:
            del self._works[work.number]
            self._tell_left_out(work)
            self._tell(work.number, Event.END, 0, pack_end(started, how))

    def _tell(self, number: int, event: Event, ref: int = 0, payload: bytes = b"") -> None:
        if not self._events:
            self._loop.call_soon(self._flush)
        self._events.append((number, int(event), ref, payload))

    def _flush(self) -> None:
        events, self._events = self._events, []
        if events:
            self._send(pack_records(events))
