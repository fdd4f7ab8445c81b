"""The writing half of the data codec (`data.py` has the format and the ends that others call).

This half also travels by value into containers that do not have this package, so it refers to the standard
library, to itself and to `errors` only, and holds no object that cannot be pickled (a `struct.Struct`, a lock).
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import struct
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import UntrustedResult

if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"\xda\x01"  #: the second byte is the version; no pickle, JSON text or UTF-8 text begins so
DEPTH_MOST = 100  #: containers within containers
#: Items in all; what holds others or is large in memory counts `HEAVY`. It bounds what a small message can make
#: of itself in memory: an empty set takes two bytes there and 216 here.
ITEMS_MOST = 10_000_000
HEAVY = 4
BYTES_MOST = 1 << 30
FRACTION_BYTES = 1024  #: of numerator and denominator: making a fraction takes time with the square of them

#: numpy types whose bytes mean the same everywhere, in numpy's own notation; no objects, no long doubles
DTYPE = (
    r"[<>|](?:b1|[iu][1248]|f[248]|c8|c16|[SUV][1-9][0-9]{0,8}"
    r"|[mM]8(?:\[[0-9]{0,9}(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?)"
)


class Writer:
    """Appends values to `out`."""

    def __init__(self) -> None:
        self.out = bytearray(MAGIC)
        self.left = ITEMS_MOST
        self.classes: dict[type, int] = {}  #: dataclasses written so far -> their number

    def put(self, value: Any, depth: int) -> None:
        self.left -= 1
        if self.left < 0 or len(self.out) > BYTES_MOST:
            raise refused(f"has more than {ITEMS_MOST:,} items or {BYTES_MOST:,} bytes")
        kind = type(value)
        write = WRITERS.get(kind) or late_writer(kind)
        if write is not None:
            write(self, value, depth)
        elif dataclasses.is_dataclass(kind):
            put_dataclass(self, value, depth)
        else:
            raise refused(f"contains {a_named(kind)}, which is no plain data")

    def put_size(self, size: int) -> None:
        """Write a count of at least 0 as a varint: seven bits a byte, the lowest first."""
        while size > 127:
            self.out.append(size & 127 | 128)
            size >>= 7
        self.out.append(size)

    def put_block(self, tag: bytes, content: bytes | bytearray) -> None:
        self.out += tag
        self.put_size(len(content))
        self.out += content

    def put_items(self, tag: bytes, items: Any, depth: int) -> None:
        """Write a container; `items` is sized and iterable."""
        self.begin_heavy(tag, depth)
        self.put_size(len(items))
        for item in items:
            self.put(item, depth - 1)

    def begin_heavy(self, tag: bytes, depth: int) -> None:
        if depth <= 0:
            raise refused(f"is nested more than {DEPTH_MOST} deep, or contains itself")
        self.left -= HEAVY
        self.out += tag


def refused(what: str) -> UntrustedResult:
    """Return the error for a value that cannot travel as data; `what` goes on after "the result"."""
    return UntrustedResult(
        f"the result {what}; return plain data (numbers, text, bytes, lists, dicts, dates, numpy arrays, ...), "
        f'name dataclasses in allow=[...], or set trust="pickle" if you trust the host with this program'
    )


def name_of(kind: type) -> str:
    """Return a class's name with its module, without `builtins`."""
    name = str(kind.__qualname__)
    return name if kind.__module__ == "builtins" else f"{kind.__module__}.{name}"


def a_named(kind: type) -> str:
    """Return the name with its article, and of which plain type it is a subclass."""
    base = next((base for base in kind.__mro__[1:] if base in WRITERS), None)
    name = name_of(kind)
    article = "an" if name[0] in "aeiouAEIOU" else "a"
    return f"{article} {name}" + (f" (a subclass of {base.__name__}, not {base.__name__} itself)" if base else "")


# -- the standard library's types


def put_nothing(w: Writer, value: Any, depth: int) -> None:
    w.out += b"N" if value is None else b"T" if value is True else b"F"


def put_int(w: Writer, value: int, depth: int) -> None:
    w.put_block(b"i", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))


def put_float(w: Writer, value: float, depth: int) -> None:
    w.out += b"f" + struct.pack("<d", value)


def put_complex(w: Writer, value: complex, depth: int) -> None:
    w.out += b"c" + struct.pack("<dd", value.real, value.imag)


def put_str(w: Writer, value: str, depth: int) -> None:
    w.put_block(b"s", value.encode("utf-8", "surrogatepass"))


