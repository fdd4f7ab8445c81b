"""The MECAnywhere SDK's four coroutines, for programs that were written for it.

    from meca_executor import meca_api

    await meca_api.initiate_connection()
    await meca_api.offload_task("1", "sampleserver:latest", '{"name": "meca dev 0"}', callback)
    await meca_api.join()
    await meca_api.disconnect()

Names, arguments and defaults are the SDK's; it speaks to the desktop app, or to a gateway of ours. Each
task's own callback is called once, in the event loop that offloaded it; offloads may run side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from .client.executor import MecaExecutor
from .errors import ExecutorClosed, UsageError
from .settings import DESKTOP_ENDPOINT, setting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .client.future import MecaFuture

__all__ = ["disconnect", "initiate_connection", "join", "offload_task"]

log = logging.getLogger("meca_api")

_executor: MecaExecutor | None = None
_pending: dict[str, Future[None]] = {}  # what `join` waits for; of no event loop, as the tasks are
_running: set[asyncio.Task[None]] = set()  # callbacks, held so that they are not collected


async def initiate_connection(timeout: float = 10) -> None:
    """Connect to the desktop app, or to the gateway of `MECA_ENDPOINT`; a no-op when connected.

    Args:
        timeout: Seconds in which it must have registered this program.

    Raises:
        GatewayUnreachable: Nobody answers there (a `ConnectionError`), or it did not register in time.
        GatewayRefused: It would not register this program, mostly because its user is not logged in.
    """
    global _executor
    if _executor is not None and _executor.state not in ("lost", "closed"):
        return
    # One attempt, as the SDK had: a task that may have run is not offered again.
    executor = MecaExecutor(setting("ENDPOINT") or DESKTOP_ENDPOINT, connect_timeout=timeout, retry=1)
    try:
        await asyncio.to_thread(lambda: executor.slots)
    except BaseException:
        executor.shutdown(wait=False)
        raise
    if _executor is not None and _executor.state not in ("lost", "closed"):
        executor.shutdown(wait=False)  # another call was quicker
    else:
        _executor = executor


async def offload_task(
    task_id: str,
    container_ref: str,
    data: str,
    callback: Callable[..., object],
    resource: Mapping[str, float] | None = None,
    runtime: str | None = None,
    use_gpu: bool = False,
    gpu_count: int = 0,
) -> str:
    """Send a task and return when it was taken; its callback is called when its result is there.

    Args:
        task_id: Comes back to the callback.
        container_ref: Image name.
        data: What is posted to the container.
        callback: Called once. One that can take five arguments gets `(task_id, status, response, error,
            transaction_id)`, status 1 for a reply and 0 for a failure; one that takes one gets the response,
            and a failure is logged as a warning. A coroutine function is awaited.
        resource: `cpu` (cores), `memory` (MiB).
        runtime: Container runtime.
        use_gpu: The container wants a GPU; a wish, which a gateway of ours logs and does not grant.
        gpu_count: How many; counts with `use_gpu` only.

    Returns:
        The task id, as text.

    Raises:
        ExecutorClosed: Not connected; call `initiate_connection` first.
        UsageError: An argument is wrong, or a task of this id is still under way.
        MecaError: The desktop app did not take the task, and why; the callback is not called then.
    """
    executor = _executor
    if executor is None:
        raise ExecutorClosed("not connected; await initiate_connection() first")
    name, arity = str(task_id), callback_arity(callback)
    if name in _pending:
        raise UsageError(f"task {name!r} is still under way; give each task an id of its own")
    if use_gpu and executor.dialect != "desktop":
        log.warning("task %s: use_gpu is ignored, this gateway gives no GPU to containers", name)
        use_gpu = False
    gpus = max(1, gpu_count) if use_gpu else 0
    future = executor.offload_task(
        container_ref, data, task_id=name, resource=resource, runtime=runtime, use_gpu=use_gpu, gpu_count=gpus
    )
    over = _pending[name] = Future()
    if executor.dialect == "desktop":
        try:
            await _taken(future)
        except BaseException:
            executor.kill(future)  # given up: what the app has not been offered yet, it is not offered
            _is_over(name, over)
            raise
    loop = asyncio.get_running_loop()
    future.add_done_callback(functools.partial(_deliver, name, callback, arity, loop, over))
    return name


async def disconnect() -> None:
    """Close the connection; tasks under way are let go, their callbacks do not come. A no-op when not connected."""
    global _executor
    executor, _executor = _executor, None
    if executor is None:
        return
    abandoned = list(_pending.values())
    _pending.clear()
    for over in abandoned:
        over.cancel()
    await asyncio.to_thread(executor.kill_workers)


async def join(task_timeout: float = 5, join_timeout: float = 10) -> None:
    """Wait until the tasks that are under way have had their callbacks, and for no others.

    What is not done in time is logged as a warning and goes on; a later `join` waits for it again.

    Args:
        task_timeout: Seconds for one task after another.
        join_timeout: Seconds for all of them.
    """
    loop = asyncio.get_running_loop()
    deadline, late = loop.time() + join_timeout, []
    for name, over in list(_pending.items()):
        limit = max(0.0, min(task_timeout, deadline - loop.time()))
        ended = asyncio.Event()
        over.add_done_callback(lambda _, ended=ended: _wake(loop, ended))  # type: ignore[misc]
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(ended.wait(), limit)
        if not over.done():
            late.append(name)
    if late:
        log.warning("join: not done in time: task %s", ", task ".join(late))


def callback_arity(callback: Callable[..., object]) -> int:
    """Return how many arguments a callback gets: five where it can take them, else one.

    Raises:
        UsageError: It can take neither.
    """
    try:
        signature = inspect.signature(callback)
    except (TypeError, ValueError):  # a builtin without one, such as print
        return 5 if callable(callback) else _no_callback(callback)
    for count in (5, 1):
        try:
            signature.bind(*range(count))
        except TypeError:
            continue
        return count
    return _no_callback(callback)


def _no_callback(callback: object) -> int:
    raise UsageError(
        f"callback {callback!r} takes neither (task_id, status, response, error, transaction_id) nor (response)"
    )


async def _taken(future: MecaFuture[str]) -> None:
    """Wait until the app has taken a task.

    Raises:
        MecaError: It has not, and why.
    """
    loop, taken = asyncio.get_running_loop(), asyncio.Event()
    future.when_accepted(lambda: _wake(loop, taken))
    future.add_done_callback(lambda _: _wake(loop, taken))
    await taken.wait()
    if future.done() and not future.accepted and (error := future.exception()) is not None:
        raise error


def _wake(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there any more
        loop.call_soon_threadsafe(event.set)


def _deliver(
    name: str,
    callback: Callable[..., object],
    arity: int,
    loop: asyncio.AbstractEventLoop,
    over: Future[None],
    future: Future[str],
) -> None:
    """On the link's thread, which must not be held up: have the callback run in its event loop."""

    def start() -> None:
        task = loop.create_task(_call(name, callback, arity, future, over))
        _running.add(task)
        task.add_done_callback(_running.discard)

    if over.cancelled():
        return
    try:
        loop.call_soon_threadsafe(start)
    except RuntimeError:
        log.warning("task %s is done, but the event loop of its callback is closed", name)
        _is_over(name, over)


async def _call(
    name: str, callback: Callable[..., object], arity: int, future: Future[str], over: Future[None]
) -> None:
    if over.cancelled():
        return  # disconnected meanwhile
    error = future.exception()
    transaction: str = getattr(future, "transaction_id", "")
    outcome: tuple[Any, ...] = (name, 1, future.result(), None, transaction) if error is None else ()
    try:
        if error is not None:
            outcome = (name, 0, "", str(error), transaction)
            if arity == 1:
                log.warning("task %s failed: %s", name, error)
                return
        result = callback(*(outcome if arity == 5 else outcome[2:3]))
        if inspect.isawaitable(result):
            await result
    except Exception:
        log.exception("the callback of task %s failed", name)
    finally:
        _is_over(name, over)


def _is_over(name: str, over: Future[None]) -> None:
    if _pending.get(name) is over:
        del _pending[name]
    if not over.done():
        over.set_result(None)
