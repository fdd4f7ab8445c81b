"""numpy in the data codec: arrays and scalars come back equal, of the same type, and writable."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meca_executor import UntrustedResult
from meca_executor.wire.data import decode, encode

np: Any = pytest.importorskip("numpy", reason="numpy is not installed")
extra: Any = pytest.importorskip("hypothesis.extra.numpy")


def again(value: Any) -> Any:
    return decode(encode(value))


dtypes = st.one_of(
    extra.boolean_dtypes(),
    extra.integer_dtypes(endianness="?"),
    extra.unsigned_integer_dtypes(endianness="?"),
    extra.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    extra.complex_number_dtypes(endianness="?", sizes=(64, 128)),
    extra.byte_string_dtypes(endianness="?", min_len=1),
    extra.unicode_string_dtypes(endianness="?", min_len=1),
    extra.datetime64_dtypes(endianness="?"),
    extra.timedelta64_dtypes(endianness="?"),
)
structured = st.lists(st.tuples(st.text("abcü", min_size=1), dtypes), min_size=1, max_size=4, unique_by=lambda f: f[0])
shapes = extra.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


def assert_same(back: Any, sent: Any) -> None:
    assert type(back) is type(sent)
    assert back.dtype == sent.dtype
    assert back.shape == sent.shape
    assert back.tobytes() == sent.tobytes()


@given(dtypes.flatmap(lambda dtype: extra.arrays(dtype, shapes)))
def test_arrays(sent: Any) -> None:
    back = again([sent])[0]
    assert_same(back, sent)
    assert back.flags.writeable
    assert back.flags.owndata


@given(structured, st.booleans(), st.data())
def test_structured_arrays(fields: list[tuple[str, Any]], aligned: bool, data: st.DataObject) -> None:
    dtype = np.dtype(fields, align=aligned)
    sent = np.zeros(data.draw(shapes), dtype)
    for name, inner in fields:
        sent[name] = data.draw(extra.from_dtype(inner))
    back = again(sent)
    assert back.dtype.isalignedstruct == sent.dtype.isalignedstruct
    assert back.dtype.fields == sent.dtype.fields
    for name, inner in fields:
        assert back[name].tobytes() == sent[name].tobytes()
        assert back[name].dtype == inner


@given(dtypes.flatmap(lambda dtype: extra.arrays(dtype, ())))
def test_scalars(zero_dimensional: Any) -> None:
    sent = zero_dimensional[()]
    back = again((sent,))[0]
    assert type(back) is type(sent)
    assert np.asarray(back).tobytes() == np.asarray(sent).tobytes()


def test_what_lies_in_memory_in_another_way() -> None:
    base = np.arange(24.0).reshape(4, 6)
    read_only = base.copy()
    read_only.flags.writeable = False
    for sent in (np.asfortranarray(base), base[::2, ::-1], base.T, np.broadcast_to(base[0], (3, 6)), read_only):
        assert_same(again(sent), sent)
        assert again(sent).flags.writeable
    long = np.arange(100_000)
    assert_same(again(long), long)


def test_text_scalars_keep_their_whole_text() -> None:
    for sent in (np.str_(""), np.str_("a\ud800"), np.bytes_(b""), np.bytes_(b"\xff")):
        assert type(again(sent)) is type(sent)
        assert again(sent) == sent


def test_a_record() -> None:
    sent = np.array([(1, "ab")], dtype=[("n", "<i4"), ("s", "<U2")])[0]
    back = again(sent)
    assert type(back) is np.void
    assert back == sent
    assert back.dtype == sent.dtype
    assert again(np.void(b"abc")) == np.void(b"abc")


class Own(np.ndarray):  # type: ignore[misc]
    pass


class OwnFloat(np.float64):  # type: ignore[misc]
    pass


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.array([None]), "of type object"),
        (np.array([1], dtype=np.longdouble), "of type float"),
        (np.longdouble(1), "of type float"),
        (np.zeros(2, [("a", "O")]), "of type object"),
        (np.zeros(2, [("a", "i4", (3,))]), "more than one value"),
        (np.zeros(2, [("a", [("b", "i4")])]), "more than one value"),
        (np.zeros(2, [(("title", "a"), "i4")]), "more than one value"),
        (np.zeros(2, "i4").view(Own), "Own"),
        (np.ma.masked_array([1]), "MaskedArray"),
        (np.rec.array([(1,)]), "recarray"),
        (np.rec.array([(1,)]).view(np.ndarray), "record"),
        (np.rec.array([(1,)])[0], "record"),
        (OwnFloat(1), "OwnFloat"),
        (np.dtype("i4"), "DType"),
        (np.array([b""], dtype="V0"), "V0"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_refused(value: Any, words: str) -> None:
    with pytest.raises(UntrustedResult, match=words):
        encode([value])


def refuse(data: bytes, words: str) -> None:
    with pytest.raises(UntrustedResult, match=words):
        decode(data)


def edited(value: Any, old: bytes, new: bytes) -> bytes:
    sent = encode(value)
    assert sent.count(old) == 1
    return sent.replace(old, new)


def test_types_that_no_writer_writes() -> None:
    sent = np.array([1, 2], dtype="<i4")
    words = "type that does not travel"
    for text in (
        b"|O8",
        b"<f1",
        b"=i4",
        b"|i4",
        b"<i3",
        b" i4",
        b"i4,",
        b"|V0",
        b"|S0",
        b"<c6",
        b"<T4",
        b"int",
        b"<O4",
    ):
        refuse(edited(sent, b"s\x03<i4", b"s\x03" + text), words)
    for unit in (b"<M8[s]]", b"<M8[xx]", b"<M8[-s]", b"<M8[ s]"):
        refuse(edited(sent, b"s\x03<i4", b"s\x07" + unit), "type that does not travel|impossible value")


def test_shapes_that_do_not_fit() -> None:
    sent = np.array([[1, 2]], dtype="<i2")
    axes = b"\x02\x01\x02\x04"
    for wrong in (
        b"\x02\x01\x03\x04",
        b"\x02\x01\x02\x05",
        b"\x02\x00\x02\x04",
        b"\x02\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x02\x04",
        b"\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\x04",
    ):
        refuse(edited(sent, axes, wrong), "does not fit its bytes|more than 63 bits")
    refuse(edited(sent, axes, b"\x41"), "too many dimensions")
    refuse(edited(np.float32(1), b"\x00\x04", b"\x01\x01\x04"), "array for a number")
    huge = edited(np.zeros((0, 9), "u1"), b"\x02\x00\x09\x00", b"\x02\x00\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x00")
    try:
        assert decode(huge).size == 0
    except UntrustedResult:
        pass  # as numpy likes it


def test_elements_that_do_not_exist() -> None:
    """numpy takes such bytes and only fails, or worse, when they are used."""
    refuse(edited(np.array([True, False]), b"\x01\x00", b"\x02\x00"), "impossible elements")
    refuse(edited(np.bool_(True), b"\x00\x01\x01", b"\x00\x01\xff"), "impossible elements")
    beyond = 0x110000.to_bytes(4, "little")
    refuse(encode(np.array(["a"], dtype="<U1"))[:-4] + beyond, "impossible elements")
    refuse(encode(np.array(["a"], dtype=">U1"))[:-4] + beyond[::-1], "impossible elements")
    record = encode(np.zeros(1, [("n", "<i4"), ("b", "?"), ("s", "<U1")]))
    refuse(record[:-5] + b"\x05" + record[-4:], "impossible elements")
    refuse(record[:-4] + beyond, "impossible elements")
    assert decode(record[:-5] + b"\x01" + record[-4:])["b"].tolist() == [True]


@given(
    structured.map(lambda fields: encode(np.ones(2, np.dtype(fields))) if fields else b""),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), min_size=1, max_size=3),
)
def test_damaged_arrays(data: bytes, edits: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for at, byte in edits:
        damaged[at % len(damaged)] = byte
    try:
        decode(damaged)
    except UntrustedResult:
        pass


def test_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = [encode(value) for value in (np.zeros(2), np.float64(1), np.str_("a"), np.bytes_(b"a"))]
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    for data in sent:
        refuse(data, "numpy is not installed here")
