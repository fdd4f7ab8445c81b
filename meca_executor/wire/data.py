"""The data codec: results from hosts that one does not own, without any pickle.

A pickle is a program, and the host wrote it; an allow-list of classes does not change that (a BUILD opcode can
rewrite an allowed class). What travels here is a value, and reading it runs nothing and imports nothing that the
data names.

What can travel: None, bool, int of any size, float, complex, str (lone surrogates too), bytes, bytearray, list,
tuple, dict, set, frozenset, range; datetime, date, time, timedelta, timezone and ZoneInfo; Decimal, Fraction, UUID;
numpy arrays, structured ones with plain fields too, and numpy scalars, without objects and long doubles; dataclasses,
as far as the reader allows them. Each of exactly that type: a subclass may mean more than its plain part says.
Identity does not travel: an object that stands in two places arrives as two equal ones.

The format: two bytes (`MAGIC`, version), then one value. A value is a tag of one byte and what belongs to it:

    N T F                        None, True, False
    i s b B m k X Y              size, content: int (little-endian, signed), str (UTF-8), bytes, bytearray,
                                 numpy.str_, numpy.bytes_, Decimal (text), ZoneInfo (key)
    f c U a e                    fixed size: float, complex, UUID, date, timedelta
    l t S Z                      count, values: list, tuple, set, frozenset
    d                            count, keys, values
    D h z r q                    fields, values: datetime, time, timezone, range, Fraction
    A n                          type, number of axes, axes, size, elements: numpy array, numpy scalar
    O o                          module, name, count, field names, values: a dataclass; the second of a class
                                 has the number of the first instead of all that stands before the values

Sizes and counts are varints. Numbers are little-endian.
"""

from __future__ import annotations

import builtins
import dataclasses
import re
from typing import TYPE_CHECKING, Any

from ..errors import TaskFailed, UntrustedResult, UsageError
from .calls import RemoteTraceback
from .data_reader import Reader, damaged
from .data_writer import BYTES_MOST, DEPTH_MOST, MAGIC, Writer, name_of, refused

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["decode", "decode_error", "encode", "encode_error", "printable"]

ATTRIBUTES = ("name", "path")  #: what ImportError, NameError and AttributeError hold beside their arguments
_NAMED = (ImportError, NameError, AttributeError)

# ECMA-48: control sequences (colours, cursor), then strings that set titles, colours or the clipboard.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)")
# The other control characters but for tab, newline and carriage return; what turns the direction of writing,
# so that text reads as another; what cannot be written as UTF-8.
_STEERING = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def encode(value: object) -> bytes:
    """Return a value as data, for `decode`.

    Dataclasses are written as they are found; the reader decides which it allows.

    Raises:
        UntrustedResult: Something in it is of another type than the codec knows, or it is too deep or too large;
            the text names the type and the ways out.
    """
    writer = Writer()
    try:
        writer.put(value, DEPTH_MOST)
    except RecursionError:
        raise refused("is nested too deep for the call's own depth of calls") from None
    if len(writer.out) > BYTES_MOST:
        raise refused(f"has {len(writer.out):,} bytes; {BYTES_MOST:,} are the limit")
    return bytes(writer.out)


def decode(data: bytes | bytearray | memoryview, *, allow: Sequence[type] = ()) -> Any:
    """Return the value of `encode`. No bytes whatsoever make it run or import what they name.

    Args:
        data: From anybody.
        allow: Dataclasses that the value may contain. They are found by module and qualified name, must have
            the same fields, and are filled without calling `__init__` or `__post_init__`, as `copy` does it.

    Raises:
        UntrustedResult: The bytes are no data, are damaged, go over a limit, or contain another dataclass.
        UsageError: `allow` holds something else than dataclasses.
    """
    classes = checked_allow(allow)
    if len(data) > BYTES_MOST:
        raise UntrustedResult(f"the result has {len(data):,} bytes; {BYTES_MOST:,} are the limit")
    if data[: len(MAGIC)] != MAGIC:
        raise damaged("does not begin as data does")
    reader = Reader(bytes(data), len(MAGIC), classes)
    try:
        value = reader.value(DEPTH_MOST)
    except UntrustedResult:
        raise
    except Exception as error:  # what constructors say to impossible values, and an allowed class's own __hash__
        raise damaged(f"has an impossible value ({type(error).__name__}: {printable(str(error))[:200]})") from error
    if reader.at != len(reader.data):
        raise damaged("goes on after its end")
    return value


