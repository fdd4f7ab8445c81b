"""Parcels: what is packed comes back without copies, and what is cut or garbled is refused in one way."""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.wire.parcels import (
    ALIGNMENT,
    BUFFER_MIN,
    PACKED,
    PICKLE,
    SHARED,
    Collector,
    MalformedParcel,
    Parcel,
    unpack,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

BYTES = st.binary(max_size=200)
PARCELS = st.builds(lambda data, buffers: Parcel(data, [memoryview(b) for b in buffers]), BYTES, st.lists(BYTES))
HEAD = struct.Struct("<4sI")
MAGIC = Parcel(b"").pack()[:4]

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)


def collected(value: object) -> Parcel:
    """Return a value as the parcel that a sender makes of it."""
    out = Collector()
    return Parcel(pickle.dumps(value, 5, buffer_callback=out), out.buffers)


def loaded(packed: bytes | bytearray) -> Any:
    data, buffers = unpack(packed)
    return pickle.loads(data, buffers=buffers)


# -- packing


@quickly
@given(PARCELS)
def test_what_is_packed_comes_back(parcel: Parcel) -> None:
    """A packed parcel gives the pickle and the buffers that it was made of, in their order."""
    data, buffers = unpack(parcel.pack())
    assert data == parcel.data
    assert buffers == parcel.buffers


@quickly
@given(PARCELS)
def test_the_parts_are_the_packed_parcel(parcel: Parcel) -> None:
    """Written one after the other, the parts are what `pack` returns, of the size that was told before."""
    packed = parcel.pack()
    assert b"".join(parcel.parts()) == packed
    assert parcel.size == len(packed)


@quickly
@given(PARCELS)
def test_each_buffer_begins_at_a_multiple_of_the_alignment(parcel: Parcel) -> None:
    """So that arrays in mapped memory are aligned, whatever the sizes before them."""
    position, starts = 0, []
    for part in parcel.parts():
        if any(part is buffer for buffer in parcel.buffers):
            starts.append(position)
        position += len(part)
    assert len(starts) == len(parcel.buffers)
    assert [start % ALIGNMENT for start in starts] == [0] * len(starts)


def test_nothing_is_copied_to_be_written() -> None:
    """The parts hold the pickle and the buffers themselves."""
    data, buffer = b"pickle", memoryview(bytearray(100))
    parts = Parcel(data, [buffer]).parts()
    assert any(part is data for part in parts)
    assert any(part is buffer for part in parts)


def test_a_change_before_packing_is_sent() -> None:
    """The buffers are the sender's own memory until then, and a copy from then on."""
    memory = bytearray(b"old!")
    parcel = Parcel(b"", [memoryview(memory)])
    memory[:] = b"new!"
    packed = parcel.pack()
    memory[:] = b"late"
    assert unpack(packed)[1] == [b"new!"]


def test_the_first_byte_tells_what_a_payload_is() -> None:
    """A pickle, a packed parcel and a reference to shared memory are never taken for one another."""
    assert Parcel(b"").pack()[0] == PACKED
    assert pickle.dumps(None, 5)[0] == PICKLE
    assert len({PICKLE, PACKED, SHARED}) == 3


# -- unpacking


def test_what_is_unpacked_are_slices_of_what_was_given() -> None:
    """Written to a buffer, it stands in the memory that was given; bytes give buffers that cannot be written to."""
    packed = bytearray(Parcel(b"pickle", [memoryview(b"abc")]).pack())
    _, (buffer,) = unpack(packed)
    buffer[:] = b"xyz"
    assert packed.endswith(b"xyz")
    data, (buffer,) = unpack(bytes(packed))
    assert data.readonly
    assert buffer.readonly


@quickly
@given(PARCELS, st.data())
def test_a_cut_parcel_is_refused(parcel: Parcel, data: st.DataObject) -> None:
    """A parcel that is cut anywhere is MalformedParcel."""
    packed = parcel.pack()
    with pytest.raises(MalformedParcel):
        unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


@quickly
@given(PARCELS, st.binary(min_size=1, max_size=2 * ALIGNMENT))
def test_what_follows_a_parcel_is_refused(parcel: Parcel, more: bytes) -> None:
    """Nothing travels unseen behind a parcel."""
    with pytest.raises(MalformedParcel, match="the parcel ends at"):
        unpack(parcel.pack() + more)


