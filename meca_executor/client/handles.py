"""Handles: objects that are sent once, for many tasks."""

from __future__ import annotations

import contextlib
import secrets
import threading
import weakref
from typing import TYPE_CHECKING, Any

from ..wire.objects import fetch
from ..wire.payloads import Held, dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..wire.lending import Lender
    from .tasks import Registry


class _Mentioned(threading.local):
    """What the call that this thread pickles at the moment mentions."""

    registry: Registry | None = None
    handles: tuple[Handle, ...] = ()


_mentioned = _Mentioned()


class Handle:
    """An object that was sent with `MecaExecutor.put`; a task that has it among its arguments gets the object.

    It may stand anywhere in them, in a list say. Each task gets an object of its own, as if it had been passed
    by itself; arrays share their memory until a task writes to them. The object is kept, here and where
    tasks run, as long as the handle or a task with it is.
    """

    __module__ = "meca_executor"
    __slots__ = ("__weakref__", "_number", "_registry")

    def __init__(self, value: object, registry: Registry, lender: Lender | None, on_end: Callable[[], object]) -> None:
        payload = dump(value, lender)
        self._number = secrets.randbits(63)
        self._registry = registry
        registry.objects[self._number] = payload
        weakref.finalize(self, _forget, registry, self._number, on_end).atexit = False

    def __repr__(self) -> str:
        return f"<Handle {self._number:x}>"

    @property
    def payload(self) -> bytes:
        """The object as it travels."""
        return self._registry.objects[self._number]

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        if _mentioned.registry is not self._registry:
            raise TypeError("a handle is for the arguments of calls in worker processes of the executor that made it")
        _mentioned.handles += (self,)
        return fetch, (self._number,)


def _forget(registry: Registry, number: int, on_end: Callable[[], object]) -> None:
    registry.objects.pop(number, None)
    on_end()


@contextlib.contextmanager
def mentioned(registry: Registry) -> Iterator[Callable[[bytes], bytes]]:
    """Allow handles in what is pickled; the function that is given makes a payload keep them."""
    outer = _mentioned.registry, _mentioned.handles  # an argument's own pickling may submit, too
    _mentioned.registry, _mentioned.handles = registry, ()

    def keep(payload: bytes) -> bytes:
        if not _mentioned.handles:
            return payload
        held = Held(payload)
        held.segment = payload.segment if isinstance(payload, Held) else None
        held.handles = _mentioned.handles
        _mentioned.handles = ()
        return held

    try:
        yield keep
    finally:
        _mentioned.registry, _mentioned.handles = outer
