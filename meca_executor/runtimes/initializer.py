"""What an initializer leaves behind for the tasks of its worker.

An initializer of an importable module sets that module's globals, and tasks find them there. One of
`__main__` travels by value, and so do the tasks: each has globals of its own. Here the names that the
initializer set are given to them, so that `global model` in it works as in a process that was forked.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from ..wire.parcels import PICKLE
from ..wire.payloads import is_plain, opened

_MARK = b"_function_setstate"
_MAIN = "__main__"
_MISSING = object()

_made: dict[str, Any] = {}


def run(initializer: bytes) -> None:
    """Load the pickled (function, arguments) and call it; what it raises is raised."""
    loader = _Unpickler(io.BytesIO(initializer))
    fn, args = loader.load()
    before = [dict(names) for names in loader.globals]
    fn(*args)
    for names, old in zip(loader.globals, before, strict=True):
        _made.update((name, value) for name, value in names.items() if old.get(name, _MISSING) is not value)


def load(payload: bytes) -> Any:
    """Return the value of a payload; functions of `__main__` see what the initializer set."""
    if not _made and payload[0] == PICKLE:  # by far the most
        return pickle.loads(payload)  # nosec B301 # only from sides that have proved themselves
    data, buffers = (payload, None) if is_plain(payload) else opened(payload)
    if not _made or _MARK not in bytes(data):
        return pickle.loads(data, buffers=buffers)  # nosec B301 # only from sides that have proved themselves
    loader = _Unpickler(io.BytesIO(data), buffers)
    value = loader.load()
    for names in loader.globals:
        names.update(_made)
    return value


class _Unpickler(pickle.Unpickler):
    """Notes the globals of the main module's functions."""

    def __init__(self, file: io.BytesIO, buffers: list[memoryview] | None = None) -> None:
        super().__init__(file, buffers=buffers)
        self.globals: list[dict[str, Any]] = []

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if name != "_function_setstate" or not module.startswith("cloudpickle"):
            return found

        def set_state(function: Any, state: Any) -> Any:
            result = found(function, state)
            names = function.__globals__
            if names.get("__name__") == _MAIN and not any(names is known for known in self.globals):
                self.globals.append(names)
            return result

        return set_state
