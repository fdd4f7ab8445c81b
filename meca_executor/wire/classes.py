"""Classes that left by value and come back.

A class of `__main__` or of a function travels by value, with its attributes as they are when it leaves.
It comes back with a result as the very same class, but cloudpickle (3.1) then also puts those attributes
back, over what the client has changed meanwhile. Here they are left alone: the class is the client's own.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

_MARK = b"_class_setstate"


def loads_at_home(data: bytes | memoryview, buffers: list[memoryview] | None = None) -> Any:
    """Return the object; classes that are this process's own are not touched."""
    if _MARK not in (data if isinstance(data, bytes) else bytes(data)):
        return pickle.loads(data, buffers=buffers)  # nosec B301 # only from sides that have proved themselves
    return _Unpickler(io.BytesIO(data), buffers).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, buffers: list[memoryview] | None) -> None:
        super().__init__(file, buffers=buffers)
        self._own: set[type] = set()

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if not module.startswith("cloudpickle"):
            return found
        if name in ("_make_skeleton_class", "_make_skeleton_enum"):
            return lambda *args: self._skeleton(found, args)
        if name == "_class_setstate":
            return lambda cls, state: cls if cls in self._own else found(cls, state)
        return found

    def _skeleton(self, make: Any, args: tuple[Any, ...]) -> type:
        from cloudpickle import cloudpickle

        known = set(cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID)
        made: type = make(*args)
        if cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.get(made) in known:
            self._own.add(made)
        return made