@quickly
@given(st.integers(0, 4) | st.integers(0, (1 << 32) - 1), st.binary(max_size=120))
def test_garbage_is_malformed_or_means_itself(count: int, rest: bytes) -> None:
    """Any head is either MalformedParcel, or its sizes are those of what is unpacked."""
    garbage = HEAD.pack(MAGIC, count) + rest
    try:
        data, buffers = unpack(garbage)
    except MalformedParcel:
        return
    again = Parcel(bytes(data), buffers).pack()
    assert len(buffers) == count
    assert len(again) == len(garbage)
    assert again[: 8 * (count + 2)] == garbage[: 8 * (count + 2)]


@pytest.mark.parametrize(
    ("packed", "words"),
    [
        (b"", "0 bytes are too few for a parcel's head"),
        (b"BPC", "3 bytes are too few"),
        (b"nope" + bytes(12), "a parcel begins with b'BPC1', not with b'nope'"),
        (
            HEAD.pack(MAGIC, 0xFFFF_FFFF) + bytes(64),
            "the head of a parcel with 4294967295 buffers has 34359738376 bytes",
        ),
        (HEAD.pack(MAGIC, 0) + struct.pack("<Q", 1 << 63) + b"x", f"the pickle is {1 << 63} bytes at 16"),
        (HEAD.pack(MAGIC, 1) + struct.pack("<QQ", 0, (1 << 64) - 1), f"buffer 0 is {(1 << 64) - 1} bytes at 64"),
        (HEAD.pack(MAGIC, 1) + struct.pack("<QQ", 0, 0), "buffer 0 is 0 bytes at 64, but the parcel has 24"),
        (HEAD.pack(MAGIC, 0) + struct.pack("<Q", 2) + b"abc", "the parcel ends at 18 bytes, and 19 are there"),
    ],
)
def test_what_is_wrong_is_said(packed: bytes, words: str) -> None:
    """Each way to be no parcel has its words, and none allocates what the sizes announce."""
    with pytest.raises(MalformedParcel, match=words):
        unpack(packed)


def test_a_view_of_something_else_than_bytes_is_refused() -> None:
    """Positions in a view of larger items would not be bytes."""
    view = memoryview(Parcel(bytes(8)).pack())
    with pytest.raises(MalformedParcel, match="a flat view of bytes was expected, not 1 dimensions of 'I'"):
        unpack(view.cast("I"))
    with pytest.raises(MalformedParcel, match="not 2 dimensions"):
        unpack(view.cast("B", (2, len(view) // 2)))
    with pytest.raises(MalformedParcel, match="a flat view"):
        unpack(view[::2])


# -- with a pickler


def test_large_buffers_leave_the_pickle_and_small_ones_stay() -> None:
    """A buffer of BUFFER_MIN bytes is taken out, one byte less is not."""
    large, small = bytes(BUFFER_MIN), bytes(BUFFER_MIN - 1)
    parcel = collected([pickle.PickleBuffer(large), pickle.PickleBuffer(small)])
    assert parcel.buffers == [large]
    assert len(small) <= len(parcel.data) < len(small) + 200
    assert loaded(parcel.pack()) == [large, small]


def test_a_buffer_that_is_not_contiguous_stays() -> None:
    """Its bytes cannot be handed over in one piece, which is the pickler's to deal with."""
    out = Collector()
    assert out(pickle.PickleBuffer(memoryview(bytes(4 * BUFFER_MIN))[::2]))
    assert out.buffers == []


ARRAYS: list[NDArray[Any]] = [
    np.arange(BUFFER_MIN, dtype=np.float64).reshape(4, -1),
    np.asfortranarray(np.arange(BUFFER_MIN, dtype=np.int32).reshape(16, -1)),
    np.arange(4 * BUFFER_MIN)[::3],
    np.arange(10),
    np.zeros((0, 3)),
]


@pytest.mark.parametrize("array", ARRAYS, ids=["plain", "fortran", "strided", "small", "empty"])
def test_arrays_come_back_equal_and_writable(array: NDArray[Any]) -> None:
    """Whatever its memory is like; writable where the packed parcel is."""
    again = loaded(bytearray(collected({"array": array}).pack()))["array"]
    np.testing.assert_array_equal(again, array, strict=True)
    again[...] = 0


def test_a_read_only_buffer_comes_back_read_only() -> None:
    """What the sender could not write to, the receiver cannot, even in writable memory."""
    array = np.arange(BUFFER_MIN)
    array.flags.writeable = False
    parcel = collected(array)
    assert len(parcel.buffers) == 1
    assert not loaded(bytearray(parcel.pack())).flags.writeable


def test_an_array_that_stands_twice_in_a_value_travels_once() -> None:
    """And is one array again."""
    array = np.arange(BUFFER_MIN)
    parcel = collected([array, array])
    assert len(parcel.buffers) == 1
    first, second = loaded(parcel.pack())
    assert first is second
