"""The workers of a host that joined, as the gateway sees them: orders go out as messages, events come back.

What only processes of one machine can read goes along: calls and objects in shared memory are read out, and a large
result that comes in pieces is put into the gateway's shared memory. The channel is the caller's (`wire/hosting.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import MecaError, SharedMemoryGone, TaskTooLarge
from ..settings import MESSAGE_LIMIT
from ..wire.blobs import BLOB_MIN, Arriving, contents, mention, mentioned, pieces
from ..wire.container_calls import is_of_calls
from ..wire.hosting import (
    Event,
    Order,
    pack_piece,
    pack_range,
    pack_records,
    unpack,
    unpack_end,
    unpack_look,
    unpack_outcomes,
)
from ..wire.parcels import FAILED, SHARED
from ..wire.payloads import Held
from ..wire.records import Definition, Kind, MalformedBatch, Outcomes, Status, decode, encode, starts
from ..wire.segments import described, map_segment
from .remote_calls import RemoteCalls

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.records import Record
    from .processes import Events

ARRIVED_MOST = 16  #: blobs that no result has mentioned yet; a host mentions one before it sends the next
STALE_S = 0.1  #: how old a look may be before time that has gone by since counts for the call


@dataclass(eq=False)
class Seen:
    """What is known of one worker."""

    revocations: int = 0  #: told
    look: tuple[int, int, float, float] | None = None  #: revocations seen, started, since, when it came
    objects: set[int] = field(default_factory=set)  #: large ones that it was told of
    calls: int = 0  #: that it has


@dataclass(eq=False)
class Copy:
    """A large object that lies at the host."""

    blob: int
    workers: set[int] = field(default_factory=set)  #: those that were told of it


class RemoteWorkers:
    """One host's workers.

    Args:
        events: Who is told what happens.
        name: The host's.
        send: Takes a message for the host.
        on_leave: Called when the host wants to leave: with True when its calls are done, with False at once.
        may_read: Whether what lies in the memory of a process may be sent to the host.
    """

    def __init__(
        self,
        events: Events,
        name: str,
        send: Callable[[bytes], object],
        on_leave: Callable[[bool], object],
        may_read: Callable[[int], bool],
    ) -> None:
        self._events = events
        self._name = name
        self._send = send
        self._on_leave = on_leave
        self._may_read = may_read
        self._loop = asyncio.get_running_loop()
        self._workers: dict[int, Seen] = {}
        self._orders: list[Record] = []  # of this turn of the loop
        self._away = False
        self._blobs = itertools.count(1)
        self._copies: dict[int, Copy] = {}  # by object
        self._arriving = Arriving(MESSAGE_LIMIT, shared=True)
        self._arrived: dict[int, bytes] = {}
        self.calls = RemoteCalls(name, send)  #: container calls of the same host

    def __repr__(self) -> str:
        return f"<RemoteWorkers of {self._name}: {len(self._workers)}>"

    # -- orders -----------------------------------------------------------------------------------

    def spawn(self, worker: int) -> None:
        """Start a worker under this number; a failure to start is its end."""
        self._workers[worker] = Seen()
        self._order(worker, Order.SPAWN)

    def send(self, worker: int, kind: Kind, batch: bytes) -> None:
        """Write a message to it; a worker that is gone is ignored."""
        if (seen := self._workers.get(worker)) is None:
            return
        if kind is Kind.CALLS:
            groups = decode(batch)
            seen.calls += sum(len(starts(calls)) - 1 for _, _, _, calls in groups)
            batch = encode((ordinal, 0, ref, self._readable(calls)) for ordinal, _, ref, calls in groups)
        elif kind is Kind.DEFINE:
            batch = encode(record for one in decode(batch) if (record := self._defined(worker, seen, one)) is not None)
        if batch:
            self._order(worker, Order.SEND, kind, batch)

    def _readable(self, calls: bytes) -> bytes:
        """Return a batch of calls with nothing in it that lies in this machine's memory."""
        records = decode(calls)
        if all(call[:1] != _SHARED for _, _, _, call in records):
            return calls
        return encode((task, tag, ref, self._read_out(call)) for task, tag, ref, call in records)

    def _read_out(self, call: bytes) -> bytes:
        """Return a payload with its content; one whose memory is gone says so where it is opened."""
        if call[:1] != _SHARED:
            return call
        try:
            return bytes(self._mapped(call))
        except (MecaError, ValueError) as error:  # what a client calls a reference may be none
            return failed(error)

    def _mapped(self, reference: bytes) -> memoryview:
        if not self._may_read(described(reference)[0]):
            raise SharedMemoryGone("it refers to memory of a process that is not its client's")
        return map_segment(reference)

    def _defined(self, worker: int, seen: Seen, record: Record) -> Record | None:
        """Return a definition as the host can read it; None when it is none for it."""
        number, what, ref, payload = record
        if what == Definition.FREED and payload:
            return None  # the memory of a large result is given back at the host, as soon as it was read
        if what == Definition.FORGET:
            self._let_go(worker, seen, number)
        elif what == Definition.OBJECT and (payload[:1] == _SHARED or len(payload) >= BLOB_MIN):
            if (copy := self._copies.get(number)) is None:
                try:
                    parts = [self._mapped(payload)] if payload[:1] == _SHARED else contents(payload)
                except (MecaError, ValueError) as error:  # not there, or garbage: calls that use it fail with that
                    return number, what, ref, failed(error)
                if (size := sum(map(len, parts))) > MESSAGE_LIMIT:  # hosts take no such blob
                    told = f"the object has {size:,} bytes, and {MESSAGE_LIMIT:,} can travel to another host"
                    return number, what, ref, failed(TaskTooLarge(told))
                copy = self._copies[number] = Copy(next(self._blobs))
                self._flush()
                for piece in pieces(copy.blob, parts):
                    self._send(pack_piece(piece))
            copy.workers.add(worker)
            seen.objects.add(number)
            return number, what, ref, mention(copy.blob)
        return record

    def _let_go(self, worker: int, seen: Seen, number: int) -> None:
        """A worker needs an object no more; the host lets go of what none of its workers needs."""
        seen.objects.discard(number)
        if (copy := self._copies.get(number)) is not None:
            copy.workers.discard(worker)
            if not copy.workers:
                del self._copies[number]
                self._order(copy.blob, Order.DROP)

    def revoke(self, worker: int, start: int, stop: int) -> None:
        """Tell it to leave ordinals start .. stop - 1 alone."""
        if (seen := self._workers.get(worker)) is not None:
            seen.revocations += 1
            self._order(worker, Order.REVOKE, seen.revocations, pack_range(start, stop))

    def stop(self, worker: int) -> None:
        """Let it end after what it has been sent."""
        self._order(worker, Order.STOP)

    def kill(self, worker: int) -> None:
        """End it and its children now."""
        self._order(worker, Order.KILL)

    def let_leave(self) -> None:
        """Nothing of the host is needed any more."""
        self._order(0, Order.LEAVE)
        self._flush()

    async def close(self) -> None:
        """Tell the host that the gateway ends; it ends its workers by itself."""
        self._order(0, Order.RESET)
        self._flush()

    def _order(self, worker: int, order: Order, ref: int = 0, payload: bytes = b"") -> None:
        if not self._orders:
            self._loop.call_soon(self._flush)
        self._orders.append((worker, int(order), ref, payload))

    def _flush(self) -> None:
        orders, self._orders = self._orders, []
        if orders:
            self._send(pack_records(orders))

    # -- looks ------------------------------------------------------------------------------------

    def away(self, away: bool) -> None:
        """Say whether the link is down: what runs is not judged by what was seen before."""
        self._away = away
        for seen in self._workers.values():
            seen.look = None

    def look(self) -> None:
        """Report of every worker what it was last seen to run."""
        now = time.monotonic()
        for worker, seen in list(self._workers.items()):
            # A look from before a revocation says nothing of what that left alone.
            if seen.look is not None and seen.look[0] == seen.revocations and not self._away:
                _, started, since, came = seen.look
                self._events.on_look(worker, started, since + min(STALE_S, now - came))

    # -- events -----------------------------------------------------------------------------------

    def on_message(self, message: bytes) -> None:
        """Take in what the host says.

        Raises:
            ValueError: Garbage (`MalformedBatch`); drop the host.
        """
        if is_of_calls(message):
            self.calls.on_message(message)
            return
        records, piece = unpack(message)
        if piece is not None and (whole := self._arriving.add(piece)) is not None:
            self._arrived[whole[0]] = whole[1]
            if len(self._arrived) > ARRIVED_MOST:
                raise MalformedBatch(f"{len(self._arrived)} blobs that no result mentions")
        for worker, event, ref, payload in records:
            if event == Event.DRAIN or event == Event.GONE:
                self._on_leave(event == Event.DRAIN)
            elif (seen := self._workers.get(worker)) is not None:
                self._happened(worker, seen, Event(event), ref, payload)

    def _happened(self, worker: int, seen: Seen, event: Event, ref: int, payload: bytes) -> None:
        if event is Event.OUTCOMES or event is Event.BLOB:
            outcomes = unpack_outcomes(payload)
            # Before any of it counts: what comes halfway into the books is lost there.
            if not len(starts(outcomes.batch)) - 1 == outcomes.total <= seen.calls:
                raise MalformedBatch(f"{outcomes.total} outcomes of a worker that has {seen.calls} calls")
            seen.calls -= outcomes.total
            self._events.on_outcomes(worker, self._whole(outcomes) if event is Event.BLOB else outcomes)
        elif event is Event.LOOK:
            started, elapsed = unpack_look(payload)
            now = time.monotonic()
            seen.look = ref, started, now - elapsed, now
            if ref == seen.revocations:
                self._events.on_look(worker, started, now - elapsed)
        elif event is Event.PRINTED:
            if ref not in (Status.STDOUT, Status.STDERR):
                raise MalformedBatch(f"text of no stream: {ref}")
            self._events.on_printed(worker, Status(ref), payload)
        elif event is Event.SETUP_FAILED:
            self._events.on_setup_failed(worker, payload.decode("utf-8", "replace"))
        elif event is Event.END:
            started, how = unpack_end(payload)
            for number in list(seen.objects):
                self._let_go(worker, seen, number)
            del self._workers[worker]
            self._events.on_end(worker, started, f"{how}, on host {self._name}")

    def _whole(self, outcomes: Outcomes) -> Outcomes:
        """Return an outcome whose payload came as a blob, which is in our shared memory now."""
        task, status, micros, payload = decode(outcomes.batch)[0]
        if (number := mentioned(payload)) is None or (blob := self._arrived.pop(number, None)) is None:
            raise MalformedBatch(f"a result that lies in a blob which did not come: {payload[:20]!r}")
        if blob[0] == FAILED:  # no memory for it here
            return Outcomes(encode([(task, int(Status.LOST), micros, blob[1:])]), 1, micros, plain=True)
        shared = blob if isinstance(blob, Held) and blob.segment is not None else None
        return Outcomes(encode([(task, status, micros, blob)]), 1, micros, plain=True, shared=shared)


_SHARED = bytes((SHARED,))


def failed(error: Exception) -> bytes:
    """Return what stands in the place of a payload that cannot be read."""
    return bytes((FAILED,)) + str(error).encode()
