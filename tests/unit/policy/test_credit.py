"""Credit: long tasks stay in the client, short ones flow, and all of it comes back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.policy.batching import OVERHEAD_US
from meca_executor.policy.credit import SLOT_US, Credit

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)

KIND, OTHER = (0, 1), (0, 2)
WINDOW, WINDOW_BYTES = 1000, 10_000


def credit(slots: int = 2) -> Credit:
    return Credit(slots, WINDOW, WINDOW_BYTES)


def allows(credit: Credit, kind: tuple[int, int] = KIND, size: int = 0) -> bool:
    """Whether one more may be handed over."""
    return credit.room(kind) > 0 and credit.fits(size)


def give(credit: Credit, kind: tuple[int, int] = KIND, size: int = 0) -> float:
    """Hand one over; return its charge."""
    charge = credit.charge(kind)
    credit.handed_over(charge, size)
    return charge


def fill(credit: Credit, kind: tuple[int, int] = KIND, size: int = 0) -> list[float]:
    """Hand over as many as are allowed; return their charges."""
    charges = []
    while allows(credit, kind, size):
        charges.append(give(credit, kind, size))
        assert len(charges) <= 2 * WINDOW
    return charges


@pytest.mark.parametrize("slots", [1, 2, 7])
def test_unmeasured_tasks_are_one_more_than_the_slots(slots: int) -> None:
    """DESIGN rule 5: until a first time is measured, slots + 1 are out, as in ProcessPoolExecutor."""
    assert len(fill(credit(slots))) == slots + 1


@pytest.mark.parametrize("slots", [1, 2, 7])
@pytest.mark.parametrize("micros", [SLOT_US * 10, 10**6, 0xFFFF_FFFF])
def test_long_tasks_are_one_more_than_the_slots(slots: int, micros: int) -> None:
    """DESIGN rule 5: of tasks that are known to be long, slots + 1 are out."""
    long = credit(slots)
    long.measured(KIND, micros, 1)
    assert len(fill(long)) == slots + 1


@pytest.mark.parametrize("micros", [0, 100, 1000, 10_000])
def test_short_tasks_flow(micros: int) -> None:
    """Of short ones, as many are out as the slots do in SLOT_US, but no more than the window."""
    short = credit(slots=2)
    short.measured(KIND, micros, 1)
    assert short.room(KIND) == min(WINDOW, int(2 * SLOT_US / (micros + OVERHEAD_US)))


def test_short_tasks_come_many_at_once() -> None:
    """No more of them go while most of what may be out is out; then all that may."""
    short = credit(slots=2)
    short.measured(KIND, 1000, 1)
    charges = [give(short) for _ in range(short.room(KIND))]
    most, took = len(charges), 0
    while not short.room(KIND):
        short.done(charges.pop(), 0)
        took += 1
    assert 1 < took < most / 2
    assert short.room(KIND) == took


def test_a_short_kind_does_not_open_the_way_for_another() -> None:
    """Tasks that were never measured are held back however short the others are."""
    mixed = credit(slots=2)
    mixed.measured(KIND, 0, 1)
    for _ in range(3):
        give(mixed, KIND)
    assert allows(mixed, KIND, 0)
    assert not allows(mixed, OTHER, 0)


def test_behind_a_task_of_unknown_length_nothing_flows() -> None:
    """One that may be long takes the place of all the short ones beyond slots + 1."""
    mixed = credit(slots=2)
    mixed.measured(KIND, 0, 1)
    give(mixed, OTHER)
    assert len(fill(mixed, KIND)) == 2


def test_bytes_are_limited_too() -> None:
    """What is out has at most window_bytes, for long and short tasks."""
    many = credit()
    many.measured(KIND, 0, 1)
    assert len(fill(many, size=WINDOW_BYTES // 10)) == 10
    assert not allows(many, OTHER, 1)


def test_one_task_may_have_any_size() -> None:
    """A payload larger than the window goes alone, when nothing else is out; it is never stuck."""
    huge = credit()
    assert len(fill(huge, size=10 * WINDOW_BYTES)) == 1
    huge.done(SLOT_US * 2, 10 * WINDOW_BYTES)
    assert allows(huge, KIND, 10 * WINDOW_BYTES)


def test_what_comes_back_makes_place() -> None:
    """After one is done, one more may go."""
    long = credit(slots=2)
    charges = fill(long)
    long.done(charges.pop(), 0)
    assert len(fill(long)) == 1


def test_a_gateway_grants_other_numbers() -> None:
    """The slots and windows that a gateway tells count from then on."""
    granted = credit(slots=1)
    granted.grant(5, 3, 100)
    assert len(fill(granted)) == 6
    granted.measured(KIND, 0, 1)
    assert not allows(granted, KIND, 0)


@quickly
@given(
    st.lists(st.tuples(st.sampled_from([KIND, OTHER]), st.integers(0, 10**6)), max_size=8),
    st.lists(st.sampled_from([KIND, OTHER]), max_size=20),
    st.sampled_from([KIND, OTHER]),
)
def test_after_the_room_is_taken_there_is_none(
    times: list[tuple[tuple[int, int], int]], out: list[tuple[int, int]], kind: tuple[int, int]
) -> None:
    """Who is told of room for so many may hand over so many, and then no more."""
    account = credit(slots=2)
    for measured, micros in times:
        account.measured(measured, micros, 1)
    for other in out:
        if allows(account, other):
            give(account, other)
    for _ in range(account.room(kind)):
        give(account, kind)
    assert account.room(kind) == 0


@quickly
@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.booleans(), st.sampled_from([KIND, OTHER]), st.integers(0, 3000), st.integers(0, 10**6))),
)
def test_the_counts_are_true(slots: int, steps: list[tuple[bool, tuple[int, int], int, int]]) -> None:
    """Whatever is handed over and done, what is out is counted, and with nothing out all is as at the start."""
    account, out = credit(slots), list[tuple[float, int]]()
    for more, kind, size, micros in steps:
        if more and allows(account, kind, size):
            out.append((give(account, kind, size), size))
        elif out:
            account.done(*out.pop())
            account.measured(kind, micros, 1)
        assert account.out == len(out)
        assert account.out_bytes == sum(size for _, size in out)
        assert account.out_bytes <= WINDOW_BYTES or account.out == 1
    while out:
        account.done(*out.pop())
    assert (account.out, account.out_bytes) == (0, 0)
    assert allows(account, (9, 9), 10 * WINDOW_BYTES)
    assert len(fill(account, (9, 9))) == slots + 1
