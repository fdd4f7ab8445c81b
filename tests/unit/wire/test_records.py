"""Records: what is encoded comes back, and what is cut or garbled is refused in one way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.wire.records import HEADER_BYTES, MICROS_MAX, Kind, MalformedBatch, Record, Status, decode, encode

U32 = st.integers(0, MICROS_MAX)
U64 = st.integers(0, (1 << 64) - 1)
RECORDS = st.lists(st.tuples(U64, U32, U32, st.binary(max_size=40)), max_size=8)

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)


@quickly
@given(RECORDS)
def test_what_is_encoded_comes_back(records: list[Record]) -> None:
    """A batch gives the records that it was made of, in their order."""
    assert decode(encode(records)) == records


@quickly
@given(RECORDS, st.data())
def test_a_cut_batch_is_refused(records: list[Record], data: st.DataObject) -> None:
    """A batch that is cut anywhere but behind a record is MalformedBatch; there, it is the records before."""
    batch = encode(records)
    ends = [len(encode(records[:count])) for count in range(len(records) + 1)]
    cut = data.draw(st.integers(0, len(batch)) | st.sampled_from(ends))
    if cut in ends:
        assert decode(batch[:cut]) == records[: ends.index(cut)]
    else:
        with pytest.raises(MalformedBatch):
            decode(batch[:cut])


@quickly
@given(st.binary(max_size=3 * HEADER_BYTES))
def test_garbage_is_malformed_or_means_exactly_itself(garbage: bytes) -> None:
    """Any bytes are either MalformedBatch, or records that encode to the same bytes."""
    try:
        records = decode(garbage)
    except MalformedBatch:
        return
    assert encode(records) == garbage


def test_a_size_beyond_the_batch_is_refused_in_words() -> None:
    """A record that announces more than there is names itself and both sizes, and allocates nothing."""
    batch = encode([(7, 0, 0, b"abc")])
    lying = batch[: HEADER_BYTES - 8] + (1 << 60).to_bytes(8, "little") + b"abc"
    with pytest.raises(MalformedBatch, match=rf"record 7 announces {1 << 60} bytes, 3 are left"):
        decode(lying)


def test_a_torn_header_is_refused_in_words() -> None:
    """Bytes that are too few for a header are not a record."""
    with pytest.raises(MalformedBatch, match=f"5 bytes left, a record's header has {HEADER_BYTES}"):
        decode(encode([(1, 2, 3, b"whole")]) + bytes(5))


@pytest.mark.parametrize("numbers", [Kind, Status])
def test_numbers_on_the_wire_are_not_used_twice(numbers: type[Kind] | type[Status]) -> None:
    """Kinds fit in a frame's byte, statuses in a record's tag, and none is another's alias."""
    values = [int(member) for member in numbers.__members__.values()]
    assert len(set(values)) == len(values)
    assert all(0 <= value < 256 for value in values)
