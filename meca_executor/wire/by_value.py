"""Pickling by value: what cloudpickle does, with exceptions as their own classes have them.

`tblib`, which Dask's `distributed` loads, registers itself for all exception classes of the process that imports it.
What it pickles can be read only where `tblib` is, and is made past the class: a frozen exception, or one with a
`__reduce__` of its own, comes back as something else. Who is sent an exception need not know who else was imported.
"""

from __future__ import annotations

import io
from collections import ChainMap
from typing import TYPE_CHECKING, Any

import cloudpickle

from .calls import TBLIB

if TYPE_CHECKING:
    from collections.abc import Callable


class _Reducers(ChainMap[type, Any]):
    """Those of cloudpickle and of the process, but for `tblib`'s for exceptions."""

    def __getitem__(self, kind: type) -> Any:
        reducer = super().__getitem__(kind)
        if getattr(reducer, "__module__", None) == TBLIB and issubclass(kind, BaseException):
            raise KeyError(kind)
        return reducer


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table = _Reducers(*cloudpickle.Pickler.dispatch_table.maps)


def dumps(value: object, protocol: int, buffer_callback: Callable[[Any], object] | None = None) -> bytes:
    """Return as `cloudpickle.dumps`."""
    with io.BytesIO() as file:
        _Pickler(file, protocol=protocol, buffer_callback=buffer_callback).dump(value)
        return file.getvalue()
