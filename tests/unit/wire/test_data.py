"""The data codec: what goes in comes out, of exactly the same type, and what is no data is refused by name."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import fractions
import pathlib
import sys
import types
import zoneinfo
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
from hypothesis import given

from meca_executor import UntrustedResult, UsageError
from meca_executor.wire import data_writer
from meca_executor.wire.data import decode, encode

from .values import ALLOW, EXAMPLES, Name, Point, known, values


def again(value: Any, **options: Any) -> Any:
    return decode(encode(value), **options)


# -- values


@given(values)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert known(again(value, allow=ALLOW)) == known(value)


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_each_type_and_its_edges(value: Any) -> None:
    assert known(again(value, allow=ALLOW)) == known(value)
    assert known(again([value], allow=ALLOW)) == known([value])


def test_every_tag_has_an_example() -> None:
    written = {type(value) for value in EXAMPLES}
    late = {getattr(sys.modules[module], name) for module, name in data_writer.LATE_WRITERS if module != "numpy"}
    assert set(data_writer.WRITERS) | late <= written


def test_bytes_like_inputs() -> None:
    sent = encode([1, "a"])
    assert decode(bytearray(sent)) == decode(memoryview(sent)) == [1, "a"]


def test_objects_arrive_as_equal_copies() -> None:
    shared: list[int] = [1]
    first, second = again([shared, shared])
    assert first == second == [1]
    assert first is not second


def test_the_deepest() -> None:
    value: Any = 1
    for _ in range(data_writer.DEPTH_MOST):
        value = {"a": value}
    assert again(value) == value
    with pytest.raises(UntrustedResult, match="nested more than 100 deep, or contains itself"):
        encode([value])


def test_what_contains_itself() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UntrustedResult, match="contains itself"):
        encode(value)


def test_a_caller_at_the_end_of_the_stack() -> None:
    value: Any = 1
    for _ in range(data_writer.DEPTH_MOST):
        value = [value]
    sent = encode(value)

    def dig(action: Any) -> Any:
        """Call the action with ever less stack, down to none."""
        try:
            return dig(action)
        except RecursionError:
            return action()

    with pytest.raises((UntrustedResult, RecursionError)):
        dig(lambda: encode(value))
    with pytest.raises((UntrustedResult, RecursionError)):
        dig(lambda: decode(sent))


def test_too_many_items_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_writer, "ITEMS_MOST", 100)
    monkeypatch.setattr("meca_executor.wire.data.BYTES_MOST", 1000)
    assert again([0] * 95) == [0] * 95
    with pytest.raises(UntrustedResult, match="more than 100 items"):
        encode([0] * 96)
    with pytest.raises(UntrustedResult, match=r"1,0\d\d bytes; 1,000 are the limit"):
        encode("x" * 1000)
    sent = encode("x" * 900)
    monkeypatch.setattr("meca_executor.wire.data.BYTES_MOST", 800)
    with pytest.raises(UntrustedResult, match="800 are the limit"):
        decode(sent)


def test_a_doubling_list_ends_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_writer, "ITEMS_MOST", 10_000)
    value: list[Any] = []
    for _ in range(60):
        value = [value, value]
    with pytest.raises(UntrustedResult, match="more than 10,000 items"):
        encode(value)


# -- what is refused


class Text(str):
    pass


class Colour(enum.IntEnum):
    RED = 1


Pair = collections.namedtuple("Pair", "left right")
odd_zone = type("Zone", (dt.tzinfo,), {"__module__": __name__})()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "contains an object, which"),
        (Text("a"), r"contains a \S*test_data\.Text \(a subclass of str, not str itself\)"),
        (Colour.RED, r"Colour \(a subclass of int,"),
        (Pair(1, 2), r"Pair \(a subclass of tuple,"),
        (collections.OrderedDict(), r"a collections\.OrderedDict \(a subclass of dict,"),
        (collections.deque(), r"a collections\.deque"),
        (pathlib.PurePosixPath("a"), "Path"),
        (test_bytes_like_inputs, "a function"),
        (int, "a type"),
        (Point, "a type"),
        (sys, "a module"),
        (..., "an ellipsis"),
        (memoryview(b""), "a memoryview"),
        (ValueError("a"), "a ValueError"),
        (dt.datetime(2024, 1, 1, tzinfo=odd_zone), "Zone"),
        (fractions.Fraction(1, 10**3000), "several thousand digits"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_the_type_and_the_ways_out_are_named(value: object, words: str) -> None:
    for sent in (value, [value], {"a": (value,)}):
        with pytest.raises(UntrustedResult, match=words) as caught:
            encode(sent)
        for way in ("return plain data", "allow=[...]", 'trust="pickle"'):
            assert way in str(caught.value)


def test_a_class_that_only_has_the_name() -> None:
    imposter = types.new_class("Decimal", (), {}, lambda body: body.update(__module__="decimal"))
    with pytest.raises(UntrustedResult, match=r"a decimal\.Decimal"):
        encode(imposter())


def test_a_zone_from_a_file() -> None:
    place = next(p for path in zoneinfo.TZPATH if (p := pathlib.Path(path, "UTC")).exists())
    with place.open("rb") as file, pytest.raises(UntrustedResult, match="no key"):
        encode(zoneinfo.ZoneInfo.from_file(file))


# -- dataclasses


def test_a_dataclass_arrives_only_where_it_is_allowed() -> None:
    sent = encode([Point(1, 2)])
    assert decode(sent, allow=[Point]) == [Point(1, 2)]
    for allow in ([], [Name]):
        with pytest.raises(UntrustedResult, match=r"'\S*values\.Point' that is not allowed here; pass allow=\[Point\]"):
            decode(sent, allow=allow)


def test_a_dataclass_takes_its_name_along_once() -> None:
    none, one, two = (len(encode([Point(0, 0)] * count)) for count in range(3))
    assert one - none > two - one == len(b"o\x00" + 2 * b"i\x01\x00")


@dataclass(frozen=True)
class Loud:
    text: str
    length: int = field(init=False, default=-1)

    @cached_property
    def upper(self) -> str:
        return self.text.upper()


def test_a_frozen_dataclass_keeps_its_fields_and_forgets_what_it_cached() -> None:
    loud = Loud("a")
    object.__setattr__(loud, "length", 7)
    assert loud.upper == "A"
    back = again(loud, allow=[Loud])
    assert back == loud
    assert vars(back) == {"text": "a", "length": 7}


@dataclass
class Checked:
    value: int
    ran = 0

    def __post_init__(self) -> None:
        type(self).ran += 1


def test_none_of_its_own_code_makes_a_dataclass() -> None:
    sent = encode(Checked(1))
    before = Checked.ran
    assert decode(sent, allow=[Checked]).value == 1
    assert Checked.ran == before


def test_the_same_definition_is_needed() -> None:
    sent = encode(Point(1, 2))
    other, more = (dataclasses.make_dataclass("Point", names) for names in (["x", "z"], ["x", "y", "z"]))
    other.__module__ = more.__module__ = Point.__module__
    for kind in (other, more):
        with pytest.raises(UntrustedResult, match="with other fields than the class has here"):
            decode(sent, allow=[kind])


@dataclass
class DictToo(dict):  # type: ignore[type-arg]
    x: int


def test_a_dataclass_that_is_more_than_its_fields() -> None:
    point = Point(1)
    vars(point)["z"] = 3
    with pytest.raises(UntrustedResult, match=r"Point with attributes that are no fields \(z\)"):
        encode(point)
    del vars(point)["z"], point.x
    with pytest.raises(UntrustedResult, match="Point without its field x"):
        encode(point)
    with pytest.raises(UntrustedResult, match="not made of its fields alone"):
        encode(DictToo(1))


@pytest.mark.parametrize("wrong", [int, Pair, Point(1), "Point"])
def test_allow_takes_dataclasses(wrong: Any) -> None:
    with pytest.raises(UsageError, match="is not a dataclass"):
        decode(encode(1), allow=[Point, wrong])
