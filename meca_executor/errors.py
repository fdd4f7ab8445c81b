"""Every error of the package, one tree.

The user's own exceptions are never wrapped: they arrive as themselves. What stands here is what the
system itself has to say, and each class also inherits the standard class that `concurrent.futures`
or the standard library promises in its place.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor

__all__ = [
    "AttemptLost",
    "ContainerFailed",
    "ExecutorClosed",
    "GatewayError",
    "GatewayLost",
    "GatewayRefused",
    "GatewayUnreachable",
    "InitializerFailed",
    "KernelBusy",
    "KernelEnded",
    "KernelError",
    "MecaError",
    "NoHostFits",
    "ProtocolMismatch",
    "ResultGone",
    "SessionTaken",
    "SharedMemoryFull",
    "SharedMemoryGone",
    "TaskError",
    "TaskFailed",
    "TaskKilled",
    "TaskTimeout",
    "TaskTooLarge",
    "UntrustedResult",
    "UsageError",
    "WorkerDied",
]


class MecaError(Exception):
    """Base of every error that this package raises by itself."""

    __module__ = "meca_executor"


class UsageError(MecaError, ValueError):
    """An argument is wrong; the message names the value and what is accepted."""

    __module__ = "meca_executor"


class ExecutorClosed(MecaError, RuntimeError):
    """The executor was shut down, or the interpreter is ending; make a new executor."""

    __module__ = "meca_executor"


class InitializerFailed(MecaError, BrokenExecutor):
    """`initializer` raised in a worker, so no task can run; its traceback is in the text."""

    __module__ = "meca_executor"


class GatewayError(MecaError):
    """Something is wrong between this process and its gateway."""

    __module__ = "meca_executor"


class GatewayUnreachable(GatewayError, ConnectionError):
    """No gateway answered at the endpoint in the time allowed."""

    __module__ = "meca_executor"


class GatewayRefused(GatewayError):
    """The gateway answered and would not serve this client (keys, limits, policy).

    For a task: the gateway was full, and took nothing for a minute in which the task was offered again and again.
    """

    __module__ = "meca_executor"


class SessionTaken(GatewayRefused):
    """Another program has the session of that name, or has taken it over; who, and since when, is in the text."""

    __module__ = "meca_executor"


class ProtocolMismatch(GatewayError):
    """The two sides differ in protocol, or in the Python version that functions need."""

    __module__ = "meca_executor"


class GatewayLost(GatewayError, BrokenExecutor):
    """The gateway is gone and with it the attempt that it was running."""

    __module__ = "meca_executor"


class TaskError(MecaError):
    """One task failed for a reason that is not an exception of the user's own."""

    __module__ = "meca_executor"


class TaskFailed(TaskError):
    """The task ended with a failure that has no exception object of its own.

    Raised for a container's refusal (HTTP status of 400 or more), for a reply that the codec
    cannot read, and for a user exception that cannot be pickled (class name and text are here).
    """

    __module__ = "meca_executor"


class TaskTimeout(TaskError, TimeoutError):
    """An attempt ran longer than `timeout` seconds and was killed where it ran."""

    __module__ = "meca_executor"


class TaskKilled(TaskError):
    """The task was ended by `MecaExecutor.kill`."""

    __module__ = "meca_executor"


class TaskTooLarge(TaskError, ValueError):
    """The call or its result is larger than the endpoint accepts; both sizes are in the text."""

    __module__ = "meca_executor"


class WorkerDied(TaskError, BrokenExecutor):
    """The worker process ended while it was running the task; the text says how."""

    __module__ = "meca_executor"


class AttemptLost(TaskError, BrokenExecutor):
    """The attempt began, its result never came, and it must not be run again (`retry=1`)."""

    __module__ = "meca_executor"


class ResultGone(TaskError):
    """A task of a session was done and its result fetched, and the gateway keeps it no longer."""

    __module__ = "meca_executor"


class NoHostFits(TaskError):
    """Nothing at the endpoint can ever run this task (unknown image, resources too large)."""

    __module__ = "meca_executor"


class ContainerFailed(TaskError):
    """The container did not become ready, or ended; its last lines are in the text."""

    __module__ = "meca_executor"

    lost: bool = False
    """True when a container that had been ready ended during the call, so that a retry may help."""


class UntrustedResult(TaskError):
    """A result from a host that has not proved itself is not plain data, so it was not read.

    The text names the type and the way out.
    """

    __module__ = "meca_executor"


class KernelError(MecaError):
    """A kernel cannot be had, or cannot do what it was asked for; the text says why."""

    __module__ = "meca_executor"


class KernelEnded(KernelError):
    """The kernel is no more, or died during the run; the text says why.

    `result` is what the run had printed until then, where there is a run.
    """

    __module__ = "meca_executor"

    result: object = None


class KernelBusy(KernelError):
    """The kernel runs something else, and what was asked for can be answered between runs only."""

    __module__ = "meca_executor"


class SharedMemoryFull(MecaError, MemoryError):
    """There is no room in memory for a large argument or result; its size and the way out are in the text."""

    __module__ = "meca_executor"


class SharedMemoryGone(MecaError, OSError):
    """Shared memory that a large value was in cannot be read: its process ended, or it belongs to another user."""

    __module__ = "meca_executor"
