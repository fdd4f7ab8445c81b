"""The ledger: owner of all futures of an executor, from `submit` to their outcome. No I/O.

A task is in one of three places: in the queue (still cancellable), out (handed over), or waiting for its
next attempt. Submitting threads only append to the queue; everything else happens on the link's thread.
"""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any

from ..errors import GatewayRefused, TaskKilled
from ..policy.retry import is_lost
from ..wire.lending import FREED, Lender
from ..wire.parcels import SHARED
from ..wire.records import COUNTED, Status
from .chunks import CHUNKED, INDEX_BITS, Chunk, Slice
from .outcomes import give_back, named, read_outcome, resolve, value_of
from .queue import Queue
from .refused import Refused
from .spent import Spent
from .tasks import Again, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..policy.credit import Credit
    from ..wire.records import Record
    from .attempts import Handed
    from .future import MecaFuture
    from .recovered import Recovered

_MEASURED = frozenset(map(int, (Status.OK, Status.RAISED, Status.FAILED, Status.REPLY)))  # have a run time
_OK, _BUSY = int(Status.OK), int(Status.BUSY)  # plain: compared for each task
FLAGS = ~0xFF  #: of a status
_INDEX = (1 << INDEX_BITS) - 1
BATCH_TASKS = 2_000
BATCH_BYTES = 512 << 10