def put_bytes(w: Writer, value: bytes, depth: int) -> None:
    w.put_block(b"b", value)


def put_bytearray(w: Writer, value: bytearray, depth: int) -> None:
    w.put_block(b"B", value)


def put_list(w: Writer, value: list[Any], depth: int) -> None:
    w.put_items(b"l", value, depth)


def put_tuple(w: Writer, value: tuple[Any, ...], depth: int) -> None:
    w.put_items(b"t", value, depth)


def put_set(w: Writer, value: set[Any], depth: int) -> None:
    w.put_items(b"S", value, depth)


def put_frozenset(w: Writer, value: frozenset[Any], depth: int) -> None:
    w.put_items(b"Z", value, depth)


def put_dict(w: Writer, value: dict[Any, Any], depth: int) -> None:
    """Write all keys in front of all values, so that the reader can look at the keys as a whole."""
    w.put_items(b"d", value, depth)
    for item in value.values():
        w.put(item, depth - 1)


def put_range(w: Writer, value: range, depth: int) -> None:
    put_parts(w, b"r", (value.start, value.stop, value.step), depth)


def put_datetime(w: Writer, value: datetime.datetime, depth: int) -> None:
    d = value
    fields = (d.year, d.month, d.day, d.hour, d.minute, d.second, d.microsecond, d.fold)
    put_parts(w, b"D" + struct.pack("<HBBBBBIB", *fields), (d.tzinfo,), depth)


def put_date(w: Writer, value: datetime.date, depth: int) -> None:
    w.out += b"a" + struct.pack("<HBB", value.year, value.month, value.day)


def put_time(w: Writer, value: datetime.time, depth: int) -> None:
    fields = (value.hour, value.minute, value.second, value.microsecond, value.fold)
    put_parts(w, b"h" + struct.pack("<BBBIB", *fields), (value.tzinfo,), depth)


def put_timedelta(w: Writer, value: datetime.timedelta, depth: int) -> None:
    w.out += b"e" + struct.pack("<iII", value.days, value.seconds, value.microseconds)


def put_timezone(w: Writer, value: datetime.timezone, depth: int) -> None:
    offset = value.utcoffset(None)
    name = value.tzname(None)
    given = name != datetime.timezone(offset).tzname(None)
    put_parts(w, b"z", (offset, name if given else None), depth)


def put_zoneinfo(w: Writer, value: Any, depth: int) -> None:
    if value.key is None:
        raise refused("contains a time zone that was read from a file and has no key")
    w.put_block(b"Y", value.key.encode())


def put_decimal(w: Writer, value: Any, depth: int) -> None:
    w.put_block(b"X", str(value).encode())


def put_fraction(w: Writer, value: Any, depth: int) -> None:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > 8 * FRACTION_BYTES - 8:
        raise refused("contains a fraction of several thousand digits")
    put_parts(w, b"q", (value.numerator, value.denominator), depth)


def put_uuid(w: Writer, value: Any, depth: int) -> None:
    w.out += b"U" + value.bytes


def put_parts(w: Writer, head: bytes, parts: tuple[Any, ...], depth: int) -> None:
    """Write a value that is made of others."""
    w.begin_heavy(head, depth)
    for part in parts:
        w.put(part, depth - 1)


# -- dataclasses


def put_dataclass(w: Writer, value: Any, depth: int) -> None:
    """Write the fields; the class by its name, at its second time by its number."""
    kind = type(value)
    names = [field.name for field in dataclasses.fields(kind)]
    number = w.classes.get(kind)
    if number is None:
        check_dataclass(kind)
        number = w.classes[kind] = len(w.classes)
        w.begin_heavy(b"O", depth)
        for text in (kind.__module__, kind.__qualname__):
            put_str(w, text, depth)
        w.put_size(len(names))
        for name in names:
            put_str(w, name, depth)
    else:
        w.begin_heavy(b"o", depth)
        w.put_size(number)
    more = set(getattr(value, "__dict__", ())).difference(names)
    if more := {name for name in more if not isinstance(getattr(kind, name, None), cached_property)}:
        raise refused(f"contains {a_named(kind)} with attributes that are no fields ({', '.join(sorted(more))})")
    for name in names:
        try:
            item = getattr(value, name)
        except AttributeError:
            raise refused(f"contains {a_named(kind)} without its field {name}") from None
        w.put(item, depth - 1)


