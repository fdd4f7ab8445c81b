"""Two streams of which one writes down what comes, and is replaced: `hold`, `commit`, `replay(..., last)`.

As with a gateway that keeps a journal and is killed at any moment: what it had not written down is gone with it, the
other side sends it again to the one that takes its place, and nobody sees anything twice, out of order or not at all.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meca_executor.wire.records import Kind
from meca_executor.wire.stream import FRAME, MORE, PART_BYTES, Message, Stream, StreamBroken, frames_of

SIZES = [0, 1, 700, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES]


def body_of(size: int, number: int) -> bytes:
    """Return bytes that differ from message to message."""
    return (number.to_bytes(8, "little") * (size // 8 + 1))[:size]


# -- one stream that holds


def test_what_is_not_written_down_is_not_acknowledged() -> None:
    """A holding side acknowledges what `commit` was told, in frames of its own and in others."""
    here, there = Stream(), Stream(hold=True)
    for number in range(3):
        there.receive(here.send(Kind.TASKS, bytes([number]))[0])
    here.receive(there.acknowledge())
    assert here.delivered == 0
    assert len(here.replay(0)) == 3
    there.commit(2)
    assert there.ack_owed
    here.receive(there.send(Kind.RESULTS, b"")[0])
    assert here.delivered == 2
    assert len(here.replay(2)) == 1


def test_an_older_commit_changes_nothing() -> None:
    """What was once acknowledged stays so."""
    there = Stream(hold=True, received=7)
    there.commit(3)
    assert there.acknowledgeable == 7


def test_a_replay_ends_where_it_is_told_to() -> None:
    """Frames after the last one that may be told wait; they can be sent later."""
    here = Stream()
    frames = [here.send(Kind.RESULTS, bytes([number]))[0] for number in range(4)]
    assert here.replay(1, 3) == frames[1:3]
    assert here.replay(1) == frames[1:]


def test_one_that_takes_anothers_place_goes_on_with_its_numbers() -> None:
    """`received` and `sent` say where the other one was."""
    here = Stream()
    first = Stream(hold=True)
    first.receive(here.send(Kind.TASKS, b"1")[0])
    first.commit(1)
    first.send(Kind.RESULTS, b"1")
    second = Stream(hold=True, received=1, sent=1)
    assert second.receive(here.send(Kind.TASKS, b"2")[0]) == Message(Kind.TASKS, b"2")
    assert (second.sent, second.delivered, second.acknowledgeable) == (1, 1, 1)
    (frame,) = second.send(Kind.RESULTS, b"2")
    with pytest.raises(StreamBroken, match="frame 2 after 0"):  # the first result was never told
        here.receive(frame)


@given(st.sampled_from([0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, 5 * PART_BYTES + 3]))
def test_frames_of_counts_what_send_makes(size: int) -> None:
    """The number of frames of a message is known before it is sent."""
    body = bytes(size)
    assert frames_of(body) == len(Stream().send(Kind.RESULTS, body))


def test_a_half_received_message_does_not_outlive_its_side() -> None:
    """The parts that came before an end come again, all of them, and make the message."""
    here = Stream()
    frames = here.send(Kind.TASKS, body_of(3 * PART_BYTES, 1))
    first = Stream(hold=True)
    assert [first.receive(frame) for frame in frames[:2]] == [None, None]
    here.receive(first.acknowledge())
    second = Stream(hold=True, received=first.acknowledgeable)
    again = [second.receive(frame) for frame in here.replay(second.acknowledgeable)]
    assert again == [None, None, Message(Kind.TASKS, body_of(3 * PART_BYTES, 1))]


def test_parts_without_content_are_not_gathered() -> None:
    """A message of parts that have nothing in them takes no memory however many come."""
    there = Stream(max_message=100)
    for number in range(1, 1000):
        assert there.receive(FRAME.pack(Kind.TASKS, MORE, 0, 0, number, 0)) is None
    assert len(there._parts) < 10
    assert there.receive(FRAME.pack(Kind.TASKS, 0, 0, 0, 1000, 0) + b"end") == Message(Kind.TASKS, b"end")


# -- a side that is killed and replaced


class Entry(NamedTuple):
    """What waits to be written down: a message that came, or one to be told and its frames."""

    number: int  #: its last frame
    message: Message
    frames: list[bytes] | None  #: None: it came


class Disk:
    """What outlives an end."""

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0
        self.came: list[Message] = []
        self.told: list[Message] = []
        self.unfetched: deque[tuple[int, Message]] = deque()  #: last frame and message of what was not acknowledged


class KilledAndReplaced(RuleBasedStateMachine):
    """A client's stream, and a gateway's that writes down; links drop, acknowledgements get lost, gateways end."""

    def __init__(self) -> None:
        super().__init__()
        self.client = Stream()
        self.disk = Disk()
        self.gateway = Stream(hold=True)
        self.writing: deque[Entry] = deque()
        self.told = 0
        self.sent: list[Message] = []
        self.seen: list[Message] = []  #: by the client
        self.count = 0
        self.up = True
        self.wires: dict[str, deque[bytes]] = {"up": deque(), "down": deque()}

    def transmit(self, way: str, frames: list[bytes]) -> None:
        if self.up:
            self.wires[way].extend(frames)

    # -- messages

    @rule(size=st.sampled_from(SIZES), kind=st.sampled_from([Kind.TASKS, Kind.DEFINE]))
    def client_sends(self, size: int, kind: Kind) -> None:
        message = Message(kind, body_of(size, len(self.sent)))
        self.sent.append(message)
        self.transmit("up", self.client.send(*message))

    @rule(size=st.sampled_from(SIZES))
    def gateway_has_a_result(self, size: int) -> None:
        """It is told when it is written down, and not before."""
        self.count += 1
        message = Message(Kind.RESULTS, body_of(size, self.count))
        frames = self.gateway.send(*message)
        self.writing.append(Entry(self.gateway.sent, message, frames))

    @rule(count=st.integers(1, 5))
    def written(self, count: int) -> None:
        """Some of what waits is on disk now."""
        for _ in range(min(count, len(self.writing))):
            number, message, frames = self.writing.popleft()
            if frames is None:
                self.disk.came.append(message)
                self.disk.received = number
                self.gateway.commit(number)
            else:
                self.disk.told.append(message)
                self.disk.unfetched.append((number, message))
                self.disk.sent = self.told = number
                self.transmit("down", frames)

    # -- the link

    @rule(way=st.sampled_from(["up", "down"]), count=st.integers(1, 6), twice=st.booleans())
    def deliver(self, way: str, count: int, twice: bool) -> None:
        """Some frames arrive, in order; one of them perhaps twice."""
        wire = self.wires[way]
        for _ in range(min(count, len(wire))):
            frame = wire.popleft()
            for _ in range(1 + twice):
                self.arrive(way, frame)

    def arrive(self, way: str, frame: bytes) -> None:
        if way == "down":
            if (message := self.client.receive(frame)) is not None:
                self.seen.append(message)
            return
        if (message := self.gateway.receive(frame)) is not None:
            self.writing.append(Entry(self.gateway.received, message, None))
        self.forget_fetched()

    def forget_fetched(self) -> None:
        while self.disk.unfetched and self.disk.unfetched[0][0] <= self.gateway.delivered:
            self.disk.unfetched.popleft()

    @rule(lost=st.booleans())
    def acknowledge(self, lost: bool) -> None:
        """Both sides acknowledge what they owe; perhaps that never arrives."""
        for side, way in ((self.client, "up"), (self.gateway, "down")):
            if side.ack_owed:
                frame = side.acknowledge()
                if not lost:
                    self.transmit(way, [frame])

    @rule(late=st.integers(0, 3))
    @precondition(lambda self: self.up)
    def drop(self, late: int) -> None:
        """The link drops; a few frames still arrive where they were going."""
        for way, wire in self.wires.items():
            for frame in list(wire)[:late]:
                self.arrive(way, frame)
            wire.clear()
        self.up = False

    @rule()
    @precondition(lambda self: not self.up)
    def reconnect(self) -> None:
        """Each side is told what the other has."""
        self.up = True
        acknowledged, received = self.gateway.acknowledgeable, self.client.received
        self.transmit("down", self.gateway.replay(received, self.told))
        self.forget_fetched()
        self.transmit("up", self.client.replay(acknowledged))

    # -- ends

    @rule()
    def gateway_is_killed(self) -> None:
        """Another one takes its place, with what is on disk."""
        if self.up:
            self.drop(0)
        self.writing.clear()
        disk = self.disk
        left = list(disk.unfetched)
        before = left[0][0] - frames_of(left[0][1].body) if left else disk.sent
        self.gateway = Stream(hold=True, received=disk.received, sent=before)
        for number, message in left:
            self.gateway.send(*message)
            assert self.gateway.sent == number
        self.told = disk.sent

    @rule()
    def all_becomes_quiet(self) -> None:
        """After a reconnect all arrives, and nothing is kept."""
        if not self.up:
            self.reconnect()
        for _ in range(3):
            self.written(len(self.writing) + 1)
            for way in ("up", "down"):
                self.deliver(way, len(self.wires[way]), twice=False)
            self.written(len(self.writing) + 1)
            self.acknowledge(lost=False)
        for way in ("up", "down"):
            self.deliver(way, len(self.wires[way]), twice=False)
        # An acknowledgement that was lost is not owed again: the next reconnect says it.
        self.drop(0)
        self.reconnect()
        assert self.seen == self.disk.told
        assert self.disk.came == self.sent
        assert not any(self.wires.values())
        for side in (self.client, self.gateway):
            assert side.unacked_bytes == 0
            assert side.delivered == side.sent
            assert not side._parts
            assert not side._unacked

    @invariant()
    def nothing_is_seen_that_is_not_written_down(self) -> None:
        assert self.seen == self.disk.told[: len(self.seen)]
        assert self.disk.came == self.sent[: len(self.disk.came)]

    @invariant()
    def what_is_kept_is_counted(self) -> None:
        for side in (self.client, self.gateway):
            assert side.unacked_bytes == sum(len(frame) for _, frame in side._unacked)


KilledAndReplaced.TestCase.settings = settings(
    database=None, deadline=None, derandomize=True, max_examples=80, stateful_step_count=40
)
TestKilledAndReplaced = KilledAndReplaced.TestCase
