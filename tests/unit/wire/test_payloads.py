"""Payloads: small values as pickles, large ones as parcels, in the frame or in shared memory beside it."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.errors import SharedMemoryGone
from meca_executor.wire.calls import pickled
from meca_executor.wire.lending import Lender
from meca_executor.wire.parcels import BUFFER_MIN, PACKED, PICKLE, SHARED, MalformedParcel
from meca_executor.wire.payloads import SHARE_MIN, Held, dump, dump_call, in_frame, is_plain, load, opened
from meca_executor.wire.segments import available

if TYPE_CHECKING:
    from collections.abc import Iterator

needs_memory = pytest.mark.skipif(not available(), reason="no memory files (memfd) or no /proc on this system")
LARGE = SHARE_MIN + 1000  #: bytes
MIDDLE = BUFFER_MIN + 1000  #: large for a pickle, small for a segment


class Buffer:
    """As an array: its content stays out of the pickle, and is not copied where that is read."""

    def __init__(self, content: Any) -> None:
        self.view = memoryview(content)

    def __reduce__(self) -> tuple[Any, ...]:
        return Buffer, (pickle.PickleBuffer(self.view),)

    def __eq__(self, other: object) -> bool:
        return self.view == (other.view if isinstance(other, Buffer) else other)


def filled(letter: bytes, size: int = LARGE) -> Buffer:
    """Return one that can be written to."""
    return Buffer(bytearray(letter * size))


@pytest.fixture
def lender() -> Iterator[Lender]:
    lender = Lender()
    yield lender
    lender.close()


def shared(value: object, lender: Lender) -> Held:
    payload = dump(value, lender)
    assert isinstance(payload, Held) and payload[0] == SHARED and payload.segment is not None
    return payload


VALUES: dict[str, Any] = {
    "nothing": None,
    "small": {"a": [1, 2.5, "x"], "b": (b"y",)},
    "bytes": bytes(range(256)) * (LARGE // 256),
    "text": "ä" * LARGE,
    "bytearray": bytearray(b"ab" * LARGE),
    "buffer": filled(b"a"),
    "list": [filled(b"a"), b"b" * LARGE, filled(b"c", MIDDLE)],
    "middle": filled(b"a", MIDDLE),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_is_dumped_is_loaded_in_a_frame(name: str) -> None:
    payload = dump(VALUES[name], None)
    assert type(payload) is bytes
    assert load(payload) == VALUES[name]


@needs_memory
@pytest.mark.parametrize("name", VALUES)
def test_what_is_dumped_is_loaded_with_shared_memory(name: str, lender: Lender) -> None:
    again = load(dump(VALUES[name], lender))
    assert again == VALUES[name] and type(again) is type(VALUES[name])


@pytest.mark.parametrize(
    ("value", "first"),
    [(1, PICKLE), (b"a" * LARGE, PICKLE), (filled(b"a", MIDDLE), PACKED), (filled(b"a", BUFFER_MIN - 1), PICKLE)],
    ids=["an int", "bytes without a buffer", "a buffer", "a small buffer"],
)
def test_the_form_without_shared_memory(value: object, first: int) -> None:
    payload = dump(value, None)
    assert payload[0] == first
    assert is_plain(payload) == (first == PICKLE)


@needs_memory
@pytest.mark.parametrize(
    ("value", "first"),
    [
        (1, PICKLE),
        (filled(b"a", MIDDLE), PACKED),
        (b"a" * LARGE, SHARED),
        ("a" * LARGE, SHARED),
        ([filled(b"a")], SHARED),
    ],
)
def test_the_form_with_shared_memory(value: object, first: int, lender: Lender) -> None:
    payload = dump(value, lender)
    assert payload[0] == first
    assert len(payload) < 100 or first != SHARED


@needs_memory
def test_shared_memory_begins_at_its_limit(lender: Lender) -> None:
    """Of the parcel, which is somewhat larger than what it holds."""
    head = len(pickle.dumps(bytes(SHARE_MIN), 5)) - SHARE_MIN
    assert dump(bytes(SHARE_MIN - head - 1), lender)[0] == PICKLE
    assert dump(bytes(SHARE_MIN - head), lender)[0] == SHARED


@pytest.mark.parametrize("lends", [pytest.param(True, marks=needs_memory), False], ids=["shared", "in a frame"])
def test_what_is_loaded_can_be_written_and_is_private(lends: bool, lender: Lender) -> None:
    payload = dump(filled(b"a"), lender if lends else None)
    first, second = (load(payload) for _ in range(2))
    first.view[:] = b"b" * LARGE
    assert second == load(payload) == b"a" * LARGE


@pytest.mark.parametrize("lends", [pytest.param(True, marks=needs_memory), False], ids=["shared", "in a frame"])
def test_what_is_changed_after_the_dump_is_not_in_it(lends: bool, lender: Lender) -> None:
    value = filled(b"a")
    payload = dump(value, lender if lends else None)
    value.view[:] = b"b" * LARGE
    assert load(payload) == b"a" * LARGE


@needs_memory
def test_the_payload_keeps_its_memory(lender: Lender) -> None:
    """Its bytes alone do not: those are for somebody else, while the payload is there."""
    payload = shared(b"a" * LARGE, lender)
    reference = bytes(payload)
    assert load(reference) == b"a" * LARGE
    del payload
    with pytest.raises(SharedMemoryGone):
        load(reference)


@needs_memory
def test_a_mapping_is_taken_once(lender: Lender) -> None:
    """The one that was made beforehand goes to who opens first, so that it ends with what was made of it."""
    from meca_executor.wire.segments import map_segment

    payload = shared(filled(b"a"), lender)
    payload.view = map_segment(payload)
    mapping = payload.view.obj
    _, (buffer,) = opened(payload)
    assert buffer.obj is mapping and payload.view is None
    _, (buffer,) = opened(payload)
    assert buffer.obj is not mapping


@needs_memory
def test_in_frame_makes_the_same_value_travel_by_itself(lender: Lender) -> None:
    payload = shared([filled(b"a"), "text"], lender)
    framed = in_frame(payload)
    assert framed[0] == PACKED
    del payload
    assert load(framed) == [filled(b"a"), "text"]


@needs_memory
def test_in_frame_keeps_the_handles(lender: Lender) -> None:
    """Else an object could be forgotten before the task that mentions it."""
    payload, handle = shared(b"a" * LARGE, lender), object()
    payload.handles = (handle,)
    framed = in_frame(payload)
    assert isinstance(framed, Held) and tuple(framed.handles) == (handle,) and framed.segment is None


def test_in_frame_leaves_what_is_in_a_frame() -> None:
    for payload in (dump(1, None), dump(filled(b"a"), None), Held(b"\x80")):
        assert in_frame(payload) is payload


@pytest.mark.parametrize("lends", [pytest.param(True, marks=needs_memory), False], ids=["shared", "in a frame"])
@pytest.mark.parametrize("kwargs", [{}, {"key": b"k" * LARGE}], ids=["plain", "with keywords"])
@pytest.mark.parametrize("argument", [1, b"a" * LARGE, filled(b"a")], ids=["small", "bytes", "buffer"])
def test_calls(argument: object, kwargs: dict[str, Any], lends: bool, lender: Lender) -> None:
    """With their function where it is given, without it where it is known already."""
    lent = lender if lends else None
    assert load(dump_call(None, (argument,), kwargs, lent)) == ((argument,), kwargs)
    assert load(dump_call(len, (argument,), kwargs, lent)) == (len, (argument,), kwargs)


def test_a_local_function_travels_by_value_with_large_values_of_its_own(lender: Lender) -> None:
    large = filled(b"a")
    fn, args, kwargs = load(dump_call(lambda: len(large.view), (), {}, lender if available() else None))
    assert (fn(*args, **kwargs), args, kwargs) == (LARGE, (), {})


def test_what_cannot_be_pickled_raises_its_own_error(lender: Lender) -> None:
    with pytest.raises(TypeError, match="generator"):
        dump([filled(b"a"), (n for n in range(3))], lender)
    assert not lender.idle


def test_buffers_are_taken_out_of_the_pickle() -> None:
    data, buffers = pickled([filled(b"a"), 1])
    assert len(data) < 200 and [buffer.nbytes for buffer in buffers] == [LARGE]


@pytest.mark.parametrize("garbage", [b"M", b"M" * 25, b"B", b"B" + bytes(60)], ids=repr)
def test_garbage_is_told(garbage: bytes) -> None:
    with pytest.raises((MalformedParcel, SharedMemoryGone)):
        load(garbage)
