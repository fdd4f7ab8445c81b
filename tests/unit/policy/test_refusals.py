"""Refusals: pauses that grow, one batch at a time, and an end."""

from __future__ import annotations

import pytest

from meca_executor.policy.refusals import FIRST_S, LIMIT_S, LONGEST_S, Refusals


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_nothing_waits_without_refusals() -> None:
    refusals = Refusals(Clock())
    refusals.offered()
    refusals.progress()
    assert refusals.wait() == 0.0
    assert not refusals.active


def test_pauses_grow_with_each_offer() -> None:
    """A batch of which each task is refused counts once."""
    clock = Clock()
    refusals, pauses = Refusals(clock), list[float]()
    for _ in range(8):
        assert [refusals.refused() for _ in range(3)] == [None] * 3
        pauses.append(round(refusals.wait(), 6))
        clock.now += refusals.wait()
        assert refusals.wait() == 0.0
        refusals.offered()
        clock.now += 0.01  # until its answer comes
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_after_an_offer_the_next_waits() -> None:
    """So that a full gateway gets one batch for each pause, not the whole queue."""
    clock = Clock()
    refusals = Refusals(clock)
    refusals.refused()
    clock.now += FIRST_S
    refusals.offered()
    assert refusals.wait() == pytest.approx(FIRST_S)


def test_a_minute_of_refusals_is_an_error() -> None:
    """Then they fail one after the other, without pauses; and later ones have a minute of their own."""
    clock = Clock()
    refusals, began = Refusals(clock), clock.now
    while (why := refusals.refused()) is None:
        clock.now += refusals.wait()
        refusals.offered()
    assert LIMIT_S < clock.now - began <= LIMIT_S + LONGEST_S
    assert why == "it has taken nothing for 60 s"
    assert refusals.wait() == 0.0
    refusals.offered()
    assert refusals.refused() is not None
    clock.now += 3600.0
    assert refusals.refused() is None
    assert refusals.wait() == pytest.approx(FIRST_S)


def test_outcomes_of_others_are_worth_to_wait() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    for _ in range(100):
        assert refusals.refused() is None
        clock.now += refusals.wait()
        refusals.offered()
        refusals.progress()


def test_what_is_taken_ends_the_pauses() -> None:
    """An offer that is not refused for a while; then all goes at once, and the next refusal is a first one."""
    clock = Clock()
    refusals = Refusals(clock)
    for _ in range(5):
        refusals.refused()
        clock.now += refusals.wait()
        refusals.offered()
    clock.now += 10.0
    refusals.offered()
    assert refusals.wait() == 0.0
    assert not refusals.active
    refusals.refused()
    assert refusals.wait() == pytest.approx(FIRST_S)


def test_giving_up() -> None:
    refusals = Refusals(Clock())
    assert refusals.refused() is None
    refusals.give_up()
    assert refusals.refused() == "and the executor is shut down"
