"""The ledger: owner of all futures of an executor, from `submit` to their outcome. No I/O.

A task is in one of three places: in the queue (still cancellable), out (handed over), or waiting for its
next attempt. Submitting threads only append to the queue; everything else happens on the link's thread.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import (
    AttemptLost,
    ContainerFailed,
    InitializerFailed,
    MecaError,
    NoHostFits,
    TaskFailed,
    TaskKilled,
    TaskTimeout,
    TaskTooLarge,
    WorkerDied,
)
from ..wire.calls import load_exception
from ..wire.classes import loads_at_home
from ..wire.records import Record, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..policy.credit import Credit
    from .tasks import Task

_MEASURED = frozenset(map(int, (Status.OK, Status.RAISED, Status.FAILED, Status.REPLY)))  # have a run time
log = logging.getLogger("meca.client")
_OK = int(Status.OK)  # plain: compared for each task
BATCH_TASKS = 2_000
BATCH_BYTES = 512 << 10

TEXT_ERRORS: dict[Status, type[MecaError]] = {
    Status.FAILED: TaskFailed,
    Status.TIMEOUT: TaskTimeout,
    Status.DIED: WorkerDied,
    Status.LOST: AttemptLost,
    Status.KILLED: TaskKilled,
    Status.NO_HOST: NoHostFits,
    Status.CONTAINER_FAILED: ContainerFailed,
    Status.CONTAINER_LOST: ContainerFailed,
    Status.TOO_LARGE: TaskTooLarge,
    Status.BROKEN: InitializerFailed,
}


class Again(NamedTuple):
    """A task that is to be queued once more, after a delay."""

    task: Task
    delay: float  #: seconds


class Ledger:
    """The tasks of one executor."""

    def __init__(self, credit: Credit) -> None:
        self.credit = credit
        self._lock = threading.Lock()
        self._queue: deque[Task] = deque()
        self._out: dict[int, Task] = {}
        self._waiting: dict[int, Task] = {}
        self._refusal: Callable[[], BaseException] | None = None
        self._functions_refused: Callable[[], BaseException] | None = None

    @property
    def counts(self) -> tuple[int, int]:
        """Tasks queued, and tasks out or waiting for their next attempt."""
        return len(self._queue), len(self._out) + len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether no task is left."""
        return not (self._queue or self._out or self._waiting)

    # -- any thread -------------------------------------------------------------------------------

    def add(self, task: Task) -> None:
        """Queue a new task.

        Raises:
            BaseException: What `refuse` was told, once it was.
        """
        with self._lock:
            if self._refusal is not None:
                raise self._refusal()
            self._queue.append(task)

    def check(self) -> None:
        """Raise what `refuse` was told, if it was."""
        if self._refusal is not None:
            raise self._refusal()

    def refuse(self, error: Callable[[], BaseException]) -> None:
        """Take no more tasks; what is here goes on. The first reason stands."""
        with self._lock:
            if self._refusal is None:
                self._refusal = error

    def cancel_queued(self) -> None:
        """Cancel what has not been handed over."""
        for task in list(self._queue):
            task.future.cancel()

    def drop_cancelled(self) -> None:
        """Forget queued tasks that were cancelled; else that happens when their turn comes."""
        with self._lock:
            kept = [task for task in self._queue if not task.future.cancelled()]
            self._queue.clear()
            self._queue.extend(kept)

    def after_fork(self, error: Callable[[], BaseException]) -> None:
        """In a forked child: another process owns what is here."""
        self._lock = threading.Lock()  # the old one may have been held by a thread that is not here
        self._refusal = error
        self._queue.clear()
        self._out.clear()
        self._waiting.clear()

    # -- the link's thread ------------------------------------------------------------------------

    def refuse_functions(self, error: Callable[[], BaseException]) -> None:
        """Containers only from now on (the gateway's Python differs)."""
        self._functions_refused = error

    def next_batch(self, now: float) -> list[Task]:
        """Take from the queue what may be handed over now, at most a frame's worth."""
        batch: list[Task] = []
        queue, credit, size = self._queue, self.credit, 0
        while queue and len(batch) < BATCH_TASKS and size < BATCH_BYTES:
            task = queue[0]
            bytes_ = len(task.payload)
            if not credit.allows(task.kind, bytes_):
                break
            queue.popleft()
            if task.attempts == 0:
                if not task.future.claim():
                    continue
                task.began = now
            if task.decode is None and self._functions_refused is not None:
                task.future.set_exception(self._functions_refused())
                continue
            task.attempts += 1
            task.charge = credit.handed_over(task.kind, bytes_)
            self._out[task.number] = task
            batch.append(task)
            size += bytes_
        return batch

    def settle(self, records: list[Record]) -> list[Again]:
        """Take in outcomes; one of a task that is not out is ignored (it was settled before)."""
        out, credit = self._out, self.credit
        spent: dict[tuple[int, int], list[int]] = {}
        again = []
        for number, status, micros, payload in records:
            task = out.pop(number, None)
            if task is None:
                continue
            credit.done(task.charge, len(task.payload))
            if status in _MEASURED:
                spent.setdefault(task.kind, []).append(micros)
            value, error = read_outcome(task, status, payload)
            if (retry := self._conclude(task, value, error)) is not None:
                again.append(retry)
        for kind, times in spent.items():
            credit.measured(kind, times)
        return again

    def lost(self, error: Callable[[], BaseException]) -> list[Again]:
        """Settle everything that is out: the gateway that had it is gone."""
        tasks = list(self._out.values())
        self._out.clear()
        again = []
        for task in tasks:
            self.credit.done(task.charge, len(task.payload))
            if (retry := self._conclude(task, None, error())) is not None:
                again.append(retry)
        return again

    def _conclude(self, task: Task, value: Any, error: BaseException | None) -> Again | None:
        retry = task.options.retry
        if error is not None or retry.looks_at_results:
            try:
                delay = retry.decide(task.attempts, task.began, error, value)
            except Exception as failure:  # a user's own retry object: its failure is the task's
                delay, error = None, failure
            if delay is not None:
                self._waiting[task.number] = task
                return Again(task, delay)
        resolve(task, value, error)
        return None

    def again(self, task: Task) -> None:
        """Queue a task whose delay is over, before those that have not begun."""
        if self._waiting.pop(task.number, None) is not None:
            self._queue.appendleft(task)

    def has_attempts_left(self, number: int) -> bool:
        """Whether a lost attempt of a task that is out would be tried again, as far as its count goes."""
        task = self._out.get(number)
        return task is not None and task.attempts < (task.options.retry.attempts or float("inf"))

    def kill(self, number: int) -> bool:
        """End a task that is here; True when it is out, and so the gateway has to end it."""
        if number in self._out:
            return True
        begun = next((task for task in self._queue if task.number == number and task.attempts), None)
        if begun is not None:
            self._queue.remove(begun)
        if (task := self._waiting.pop(number, begun)) is not None:
            resolve(task, None, TaskKilled("ended by kill() before its next attempt"))
        return False

    def fail_all(self, error: Callable[[], BaseException]) -> None:
        """Nothing more will come: every open future fails, and no new one is taken."""
        with self._lock:
            self._refusal = error
            queued = list(self._queue)
            self._queue.clear()
        begun = [*self._out.values(), *self._waiting.values(), *(task for task in queued if task.attempts)]
        fresh = [task for task in queued if not task.attempts and task.future.claim()]
        self._out.clear()
        self._waiting.clear()
        for task in (*begun, *fresh):
            resolve(task, None, error())


def resolve(task: Task, value: Any, error: BaseException | None) -> None:
    """Set a task's future; done-callbacks run here."""
    try:
        if error is None:
            task.future.set_result(value)
        else:
            task.future.set_exception(error)
    except InvalidStateError:
        pass  # somebody else resolved it
    except BaseException:  # a callback's SystemExit: this thread has other futures to serve
        log.exception("a done-callback of %r raised", task.future)


def read_outcome(task: Task, status: int, payload: bytes) -> tuple[Any, BaseException | None]:
    """Return the value or the error that a record says."""
    try:
        if status == _OK:
            return loads_at_home(payload), None
        if status == Status.RAISED:
            return None, load_exception(payload)
        if status == Status.REPLY and task.decode is not None:
            return task.decode(payload), None
        text = payload.decode("utf-8", "replace")
        kind = TEXT_ERRORS[Status(status)]
    except BaseException as error:  # unpickling runs the user's code: whatever it raises is this task's
        return None, error
    failure = kind(f"task {task.future.task_id}: {text}")
    if isinstance(failure, ContainerFailed):
        failure.lost = status == Status.CONTAINER_LOST
    return None, failure