def checked_allow(allow: Sequence[type]) -> dict[tuple[str, str], type]:
    """Return the allowed classes by module and qualified name.

    Raises:
        UsageError: One is no dataclass.
    """
    for kind in allow:
        if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
            raise UsageError(f"allow={list(allow)!r}: {kind!r} is not a dataclass; other classes cannot travel as data")
    return {(kind.__module__, kind.__qualname__): kind for kind in allow}


def encode_error(error: BaseException, traceback_text: str) -> bytes:
    """Return an exception as data, for `decode_error`: class name, arguments where they are data, texts.

    Args:
        error: Any exception; nothing about it makes this fail.
        traceback_text: Its traceback, as it shall be shown.
    """
    kind = type(error)
    try:
        text = "".join([str(error)])  # exactly a str, whatever __str__ returns
    except BaseException:  # a broken __str__ must not hide the class
        text = "<no text>"
    arguments = b""
    if kind.__module__ == "builtins":
        try:
            made_of = error.__reduce__()[1]  # not .args: an OSError's have no file name
            more = {name: getattr(error, name, None) for name in (*ATTRIBUTES, "__notes__")}
            arguments = encode((made_of, {name: value for name, value in more.items() if value is not None}))
        except UntrustedResult:
            arguments = b""  # text is all that there is to say then
    return encode((name_of(kind), arguments, text, traceback_text))


def decode_error(data: bytes) -> Exception:
    """Return the exception of `encode_error`, its remote traceback as `__cause__`.

    It is of its own class when that is one of Python's builtin exceptions and its arguments are data, else a
    `TaskFailed` with class name and text. What would end or interrupt this program (`SystemExit`,
    `KeyboardInterrupt`) is a `TaskFailed` too. Terminal escapes are taken out of the texts.

    Raises:
        UntrustedResult: The bytes are no exception.
    """
    fields = decode(data)
    if not (isinstance(fields, tuple) and [type(field) for field in fields] == [str, bytes, str, str]):
        raise damaged("is no exception")
    name, arguments, text, traceback_text = fields
    error = _builtin_error(name, arguments)
    if error is None:
        error = TaskFailed(f"{printable(name)}: {printable(text)}")
    error.__cause__ = RemoteTraceback(printable(traceback_text))
    return error


def _builtin_error(name: str, arguments: bytes) -> Exception | None:
    """Return the exception, or None where it cannot be made."""
    kind = getattr(builtins, name, None)
    if not (arguments and isinstance(kind, type) and issubclass(kind, Exception)):
        return None
    args, more = _checked_arguments(arguments)
    try:
        # Python shows such arguments as they are, in the last line of every traceback.
        error = kind(*(printable(value) if type(value) is str else value for value in args))
        str(error)
    except Exception:  # not what this class takes
        return None
    notes = more.get("__notes__")
    if type(notes) is list and all(type(note) is str for note in notes):
        error.__notes__ = [printable(note) for note in notes]  # type: ignore[attr-defined]  # Python 3.11
    if isinstance(error, _NAMED):
        for attribute in ATTRIBUTES:
            if type(value := more.get(attribute)) is str and hasattr(error, attribute):
                setattr(error, attribute, printable(value))
    return error


def _checked_arguments(arguments: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    pair = decode(arguments)
    if not (type(pair) is tuple and [type(part) for part in pair] == [tuple, dict]):
        raise damaged("has an exception without arguments")
    return pair[0], pair[1]


def printable(text: str) -> str:
    """Return a stranger's text without what could steer a terminal or turn the direction of writing.

    Tabs, newlines and carriage returns stay.
    """
    return _STEERING.sub("?", _ESCAPES.sub("", text))
