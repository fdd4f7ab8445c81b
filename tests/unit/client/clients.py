"""A ledger and what an executor puts into it, without a link."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

from meca_executor import GatewayLost
from meca_executor.client.chunks import Chunk, Map
from meca_executor.client.future import MecaFuture
from meca_executor.client.ledger import Ledger
from meca_executor.client.options import TaskOptions
from meca_executor.client.tasks import Again, Task
from meca_executor.policy.credit import Credit
from meca_executor.wire.calls import dumps
from meca_executor.wire.records import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meca_executor.wire.records import Record

KIND = (0, 1)
NOW = 1000.0


class Client:
    """A ledger and its tasks, numbered as an executor numbers them."""

    def __init__(self, slots: int = 2, window: int = 10**6, window_bytes: int = 1 << 40) -> None:
        self.time = 0.0  #: of day, as the ledger has it
        self.ledger = Ledger(Credit(slots, window, window_bytes), "http://here:1", lambda: self.time)
        self._numbers = itertools.count(1)

    def add(
        self,
        *,
        retry: object = None,
        payload: bytes = b"call",
        decode: Callable[[bytes], Any] | None = None,
        kind: tuple[int, int] = KIND,
    ) -> MecaFuture[Any]:
        """Submit a task and return its future."""
        future: MecaFuture[Any] = MecaFuture()
        future.number = next(self._numbers)
        options = TaskOptions().changed(retry=retry)
        self.ledger.add(Task(future.number, future, payload, kind, options, decode))
        return future

    def add_chunk(
        self, count: int, *, retry: object = None, size: int | None = None, kind: tuple[int, int] = KIND
    ) -> Chunk:
        """Submit items of a map; their payloads are their indexes, or of this size."""
        payloads = [b"%d" % index if size is None else bytes(size) for index in range(count)]
        chunk = Chunk(kind, TaskOptions().changed(retry=retry), payloads, Map(self._numbers, threading.Condition()))
        self.ledger.add(chunk)
        return chunk

    def short(self, kind: tuple[int, int] = KIND) -> None:
        """Let a kind of task be known as short, so that the credit holds none of it back."""
        self.ledger.credit.measured(kind, 0, 1)

    def hand_over(self) -> list[int]:
        """Hand over one batch; return the numbers of the tasks, and of the items, in it."""
        return [number for entry in self.ledger.next_batch(NOW) for number, _, _, _ in entry.calls]

    def settle(self, future: MecaFuture[Any], status: Status, payload: bytes = b"", micros: int = 100) -> list[Again]:
        """An outcome of one task arrives."""
        assert future.number is not None
        return self.ledger.settle([(future.number, int(status), micros, payload)])

    def settle_numbers(self, numbers: Iterable[int], value: object = None) -> list[Again]:
        """Results of tasks and items arrive in one message."""
        return self.ledger.settle([(number, int(Status.OK), 100, dumps(value)) for number in numbers])

    def done(self, future: MecaFuture[Any], value: object = None, micros: int = 100) -> list[Again]:
        return self.settle(future, Status.OK, dumps(value), micros)

    def out(self, **kwargs: Any) -> MecaFuture[Any]:
        """Return the future of a task that is handed over."""
        future = self.add(**kwargs)
        assert self.hand_over() == [future.number]
        return future


def ok(number: int, value: object = None) -> Record:
    """Return the record of a success."""
    return number, int(Status.OK), 100, dumps(value)


def died(number: int) -> Record:
    """Return the record of a lost attempt."""
    return number, int(Status.DIED), 0, b"died"


def gone() -> GatewayLost:
    """Return why a gateway's tasks are lost."""
    return GatewayLost("it ended")


def numbers_of(chunk: Chunk) -> list[int]:
    """Return the numbers of a chunk's items."""
    return [chunk.number + index for index in range(len(chunk.payloads))]


def nothing_is_out(client: Client) -> bool:
    """Whether all credit has been given back."""
    credit = client.ledger.credit
    return (credit.out, credit.out_bytes, credit._out_us) == (0, 0, 0.0)
