# ruff: noqa: T201 - the original prints, and programs are judged by what they print
"""The old SDK's behaviour, defects included, in our own words: what the tests run against our gateway.

Four coroutines over one connection of the whole process, as the original had them at the end of 2023. What is
wrong here is wrong on purpose and tells of it; nothing of this is a model. The address is the original's
http://localhost:3001, but for the port in OLD_SDK_PORT.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Any

import socketio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Callback = Callable[[str, int, str, str, str], None]

sio = socketio.AsyncClient()
registered = asyncio.Event()  # never cleared: a second connection does not wait for its own registration
waiting: list[asyncio.Event] = []  # one for each offloaded task; results take them from the front, whosever they are


async def _on_disconnect() -> None:
    # A name that no client may use. On most ways to a disconnect it never leaves, which raises here instead.
    await sio.emit("disconnect")


async def _on_registered(ok: bool) -> None:  # one argument, no more and no less
    print("registered:", ok)
    if ok:
        registered.set()


sio.on("disconnect", _on_disconnect)
sio.on("registered", _on_registered)


async def initiate_connection(timeout: float = 10) -> None:
    """Connect and wait until the server says `registered`; `timeout` is for the second part alone."""
    await sio.connect(f"http://localhost:{os.environ.get('OLD_SDK_PORT', '3001')}")
    try:
        await asyncio.wait_for(registered.wait(), timeout)
    except asyncio.TimeoutError:  # also after `registered` with False
        raise Exception("Connection timed out") from None


async def offload_task(
    task_id: str,
    container_ref: str,
    data: str,
    callback: Callback,
    resource: dict[str, Any] | None = None,
    runtime: str | None = None,
) -> None:
    """Offer one task and wait, without a limit, until the server says `offloaded`."""
    if not sio.connected:
        print("not connected")
        await disconnect()
        return
    accepted = asyncio.Event()

    async def on_offloaded(error: Any, result: Any) -> None:  # exactly two
        print("offload failed:" if error else "offloaded", error or result)  # an error that arrives as {} is none
        accepted.set()

    async def on_results(status: int, response: str, error: str, task_id: str, transaction_id: str) -> None:
        if status == 0:
            print("task failed:", error)
        callback(task_id, status, response, error, transaction_id)  # in the loop; what it raises ends this handler
        waiting.pop(0).set()  # the first, not this task's; IndexError when the result overtook its `offloaded`

    # Anew by every call: of several callbacks, and of several calls at once, the last one has it all.
    sio.on("offloaded", on_offloaded)
    sio.on("job_results_received", on_results)

    job: dict[str, Any] = {"task_id": task_id, "container_reference": container_ref, "content": data}
    if resource:
        job["resource"] = resource
    if runtime:
        job["runtime"] = runtime
    text = json.dumps(job)
    print("offloading", text)
    await sio.emit("offload", text)
    await accepted.wait()
    waiting.append(asyncio.Event())  # also for a task that was refused


async def disconnect() -> None:
    """Close the connection, if there is one."""
    if sio.connected:
        await sio.disconnect()


async def join(task_timeout: float = 5, join_timeout: float = 10) -> None:
    """Wait for the events one after the other, up to `task_timeout` each; what takes longer is only printed."""

    async def wait_for_each() -> None:
        for event in waiting.copy():
            await _wait_or_print(event.wait(), task_timeout, "task timed out")

    await _wait_or_print(wait_for_each(), join_timeout, "join timed out")


async def _wait_or_print(what: Coroutine[Any, Any, object], timeout: float, text: str) -> None:
    try:
        await asyncio.wait_for(what, timeout)
    except asyncio.TimeoutError:
        print(text)
