"""Calls and outcomes as bytes: what is pickled, by which pickler, and how it comes back.

Two picklers: the C one takes a call apart in about a microsecond but refers to what stands in
`__main__` by name, which a worker does not have; cloudpickle takes those by value and costs twenty
times as much. So the C pickler goes first, and where its bytes name a module that a worker lacks, or
where it fails, cloudpickle does the work.
"""

from __future__ import annotations

import contextlib
import pickle
import struct
import sys
import traceback
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from ..errors import TaskFailed
from .classes import loads_at_home
from .parcels import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PROTOCOL = 5
_LENGTH = struct.Struct("<I")
BY_REFERENCE = (FunctionType, BuiltinFunctionType, type)  #: plain functions, builtins and classes
BY_NAME = 0x93  #: the pickle operation that refers to a module by name (`STACK_GLOBAL`)
TBLIB = "tblib.pickling_support"  #: what it has made of an exception is not for others: see `by_value.py`
NO_DEFINITION = 0  #: definition id of a call whose function is in its own payload

#: Names not to pickle by reference; replaced, never changed.
_by_value: frozenset[bytes] = frozenset({b"__main__", TBLIB.encode()})
_modules_seen: tuple[int, str] = (0, "")  #: how many modules there were when last looked through, and the newest
_importable: dict[str, bool] = {}


class RemoteTraceback(Exception):
    """The traceback of the worker, as text in `.tb`; it is the `__cause__` of the user's exception."""

    __module__ = "meca_executor"

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return f'\n"""\n{self.tb}"""'


def dumps(value: object) -> bytes:
    """Return `value` pickled so that a process without this one's `__main__` can read it.

    Raises:
        Exception: Whatever the value's own pickling raises, mostly `TypeError` or `pickle.PicklingError`.
    """
    try:
        data = pickle.dumps(value, PROTOCOL)
    except Exception:  # a lambda, a local class, ...: cloudpickle's answer is the one that counts
        return _dumps_by_value(value, None)
    return _dumps_by_value(value, None) if _names_ours(data) else data


def pickled(value: object) -> tuple[bytes, list[memoryview]]:
    """Return `value` pickled as `dumps` does, and large buffers that were left out of the pickle."""
    large = Collector()
    try:
        data = pickle.dumps(value, PROTOCOL, buffer_callback=large)
        if not _names_ours(data):
            return data, large.buffers
    except Exception:  # nosec B110 # a lambda, a local class, ...: cloudpickle's answer is the one that counts
        pass
    return pickled_by_value(value)


def pickled_by_value(value: object) -> tuple[bytes, list[memoryview]]:
    """Return as `pickled` does, for what the C pickler alone cannot send anyway."""
    large = Collector()
    return _dumps_by_value(value, large), large.buffers


def _dumps_by_value(value: object, large: Collector | None) -> bytes:
    from . import by_value  # imports cloudpickle, which most calls do without

    return by_value.dumps(value, PROTOCOL, large)


def _names_ours(data: bytes) -> bool:
    """Whether a pickle refers by name to what a worker cannot import."""
    if BY_NAME not in data:  # plain data: by far the most calls
        return False
    if modules_now() != _modules_seen:
        _find_made_modules()
    return any(name in data for name in _by_value)


def loads(data: bytes) -> Any:
    """Return the object; only for bytes from a side that has proved itself."""
    return pickle.loads(data)  # nosec B301 # only from sides that have proved themselves


def reference_to(fn: Callable[..., Any]) -> bytes | None:
    """Return a pickled reference to `fn` when a worker can import it, else None.

    Only a plain function, class or builtin found again under its own name is one: anything else could
    carry state, which has to be pickled anew for each call.
    """
    if type(fn) not in BY_REFERENCE:
        return None
    module, name = fn.__module__, fn.__qualname__
    if module is None or not importable(module):  # a bound builtin has none
        return None
    if getattr(sys.modules.get(module), name, None) is not fn:
        return None
    return pickle.dumps(fn, PROTOCOL)


def importable(module: str) -> bool:
    """Whether a worker that has our `sys.path` can import `module`.

    A module that was made at run time, or loaded from a path of its own, cannot be imported elsewhere:
    from then on what it holds is pickled by value.
    """
    known = _importable.get(module)
    if known is None:
        known = module not in ("__main__", "__mp_main__") and _found_by_name(module)
        _importable[module] = known
        if not known:
            _pickle_by_value(module)
    return known


