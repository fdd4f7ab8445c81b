"""Who is measured: executors by the place of their class, and why one of them cannot take part."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from .questions import Missing

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

ADAPTERS = "benchmarks.adapters"


@dataclass(frozen=True)
class Peer:
    """One executor class beside the others.

    A library whose pool is no `concurrent.futures.Executor` takes part through a small class that is one
    (`benchmarks.adapters`); `module` and `attribute` then name that class and `needs` the library.
    """

    name: str
    module: str  #: where the class lives
    attribute: str  #: the class; called with `max_workers=N`
    needs: str | None = None  #: the top-level module that must be installed; None: always there
    packages: tuple[str, ...] = ()  #: distributions whose versions belong beside the figures
    share: int = 1  #: a slow one makes one in so many of the calls; rates and times of one call do not depend on it

    def missing(self) -> str | None:
        """Return why this peer cannot take part, or None."""
        if self.needs is not None and find_spec(self.needs) is None:
            return f"{self.needs} is not installed"
        return None

    def load(self) -> Callable[..., Executor]:
        """Import the class, and the library behind an adapter, and return the class."""
        if self.needs is not None:
            import_module(self.needs)
        return cast("Callable[..., Executor]", getattr(import_module(self.module), self.attribute))

    def calls(self, tasks: int) -> int:
        """Return how many of `tasks` calls this peer makes."""
        return max(1, tasks // self.share)


def optional(name: str) -> Any:
    """Import a module that only some questions need.

    Raises:
        Missing: It is not installed.
    """
    try:
        return import_module(name)
    except ImportError:
        raise Missing(f"{name} is not installed; pip install {name}") from None


THREADS = Peer("ThreadPoolExecutor", "concurrent.futures", "ThreadPoolExecutor")
PROCESSES = Peer("ProcessPoolExecutor", "concurrent.futures", "ProcessPoolExecutor")
CHUNKS_100 = Peer("ProcessPoolExecutor chunksize=100", ADAPTERS, "Chunks100")
CHUNKS_1000 = Peer("ProcessPoolExecutor chunksize=1000", ADAPTERS, "Chunks1000")
MP_POOL = Peer("multiprocessing.Pool", ADAPTERS, "MpPool")
MECA = Peer(
    "MecaExecutor",
    "meca_executor",
    "MecaExecutor",
    packages=("python-socketio", "python-engineio", "aiohttp", "websocket-client", "cloudpickle", "tenacity"),
)
MECA_APART = Peer("MecaExecutor without shared memory", ADAPTERS, "Apart", packages=MECA.packages)
LOKY = Peer("loky", "loky.process_executor", "ProcessPoolExecutor", needs="loky", packages=("loky", "cloudpickle"))
PEBBLE = Peer("pebble", ADAPTERS, "Pebble", needs="pebble", packages=("pebble",))
DASK = Peer("dask", ADAPTERS, "Dask", needs="distributed", packages=("dask", "distributed"), share=10)
RAY = Peer("ray", ADAPTERS, "Ray", needs="ray", packages=("ray",), share=10)
PARSL = Peer("parsl", ADAPTERS, "Parsl", needs="parsl", packages=("parsl",), share=10)

SOCKET_IO = ("python-socketio", "python-engineio", "aiohttp")  #: packages of whoever speaks it
