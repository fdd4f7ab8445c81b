"""Streams: each message arrives once and in order over a link that drops, and garbage never becomes a message."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meca_executor.wire.records import Kind
from meca_executor.wire.stream import (
    ACK_BYTES,
    ACK_FRAMES,
    FRAME,
    FRAME_LIMIT,
    MORE,
    PART_BYTES,
    Message,
    Stream,
    StreamBroken,
)

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=150)

SIZES = [0, 1, 8, 1000, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES]


def frame(kind: int, number: int, body: bytes = b"", *, acked: int = 0, flags: int = 0) -> bytes:
    """Return a frame as the other side would make it."""
    return FRAME.pack(kind, flags, 0, 0, number, acked) + body


def body_of(size: int, number: int) -> bytes:
    """Return bytes that differ from part to part and from message to message."""
    return (number.to_bytes(8, "little") * (size // 8 + 1))[:size]


# -- one stream


def test_a_small_message_is_one_frame() -> None:
    """A message of at most PART_BYTES travels whole, an empty one too."""
    for size in (0, 1, PART_BYTES):
        (sent,) = Stream().send(Kind.TASKS, body_of(size, 1))
        assert Stream().receive(sent) == Message(Kind.TASKS, body_of(size, 1))


@pytest.mark.parametrize("size", [PART_BYTES + 1, 2 * PART_BYTES, 3 * PART_BYTES + 17])
def test_a_large_message_is_cut_and_put_together(size: int) -> None:
    """A larger one travels in frames below the limit; only the last one gives the message."""
    frames, there = Stream().send(Kind.RESULTS, body_of(size, 1)), Stream()
    assert len(frames) == -(-size // PART_BYTES)
    assert max(map(len, frames)) < FRAME_LIMIT
    *before, last = map(there.receive, frames)
    assert before == [None] * (len(frames) - 1)
    assert last == Message(Kind.RESULTS, body_of(size, 1))


def test_a_frame_that_came_before_is_ignored() -> None:
    """The same frame gives its message once."""
    here, there = Stream(), Stream()
    (first,), (second,) = here.send(Kind.TASKS, b"1"), here.send(Kind.TASKS, b"2")
    assert [there.receive(each) for each in (first, first, second, first, second)] == [
        Message(Kind.TASKS, b"1"),
        None,
        Message(Kind.TASKS, b"2"),
        None,
        None,
    ]


def test_a_gap_breaks_the_stream_and_a_replay_mends_it() -> None:
    """A frame that skips one is refused and not counted, so that a replay goes on from the last good one."""
    here, there = Stream(), Stream()
    first, second, third = (here.send(Kind.TASKS, bytes([at]))[0] for at in range(3))
    there.receive(first)
    with pytest.raises(StreamBroken, match="frame 3 after 1"):
        there.receive(third)
    assert there.received == 1
    assert here.replay(there.received) == [second, third]
    assert [there.receive(each) for each in (second, third)] == [Message(Kind.TASKS, b"\1"), Message(Kind.TASKS, b"\2")]


@pytest.mark.parametrize("length", [0, 1, FRAME.size - 1])
def test_a_short_frame_is_refused(length: int) -> None:
    """Fewer bytes than a header has are no frame."""
    with pytest.raises(StreamBroken, match=f"a frame of {length} bytes"):
        Stream().receive(bytes(length))


def test_an_unknown_kind_is_refused() -> None:
    """A frame in its turn whose kind nobody knows is refused, and not counted as received."""
    there = Stream()
    with pytest.raises(StreamBroken, match="unknown kind 200"):
        there.receive(frame(200, 1))
    assert there.received == 0


def test_what_was_never_sent_cannot_be_acknowledged() -> None:
    """An acknowledgement from the future is refused, in a frame and in a replay."""
    here = Stream()
    here.send(Kind.TASKS, b"")
    with pytest.raises(StreamBroken, match="frame 2 acknowledged, 1 sent"):
        here.receive(frame(Kind.ACK, 0, acked=2))
    with pytest.raises(StreamBroken):
        here.replay(2)
    assert here.replay(1) == []


def test_a_message_over_the_limit_never_comes_out() -> None:
    """A limit holds for the whole message and not for its parts; what follows is not taken for the rest of it."""
    there = Stream(max_message=100)
    assert there.receive(frame(Kind.TASKS, 1, bytes(60), flags=MORE)) is None
    with pytest.raises(StreamBroken, match="more than 100 bytes"):
        there.receive(frame(Kind.TASKS, 2, bytes(60), flags=MORE))
    with pytest.raises(StreamBroken):
        there.receive(frame(Kind.TASKS, 3, bytes(1)))


def test_a_message_of_the_limit_comes_out_and_the_next_too() -> None:
    """Exactly the limit is allowed, in one frame or several, time after time."""
    there = Stream(max_message=100)
    for at in range(3):
        assert there.receive(frame(Kind.TASKS, 2 * at + 1, bytes(50), flags=MORE)) is None
        assert there.receive(frame(Kind.TASKS, 2 * at + 2, bytes(50))) == Message(Kind.TASKS, bytes(100))


def test_parts_of_two_messages_are_not_mixed() -> None:
    """A message that goes on under another kind is garbage, not a message."""
    there = Stream()
    assert there.receive(frame(Kind.TASKS, 1, b"the first half of calls", flags=MORE)) is None
    with pytest.raises(StreamBroken):
        there.receive(frame(Kind.RESULTS, 2, b"the second half of results"))


def test_an_acknowledgement_is_due_after_enough_frames_or_bytes() -> None:
    """Anything that arrives is owed; it is due at ACK_FRAMES frames or ACK_BYTES bytes, and not a frame sooner."""
    there = Stream()
    assert not there.ack_owed
    for number in range(1, ACK_FRAMES + 1):
        assert not there.ack_due
        there.receive(frame(Kind.TASKS, number))
        assert there.ack_owed
    assert there.ack_due
    there.acknowledge()
    assert not there.ack_owed
    assert not there.ack_due
    there.receive(frame(Kind.TASKS, ACK_FRAMES + 1, bytes(ACK_BYTES)))
    assert there.ack_due


def test_every_frame_acknowledges() -> None:
    """A frame with a message carries the acknowledgement too: after it nothing is owed, and the other side is free."""
    here, there = Stream(), Stream()
    for sent in here.send(Kind.TASKS, b"call"):
        there.receive(sent)
    assert here.unacked_bytes > 0
    (answer,) = there.send(Kind.RESULTS, b"result")
    assert not there.ack_owed
    here.receive(answer)
    assert here.unacked_bytes == 0


def test_an_acknowledgement_takes_no_number() -> None:
    """A frame that only acknowledges is no message, leaves the numbers alone and may come any number of times."""
    here, there = Stream(), Stream()
    (sent,) = here.send(Kind.TASKS, b"")
    there.receive(sent)
    for _ in range(3):
        assert here.receive(there.acknowledge()) is None
    assert (here.received, here.unacked_bytes) == (0, 0)


def test_repr_tells_the_state() -> None:
    """What was sent, received and is unacknowledged stands in the repr."""
    here = Stream()
    here.send(Kind.TASKS, b"")
    assert repr(here) == "<Stream sent 1 received 0 unacknowledged 1>"


@quickly
@given(st.binary(max_size=2 * FRAME.size))
def test_garbage_is_ignored_or_refused_and_never_another_exception(garbage: bytes) -> None:
    """Any bytes are StreamBroken, or nothing, or the one frame that may come next."""
    there = Stream(max_message=1000)
    try:
        message = there.receive(garbage)
    except StreamBroken:
        return
    if message is not None:
        assert garbage == frame(message.kind, 1, message.body) or garbage[FRAME.size :] == message.body
        assert there.received == 1


@quickly
@given(st.data())
def test_a_frame_with_a_wrong_bit_never_breaks_the_numbers(data: st.DataObject) -> None:
    """A flipped bit in a header gives no exception but StreamBroken, and never a message out of its turn."""
    here, there = Stream(), Stream()
    there.receive(here.send(Kind.TASKS, b"first")[0])
    sent = bytearray(here.send(Kind.TASKS, b"second")[0])
    bit = data.draw(st.integers(0, FRAME.size * 8 - 1))
    sent[bit // 8] ^= 1 << bit % 8
    try:
        message = there.receive(bytes(sent))
    except StreamBroken:
        assert there.received == 1
        return
    assert (there.received == 2) == (message is not None or bool(sent[1] & MORE))


# -- two streams over a bad link


class Way(NamedTuple):
    """One direction: what was sent, what came, and what is on its way, a queue a connection (the oldest first)."""

    sender: Stream
    receiver: Stream
    sent: list[Message]
    came: list[Message]
    wires: deque[deque[bytes]]


class BadLink(RuleBasedStateMachine):
    """Two sides that send while the link drops, comes back, and brings frames of before late, twice or not at all."""

    def __init__(self) -> None:
        super().__init__()
        one, other = Stream(), Stream()
        self.ways = [Way(one, other, [], [], deque([deque()])), Way(other, one, [], [], deque([deque()]))]
        self.up = True

    def transmit(self, way: Way, frames: list[bytes]) -> None:
        if self.up:
            way.wires[-1].extend(frames)

    def arrive(self, way: Way, wire: deque[bytes]) -> None:
        message = way.receiver.receive(wire.popleft())
        if message is not None:
            way.came.append(message)

    def back(self) -> Way:
        return self.ways[1]

    @rule(side=st.booleans(), size=st.sampled_from(SIZES), kind=st.sampled_from([Kind.TASKS, Kind.RESULTS]))
    def send(self, side: bool, size: int, kind: Kind) -> None:
        """One side sends; with the link down the frames go nowhere, and wait in their stream."""
        way = self.ways[side]
        message = Message(kind, body_of(size, len(way.sent)))
        way.sent.append(message)
        self.transmit(way, way.sender.send(*message))

    @rule(side=st.booleans(), connection=st.integers(0, 3), count=st.integers(1, 6))
    def deliver(self, side: bool, connection: int, count: int) -> None:
        """Some frames of one connection arrive, in order."""
        way = self.ways[side]
        wire = way.wires[connection % len(way.wires)]
        for _ in range(min(count, len(wire))):
            self.arrive(way, wire)

    @rule(side=st.booleans(), only_if_due=st.booleans())
    def acknowledge(self, side: bool, only_if_due: bool) -> None:
        """The receiving side sends an acknowledgement back."""
        way, back = self.ways[side], self.ways[not side]
        if way.receiver.ack_due or (way.receiver.ack_owed and not only_if_due):
            self.transmit(back, [way.receiver.acknowledge()])

    @precondition(lambda self: self.up)
    @rule(late=st.integers(0, 3))
    def drop(self, late: int) -> None:
        """The link drops: of what is on its way, `late` frames may still arrive, the others are lost."""
        self.up = False
        for way in self.ways:
            way.wires[-1] = deque(list(way.wires[-1])[:late])

    @precondition(lambda self: not self.up)
    @rule(times=st.integers(1, 2))
    def reconnect(self, times: int) -> None:
        """A new connection: each side is told what the other has, and replays the rest (perhaps twice)."""
        self.up = True
        for way in self.ways:
            way.wires.append(deque())
        for way in self.ways:
            for _ in range(times):
                self.transmit(way, way.sender.replay(way.receiver.received))

    @rule()
    def all_becomes_quiet(self) -> None:
        """After a reconnect all arrives, and after acknowledgements nothing is kept."""
        if not self.up:
            self.reconnect(1)
        for way in (*self.ways, *self.ways):  # twice: also the acknowledgements
            for wire in way.wires:
                while wire:
                    self.arrive(way, wire)
            if way.receiver.ack_owed:
                self.transmit(self.ways[way is self.ways[0]], [way.receiver.acknowledge()])
        for way in self.ways:
            assert way.came == way.sent
            assert not way.receiver.ack_owed
            assert way.sender.unacked_bytes == 0
            assert way.sender.replay(way.receiver.received) == []

    @invariant()
    def each_message_came_once_and_in_order(self) -> None:
        for way in self.ways:
            assert way.came == way.sent[: len(way.came)]

    @invariant()
    def what_is_kept_is_counted(self) -> None:
        for way in self.ways:
            assert way.sender.unacked_bytes == sum(map(len, way.sender.replay(0)))


BadLink.TestCase.settings = settings(
    database=None, deadline=None, derandomize=True, max_examples=60, stateful_step_count=40
)
TestBadLink = BadLink.TestCase
