"""Bytes from strangers: whatever they are, reading them gives a value or `UntrustedResult`, and takes little."""

from __future__ import annotations

import pickle
import struct
import sys
import tracemalloc
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meca_executor import UntrustedResult
from meca_executor.wire import data_reader
from meca_executor.wire.data import decode, encode
from meca_executor.wire.data_writer import ITEMS_MOST, MAGIC

from .values import ALLOW, values

#: modules that reading may load, whatever the data say
LAZY = ("decimal", "_decimal", "_pydecimal", "fractions", "uuid", "_uuid", "zoneinfo", "tzdata", "numpy", "importlib")


def read(data: bytes) -> None:
    """Read, and fail for any exception but the one, and for a new module."""
    before = set(sys.modules)
    try:
        decode(data, allow=ALLOW)
    except UntrustedResult as error:
        assert str(error).startswith("the result ")
    decode(encode([1.5, {}]))  # nothing is broken afterwards
    if "numpy" not in before:
        return  # its first import brings hundreds
    assert {name.partition(".")[0] for name in set(sys.modules) - before} <= set(LAZY)


@given(st.binary(max_size=200))
@example(b"")
@example(MAGIC)
@example(b"\x80\x05N.")
def test_random_bytes(data: bytes) -> None:
    read(data)
    read(MAGIC + data)


tags = st.sampled_from([bytes([tag]) for tag in data_reader.READERS])


@given(st.lists(st.one_of(tags, st.sampled_from([b"\x00", b"\x01", b"\x02", b"\xff"]), st.binary(max_size=4))))
def test_random_tags(pieces: list[bytes]) -> None:
    read(MAGIC + b"".join(pieces))


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    data = bytearray(encode(draw(values)))
    for _ in range(draw(st.integers(1, 4))):
        at, end = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
        match draw(st.sampled_from(["set", "cut", "insert", "twice"])):
            case "set":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "cut":
                del data[at:end]
            case "insert":
                data[at:at] = draw(tags | st.binary(max_size=3))
            case _:
                data[at:at] = data[at : at + min(end - at, 20)]
    return bytes(data)


@given(mutations())
def test_damaged_values(data: bytes) -> None:
    read(data)


@given(values, st.data())
def test_a_value_cut_short(value: Any, data: st.DataObject) -> None:
    sent = encode(value)
    cut = data.draw(st.integers(0, len(sent) - 1))
    with pytest.raises(UntrustedResult):
        decode(sent[:cut], allow=ALLOW)
    with pytest.raises(UntrustedResult, match="goes on after its end"):
        decode(sent + b"N", allow=ALLOW)


class Evil:
    """Its pickle runs something when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import sys; sys.hostile_pickle_ran = True",)


def test_a_pickle_is_not_read() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(Evil(), protocol)
        for sent in (data, MAGIC + data):
            with pytest.raises(UntrustedResult):
                decode(sent)
        assert decode(encode(data)) == data
    assert not hasattr(sys, "hostile_pickle_ran")


MOST = b"\xff" * 8 + b"\x7f"  #: the largest size
deep = b"l\x01" * 150 + b"N"


def size(number: int) -> bytes:
    """Return a varint."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def block(tag: bytes, content: bytes) -> bytes:
    return tag + size(len(content)) + content


def number(value: int) -> bytes:
    return encode(value)[2:]


P = sys.hash_info.modulus


