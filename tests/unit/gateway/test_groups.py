"""Groups and flights: slices of a batch behave as the calls one by one would."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meca_executor.gateway.groups import Flight, Group, group_of
from meca_executor.gateway.tasks import BrokerSession, Options, Pool
from meca_executor.wire.records import HEADER_BYTES, MalformedBatch, Record, decode, encode

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)

POOL = Pool("key", b"")
KIND = (3, 4)


def session(name: str = "a") -> BrokerSession:
    return BrokerSession(name, POOL, 1)


def calls(ids: list[int]) -> list[Record]:
    return [(id_, 0, 0, b"call %d" % id_) for id_ in ids]


def group(ids: list[int], owner: BrokerSession | None = None, ordinal: int = 0) -> Group:
    made = group_of(owner or session(), KIND, Options(), encode(calls(ids)), len(ids))
    made.ordinal = ordinal
    return made


# -- groups


def test_a_group_is_its_batch() -> None:
    """The records as they came, and the ids in them."""
    whole = group([7, 9, 8], ordinal=5)
    assert (len(whole), whole.end, whole.ids) == (3, 8, [7, 9, 8])
    assert whole.data == encode(calls([7, 9, 8]))
    assert "3" in repr(whole)
    assert "5" in repr(whole)


@quickly
@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=12), st.data())
def test_parts_and_cuts_are_slices(ids: list[int], data: st.DataObject) -> None:
    """Of what the group has, with all that it says; parts of parts too."""
    whole = group(ids, ordinal=100)
    whole.charge = 2.5
    start = data.draw(st.integers(0, len(ids)))
    stop = data.draw(st.integers(start, len(ids)))
    part = whole.part(start, stop)
    assert part.ids == ids[start:stop]
    assert decode(part.data) == calls(ids[start:stop])
    assert (part.ordinal, part.end) == (100 + start, 100 + stop)
    assert (part.session, part.kind, part.options, part.charge) == (whole.session, KIND, whole.options, 2.5)
    count = data.draw(st.integers(0, stop - start))
    first = part.cut(count)
    assert (first.ids, part.ids) == (ids[start : start + count], ids[start + count : stop])
    assert (first.ordinal, first.end, part.ordinal, part.end) == (
        100 + start,
        100 + start + count,
        100 + start + count,
        100 + stop,
    )
    assert whole.ids == ids, "a part takes nothing away"


@pytest.mark.parametrize("count", [0, 1, 3, 1 << 60])
def test_a_group_that_does_not_have_what_it_says_is_refused(count: int) -> None:
    """The count would else be believed in the books."""
    with pytest.raises(MalformedBatch, match=f"a group of {count} calls has 2"):
        group_of(session(), KIND, Options(), encode(calls([1, 2])), count)


@quickly
@given(st.lists(st.integers(0, 99), max_size=4), st.binary(min_size=1, max_size=HEADER_BYTES - 1), st.integers(0, 5))
def test_a_group_whose_batch_is_torn_is_refused(ids: list[int], rest: bytes, count: int) -> None:
    """Whatever count it says."""
    with pytest.raises(MalformedBatch):
        group_of(session(), KIND, Options(), encode(calls(ids)) + rest, count)


# -- flights

SESSIONS = [session("a"), session("b")]


class FlightMachine(RuleBasedStateMachine):
    """A flight beside a plain dict: ordinal -> (session, task id)."""

    def __init__(self) -> None:
        super().__init__()
        self.flight = Flight()
        self.model: dict[int, tuple[BrokerSession, int]] = {}
        self.next_ordinal = 1
        self.next_id = 1

    @rule(count=st.integers(1, 6), which=st.integers(0, 1), shift=st.integers(0, 3))
    def add(self, count: int, which: int, shift: int) -> None:
        ids = [self.next_id + (place + shift) % count for place in range(count)]  # not in their order
        self.flight.add(group(ids, SESSIONS[which], self.next_ordinal))
        for id_ in ids:
            self.model[self.next_ordinal] = (SESSIONS[which], id_)
            self.next_ordinal += 1
        self.next_id += count

    @rule(start=st.integers(-3, 12), length=st.integers(0, 12))
    def take(self, start: int, length: int) -> None:
        """From somewhere about the front."""
        self._take(min(self.model, default=1) + start, length)

    @rule(back=st.integers(0, 12), length=st.integers(0, 15))
    def take_from_the_end(self, back: int, length: int) -> None:
        """As a revocation does."""
        self._take(self.next_ordinal - back, length)

    def _take(self, start: int, length: int) -> None:
        ordinals = [ordinal for ordinal in self.model if start <= ordinal < start + length]
        self._are_taken(self.flight.take(start, start + length), ordinals)

    @precondition(lambda self: len(self.model) > 10)
    @rule()
    def take_all(self) -> None:
        self._are_taken(self.flight.take_all(), list(self.model))

    def _are_taken(self, taken: list[Group], ordinals: list[int]) -> None:
        got = self._listed(taken)
        assert got == [(ordinal, *self.model.pop(ordinal)) for ordinal in ordinals]

    def _listed(self, groups: list[Group]) -> list[tuple[int, BrokerSession | None, int]]:
        assert all(len(group) for group in groups), "no group is empty"
        return [
            (ordinal, group.session, id_) for group in groups for ordinal, id_ in enumerate(group.ids, group.ordinal)
        ]

    @invariant()
    def it_has_what_the_model_has(self) -> None:
        assert self._listed(list(self.flight)) == [(ordinal, *call) for ordinal, call in self.model.items()]
        assert len(self.flight) == len(self.model)
        assert bool(self.flight) == bool(self.model)

    @invariant()
    def each_call_is_found(self) -> None:
        for ordinal in range(min(self.model, default=1) - 2, self.next_ordinal + 2):
            found = self.flight.at(ordinal)
            assert (found is None) == (ordinal not in self.model)
            assert found is None or found.ids[ordinal - found.ordinal] == self.model[ordinal][1]

    @invariant()
    def each_task_is_found_in_its_session_only(self) -> None:
        places = {call: ordinal for ordinal, call in self.model.items()}
        for owner in SESSIONS:
            for id_ in range(max(self.next_id - 20, 0), self.next_id + 1):
                assert self.flight.find(owner, id_) == places.get((owner, id_))


FlightMachine.TestCase.settings = settings(
    database=None, deadline=None, derandomize=True, max_examples=100, stateful_step_count=30
)
TestFlight = FlightMachine.TestCase


def test_what_is_settled_belongs_to_nobody() -> None:
    """A group without a session is not found by its tasks any more, and still has its place."""
    flight, owner = Flight(), session()
    flight.add(group([7], owner, ordinal=1))
    for held in flight:
        held.session = None
    assert flight.find(owner, 7) is None
    assert flight.at(1) is not None