def _found_by_name(module: str) -> bool:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    if spec is None:
        return False
    if spec.origin in ("built-in", "frozen"):
        return True
    top = module.partition(".")[0]
    # The finders themselves: importlib.util.find_spec would answer from sys.modules.
    found = next((s for finder in sys.meta_path if (s := finder.find_spec(top, None)) is not None), None)
    return found is not None and (top != module or found.origin == spec.origin)


def modules_now() -> tuple[int, str]:
    """Return what changes when something is imported: how many modules there are, and the newest one's name."""
    try:
        return len(sys.modules), next(reversed(sys.modules))
    except RuntimeError:  # another thread imports something at this moment: look again next time
        return -1, ""


def _find_made_modules() -> None:
    """Note the modules that were made at run time: nobody else can import them."""
    global _modules_seen
    _modules_seen = modules_now()
    for name, module in list(sys.modules.items()):
        made = type(module) is ModuleType and module.__spec__ is None and not hasattr(module, "__file__")
        made = made or name == "__mp_main__"  # what multiprocessing calls the main module in its children
        if made and name.encode() not in _by_value:
            _importable[name] = False
            _pickle_by_value(name)


def _pickle_by_value(module: str) -> None:
    global _by_value
    _by_value |= {module.encode()}
    loaded = sys.modules.get(module)
    if loaded is not None and module != "__main__":  # which cloudpickle knows about
        import cloudpickle

        with contextlib.suppress(ValueError):  # another thread has just unloaded it
            cloudpickle.register_pickle_by_value(loaded)


def dump_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """Return the payload of a call whose function is defined."""
    return dumps((args, kwargs))


def dump_whole_call(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """Return the payload of a call that carries its function."""
    return dumps((fn, args, kwargs))


def dump_exception(error: BaseException) -> tuple[bool, bytes]:
    """Return whether the exception can travel, and what travels: itself and its text, or the text alone.

    The pickle is read once here: one that cannot be read again would take the reader down.
    """
    text = _traceback_of(error)
    try:
        data = dumps(error)
        again = loads(data)
        if isinstance(again, BaseException):
            head = text.encode("utf-8", "backslashreplace")
            return True, _LENGTH.pack(len(head)) + head + data
        reason = f"its pickle gives a {type(again).__name__}"
    except BaseException as failure:  # also a SystemExit from a hostile __reduce__
        reason = f"it cannot be pickled: {type(failure).__name__}: {_text_of(failure)}"
    told = f"{type(error).__qualname__}: {_text_of(error)} ({reason})\n{text}"
    return False, told.encode("utf-8", "backslashreplace")


def _traceback_of(error: BaseException) -> str:
    """The traceback's text; formatting runs over the user's own attributes and methods, which may do anything."""
    tb = _own_frames_cut(error)
    try:
        return "".join(traceback.format_exception(type(error), error, tb))
    except BaseException:
        return "".join(traceback.format_tb(tb)) + f"{type(error).__qualname__}: {_text_of(error)}\n"


def _own_frames_cut(error: BaseException) -> Any:
    """The traceback without the worker's own frame at its top."""
    tb = error.__traceback__
    return tb.tb_next if tb is not None and tb.tb_next is not None else tb


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # a broken __str__ must not hide the class
        return "<no text>"


def load_exception(data: bytes) -> BaseException:
    """Return the exception of `dump_exception`, its remote traceback as `__cause__`.

    Where it cannot be unpickled here it is a `TaskFailed` with its class name and text.
    """
    (size,) = _LENGTH.unpack_from(data)
    text = data[_LENGTH.size : _LENGTH.size + size].decode()
    try:
        error: BaseException = loads_at_home(data[_LENGTH.size + size :])
        if not isinstance(error, BaseException):
            raise TypeError(f"its pickle gives a {type(error).__name__}")
    except BaseException as failure:  # whatever its class does when it is made
        last = text.rstrip().rpartition("\n")[2]
        error = TaskFailed(f"{last} (it cannot be unpickled here: {type(failure).__name__}: {failure})")
    # Past a __setattr__ of its own: a frozen dataclass is an exception, too.
    BaseException.__setattr__(error, "__cause__", RemoteTraceback(text))
    return error