@pytest.mark.parametrize(
    ("body", "words"),
    [
        *(
            (tag + MOST, "ends too early|announces more|malformed")
            for tag in (b"s", b"i", b"b", b"l", b"d", b"S", b"X")
        ),
        (b"l" + b"\xff" * 9 + b"\x01", "more than 63 bits"),
        (b"l" + size(10) + b"N" * 9, "announces more items"),
        (deep, "nested too deep"),
        (b"O\x01s", "no text where text belongs"),
        (b"o\x00", "did not describe"),
        (b"?", "unknown tag"),
        (b"s\x01\xff", "impossible value"),
        (b"r" + number(0) * 3, "impossible value"),
        (b"r" + number(0) * 2 + b"N", "wrong type inside"),
        (b"D" + struct.pack("<HBBBBBIB", 2024, 13, 1, 0, 0, 0, 0, 0) + b"N", "impossible value"),
        (b"D" + struct.pack("<HBBBBBIB", 2024, 1, 1, 0, 0, 0, 0, 2) + b"N", "impossible value"),
        (b"D" + struct.pack("<HBBBBBIB", 2024, 1, 1, 0, 0, 0, 0, 0) + number(1), "wrong type inside"),
        (b"a" + struct.pack("<HBB", 0, 1, 1), "impossible value"),
        (b"e" + struct.pack("<iII", 2**31 - 1, 0, 0), "impossible value"),
        (b"z" + number(1) + b"N", "wrong type inside"),
        (b"z" + b"e" + struct.pack("<iII", 1, 0, 0) + b"N", "impossible value"),
        (block(b"Y", b"../../etc/passwd"), "does not know"),
        (block(b"Y", b"no/such"), "does not know"),
        (block(b"Y", b"posix/posix/UTC"), "does not know"),
        (block(b"Y", b"\xff"), "impossible value"),
        *((block(b"X", text), "malformed Decimal|impossible value") for text in (b"", b"1_0", b" 1", b"1e5", b"0x1")),
        (block(b"X", b"1E+" + b"9" * 30), "malformed Decimal|impossible value"),
        (block(b"X", b"01"), "malformed Decimal"),
        (b"q" + number(1) + number(0), "malformed Fraction"),
        (b"q" + number(1) + number(1 << 9000), "malformed Fraction"),
        (b"U" + b"x" * 15, "ends too early"),
        (b"S\x01l\x00", "impossible value"),
        (b"d\x01l\x00N", "impossible value"),
        (b"S\x02" + number(1) + b"T", "element twice"),
        (b"Z\x02NN", "element twice"),
        (b"d\x02" + number(1) + b"TNN", "key twice"),
        (b"S" + size(70) + b"".join(number(P * n) for n in range(70)), "same hash"),
        (b"d" + size(70) + b"".join(number(P * n) for n in range(70)) + b"N" * 70, "same hash"),
        # Comparing these two, whose hashes are equal, would take seconds, and with more bytes hours.
        (b"S\x02" + block(b"X", b"0") + number(P << 800_000), "same hash"),
    ],
)
def test_what_no_writer_writes(body: bytes, words: str) -> None:
    with pytest.raises(UntrustedResult, match=words):
        decode(MAGIC + body)


def test_keys_whose_hashes_are_equal_by_chance() -> None:
    few = [P * n for n in range(60)]
    assert decode(encode(set(few))) == set(few)
    mixed = {1 << 90_000: "a", -1: "b", -2: "c"}
    assert decode(encode(mixed)) == mixed


def test_a_context_without_traps_makes_no_other_decimal() -> None:
    from decimal import localcontext

    with localcontext() as context:
        context.clear_traps()
        with pytest.raises(UntrustedResult, match="malformed Decimal"):
            decode(MAGIC + block(b"X", b"1E+" + b"9" * 30))


@dataclass
class Abstract:
    x: int

    def __new__(cls, *args: Any) -> Abstract:  # only its own makes one
        raise AssertionError("not called by the codec")

    def __setattr__(self, name: str, value: Any) -> None:
        raise AssertionError("not called by the codec")


def test_no_method_of_an_allowed_class_makes_the_object() -> None:
    body = b"O" + block(b"s", Abstract.__module__.encode()) + block(b"s", b"Abstract") + b"\x01" + block(b"s", b"x")
    assert decode(MAGIC + body + number(5), allow=[Abstract]).x == 5


def test_an_allowed_class_by_no_other_attribute() -> None:
    head = b"O" + block(b"s", Abstract.__module__.encode()) + block(b"s", b"Abstract")
    for names in ([], [b"__class__"], [b"x", b"x"], [b"x", b"__dict__"]):
        body = head + size(len(names)) + b"".join(block(b"s", name) for name in names) + number(1) * len(names)
        with pytest.raises(UntrustedResult, match="other fields"):
            decode(MAGIC + body, allow=[Abstract])
    with pytest.raises(UntrustedResult, match="too many fields"):
        decode(MAGIC + head + size(20_000) + b"N" * 30_000, allow=[Abstract])


@pytest.mark.parametrize("tag", [b"S\x00", b"l\x00", b"d\x00", b"N", b"o\x00", b"X\x010", b"n"], ids=repr)
def test_small_bytes_do_not_become_large_objects(tag: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit on items is what bounds the memory; here with a hundredth of it."""
    monkeypatch.setattr(data_reader, "ITEMS_MOST", ITEMS_MOST // 100)
    body = MAGIC + b"l" + size(99_000) + tag * 99_000
    tracemalloc.start()
    try:
        decode(body)
    except UntrustedResult:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 10_000_000  # times a hundred: 1 GB for ten million items


@pytest.mark.parametrize("tag", [b"s", b"b", b"B", b"i", b"l", b"t", b"S", b"d", b"m", b"k", b"X"])
def test_nothing_is_allocated_for_a_size_alone(tag: bytes) -> None:
    tracemalloc.start()
    try:
        for announced in (2**20, 2**30, 2**62):
            with pytest.raises(UntrustedResult):
                decode(MAGIC + tag + size(announced) + b"abc")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
