"""The reading half of the data codec (`data.py` has the format and the ends that others call).

What is read here comes from strangers. Nothing is looked up or imported by a name in the data, except that a
dataclass is found in the user's own `allow` and a time zone in the list of this machine; every length is compared
with what is there before anything is made of it.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import re
import struct
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..errors import UntrustedResult
from .data_writer import DTYPE, FRACTION_BYTES, HEAVY, ITEMS_MOST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Classes = dict[tuple[str, str], type]

#: Keys in one dict or set that may share a hash by chance. More are meant to make us compare each with each:
#: hashes of text are seeded in every process, those of numbers are known to everybody.
COLLISIONS_MOST = 64
SLOW_BYTES = 1024  #: of an int; to compare one of 100 kB with a Decimal takes seconds, with their square
AXES_MOST = 64  #: numpy's own limit
NAMES_MOST = 10_000  #: fields of a dataclass or of a structured array
DECIMAL = r"-?(?:[0-9]+(?:\.[0-9]*)?(?:E[+-][0-9]+)?|Infinity|s?NaN[0-9]*)"
CODE_POINTS = 0x110000


class Reader:
    """Takes values off the front of `data`."""

    def __init__(self, data: bytes, at: int, allow: Mapping[tuple[str, str], type]) -> None:
        self.data = data
        self.at = at
        self.left = ITEMS_MOST
        self.allow = allow
        self.slow: set[type] = set()  #: what was met of a huge int and a Decimal, whose comparison takes minutes
        self.classes: list[tuple[type, list[str]]] = []  #: dataclasses met so far, and their fields as sent

    def value(self, depth: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise damaged(f"has more than {ITEMS_MOST:,} items")
        read = READERS.get(self.byte())
        if read is None:
            raise damaged("has an unknown tag")
        return read(self, depth)

    def byte(self) -> int:
        at = self.at
        if at >= len(self.data):
            raise damaged("ends too early")
        self.at = at + 1
        return self.data[at]

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise damaged("ends too early")
        content = self.data[self.at : end]
        self.at = end
        return content

    def unpack(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def size(self) -> int:
        size, shift = 0, 0
        while True:
            byte = self.byte()
            size |= (byte & 127) << shift
            if byte < 128:
                return size
            shift += 7
            if shift > 56:
                raise damaged("has a length of more than 63 bits")

    def block(self) -> bytes:
        return self.take(self.size())

    def count(self) -> int:
        """Return a number of items, each of which takes a byte at least."""
        count = self.size()
        if count > len(self.data) - self.at or count > self.left:
            raise damaged("announces more items than it has, or than are allowed")
        return count

    def enter(self, depth: int) -> int:
        """Begin what is heavy in memory or holds others; return the depth that is left for them."""
        if depth <= 0:
            raise damaged("is nested too deep")
        self.left -= HEAVY
        return depth - 1

    def items(self, depth: int) -> list[Any]:
        inner = self.enter(depth)
        return [self.value(inner) for _ in range(self.count())]

    def parts(self, depth: int, *kinds: type) -> list[Any]:
        """Return one value for each type, and see that it is of that type."""
        inner = self.enter(depth)
        values = [self.value(inner) for _ in kinds]
        if not all(isinstance(value, kind) for value, kind in zip(values, kinds, strict=True)):
            raise damaged("has a value of a wrong type inside another")
        return values

    def text(self) -> str:
        """Return a str that stands where only a str may stand."""
        if self.byte() != TEXT:
            raise damaged("has no text where text belongs")
        return read_str(self, 0)


def damaged(how: str) -> UntrustedResult:
    """Return the error for bytes that no writer of ours made; `how` goes on after "the result"."""
    return UntrustedResult(f"the result {how}: it is damaged, or made by something else than the data codec")


# -- the standard library's types


def read_int(r: Reader, depth: int) -> int:
    content = r.block()
    if len(content) > SLOW_BYTES:
        r.slow.add(int)
    return int.from_bytes(content, "little", signed=True)


def read_float(r: Reader, depth: int) -> float:
    (value,) = r.unpack("<d")
    return float(value)


def read_complex(r: Reader, depth: int) -> complex:
    return complex(*r.unpack("<dd"))


def read_str(r: Reader, depth: int) -> str:
    return r.block().decode("utf-8", "surrogatepass")


def read_set(r: Reader, depth: int) -> set[Any]:
    items = checked_keys(r, depth)
    found = set(items)
    if len(found) != len(items):
        raise damaged("has an element twice in a set")
    return found


def read_dict(r: Reader, depth: int) -> dict[Any, Any]:
    keys = checked_keys(r, depth)
    found = {key: r.value(depth - 1) for key in keys}
    if len(found) != len(keys):
        raise damaged("has a key twice in a dict")
    return found


def checked_keys(r: Reader, depth: int) -> list[Any]:
    """Return the keys, if they can be put into a dict in reasonable time: equal hashes make Python compare them."""
    keys = r.items(depth)
    alike = 0 if len(r.slow) > 1 else COLLISIONS_MOST
    if len(keys) > alike and len(keys) - len(set(map(hash, keys))) > alike:
        raise damaged("has too many keys with the same hash")
    return keys


def read_range(r: Reader, depth: int) -> range:
    return range(*r.parts(depth, int, int, int))


def read_datetime(r: Reader, depth: int) -> datetime.datetime:
    *fields, fold = r.unpack("<HBBBBBIB")
    return datetime.datetime(*fields, *r.parts(depth, ZONE), fold=fold)


def read_date(r: Reader, depth: int) -> datetime.date:
    return datetime.date(*r.unpack("<HBB"))


def read_time(r: Reader, depth: int) -> datetime.time:
    *fields, fold = r.unpack("<BBBIB")
    return datetime.time(*fields, *r.parts(depth, ZONE), fold=fold)


def read_timezone(r: Reader, depth: int) -> datetime.timezone:
    offset, name = r.parts(depth, datetime.timedelta, OPTIONAL_TEXT)
    return datetime.timezone(offset) if name is None else datetime.timezone(offset, name)


def read_zoneinfo(r: Reader, depth: int) -> datetime.tzinfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    key = r.block().decode("ascii")
    # ZoneInfo itself would import a package whose name it makes of the key.
    if key.removeprefix("posix/").removeprefix("right/") in known_zones():
        with suppress(ZoneInfoNotFoundError):
            return ZoneInfo(key)
    raise UntrustedResult(f"the result has a time zone that this machine does not know: {key[:100]!r}")


@lru_cache(maxsize=1)
def known_zones() -> frozenset[str]:
    """Return the keys of all time zones of this machine; it reads many files."""
    from zoneinfo import available_timezones

    return frozenset(available_timezones())


def read_decimal(r: Reader, depth: int) -> Any:
    from decimal import Decimal

    r.enter(depth)
    r.slow.add(Decimal)
    text = r.block().decode("ascii")
    value = Decimal(text) if re.fullmatch(DECIMAL, text) else None
    if str(value) != text:  # a context without traps makes a NaN of what it cannot represent
        raise damaged("has a malformed Decimal")
    return value


def read_fraction(r: Reader, depth: int) -> Any:
    from fractions import Fraction

    above, below = r.parts(depth, int, int)
    if max(above.bit_length(), below.bit_length()) > 8 * FRACTION_BYTES or below <= 0:
        raise damaged("has a malformed Fraction")
    return Fraction(above, below)


def read_uuid(r: Reader, depth: int) -> Any:
    from uuid import UUID

    r.enter(depth)
    return UUID(bytes=r.take(16))


OPTIONAL_TEXT: Any = (str, type(None))
ZONE: Any = (datetime.tzinfo, type(None))


# -- dataclasses


def read_new_dataclass(r: Reader, depth: int) -> Any:
    inner = r.enter(depth)
    module, name = r.text(), r.text()
    kind = r.allow.get((module, name))
    if kind is None:
        shown = f"{module}.{name}"[:200]
        raise UntrustedResult(
            f"the result contains a dataclass {shown!r} that is not allowed here; "
            f"pass allow=[{name[:100]}], or return plain data such as dataclasses.asdict(...)"
        )
    count = r.count()
    if count > NAMES_MOST:
        raise damaged("has too many fields in a dataclass")
    names = [r.text() for _ in range(count)]
    own = {field.name for field in dataclasses.fields(kind)}
    if len(names) != len(own) or set(names) != own:
        raise UntrustedResult(
            f"the result contains a {module}.{name} with other fields than the class has here "
            f"({', '.join(sorted(own))}); the two sides need the same definition"
        )
    r.classes.append((kind, names))
    return built(r, kind, names, inner)


def read_known_dataclass(r: Reader, depth: int) -> Any:
    inner = r.enter(depth)
    number = r.size()
    if number >= len(r.classes):
        raise damaged("refers to a dataclass that it did not describe")
    return built(r, *r.classes[number], inner)


def built(r: Reader, kind: type, names: list[str], depth: int) -> Any:
    """Return the object with its fields as they were, as `copy` does: without `__init__` and `__post_init__`."""
    value: Any = object.__new__(kind)
    for name in names:
        object.__setattr__(value, name, r.value(depth))
    return value


# -- numpy


def numpy() -> Any:
    try:
        import numpy
    except ImportError:
        raise UntrustedResult("the result contains numpy data, and numpy is not installed here") from None
    return numpy


def read_array(r: Reader, depth: int) -> Any:
    """Return a new writable array."""
    r.enter(depth)
    dtype = read_dtype(r)
    axes = r.size()
    if axes > AXES_MOST:
        raise damaged("has an array of too many dimensions")
    shape = tuple(r.size() for _ in range(axes))
    content = r.size()
    if math.prod(shape) * dtype.itemsize != content or content > len(r.data) - r.at:
        raise damaged("has an array whose shape does not fit its bytes")
    view = memoryview(r.data)[r.at : r.at + content]
    r.at += content
    array = numpy().ndarray(shape, dtype, buffer=view).copy()
    for column in [array] if dtype.names is None else [array[name] for name in dtype.names]:
        check_elements(column)
    return array


def read_scalar(r: Reader, depth: int) -> Any:
    array = read_array(r, depth)
    if array.ndim:
        raise damaged("has an array for a number")
    return array[()]


def check_elements(array: Any) -> None:
    """Refuse bytes that no element of this type has: numpy itself does not look, and behaves oddly later."""
    kind = array.dtype.kind
    if kind not in "bU":
        return
    flat = numpy().ascontiguousarray(array).reshape(-1)
    parts = flat.view("u1") if kind == "b" else flat.view(array.dtype.byteorder.replace("|", "=") + "u4")
    if parts.size and parts.max() >= (2 if kind == "b" else CODE_POINTS):
        raise damaged("has an array with impossible elements")


def read_dtype(r: Reader) -> Any:
    text = r.text()
    if text:
        return plain_dtype(text)
    aligned, itemsize, count = r.size(), r.size(), r.count()
    if aligned > 1 or not 0 < count <= NAMES_MOST:
        raise damaged("has a malformed structured array")
    fields = [(r.text(), plain_dtype(r.text()), r.size()) for _ in range(count)]
    names, formats, offsets = (list(part) for part in zip(*fields, strict=True))
    layout = {"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize}
    return numpy().dtype(layout, align=bool(aligned))


def plain_dtype(text: str) -> Any:
    dtype = numpy().dtype(text) if re.fullmatch(DTYPE, text) else None
    if dtype is None or dtype.str != text:
        raise damaged("has an array of a type that does not travel")
    return dtype


TEXT = ord("s")
_READERS: dict[bytes, Callable[[Reader, int], Any]] = {
    b"N": lambda r, depth: None,
    b"T": lambda r, depth: True,
    b"F": lambda r, depth: False,
    b"i": read_int,
    b"f": read_float,
    b"c": read_complex,
    b"s": read_str,
    b"b": lambda r, depth: r.block(),
    b"B": lambda r, depth: bytearray(r.block()),
    b"l": Reader.items,
    b"t": lambda r, depth: tuple(r.items(depth)),
    b"d": read_dict,
    b"S": read_set,
    b"Z": lambda r, depth: frozenset(read_set(r, depth)),
    b"r": read_range,
    b"D": read_datetime,
    b"a": read_date,
    b"h": read_time,
    b"e": lambda r, depth: datetime.timedelta(*r.unpack("<iII")),
    b"z": read_timezone,
    b"Y": read_zoneinfo,
    b"X": read_decimal,
    b"q": read_fraction,
    b"U": read_uuid,
    b"A": read_array,
    b"n": read_scalar,
    b"m": lambda r, depth: numpy().str_(read_str(r, depth)),
    b"k": lambda r, depth: numpy().bytes_(r.block()),
    b"O": read_new_dataclass,
    b"o": read_known_dataclass,
}
READERS = {ord(tag): read for tag, read in _READERS.items()}
