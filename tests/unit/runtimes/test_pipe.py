"""Messages on a worker's pipe, however they arrive cut."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.runtimes.pipe import PREFIX, Reader, framed
from meca_executor.wire.records import Kind

Message = tuple[Kind, bytes]

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)

MESSAGES = st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=60)), max_size=8)


def reader_into(got: list[Message]) -> Reader:
    return Reader(lambda kind, batch: got.append((kind, batch)))


@quickly
@given(MESSAGES, st.lists(st.integers(1, 50), min_size=1))
def test_messages_come_whole_however_they_are_cut(messages: list[Message], cuts: list[int]) -> None:
    """Pieces of any size give the same messages, each once, as soon as its last byte is there."""
    data = b"".join(framed(*message) for message in messages)
    got: list[Message] = []
    reader, position, turn = reader_into(got), 0, 0
    while position < len(data):
        size = cuts[turn % len(cuts)]
        reader.feed(data[position : position + size])
        position, turn = position + size, turn + 1
        whole = [
            count
            for count in range(len(messages) + 1)
            if len(b"".join(framed(*m) for m in messages[:count])) <= position
        ]
        assert got == messages[: whole[-1]]
    assert got == messages


def test_a_large_message_comes_whole() -> None:
    """A message much larger than a read is put together."""
    got: list[Message] = []
    reader, body = reader_into(got), bytes(range(256)) * 20_000
    data = framed(Kind.LARGE, body) + framed(Kind.RESULTS, b"next")
    for at in range(0, len(data), 1 << 16):
        reader.feed(data[at : at + (1 << 16)])
    assert got == [(Kind.LARGE, body), (Kind.RESULTS, b"next")]


def test_nothing_is_no_message() -> None:
    """No bytes, or a part of a prefix, give nothing."""
    got: list[Message] = []
    reader = reader_into(got)
    reader.feed(b"")
    reader.feed(framed(Kind.TASKS, b"")[: PREFIX.size - 1])
    assert got == []
    reader.feed(framed(Kind.TASKS, b"")[PREFIX.size - 1 :])
    assert got == [(Kind.TASKS, b"")]


def test_a_batch_is_a_copy() -> None:
    """A message's bytes are its own: what arrives later does not change them."""
    got: list[Message] = []
    reader = reader_into(got)
    reader.feed(framed(Kind.RESULTS, b"first") + framed(Kind.RESULTS, b"second")[:5])
    reader.feed(framed(Kind.RESULTS, b"second")[5:])
    assert got == [(Kind.RESULTS, b"first"), (Kind.RESULTS, b"second")]


def test_a_message_that_is_refused_is_not_given_again() -> None:
    """When taking one in raises, those before it do not come a second time with the next bytes."""
    got: list[Message] = []

    def take(kind: Kind, batch: bytes) -> None:
        if batch == b"bad":
            raise ValueError("refused")
        got.append((kind, batch))

    reader = Reader(take)
    with pytest.raises(ValueError, match="refused"):
        reader.feed(framed(Kind.RESULTS, b"good") + framed(Kind.RESULTS, b"bad"))
    reader.feed(framed(Kind.RESULTS, b"more"))
    assert got == [(Kind.RESULTS, b"good"), (Kind.RESULTS, b"more")]


def test_an_unknown_kind_is_a_value_error() -> None:
    """A byte that is no kind is garbage; who owns the worker ends it."""
    with pytest.raises(ValueError):
        reader_into([]).feed(PREFIX.pack(0, 200))
