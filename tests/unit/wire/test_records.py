"""Records: what is encoded comes back, and what is cut or garbled is refused in one way."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.wire.records import (
    HEADER_BYTES,
    MICROS_MAX,
    SIZE_AT,
    Kind,
    MalformedBatch,
    Outcomes,
    Record,
    Status,
    decode,
    encode,
    starts,
)

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


# -- looking into a batch without taking it apart


@quickly
@given(RECORDS)
def test_records_start_where_the_others_end(records: list[Record]) -> None:
    """One place for each record, and one behind the last; what is between two of them is that record."""
    batch = encode(records)
    places = starts(batch)
    assert places[0] == 0
    assert places[-1] == len(batch)
    assert [decode(batch[start:stop]) for start, stop in itertools.pairwise(places)] == [[record] for record in records]


def hostile(batch: bytes, cut: int, lies: list[tuple[int, int]]) -> bytes:
    """A batch of which some sizes are not true, and which is cut."""
    changed = bytearray(batch)
    for at, size in lies:
        if at * HEADER_BYTES + HEADER_BYTES <= len(changed):
            changed[at * HEADER_BYTES + SIZE_AT : (at + 1) * HEADER_BYTES] = size.to_bytes(8, "little")
    return bytes(changed[: len(changed) - cut])


SIZES = st.sampled_from([0, 1, HEADER_BYTES, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]) | U64


@quickly
@given(RECORDS, st.integers(0, 30), st.lists(st.tuples(st.integers(0, 3), SIZES), max_size=2), st.binary(max_size=60))
def test_both_ways_of_looking_agree_on_any_bytes(
    records: list[Record], cut: int, lies: list[tuple[int, int]], rest: bytes
) -> None:
    """What one refuses the other does, with the same exception and no other; what both take has as many records."""
    for batch in (hostile(encode(records), cut, lies), encode(records) + rest, rest):
        try:
            expected = decode(batch)
        except MalformedBatch:
            for look in (starts, Outcomes.of):
                with pytest.raises(MalformedBatch):
                    look(batch)
            continue
        assert len(starts(batch)) == len(expected) + 1
        assert Outcomes.of(batch).total == len(expected)


@quickly
@given(RECORDS, st.lists(st.booleans(), min_size=8, max_size=8))
def test_outcomes_are_counted(records: list[Record], skipped: list[bool]) -> None:
    """Their number, their time, and whether a worker left one alone."""
    told = [
        (id_, int(Status.SKIPPED if skip else Status.OK), micros, payload)
        for (id_, _, micros, payload), skip in zip(records, skipped, strict=False)
    ]
    outcomes = Outcomes.of(encode(told))
    assert outcomes[:4] == (
        encode(told),
        len(told),
        sum(micros for _, _, micros, _ in told),
        not any(skipped[: len(told)]),
    )
