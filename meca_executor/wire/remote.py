"""What runs in a python-runner container; it travels there by value, with every call.

So the container and this package need not be of the same version, and the container need not have it at all.
Here as in `data_writer.py` nothing may be referred to that cannot be pickled by value.
"""

from __future__ import annotations

import pickle
import traceback
from base64 import b64encode
from typing import Any

from ..errors import UntrustedResult
from .data import encode, encode_error

PROTOCOL = 5


def run(call: bytes, result: str) -> dict[str, str]:
    """Run a pickled `(fn, args, kwargs)` and return the outcome, ready for JSON.

    Args:
        call: From `encode_call`; this is the far side, which trusts the caller.
        result: `"data"` or `"pickle"`: how the value shall travel.
    """
    try:
        fn, args, kwargs = loads(call)
        value = fn(*args, **kwargs)
        if result == "pickle":
            return {"kind": "value", "pickle": text_of(dumps(value))}
    except BaseException as error:  # SystemExit too: it ends the call and not this process
        return raised(error, result)
    try:
        return {"kind": "value", "data": text_of(encode(value))}
    except UntrustedResult as error:
        return {"kind": "untrusted", "text": str(error)}
    except BaseException as error:  # a property or a mapping of the value's own that raises
        return raised(error, result)


def loads(call: bytes) -> Any:
    """Return what was pickled.

    Raises:
        ModuleNotFoundError: The call needs a module that is not here; its text says what to do.
    """
    try:
        return pickle.loads(call)  # nosec B301 # over there, where running calls is what the container is for
    except ModuleNotFoundError as error:
        hint = "the container does not have it; run the call in an image that does (FROM this one, RUN pip install)"
        raise ModuleNotFoundError(f"{error}: {hint}", name=error.name) from None


def dumps(value: object) -> bytes:
    import cloudpickle

    data: bytes = cloudpickle.dumps(value, PROTOCOL)
    return data


def raised(error: BaseException, result: str) -> dict[str, str]:
    """Return the outcome of a call that raised: always as data, and as the exception itself where asked."""
    frames = error.__traceback__
    own_cut = frames.tb_next if frames is not None and frames.tb_next is not None else frames
    try:
        text = "".join(traceback.format_exception(type(error), error, own_cut))
    except BaseException:  # its __str__, or that of one of its causes
        text = "".join(traceback.format_tb(own_cut))
    outcome = {"kind": "error", "data": text_of(encode_error(error, text))}
    if result == "pickle":
        try:
            pickled = dumps(error)
            pickle.loads(pickled)  # nosec B301 # our own; one that cannot be read again is worth nothing over there
            outcome["pickle"] = text_of(pickled)
        except BaseException:  # what its __reduce__ does
            pass
    return outcome


def text_of(data: bytes) -> str:
    return b64encode(data).decode()
