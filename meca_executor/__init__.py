"""concurrent.futures for the edge: an Executor whose calls run in other processes, containers and hosts.

from meca_executor import MecaExecutor

with MecaExecutor() as ex:
    print(list(ex.map(pow, range(5), [2] * 5)))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import as_completed as as_completed
    from concurrent.futures import wait as wait

    from .client.attempts import Attempt as Attempt
    from .client.container import Container as Container
    from .client.executor import MecaExecutor as MecaExecutor
    from .client.future import MecaFuture as MecaFuture
    from .client.handles import Handle as Handle
    from .errors import AttemptLost as AttemptLost
    from .errors import ContainerFailed as ContainerFailed
    from .errors import ExecutorClosed as ExecutorClosed
    from .errors import GatewayError as GatewayError
    from .errors import GatewayLost as GatewayLost
    from .errors import GatewayRefused as GatewayRefused
    from .errors import GatewayUnreachable as GatewayUnreachable
    from .errors import InitializerFailed as InitializerFailed
    from .errors import KernelBusy as KernelBusy
    from .errors import KernelEnded as KernelEnded
    from .errors import KernelError as KernelError
    from .errors import MecaError as MecaError
    from .errors import NoHostFits as NoHostFits
    from .errors import ProtocolMismatch as ProtocolMismatch
    from .errors import ResultGone as ResultGone
    from .errors import SessionTaken as SessionTaken
    from .errors import SharedMemoryFull as SharedMemoryFull
    from .errors import SharedMemoryGone as SharedMemoryGone
    from .errors import TaskError as TaskError
    from .errors import TaskFailed as TaskFailed
    from .errors import TaskKilled as TaskKilled
    from .errors import TaskTimeout as TaskTimeout
    from .errors import TaskTooLarge as TaskTooLarge
    from .errors import UntrustedResult as UntrustedResult
    from .errors import UsageError as UsageError
    from .errors import WorkerDied as WorkerDied

__version__ = "0.1.0"

# Lazy (PEP 562): a worker process imports this package too and must not pay for what only clients use.
_HOMES = {
    "MecaExecutor": ".client.executor",
    "MecaFuture": ".client.future",
    "Attempt": ".client.attempts",
    "Handle": ".client.handles",
    "Container": ".client.container",
    "as_completed": "concurrent.futures",
    "wait": "concurrent.futures",
    **dict.fromkeys(
        (
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
        ),
        ".errors",
    ),
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
