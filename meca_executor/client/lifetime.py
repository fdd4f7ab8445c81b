"""The ends that nobody calls: the interpreter's exit, and a fork's child."""

from __future__ import annotations

# Now: it registers an end of its own, which cannot be done once the interpreter ends. Socket.IO's libraries import it
# where tornado is installed, and they are imported by the link's thread.
import concurrent.futures.thread  # noqa: F401
import os
import threading
import weakref
from typing import TYPE_CHECKING

from ..errors import ExecutorClosed

if TYPE_CHECKING:
    from .link import Link

CANCEL_S = 1.0  #: for tasks of the loop to end, when it ends
CLOSED = "cannot schedule new futures after shutdown"

_links: weakref.WeakSet[Link] = weakref.WeakSet()


_ending = False


def check_not_ending() -> None:
    """Raise when the interpreter is ending: nothing could be waited for any more."""
    if _ending:
        raise ExecutorClosed(CLOSED + ": the interpreter is ending")


def watch(link: Link) -> None:
    """Have a link ended with the interpreter, and left alone by a forked child."""
    _links.add(link)


def _at_exit() -> None:
    """As the standard library's executors: finish what was submitted, then let the interpreter go."""
    global _ending
    _ending = True
    links = list(_links)
    for link in links:
        link.refuse(lambda: ExecutorClosed(CLOSED))
        link.end_with_interpreter()
    for link in links:
        link.join()


def _after_fork() -> None:
    for link in list(_links):
        link.after_fork()
    _links.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
# Before the interpreter joins its threads; atexit would be after that (bpo-39812).
threading._register_atexit(_at_exit)  # type: ignore[attr-defined]


async def cancel_all() -> None:
    """End all tasks of a loop that ends: Socket.IO's, of connections that dropped, would take half a minute."""
    import asyncio  # heavy, and this module is imported early

    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=CANCEL_S)
