"""Functions in containers: a call as JSON text for a python-runner container, and its reply.

The request has four fields: `python`, this program's version, which the container compares with its own before it
reads any further; `runner`, our code for the far side (`remote.py`, pickled by value and compressed); `call`, the
pickled call; `result`, how the value shall travel. Both pickles are base64. The reply is
`{"printed": [[stream, text], ...], "outcome": {"kind": ..., ...}}`.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import zlib
from base64 import b64decode, b64encode
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import MecaError, ProtocolMismatch, TaskFailed, UntrustedResult, WorkerDied
from .calls import PROTOCOL
from .classes import loads_at_home
from .data import checked_allow, decode, decode_error, printable
from .places import is_local_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Trust = Literal["data", "pickle"]

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
STREAMS = ("stdout", "stderr")
SHOWN_CHARS = 200  #: of a reply that is no outcome, in the error's text
FAILURES: dict[str, type[MecaError]] = {
    "mismatch": ProtocolMismatch,  # the container has another Python
    "died": WorkerDied,  # the call ended its process, or was ended with it
    "untrusted": UntrustedResult,  # the value is no plain data; told over there, where its type is known
    "failed": TaskFailed,  # the container could not begin
}  #: kinds of outcome that are a text
OWN = __name__.partition(".")[0]

_registry = threading.RLock()  #: cloudpickle's list of modules is the process's own; one of us changes it at a time


class Outcome(NamedTuple):
    """What came of a call in a container."""

    value: Any  #: what it returned; None when there is an error
    error: BaseException | None  #: what it raised, or what went wrong
    printed: list[tuple[str, str]]  #: "stdout" or "stderr", and the text, in order


def encode_call(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], *, result: Trust = "data"
) -> bytes:
    """Return the JSON text that makes a python-runner container call `fn(*args, **kwargs)`.

    Functions and classes of `__main__`, of other functions and of modules that are not installed go by value;
    what is in the standard library or in site-packages is imported over there.

    Args:
        fn: What to call.
        args: Its arguments.
        kwargs: Its arguments by name.
        result: How the value shall come back: as `"data"` (`data.py`), or as a `"pickle"`, which runs whatever
            the host wrote into it when `decode_reply` reads it with `trust="pickle"`.

    Raises:
        Exception: Whatever pickling raises, mostly `TypeError` or `pickle.PicklingError`.
    """
    request = {
        "python": PYTHON,
        "result": result,
        "runner": _runner(),
        "call": _text_of(_dumps_by_value((fn, args, dict(kwargs)))),
    }
    return json.dumps(request).encode()


def decode_reply(
    reply: bytes | str, *, trust: Trust = "data", allow: Sequence[type] = (), escapes: bool = False
) -> Outcome:
    """Return what a container replied to `encode_call`; what cannot be read is an error in the outcome.

    Args:
        reply: The body of the reply.
        trust: With `"data"` no pickle in the reply is read. `"pickle"` is for hosts that may do in this process
            what they like.
        allow: Dataclasses that the value may contain when it comes as data.
        escapes: Leave terminal escapes in what was printed.

    Raises:
        UsageError: `allow` holds something else than dataclasses.
    """
    checked_allow(allow)
    try:
        text = reply if isinstance(reply, str) else reply.decode("utf-8")
        body = json.loads(text)
    except (ValueError, RecursionError):
        return Outcome(None, _no_outcome(reply), [])
    outcome = body.get("outcome") if type(body) is dict else None
    if type(outcome) is not dict:
        refusal = body.get("error") if type(body) is dict else None
        return Outcome(None, _refused(refusal) if type(refusal) is str else _no_outcome(reply), [])
    printed = _printed(body.get("printed"), escapes)
    try:
        value, error = _opened(outcome, trust, allow)
    except UntrustedResult as untrusted:
        value, error = None, untrusted
    return Outcome(value, error, printed)


def _opened(outcome: dict[str, Any], trust: Trust, allow: Sequence[type]) -> tuple[Any, BaseException | None]:
    """Return value and error.

    Raises:
        UntrustedResult: The outcome, or something in it, is of a kind that is not read.
    """
    kind = outcome.get("kind")
    if kind in ("value", "error"):
        if trust == "pickle" and "pickle" in outcome:
            return _unpickled(kind, outcome)
        if "data" not in outcome and "pickle" in outcome:
            raise UntrustedResult(
                "the result came as a pickle, which could run anything here, and was not read; it was not asked for "
                'with trust="data", so the container is another than it claims; trust="pickle" would read it'
            )
        data = _content(outcome, "data")
        return (decode(data, allow=allow), None) if kind == "value" else (None, decode_error(data))
    said = printable(str(outcome.get("text", "")))
    error = FAILURES.get(kind) if type(kind) is str else None
    if error is None:
        raise UntrustedResult(f"the container replied with an unknown kind of outcome, {printable(str(kind))[:50]!r}")
    return None, error(said)


def _unpickled(kind: str, outcome: dict[str, Any]) -> tuple[Any, BaseException | None]:
    told = decode_error(_content(outcome, "data")) if kind == "error" else None
    try:
        value = loads_at_home(_content(outcome, "pickle"))
        if kind == "error" and not isinstance(value, BaseException):
            raise TypeError(f"its pickle gives a {type(value).__name__}")
    except BaseException as failure:  # whatever its class does when it is made
        if told is None:
            told = TaskFailed(f"the result cannot be unpickled here: {type(failure).__name__}: {failure}")
            told.__cause__ = failure
        return None, told
    if told is None:
        return value, None
    value.__cause__ = told.__cause__
    return None, value


def _content(outcome: dict[str, Any], name: str) -> bytes:
    try:
        return b64decode(outcome[name], validate=True)
    except (KeyError, TypeError, ValueError):
        raise UntrustedResult(f"the container's reply has no readable {name!r}") from None


def _printed(printed: object, escapes: bool) -> list[tuple[str, str]]:
    """Return what the call printed, as far as it is what it should be."""
    pieces = [piece for piece in printed if type(piece) is list and len(piece) == 2] if type(printed) is list else []
    texts = [(stream, text) for stream, text in pieces if stream in STREAMS and type(text) is str]
    return texts if escapes else [(stream, printable(text)) for stream, text in texts]


def _refused(text: str) -> TaskFailed:
    return TaskFailed(f"the container refused the call: {printable(text)}")


def _no_outcome(reply: bytes | str) -> TaskFailed:
    text = reply if isinstance(reply, str) else reply[: 4 * SHOWN_CHARS].decode("utf-8", "replace")
    return TaskFailed(
        "the container replied with something else than the outcome of a call; functions need an image such as "
        f"meca-python:{PYTHON}; the reply begins: {printable(text[:SHOWN_CHARS])!r}"
    )


# -- pickling by value


@functools.cache
def _runner() -> str:
    """Return our code for the far side; made once, the same for every call."""
    from .remote import run

    return _text_of(zlib.compress(_dumps_by_value(run), 9))


def _dumps_by_value(value: object) -> bytes:
    """Return a pickle that a Python with cloudpickle and nothing of ours can read."""
    from .by_value import dumps

    with _by_value():
        return dumps(value, PROTOCOL)


@contextmanager
def _by_value() -> Iterator[None]:
    """Make cloudpickle take along what is in modules that are not installed, for a moment."""
    import cloudpickle

    with _registry:
        before = cloudpickle.list_registry_pickle_by_value()
        # A copy, because other threads import.
        local = [module for name, module in list(sys.modules.items()) if name not in before and _is_local(name)]
        for module in local:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in local:
                cloudpickle.unregister_pickle_by_value(module)


@functools.lru_cache(maxsize=100_000)
def _is_local(name: str) -> bool:
    """Whether a module is neither the standard library's nor installed in site-packages.

    This package itself counts as local wherever it is: containers do not have it.
    """
    module = sys.modules.get(name)
    if name in ("__main__", "__mp_main__") or getattr(module, "__name__", None) != name:
        return False  # the first two go by value anyway
    if name.partition(".")[0] == OWN:
        return True
    spec = getattr(module, "__spec__", None)
    if getattr(spec, "origin", None) in ("built-in", "frozen"):
        return False
    place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
    if place is None:
        return name.partition(".")[0] not in sys.stdlib_module_names  # made at run time, so it is nowhere else
    return is_local_path(place)


def _text_of(data: bytes) -> str:
    return b64encode(data).decode()
