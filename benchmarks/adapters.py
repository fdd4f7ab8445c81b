"""Pools of other libraries as executors: as much of `concurrent.futures.Executor` as the scripts use.

Each does what its library's own manual shows for many calls, so that none is slowed down by this file. A library is
imported when its class is made, and `Peer.load` has done that before any clock runs. Futures are the library's own
where they have `result()`. Beside the contract there are `gather(futures)`, where a library fetches many results in
one go, and `put(object)`, where it can hand one object to many tasks.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import tempfile
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .questions import Missing
from .servers import standing_gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class _Chunks(ProcessPoolExecutor):
    """The standard library's, with another default chunk size for `map`."""

    size = 1

    def map(self, fn: Callable[..., Any], *iterables: Any, timeout: float | None = None, **_: Any) -> Iterator[Any]:
        return super().map(fn, *iterables, timeout=timeout, chunksize=self.size)


class Chunks100(_Chunks):
    """`map` in chunks of 100."""

    size = 100


class Chunks1000(_Chunks):
    """`map` in chunks of 1000."""

    size = 1000


class MpPool(Executor):
    """`multiprocessing.Pool`; `map` picks its own chunk size there."""

    def __init__(self, max_workers: int) -> None:
        self._pool = multiprocessing.Pool(max_workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._pool.apply_async(fn, args, kwargs, future.set_result, future.set_exception)
        return future

    def map(self, fn: Callable[..., Any], *iterables: Any, **_: Any) -> Iterator[Any]:
        (items,) = iterables
        return iter(self._pool.map(fn, items))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.close()
        self._pool.join()


class Pebble(Executor):
    """`pebble.ProcessPool`."""

    def __init__(self, max_workers: int) -> None:
        self._pool = import_module("pebble").ProcessPool(max_workers=max_workers)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._pool.schedule(fn, args=args, kwargs=kwargs)  # type: ignore[no-any-return]  # its own subclass

    def map(self, fn: Callable[..., Any], *iterables: Any, **_: Any) -> Iterator[Any]:
        results: Iterator[Any] = self._pool.map(fn, *iterables).result()
        return results

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.close()
        self._pool.join()


class Apart(Executor):
    """`MecaExecutor` at a gateway that cannot read its memory, as one on another machine; a link by loopback.

    Raises:
        Missing: Not root, or no setpriv: then no gateway can be started like that.
    """

    #: root without the right to look into other processes
    PREFIX = ("setpriv", "--bounding-set=-all,+dac_override,+dac_read_search")

    def __init__(self, max_workers: int) -> None:
        from meca_executor import MecaExecutor

        if os.geteuid() != 0 or shutil.which("setpriv") is None:
            raise Missing("not root, or setpriv (util-linux) is not installed")
        self._stack = contextlib.ExitStack()
        url = self._stack.enter_context(standing_gateway(max_workers, self.PREFIX))
        self._executor = self._stack.enter_context(MecaExecutor(url))
        assert self._executor.slots and not self._executor._link.shares

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._executor.submit(fn, *args, **kwargs)

    def put(self, value: Any) -> Any:
        """Send an object once."""
        return self._executor.put(value)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._stack.close()


class Dask(Executor):
    """`distributed.Client` with a cluster of worker processes on this machine."""

    def __init__(self, max_workers: int) -> None:
        distributed = import_module("distributed")
        self._cluster = distributed.LocalCluster(
            n_workers=max_workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=40
        )
        self._client = distributed.Client(self._cluster)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return self._client.submit(fn, *args, **kwargs, pure=False)  # else equal calls are made once

    def map(self, fn: Callable[..., Any], *iterables: Any, **_: Any) -> Iterator[Any]:
        return iter(self.gather(self._client.map(fn, *iterables, pure=False)))

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        """Return all results in order."""
        results: list[Any] = self._client.gather(list(futures))
        return results

    def put(self, value: Any) -> Any:
        """Return a handle to pass to tasks instead of the value."""
        return self._client.scatter(value, broadcast=True, hash=False)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._client.close()
        self._cluster.close()


class _RayFuture:
    """A reference to a result, with the one method that the scripts call."""

    def __init__(self, ref: Any, get: Callable[[Any], Any]) -> None:
        self.ref = ref
        self._get = get

    def result(self) -> Any:
        return self._get(self.ref)


class Ray(Executor):
    """Ray on this machine, without its dashboard."""

    def __init__(self, max_workers: int) -> None:
        self._ray = import_module("ray")
        self._ray.init(num_cpus=max_workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        self._remote = cache(self._ray.remote)  # a function is sent to the cluster once

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return _RayFuture(self._remote(fn).remote(*args, **kwargs), self._ray.get)

    def map(self, fn: Callable[..., Any], *iterables: Any, **_: Any) -> Iterator[Any]:
        remote = self._remote(fn)
        return iter(self._ray.get([remote.remote(*items) for items in zip(*iterables, strict=False)]))

    def gather(self, futures: Sequence[Any]) -> list[Any]:
        """Return all results in order."""
        results: list[Any] = self._ray.get([future.ref for future in futures])
        return results

    def put(self, value: Any) -> Any:
        """Return a handle to pass to tasks instead of the value."""
        return self._ray.put(value)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ray.shutdown()


class Parsl(Executor):
    """Parsl's `HighThroughputExecutor` with one block on this machine."""

    def __init__(self, max_workers: int) -> None:
        parsl = import_module("parsl")
        pool = parsl.HighThroughputExecutor(max_workers_per_node=max_workers, address="127.0.0.1", cores_per_worker=1)
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # its logs, else in the checkout
        config = import_module("parsl.config").Config(executors=[pool], run_dir=self._folder.name, usage_tracking=0)
        self._kernel = parsl.load(config)
        self._app = cache(partial(parsl.python_app, data_flow_kernel=self._kernel))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._app(fn)(*args, **kwargs)  # type: ignore[no-any-return]  # its own subclass

    def map(self, fn: Callable[..., Any], *iterables: Any, **_: Any) -> Iterator[Any]:
        futures = [self.submit(fn, *items) for items in zip(*iterables, strict=False)]
        return iter([future.result() for future in futures])

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._kernel.cleanup()
        self._folder.cleanup()
