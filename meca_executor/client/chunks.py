"""Items of a `map` that are queued as one, and their results in order.

An item of a chunk is its pickled call and a place for its result: no future, no task. Only an item that did
not succeed becomes a task of its own, with its own attempts, and what decides about tasks decides about it.
"""

from __future__ import annotations

import itertools
import time
from concurrent.futures import TimeoutError as Late  # before Python 3.11 another one than the builtin
from typing import TYPE_CHECKING, Any, NamedTuple

from ..wire.payloads import in_frame
from ..wire.records import ITEM
from .future import MecaFuture
from .options import TaskOptions
from .outcomes import named
from .tasks import Task

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator

    from ..wire.records import Record

INDEX_BITS = 20
CHUNKED = ITEM
#: items of the first chunk of a map, and of the largest; each has twice as many as the one before
FIRST, MOST = 16, 4096
MOST_BYTES = 1 << 20  #: a chunk ends with the item that brings it there

_numbers = itertools.count(1)
_OPEN: Any = object()  #: the place of an item without an outcome


class Map(NamedTuple):
    """What the chunks of one map share."""

    numbers: Iterator[int]  #: for items that become tasks
    arrived: threading.Condition  #: notified when there are new values


class Chunk:
    """Some items of one map. The submitting thread makes it, the ledger owns it, the map's iterator reads it."""

    __slots__ = (
        "_numbers",
        "arrived",
        "began",
        "cancelled",
        "charge",
        "handed",
        "kind",
        "number",
        "open",
        "options",
        "payloads",
        "values",
    )

    def __init__(self, kind: tuple[int, int], options: TaskOptions, payloads: list[bytes], mapped: Map) -> None:
        self.number = CHUNKED | next(_numbers) << INDEX_BITS  #: of its first item
        self.kind = kind
        self.options = options
        self.payloads = payloads
        self.values: list[Any] = [_OPEN] * len(payloads)  #: results, or the future of an item that has become a task
        self.arrived = mapped.arrived
        self._numbers = mapped.numbers
        self.handed = 0  #: items handed over so far
        self.open = 0  #: of those, without an outcome
        self.charge = 0.0  #: what these count for in the credit
        self.began = 0.0  #: when the first one was handed over
        self.cancelled = False  #: nobody waits for the items that were not handed over

    @property
    def queued(self) -> int:
        """Items not handed over."""
        return 0 if self.cancelled else len(self.payloads) - self.handed

    def is_open(self, index: int) -> bool:
        """Whether an item has been handed over and has no outcome."""
        return index < self.handed and self.values[index] is _OPEN

    def set(self, index: int, value: Any) -> None:
        """Put a result in its place."""
        self.values[index] = value
        self.payloads[index] = b""  # no longer needed: a map may be long

    def task(self, index: int) -> Task:
        """Make an item a task of its own, which has had one attempt."""
        future: MecaFuture[Any] = MecaFuture()
        future.number = next(self._numbers)
        future.claim()
        task = Task(future.number, future, self.payloads[index], self.kind, self.options, None)
        task.attempts, task.began = 1, self.began
        self.set(index, _Own(future))
        return task

    def fail_open(self, error: Callable[[], BaseException], start: int = 0) -> None:
        """Nothing more will come for the items from `start` on."""
        for index in range(start, len(self.values)):
            if self.values[index] is _OPEN:
                future: MecaFuture[Any] = MecaFuture()
                future.number = next(self._numbers)
                future.set_exception(named(error(), future))
                self.set(index, _Own(future))
        self.notify()

    def notify(self) -> None:
        """Tell the iterator to look again."""
        with self.arrived:
            self.arrived.notify_all()

    def cancel_queued(self) -> None:
        """Cancel the items that were not handed over."""
        with self.arrived:
            queued, self.cancelled = self.queued, True
            for index in range(len(self.values) - queued, len(self.values)):
                future: MecaFuture[Any] = MecaFuture()
                future.cancel()
                self.set(index, _Own(future))
            self.arrived.notify_all()

    def put_into_frames(self) -> None:
        """What of it is in shared memory travels by itself."""
        self.payloads = [in_frame(payload) for payload in self.payloads]

    def cancel(self) -> None:
        """Nobody waits any more."""
        self.cancelled = True
        for value in self.values:
            if type(value) is _Own:
                value.future.cancel()


class Slice(NamedTuple):
    """Items start .. stop - 1 of a chunk, handed over together."""

    chunk: Chunk
    start: int
    stop: int

    @property
    def kind(self) -> tuple[int, int]:
        """As a task's."""
        return self.chunk.kind

    @property
    def last(self) -> tuple[int, bytes]:
        """Number and payload of the last call."""
        return self.chunk.number + self.stop - 1, self.chunk.payloads[self.stop - 1]

    @property
    def calls(self) -> list[Record]:
        """What travels."""
        number, payloads = self.chunk.number, self.chunk.payloads
        return [(number + index, 0, 0, payloads[index]) for index in range(self.start, self.stop)]


class _Own(NamedTuple):
    """The outcome of an item is that of this future."""

    future: MecaFuture[Any]


def failed(error: Exception, mapped: Map) -> Chunk:
    """Return an item that cannot be sent, as a chunk that is done."""
    chunk = Chunk((0, 0), TaskOptions(), [b""], mapped)
    chunk.handed = 1
    future: MecaFuture[Any] = MecaFuture()
    future.set_exception(error)
    chunk.set(0, _Own(future))
    return chunk


def cut(payloads: Iterable[bytes | Exception]) -> Iterator[list[bytes] | Exception]:
    """Cut the calls of a map into chunks: small ones first, so that the work begins with the first items."""
    most, chunk, size = FIRST, list[bytes](), 0
    for payload in payloads:
        if isinstance(payload, Exception):
            if chunk:
                yield chunk
            yield payload
            chunk, size = [], 0
            continue
        chunk.append(payload)
        size += len(payload)
        if len(chunk) >= most or size >= MOST_BYTES:
            yield chunk
            most, chunk, size = min(2 * most, MOST), [], 0
    if chunk:
        yield chunk


def results(chunks: list[Chunk], deadline: float | None) -> Iterator[Any]:
    """Return the results in order; what is not asked for in the end is cancelled."""
    chunks.reverse()
    try:
        while chunks:
            chunk = chunks[-1]
            values = chunk.values
            for index in range(len(values)):
                if values[index] is _OPEN:
                    _wait(chunk, index, deadline)
                yield _take(values, index, deadline)
            chunks.pop()
    finally:
        for chunk in chunks:
            chunk.cancel()


def _wait(chunk: Chunk, index: int, deadline: float | None) -> None:
    with chunk.arrived:
        if not chunk.arrived.wait_for(lambda: chunk.values[index] is not _OPEN, _left(deadline)):
            raise Late()


def _take(values: list[Any], index: int, deadline: float | None) -> Any:
    """Return a result, or raise why there is none; nothing refers to it from here on."""
    value, values[index] = values[index], None
    if type(value) is not _Own:
        return value
    future: MecaFuture[Any] = value.future
    try:
        return future.result(_left(deadline))
    finally:
        future.cancel()  # it was not there in time
        del value, future  # no cycle through the traceback


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else deadline - time.monotonic()
