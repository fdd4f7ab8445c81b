"""Blobs: what is sent in pieces is whole and the same at the other end, wherever that keeps it."""

from __future__ import annotations

import pickle
import resource
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.errors import SharedMemoryFull
from meca_executor.wire import objects, segments
from meca_executor.wire.blobs import ARRIVING_MOST, LAST, PIECE_BYTES, Arriving, contents, mention, mentioned, pieces
from meca_executor.wire.parcels import Parcel
from meca_executor.wire.payloads import Held, opened
from meca_executor.wire.records import MalformedBatch, encode, pack_header
from meca_executor.wire.stream import FRAME, PART_BYTES, Stream

if TYPE_CHECKING:
    from collections.abc import Sequence

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=40)

SIZES = st.sampled_from([1, 1000, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
SHARED = pytest.param(True, marks=pytest.mark.skipif(not segments.available(), reason="no memory files here"))


def bodies(number: int, parts: Sequence[bytes | memoryview]) -> list[bytes]:
    """Return the messages of a blob."""
    return [b"".join(piece) for piece in pieces(number, parts)]


def arrived(arriving: Arriving, messages: list[bytes]) -> tuple[int, bytes]:
    """Have messages arrive; return the blob that only the last one makes whole."""
    *before, last = messages
    assert [arriving.add(body) for body in before] == [None] * len(before)
    whole = arriving.add(last)
    assert whole is not None
    return whole


@pytest.mark.parametrize("shared", [False, SHARED])
@quickly
@given(st.lists(SIZES, max_size=4), st.integers(0, (1 << 63) - 1))
def test_what_is_sent_arrives(shared: bool, sizes: list[int], number: int) -> None:
    """Pickle and buffers, whatever their sizes; and each piece is one frame of the stream."""
    buffers = [bytearray([at % 251]) * size for at, size in enumerate(sizes)]
    parcel = Parcel(pickle.dumps("values"), [memoryview(buffer) for buffer in buffers])
    for parts in (parcel.parts(), [parcel.pack()], contents(parcel.pack())):
        messages = bodies(number, parts)
        assert all(len(body) <= PART_BYTES for body in messages)
        back, payload = arrived(Arriving(1 << 30, shared=shared), messages)
        assert back == number
        data, views = opened(payload)
        assert pickle.loads(data) == "values"
        assert [bytes(view) for view in views] == [bytes(buffer) for buffer in buffers]
        assert all(not view.readonly for view in views)


def test_a_large_pickle_becomes_a_parcel() -> None:
    """A payload without buffers is a pickle; on its way it is what shared memory holds."""
    payload = pickle.dumps(b"x" * PIECE_BYTES)
    _, whole = arrived(Arriving(1 << 30, shared=False), bodies(1, contents(payload)))
    data, views = opened(whole)
    assert (bytes(data), views) == (payload, [])


@pytest.mark.parametrize("shared", [False, SHARED])
def test_blobs_may_arrive_side_by_side(shared: bool) -> None:
    """Their numbers tell them apart."""
    arriving, found = Arriving(1 << 30, shared=shared), dict[int, bytes]()
    sent = {number: pickle.dumps(bytes([number]) * 2 * PIECE_BYTES) for number in (1, 2, 3)}
    waiting = [bodies(number, contents(payload)) for number, payload in sent.items()]
    while any(waiting):
        for messages in waiting:
            if messages and (whole := arriving.add(messages.pop(0))) is not None:
                found[whole[0]] = bytes(opened(whole[1])[0])
    assert found == sent


def test_pieces_are_frames_of_their_own() -> None:
    """They are kept and sent again as other frames are."""
    sender, receiver = Stream(), Stream(1 << 30)
    frames = [sender.send_piece(piece) for piece in pieces(7, [bytes(3 * PIECE_BYTES)])]
    assert [len(frame) for frame in frames] == [FRAME.size + PART_BYTES] * 3
    assert sender.replay(0) == frames
    arriving = Arriving(1 << 30, shared=False)
    messages = [receiver.receive(frame) for frame in frames]
    assert [message is not None and arriving.add(message.body) is not None for message in messages] == [
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    "body",
    [b"", b"short", pack_header(1, 0, 0, 5) + b"four", pack_header(1, 0, 0, 1) + b"two", pack_header(1, LAST, 0, 0)],
    ids=["empty", "no header", "cut", "too long", "no content"],
)
def test_garbage_is_refused(body: bytes) -> None:
    """With the error that drops a connection."""
    with pytest.raises(MalformedBatch):
        Arriving(100, shared=False).add(body)


@pytest.mark.parametrize("shared", [False, SHARED])
def test_a_blob_has_a_limit(shared: bool) -> None:
    """It is checked piece by piece, before any is kept."""
    arriving = Arriving(100, shared=shared)
    assert arriving.add(pack_header(1, 0, 0, 60) + bytes(60)) is None
    with pytest.raises(MalformedBatch, match="more than 100 bytes"):
        arriving.add(pack_header(1, LAST, 0, 41) + bytes(41))


@given(st.integers(0, (1 << 64) - 1))
def test_a_mention_says_its_number(number: int) -> None:
    """And nothing else that travels is taken for one."""
    assert mentioned(mention(number)) == number
    for payload in (b"", b"L", pickle.dumps(number), Parcel(b"x").pack(), mention(number) + b"x"):
        assert mentioned(payload) is None


def test_what_is_not_whole_is_forgotten() -> None:
    """A gateway that does not know us begins anew."""
    arriving = Arriving(1 << 30, shared=False)
    first, *_ = bodies(1, [bytes(2 * PIECE_BYTES)])
    arriving.add(first)
    arriving.clear()
    number, payload = arrived(arriving, bodies(1, contents(pickle.dumps("new"))))
    assert (number, pickle.loads(opened(payload)[0])) == (1, "new")
    assert isinstance(payload, Held)


@pytest.mark.skipif(not segments.available(), reason="no memory files here")
def test_no_room_is_told_to_who_wants_the_blob() -> None:
    """Not to the connection that it came on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    messages = bodies(3, [bytes(4 * PIECE_BYTES)])
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * PIECE_BYTES, hard))
    try:
        number, payload = arrived(Arriving(1 << 30, shared=True), messages)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    objects.hold(number, payload)
    try:
        with pytest.raises(SharedMemoryFull, match="does not fit into shared memory"):
            objects.fetch(number)
    finally:
        objects.drop(number)


@pytest.mark.skipif(not segments.available(), reason="no memory files here")
def test_what_gets_no_segment_can_be_sent_on() -> None:
    """Whoever was to put it into shared memory has a plain payload, not memory of its own process."""
    payload, (soft, hard) = pickle.dumps(b"x" * PIECE_BYTES), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        _, whole = arrived(Arriving(1 << 30, shared=True), bodies(1, contents(payload)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert type(whole) is bytes
    assert bytes(opened(whole)[0]) == payload


def test_blobs_that_never_become_whole() -> None:
    """Each may hold memory and a descriptor, so there are so many at once; one that ends makes room."""
    arriving = Arriving(100, shared=False)
    for number in range(ARRIVING_MOST):
        assert arriving.add(encode([(number, 0, 0, b"part")])) is None
    with pytest.raises(MalformedBatch, match="16 are not whole yet"):
        arriving.add(encode([(99, 0, 0, b"part")]))
    assert arriving.add(encode([(0, LAST, 0, b"end")])) is not None
    assert arriving.add(encode([(99, 0, 0, b"part")])) is None