class Ledger(Queue):
    """The tasks of one executor.

    Args:
        credit: How much may be out.
        host: To whom tasks are handed over, as `MecaFuture.attempts` tells it.
        clock: The time of day, as `time.time()`, for the same purpose.
    """

    def __init__(self, credit: Credit, host: str = "embedded", clock: Callable[[], float] = time.time) -> None:
        self.credit = credit
        self._host = host
        self._clock = clock
        super().__init__()
        self._out: dict[int, Task] = {}
        self._chunks: dict[int, Chunk] = {}  # of which items are out
        self._items = 0  # out
        self._waiting: dict[int, Task] = {}
        self._killed: set[int] = set()  # out, and to be ended there
        self._let_go: set[int] = set()  # ended here, while a gateway that cannot be told yet may still run them
        self.refused = Refused()
        self.recovered: Recovered | None = None  #: of a session that has a name
        self.lender = Lender()
        self.freed: Callable[[bytes], object] = lambda payload: None  #: told when a result in shared memory is let go
        self._functions_refused: Callable[[], BaseException] | None = None
        self._ended: weakref.WeakValueDictionary[int, MecaFuture[Any]] = weakref.WeakValueDictionary()  # of containers

    @property
    def counts(self) -> tuple[int, int]:
        """Tasks queued, and tasks out or waiting for their next attempt."""
        return self.queued, len(self._out) + self._items + len(self._waiting) + len(self.recovered or ())

    @property
    def idle(self) -> bool:
        """Whether no task is left."""
        return not (self._queue or self._out or self._chunks or self._waiting or self.recovered)

    # -- any thread; besides what the queue has -------------------------------------------------

    def cancel_queued(self) -> None:
        """Cancel what has not been handed over; what is refused from now on fails."""
        self.refused.policy.give_up()
        super().cancel_queued()

    def after_fork(self, error: Callable[[], BaseException]) -> None:
        """In a forked child: another process owns what is here."""
        self._refusal = error
        self._queue.clear()
        self._forget()
        self.lender.close()

    def _forget(self) -> None:
        """Nothing is out, and nothing waits."""
        for kept in (self._out, self._chunks, self._waiting, self._killed, self._let_go):
            kept.clear()
        self._items = 0

    # -- the link's thread ------------------------------------------------------------------------

    def refuse_functions(self, error: Callable[[], BaseException] | None) -> None:
        """Containers only from now on, and why; None is functions, too."""
        self._functions_refused = error

    def put_into_frames(self) -> None:
        """The gateway cannot read our memory: what was put there travels by itself."""
        for entry in (*self._queue, *self._waiting.values()):
            entry.put_into_frames()

    def next_batch(self, now: float) -> list[Task | Slice]:
        """Take from the queue what may be handed over now, at most a frame's worth."""
        batch: list[Task | Slice] = []
        if self.refused.policy.wait():
            return batch
        queue, credit, count, size, room = self._queue, self.credit, 0, 0, 0
        kind: tuple[int, int] | None = None
        handed: Handed | None = None
        while queue and count < BATCH_TASKS and size < BATCH_BYTES:
            # Taken out before it is looked at: a thread whose submit is refused takes its own back.
            if (entry := self._next()) is None:
                break
            if entry.kind != kind:
                kind = entry.kind
                room, charge = credit.room(kind), credit.charge(kind)
            if room <= 0:
                queue.appendleft(entry)
                break
            if isinstance(entry, Chunk):
                with entry.arrived:  # nothing is cancelled while it is handed over
                    part, bytes_ = self._next_items(entry, min(room, BATCH_TASKS - count), charge, now)
                if entry.queued:
                    queue.appendleft(entry)
                if part is None:
                    if entry.queued:
                        break
                    continue
                room -= part.stop - part.start
                count += part.stop - part.start
                batch.append(part)
            else:
                bytes_ = len(entry.payload)
                if not credit.fits(bytes_):
                    queue.appendleft(entry)
                    break
                handed = handed or (self._clock(), self._host)
                if not self._begin(entry, now, handed):
                    continue
                entry.attempts += 1
                entry.charge = charge
                credit.handed_over(charge, bytes_)
                self._out[entry.number] = entry
                batch.append(entry)
                room -= 1
                count += 1
            size += bytes_
        if batch:
            self.refused.policy.offered()
        return batch

    def _begin(self, task: Task, now: float, handed: Handed) -> bool:
        """Claim a task whose turn has come; False when there is nothing to hand over."""
        if not task.began:
            if not task.future.claim():
                return False
            task.began = now
        if task.decode is None and self._functions_refused is not None:
            resolve(task, None, self._functions_refused(), handed[0])
            return False
        task.future.handed = handed
        return True

    def _next_items(self, chunk: Chunk, room: int, charge: float, now: float) -> tuple[Slice | None, int]:
        """Hand over the next items of a chunk; return them and their bytes."""
        credit, start, size = self.credit, chunk.handed, 0
        if self._functions_refused is not None:
            chunk.fail_open(self._functions_refused, chunk.handed)
            chunk.cancelled = True
        stop = min(start + room, start + chunk.queued)
        for index in range(start, stop):
            bytes_ = len(chunk.payloads[index])
            if size >= BATCH_BYTES or not credit.fits(bytes_):
                stop = index
                break
            credit.handed_over(charge, bytes_)
            size += bytes_
        chunk.handed = stop
        if stop == start:
            return None, 0
        chunk.began = chunk.began or now
        chunk.open += stop - start
        chunk.charge += charge * (stop - start)
        self._items += stop - start
        self._chunks[chunk.number >> INDEX_BITS] = chunk
        return Slice(chunk, start, stop), size

    def settle(self, records: list[Record]) -> list[Again]:
        """Take in outcomes; one of a task that is not out is ignored (it was settled before)."""
        out, spent, now = self._out, Spent(self.credit), self._clock()
        again: list[Again] = []
        chunks: list[Chunk] = []
        chunk = None
        for number, status, micros, payload in records:
            flags = 0
            if status & FLAGS:
                flags, status = status & FLAGS, status & ~FLAGS
            if number >= CHUNKED:
                if chunk is None or chunk.number != number & ~_INDEX:
                    chunk = self._chunks.get(number >> INDEX_BITS)
                    if chunk is None:
                        continue
                    chunks.append(chunk)
                index = number & _INDEX
                if not chunk.is_open(index):
                    continue
                spent.returned(chunk.kind, self._item_done(chunk), len(chunk.payloads[index]))
                retry = self._settle_item(chunk, index, (status, micros, payload), flags, now)
            else:
                task = out.pop(number, None)
                if task is None:
                    if number in self._let_go:
                        self._came_late(number, status, payload)
                    elif self.recovered is not None:
                        self.recovered.settle((number, status | flags, micros, payload), self.freed, now)
                    continue
                spent.returned(task.kind, task.charge, len(task.payload))
                if flags & COUNTED:
                    task.count(micros)
                if status == _BUSY and not (payload := self.refused.take(task, payload, self._killed)):
                    continue
                retry = self._conclude(task, *read_outcome(task, status, payload, self.freed), now, flags & FREED)
            if retry is not None:
                again.append(retry)
            if status in _MEASURED and not flags & COUNTED:
                spent.micros += micros
                spent.measured += 1
        spent.tell()
        self.refused.put_back(self._queue, records)
        for chunk in chunks:
            chunk.notify()
        return again

    def _settle_item(
        self, chunk: Chunk, index: int, outcome: tuple[int, int, bytes], flags: int, now: float
    ) -> Again | None:
        (status, micros, payload), freed = outcome, flags & FREED
        if status == _OK:
            try:
                value = value_of(payload, self.freed)
            except BaseException as error:  # unpickling runs the user's code: whatever it raises is this item's
                return self._conclude(chunk.task(index), None, error, now, freed)
            if freed:
                give_back(chunk.payloads[index], self.lender)
            chunk.set(index, value)
            return None
        task = chunk.task(index)
        if flags & COUNTED:
            task.count(micros)
        if status == _BUSY and not (payload := self.refused.take(task, payload, self._killed)):
            return None
        return self._conclude(task, *read_outcome(task, status, payload, self.freed), now, freed)

    def _item_done(self, chunk: Chunk) -> float:
        """Count an item as no longer out; return its charge."""
        charge = chunk.charge / chunk.open
        chunk.charge -= charge
        chunk.open -= 1
        self._items -= 1
        if not chunk.open:
            del self._chunks[chunk.number >> INDEX_BITS]
        return charge

    def lost(self, error: Callable[[], BaseException]) -> list[Again]:
        """Settle everything that is out: the gateway that had it is gone."""
        tasks, now = list(self._out.values()), self._clock()
        self._out.clear()
        self._let_go.clear()
        for task in tasks:
            self.credit.done(task.charge, len(task.payload))
        for chunk in list(self._chunks.values()):
            for index in range(chunk.handed):
                if chunk.is_open(index):
                    self.credit.done(self._item_done(chunk), len(chunk.payloads[index]))
                    tasks.append(chunk.task(index))
            chunk.notify()
        if self.recovered is not None:
            self.recovered.fail_all(error, now)
        again = [self._conclude(task, None, named(error(), task.future), now) for task in tasks]
        return [retry for retry in again if retry is not None]

    def _conclude(
        self, task: Task, value: Any, error: BaseException | None, now: float, freed: int = 0
    ) -> Again | None:
        retry = task.options.retry
        if task.number in self._killed:
            self._killed.discard(task.number)
            if error is not None and (is_lost(error) or isinstance(error, GatewayRefused)):  # to be ended, and is
                error = TaskKilled(f"task {task.future.task_id}: ended by kill()")
        if error is not None or retry.looks_at_results:
            try:
                delay = retry.decide(task.attempts, task.began, error, value)
            except Exception as failure:  # a user's own retry object: its failure is the task's
                delay, error = None, failure
            if delay is not None:
                task.future.follow(now, error)
                self._waiting[task.number] = task
                return Again(task, delay)
        if freed:  # not before: the next attempt reads the same memory
            give_back(task.payload, self.lender)
        if task.decode is not None and not task.future.transaction_id:
            self._ended[task.number] = task.future
            task.future.expect_more()
        resolve(task, value, error, now)
        return None

    def future(self, number: int) -> MecaFuture[Any] | None:
        """Return the future of a task that is out, or in a container was until now."""
        if (task := self._out.get(number) or self._waiting.get(number)) is not None:
            return task.future
        if (future := self._ended.get(number)) is None and self.recovered is not None:
            future = self.recovered.future(number)
        return future

    def again(self, task: Task) -> None:
        """Queue a task whose delay is over, before those that have not begun."""
        if self._waiting.pop(task.number, None) is not None:
            self._queue.appendleft(task)

    def hurry(self) -> None:
        """Hand over also what was to wait for its next attempt."""
        for task in list(self._waiting.values()):
            self.again(task)

    @property
    def handed_over(self) -> bool:
        """Whether nothing is here only."""
        return not (self._queue or self._waiting)

    @property
    def futures(self) -> dict[int, MecaFuture[Any]]:
        """Those of all tasks that have no outcome, by their numbers; items of maps left out."""
        return {task.number: task.future for task in (*self._out.values(), *self._waiting.values(), *self._tasks())}

    def has_attempts_left(self, number: int) -> bool:
        """Whether a lost attempt of a task that is out would be tried again, as far as its count goes."""
        task = self._out.get(number)
        return task is not None and task.attempts < (task.options.retry.attempts or float("inf"))

    def kill(self, number: int) -> bool:
        """End a task that is here; True when it is out, and so the gateway has to end it."""
        if number in self._out:
            self._killed.add(number)
            return True
        if self.recovered is not None and self.recovered.kill(number):
            return True
        begun = self._take_begun(number)
        if (task := self._waiting.pop(number, begun)) is not None:
            killed = TaskKilled(f"task {task.future.task_id}: ended by kill() before its next attempt")
            resolve(task, None, killed, self._clock())
        return False

    def let_go(self, number: int) -> None:
        """End a task that is out now, and not when the gateway has ended it."""
        if (task := self._out.pop(number, None)) is not None:
            self.credit.done(task.charge, len(task.payload))
            self._killed.discard(number)
            self._let_go.add(number)
            told = "ended by kill() while the connection was down; the gateway is told when it is back"
            resolve(task, None, TaskKilled(f"task {task.future.task_id}: {told}"), self._clock())

    def _came_late(self, number: int, status: int, payload: bytes) -> None:
        self._let_go.discard(number)
        if status == _OK and payload[0] == SHARED:  # nobody will map it
            self.freed(payload)

    def fail_all(self, error: Callable[[], BaseException]) -> None:
        """Nothing more will come: every open future fails, and no new one is taken."""
        self._refusal, now = error, self._clock()
        tasks = [*self._out.values(), *self._waiting.values()]
        chunks = {chunk.number: chunk for chunk in self._chunks.values()}
        while (entry := self._next()) is not None:
            if isinstance(entry, Chunk):
                chunks[entry.number] = entry
            elif entry.began or entry.future.claim():
                tasks.append(entry)
        self._forget()
        if self.recovered is not None:
            self.recovered.fail_all(error, now)
        for task in tasks:
            resolve(task, None, named(error(), task.future), now)
        for chunk in chunks.values():
            chunk.fail_open(error)
