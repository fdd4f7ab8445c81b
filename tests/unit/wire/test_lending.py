"""Lent memory: used again when it was given back, never before; and not kept for long."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.wire import lending
from meca_executor.wire.lending import IDLE_MOST, Lender
from meca_executor.wire.parcels import Parcel, unpack
from meca_executor.wire.segments import Segment, available, map_fd

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not available(), reason="no memory files (memfd) or no /proc on this system")
KILO = 1 << 10


@pytest.fixture
def lender() -> Iterator[Lender]:
    lender = Lender()
    yield lender
    lender.close()


def lent(lender: Lender, content: bytes) -> Segment:
    segment = lender.make(Parcel(content))
    assert segment is not None
    return segment


def content_of(segment: Segment) -> bytes:
    return bytes(unpack(map_fd(segment.fileno(), segment.size))[0])


def is_closed(segment: Segment) -> bool:
    try:
        return segment.fileno() < 0
    except ValueError:
        return True


def test_what_was_given_back_is_lent_again_with_the_new_content(lender: Lender) -> None:
    first = lent(lender, b"a" * KILO)
    lender.give_back(first)
    assert lent(lender, b"b" * KILO) is first
    assert content_of(first) == b"b" * KILO


def test_what_was_not_given_back_is_not_lent_again(lender: Lender) -> None:
    first, second = lent(lender, b"a" * KILO), lent(lender, b"b" * KILO)
    assert first is not second
    assert (content_of(first), content_of(second)) == (b"a" * KILO, b"b" * KILO)


def test_a_segment_is_lent_to_one_only(lender: Lender) -> None:
    first = lent(lender, b"a" * KILO)
    lender.give_back(first)
    assert lent(lender, b"b" * KILO) is first
    assert lent(lender, b"c" * KILO) is not first
    assert content_of(first) == b"b" * KILO


def test_a_smaller_parcel_takes_a_larger_segment_and_says_its_own_size(lender: Lender) -> None:
    first = lent(lender, b"a" * 3 * KILO)
    capacity = first.capacity
    lender.give_back(first)
    assert lent(lender, b"b" * 2 * KILO) is first
    assert content_of(first) == b"b" * 2 * KILO
    assert first.capacity == capacity > first.size == Parcel(b"b" * 2 * KILO).size
    lender.give_back(first)
    assert lent(lender, b"c" * 3 * KILO) is first  # it has not become smaller
    assert content_of(first) == b"c" * 3 * KILO


@pytest.mark.parametrize("size", [KILO, 5 * KILO], ids=["less than half", "more than it holds"])
def test_a_parcel_of_another_size_gets_a_segment_of_its_own(lender: Lender, size: int) -> None:
    first = lent(lender, b"a" * 4 * KILO)
    lender.give_back(first)
    assert lent(lender, b"b" * size) is not first
    assert lent(lender, b"c" * 4 * KILO) is first


def test_the_one_used_last_is_lent_first(lender: Lender) -> None:
    """Its memory is the most likely to be in the processor's cache."""
    segments = [lent(lender, bytes(KILO)) for _ in range(3)]
    for segment in segments:
        lender.give_back(segment)
    assert lent(lender, bytes(KILO)) is segments[-1]


def test_few_are_kept(lender: Lender) -> None:
    segments = [lent(lender, bytes(KILO)) for _ in range(IDLE_MOST + 2)]
    for segment in segments:
        lender.give_back(segment)
    assert [is_closed(segment) for segment in segments] == [True, True] + [False] * IDLE_MOST


def test_little_memory_is_kept(lender: Lender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "IDLE_BYTES", 10 * KILO)
    small, large = lent(lender, bytes(4 * KILO)), lent(lender, bytes(8 * KILO))
    lender.give_back(small)
    assert not is_closed(small)
    lender.give_back(large)
    assert (is_closed(small), is_closed(large)) == (True, False)
    lender.give_back(huge := lent(lender, bytes(20 * KILO)))
    assert is_closed(large) and is_closed(huge) and not lender.idle


def test_trim_lets_all_go_and_the_lender_goes_on(lender: Lender) -> None:
    first, second = lent(lender, b"a" * KILO), lent(lender, b"b" * KILO)
    lender.give_back(first)
    assert lender.idle
    lender.trim()
    assert is_closed(first) and not is_closed(second) and not lender.idle
    lender.give_back(second)
    assert lent(lender, b"c" * KILO) is second


def test_after_close_nothing_is_kept(lender: Lender) -> None:
    first, second = lent(lender, bytes(KILO)), lent(lender, bytes(KILO))
    lender.give_back(first)
    lender.close()
    assert is_closed(first)
    lender.give_back(second)
    assert is_closed(second) and not lender.idle


@pytest.mark.parametrize("use", ["make", "give back"])
def test_use_is_noted(lender: Lender, use: str) -> None:
    """The time without use counts anew from each use, of either kind."""
    segment = lent(lender, bytes(KILO))
    before = lender.idle_for()
    assert 0 <= before <= lender.idle_for()
    lender._used_at -= 1000.0  # as if it were long ago
    assert lender.idle_for() >= 1000.0
    if use == "make":
        lent(lender, bytes(KILO))
    else:
        lender.give_back(segment)
    assert 0 <= lender.idle_for() < 1000.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.one_of(st.integers(1, 40).map(lambda n: n * 100), st.integers(-20, -1)), max_size=60))
def test_what_is_lent_keeps_its_content(steps: list[int]) -> None:
    """Whatever is lent and given back in whatever order: a positive step lends so much, a negative one gives back."""
    lender, out = Lender(), list[tuple[Segment, bytes]]()
    try:
        for number, step in enumerate(steps):
            if step > 0:
                content = number.to_bytes(2, "big") * step
                out.append((lent(lender, content), content))
            elif out:
                lender.give_back(out.pop(step % len(out))[0])
            assert len({id(segment) for segment, _ in out}) == len(out)
            assert all(content_of(segment) == content for segment, content in out)
    finally:
        lender.close()
        for segment, _ in out:
            segment.close()


def test_threads_do_not_get_the_same_one(lender: Lender) -> None:
    wrong: list[bytes] = []

    def work(name: bytes) -> None:
        for _ in range(200):
            segment = lent(lender, name * 2 * KILO)
            if (content := content_of(segment)) != name * 2 * KILO:
                wrong.append(content)
            lender.give_back(segment)

    threads = [threading.Thread(target=work, args=(bytes([65 + number]),)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
