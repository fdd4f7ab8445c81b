"""The portal: one background thread with a loop, in which all that talks to kernels lives.

It is there as long as something holds it. Threads hand work in and wait; coroutines of any loop hand it in and await.
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import ExecutorClosed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

T = TypeVar("T")


class Portal:
    """The thread; `hold` and `release` come in pairs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ending = False
        self.at_exit: list[Callable[[], None]] = []  #: before the interpreter joins its threads

    def hold(self) -> None:
        """Have the thread run until `release`.

        Raises:
            ExecutorClosed: The interpreter is ending.
        """
        with self._lock:
            if self._ending:
                raise ExecutorClosed("no kernel can be used any more: the interpreter is ending")
            self._holders += 1
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._run, args=(self._loop,), name="meca-kernels")
                self._thread.start()

    def release(self) -> None:
        """Let go; the last one's call returns when the thread is gone. A no-op on the thread itself."""
        with self._lock:
            self._holders -= 1
            if self._holders > 0:
                return
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Have a coroutine run in the thread; its outcome is in the future, and cancelling that cancels it."""
        loop = self._loop
        if loop is None or loop.is_closed():
            work.close()
            raise ExecutorClosed("the kernel was closed; get it again")
        return asyncio.run_coroutine_threadsafe(work, loop)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
            asyncio.set_event_loop(None)
            loop.close()

    def end(self) -> None:
        """The interpreter ends: everybody lets go."""
        self._ending = True
        for act in list(self.at_exit):
            act()

    def after_fork(self) -> None:
        """In a forked child: the thread is the parent's."""
        self.__init__()  # type: ignore[misc]  # as new


async def aside(work: Callable[[], T]) -> T:
    """Do what blocks in a thread of its own, which is gone then."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(value: T | None, error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits any more
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(value)  # type: ignore[arg-type]  # what the work gave

    def live() -> None:
        try:
            value, error = work(), None
        except BaseException as raised:
            value, error = None, raised
        loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=live, name="meca-kernels-aside").start()
    return await done


portal = Portal()
# Before the interpreter joins its threads; atexit would be after that (bpo-39812).
threading._register_atexit(portal.end)  # type: ignore[attr-defined]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=portal.after_fork)
