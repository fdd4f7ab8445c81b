"""Who is measured: executors by the place of their class, and why one of them cannot take part."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor


@dataclass(frozen=True)
class Peer:
    """One executor class beside the others.

    A library whose pool is no `concurrent.futures.Executor` takes part through a small class of
    the script's own that is one; `module` and `attribute` then name that class and `needs` the library.
    """

    name: str
    module: str  #: where the class lives
    attribute: str  #: the class; called with `max_workers=N`
    needs: str | None = None  #: the top-level module that must be installed; None: always there
    packages: tuple[str, ...] = ()  #: distributions whose versions belong beside the figures

    def missing(self) -> str | None:
        """Return why this peer cannot take part, or None."""
        if self.needs is not None and find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        return None

    def load(self) -> Callable[..., Executor]:
        """Import the class and return it."""
        return cast("Callable[..., Executor]", getattr(import_module(self.module), self.attribute))


THREADS = Peer("ThreadPoolExecutor", "concurrent.futures", "ThreadPoolExecutor")
PROCESSES = Peer("ProcessPoolExecutor", "concurrent.futures", "ProcessPoolExecutor")
MECA = Peer(
    "MecaExecutor",
    "meca_executor",
    "MecaExecutor",
    packages=("python-socketio", "python-engineio", "aiohttp", "websocket-client", "cloudpickle", "tenacity"),
)
LOKY = Peer("loky", "loky.process_executor", "ProcessPoolExecutor", needs="loky", packages=("loky", "cloudpickle"))

CONTROLS = (PROCESSES, THREADS)  #: what every other peer is divided by
