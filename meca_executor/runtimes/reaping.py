"""SIGCHLD of one process, for all in it who have children: a loop has one handler for a signal."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_reapers: WeakKeyDictionary[asyncio.AbstractEventLoop, list[Callable[[], object]]] = WeakKeyDictionary()


def begin_reaping(loop: asyncio.AbstractEventLoop, reap: Callable[[], object]) -> None:
    """Have `reap` called when a child of this process has ended; only in the main thread's loop."""
    reapers = _reapers.setdefault(loop, [])
    reapers.append(reap)
    if len(reapers) == 1:
        loop.add_signal_handler(signal.SIGCHLD, _reap, reapers)


def end_reaping(loop: asyncio.AbstractEventLoop, reap: Callable[[], object]) -> None:
    """Have it called no more."""
    reapers = _reapers.get(loop, [])
    reapers.remove(reap)
    if not reapers:
        loop.remove_signal_handler(signal.SIGCHLD)


def _reap(reapers: list[Callable[[], object]]) -> None:
    for reap in list(reapers):
        reap()
