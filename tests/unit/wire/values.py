"""Values for the tests of the data codec: all that may travel, and when two are the same."""

from __future__ import annotations

import datetime as dt
import uuid
import zoneinfo
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st


@dataclass
class Point:
    x: Any
    y: Any = 0


@dataclass(frozen=True)
class Name:
    text: str
    parts: tuple[Any, ...] = ()
    length: int = field(init=False, default=-1)


class Outer:
    @dataclass
    class Slotted:
        __slots__ = ("left", "right")
        left: Any
        right: Any


ALLOW = [Point, Name, Outer.Slotted]


def known(value: Any) -> str:
    """Return a text that is the same for two values just when they are the same, types included."""
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if kind in (list, tuple):
        return f"{name}[{', '.join(map(known, value))}]"
    if kind in (set, frozenset):
        return f"{name}[{', '.join(sorted(map(known, value)))}]"
    if kind is dict:
        return f"{name}[{', '.join(f'{known(key)}: {known(item)}' for key, item in value.items())}]"
    if kind in (dt.datetime, dt.time):
        return f"{name}[{value.replace(tzinfo=None)!r} fold {value.fold} {known(value.tzinfo)}]"
    if kind in ALLOW:
        fields = (known(getattr(value, name, None)) for name in kind.__dataclass_fields__)
        return f"{name}[{', '.join(fields)}]"
    return f"{name} {hex(value) if kind is int else repr(value)}"  # not all ints have a decimal text


def is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:  # a signalling NaN
        return False
    return True


fixed_zones = st.builds(
    dt.timezone,
    st.timedeltas(min_value=dt.timedelta(hours=-23), max_value=dt.timedelta(hours=23)),
) | st.builds(dt.timezone, st.just(dt.timedelta(hours=2)), st.text(max_size=5))
zones = st.none() | fixed_zones | st.timezones() | st.just(dt.timezone.utc)
letters = st.characters(exclude_categories=())  # lone surrogates are in

plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(2**70), max_value=2**70).map(lambda n: n**7),
    st.floats(),
    st.complex_numbers(),
    st.text(letters),
    st.binary(),
    st.binary().map(bytearray),
    st.builds(range, st.integers(), st.integers(), st.integers().filter(bool)),
    st.datetimes(timezones=zones),
    st.dates(),
    st.times(timezones=zones),
    st.timedeltas(),
    fixed_zones,
    st.timezones(),
    st.decimals(),
    st.from_regex(r"-?[0-9]{1,30}(\.[0-9]{1,30})?(E[+-][0-9]{1,5})?", fullmatch=True).map(Decimal),
    st.fractions(),
    st.uuids(),
)
keys = st.recursive(
    plain.filter(is_hashable),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(Name, st.text(letters, max_size=3), st.tuples(inner)),
    ),
    max_leaves=4,
)
values = st.recursive(
    plain,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(keys, inner, max_size=5),
        st.sets(keys, max_size=5),
        st.frozensets(keys, max_size=5),
        st.builds(Point, inner, inner),
        st.builds(Outer.Slotted, inner, inner),
    ),
    max_leaves=20,
)

#: one of each type at least, and the edges
EXAMPLES: list[Any] = [
    None,
    True,
    False,
    0,
    127,
    128,
    -128,
    -129,
    255,
    2**64,
    -(2**64),
    10**5000,
    0.0,
    -0.0,
    float("nan"),
    float("-inf"),
    5e-324,
    1.5 - 2j,
    "",
    "\x00",
    "\ud83d\ude00",  # two surrogates that are not one character
    "Jürgen \U0001f600",
    b"",
    bytes(range(256)),
    bytearray(b"\x80\x05"),
    [],
    [[], [[]]],
    (),
    (1,),
    {},
    {"b": 1, "a": 2},
    {1: "int", "1": "str", (1, frozenset({2})): b"", None: {}},
    set(),
    {1, "a", None},
    frozenset(),
    {-1, -2},  # their hashes are equal
    range(0),
    range(10**30, -5, -7),
    dt.datetime.min,
    dt.datetime.max,
    dt.datetime(2024, 10, 27, 2, 30, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin"), fold=1),
    dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc),
    dt.date(1, 1, 1),
    dt.time(23, 59, 59, 999999, fold=1),
    dt.time(1, tzinfo=dt.timezone(dt.timedelta(hours=-3, microseconds=1), "odd\ud800")),
    dt.timedelta.min,
    dt.timedelta.max,
    dt.timezone.utc,
    dt.timezone(dt.timedelta(hours=1)),
    zoneinfo.ZoneInfo("America/Argentina/Buenos_Aires"),
    Decimal("-0.00"),
    Decimal("1E+999999"),
    Decimal("-Infinity"),
    Decimal("sNaN123"),
    Decimal(10) ** 5000,
    Fraction(-3, 7),
    Fraction(1, 10**2000),
    uuid.UUID(int=7),
    Point([Point(1, 2), Point(3, {"a": Point(None)})], Name("n", (1, Name("m")))),
    [Outer.Slotted(1, 2), Point(1), Outer.Slotted(3, 4), Point(2)],
]