def check_dataclass(kind: type) -> None:
    """Refuse a dataclass that is something else besides, such as a dict: its fields are not all of it.

    Raises:
        UntrustedResult: It is.
    """
    try:
        object.__new__(kind)  # Python itself refuses this where the object has a part that is not in Python
    except TypeError:
        raise refused(f"contains {a_named(kind)}, a dataclass that is not made of its fields alone") from None


# -- numpy


def put_array(w: Writer, value: Any, depth: int) -> None:
    put_elements(w, b"A", value, depth)


def put_scalar(w: Writer, value: Any, depth: int) -> None:
    put_elements(w, b"n", sys.modules["numpy"].asarray(value), depth)


def put_numpy_str(w: Writer, value: Any, depth: int) -> None:
    w.put_block(b"m", value.encode("utf-8", "surrogatepass"))


def put_numpy_bytes(w: Writer, value: Any, depth: int) -> None:
    w.put_block(b"k", bytes(value))


def put_elements(w: Writer, tag: bytes, array: Any, depth: int) -> None:
    """Write type, shape and elements, the last axis first; the order in memory is not kept."""
    w.begin_heavy(tag, depth)
    put_dtype(w, array.dtype)
    w.put_size(array.ndim)
    for length in array.shape:
        w.put_size(length)
    w.put_size(array.nbytes)
    w.out += array.reshape(-1).view("u1").data if array.flags.c_contiguous and array.ndim else array.tobytes()


def put_dtype(w: Writer, dtype: Any) -> None:
    """Write numpy's name of a type, or the flat list of fields of a structured one."""
    if dtype.names is None:
        put_str(w, plain_dtype(dtype), 0)
        return
    if dtype.type is not sys.modules["numpy"].void:
        raise refused(f"contains a numpy array of {name_of(dtype.type)}")
    put_str(w, "", 0)
    w.put_size(dtype.isalignedstruct)
    w.put_size(dtype.itemsize)
    w.put_size(len(dtype.names))
    for name in dtype.names:
        inner, offset, *title = dtype.fields[name]
        if title or inner.names is not None or inner.subdtype is not None:
            raise refused(f"contains a numpy array with fields of more than one value or name ({dtype})")
        put_str(w, name, 0)
        put_str(w, plain_dtype(inner), 0)
        w.put_size(offset)


def plain_dtype(dtype: Any) -> str:
    """Return numpy's notation of a type, if that says all about it.

    Raises:
        UntrustedResult: It holds objects, or its bytes mean different things on different machines.
    """
    text = str(dtype.str)
    if re.fullmatch(DTYPE, text) is None or sys.modules["numpy"].dtype(text) != dtype:
        raise refused(f"contains a numpy array or scalar of type {dtype}")
    return text


WRITERS: dict[type, Callable[[Writer, Any, int], None]] = {
    type(None): put_nothing,
    bool: put_nothing,
    int: put_int,
    float: put_float,
    complex: put_complex,
    str: put_str,
    bytes: put_bytes,
    bytearray: put_bytearray,
    list: put_list,
    tuple: put_tuple,
    dict: put_dict,
    set: put_set,
    frozenset: put_frozenset,
    range: put_range,
    datetime.datetime: put_datetime,
    datetime.date: put_date,
    datetime.time: put_time,
    datetime.timedelta: put_timedelta,
    datetime.timezone: put_timezone,
}  #: by exact type: a subclass may mean more than its plain part says

#: the same for types whose modules are slow to import and mostly not needed
LATE_WRITERS: dict[tuple[str, str], Callable[[Writer, Any, int], None]] = {
    ("decimal", "Decimal"): put_decimal,
    ("fractions", "Fraction"): put_fraction,
    ("uuid", "UUID"): put_uuid,
    ("zoneinfo", "ZoneInfo"): put_zoneinfo,
    ("numpy", "ndarray"): put_array,
    ("numpy", "str_"): put_numpy_str,
    ("numpy", "bytes_"): put_numpy_bytes,
}


def late_writer(kind: type) -> Callable[[Writer, Any, int], None] | None:
    """Return what writes this type, when it is one of those that are looked up by name."""
    module = sys.modules.get(kind.__module__)
    if getattr(module, kind.__qualname__, None) is not kind:
        return None  # only called so
    write = LATE_WRITERS.get((kind.__module__, kind.__qualname__))
    if write is None and kind.__module__ == "numpy" and issubclass(kind, module.generic):  # type: ignore[union-attr]
        return put_scalar
    return write
