"""What an outcome's record means for its task: a value, or which error."""

from __future__ import annotations

import logging
import weakref
from concurrent.futures import InvalidStateError
from typing import TYPE_CHECKING, Any

from ..errors import (
    AttemptLost,
    ContainerFailed,
    GatewayRefused,
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
from ..wire.lending import forks
from ..wire.parcels import PICKLE, SHARED
from ..wire.payloads import Held, opened
from ..wire.records import Status
from ..wire.segments import map_segment

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.lending import Lender
    from .future import MecaFuture
    from .tasks import Task

    Freed = Callable[[bytes], object]

log = logging.getLogger("meca.client")
_OK = int(Status.OK)  # plain: compared for each task

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
    Status.BUSY: GatewayRefused,
}


def named(error: BaseException, future: MecaFuture[Any]) -> BaseException:
    """Put the name of the task before what a new error of ours says."""
    if isinstance(error, MecaError) and future.task_id is not None:
        error.args = (f"task {future.task_id}: {error}",)
    return error


def resolve(task: Task, value: Any, error: BaseException | None, now: float | None) -> None:
    """Set a task's future; done-callbacks run here.

    Args:
        task: The task.
        value: What its call returned.
        error: Or why there is nothing.
        now: When the outcome came, as `time.time()`.
    """
    task.future.ended = now
    try:
        if error is None:
            task.future.set_result(value)
        else:
            task.future.set_exception(error)
    except InvalidStateError:
        pass  # somebody else resolved it
    except BaseException:  # a callback's SystemExit: this thread has other futures to serve
        log.exception("a done-callback of %r raised", task.future)


def read_outcome(task: Task, status: int, payload: bytes, freed: Freed) -> tuple[Any, BaseException | None]:
    """Return the value or the error that a record says."""
    try:
        if status == _OK:
            return value_of(payload, freed), None
        if status == Status.RAISED:
            return None, with_advice(load_exception(payload))
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


def with_advice(error: BaseException) -> BaseException:
    """Return an error of the user's; of a module that is missing it says what would help."""
    if isinstance(error, ModuleNotFoundError):
        from .missing import advise

        advise(error)
    return error


def value_of(payload: bytes, freed: Freed) -> Any:
    """Return what a call returned; `freed` is told when nothing is left of what was in shared memory."""
    if payload[0] == PICKLE:
        return loads_at_home(payload)
    held = payload if isinstance(payload, Held) else Held(payload)
    if payload[0] == SHARED:
        held.view = map_segment(payload)
        weakref.finalize(held.view.obj, _let_go, freed, payload, forks()).atexit = False
    return loads_at_home(*opened(held))


def _let_go(freed: Freed, payload: bytes, forks_before: int) -> None:
    if forks() == forks_before:
        freed(payload)


def give_back(payload: bytes, lender: Lender) -> None:
    """Take back the memory of a call that its worker is done with."""
    if isinstance(payload, Held) and payload.segment is not None:
        lender.give_back(payload.segment)
        payload.segment = None
