"""How many tasks a worker gets: short ones in batches, long and unknown ones alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.policy.batching import (
    AHEAD_US,
    MOST,
    OVERHEAD_US,
    STUCK_S,
    TARGET_US,
    WEIGHT,
    batch_size,
    is_stuck,
    updated,
)

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)

ESTIMATES = st.none() | st.floats(OVERHEAD_US, 1e10)


@pytest.mark.parametrize(
    ("estimate", "load", "queued", "slots", "size"),
    [
        (None, 0.0, 100, 2, 1),  # unknown: one, to be measured
        (None, 1.0, 100, 2, 0),  # and no second one behind it
        (2.0 * AHEAD_US, 0.0, 100, 2, 1),  # long: alone
        (2.0 * AHEAD_US, 1.0, 100, 2, 0),
        (float(AHEAD_US), 1.0 * AHEAD_US, 100, 2, 1),  # less long: one more waits behind the one that runs
        (float(AHEAD_US), 2.0 * AHEAD_US, 100, 2, 0),
        (float(AHEAD_US), 1.0 * AHEAD_US, 2, 2, 0),  # but not at the end, when another worker is free sooner
        (TARGET_US, 0.0, 100, 1, 1),
        (TARGET_US / 10, 0.0, 100, 1, 10),  # short: a target's worth
        (TARGET_US / 10, TARGET_US / 2, 100, 1, 5),  # what is there counts
        (TARGET_US / 10, TARGET_US * 0.6, 100, 1, 0),  # and as long as that is much, nothing more comes
        (TARGET_US / 10, TARGET_US * 0.95, 100, 1, 0),
        (TARGET_US / 10, TARGET_US / 7, 100, 1, 8),
        (TARGET_US / 10, 0.0, 8, 2, 2),  # few: half of each worker's part, so that all end together
        (TARGET_US / 10, 0.0, 1, 4, 1),
        (float(OVERHEAD_US), 0.0, 10**6, 1, MOST),  # never more than that
    ],
)
def test_batch_sizes(estimate: float | None, load: float, queued: int, slots: int, size: int) -> None:
    """The table of what a worker gets."""
    assert batch_size(estimate, load, queued, slots) == size


@quickly
@given(ESTIMATES, st.floats(0, 2 * TARGET_US), st.integers(1, 10**6), st.integers(1, 256))
def test_a_batch_is_within_its_bounds(estimate: float | None, load: float, queued: int, slots: int) -> None:
    """An idle worker always gets something; nobody gets more than there is, MOST, or the target's worth and one."""
    size = batch_size(estimate, load, queued, slots)
    assert 0 <= size <= min(queued, MOST)
    assert size or load
    if estimate is None:
        assert size == (0 if load else 1)
    elif size > 1:
        assert load + size * estimate <= TARGET_US * 1.001
        assert size <= -(-queued // (2 * slots))
    elif size and load:
        assert load + estimate <= max(TARGET_US, 2.5 * AHEAD_US)


@quickly
@given(st.floats(OVERHEAD_US, 1e7), st.integers(1, 5000), st.integers(1, 16))
def test_a_queue_comes_to_its_end(estimate: float, queued: int, slots: int) -> None:
    """Batches of idle workers empty any queue."""
    for _ in range(10_000):
        queued -= batch_size(estimate, 0.0, queued, slots)
        if not queued:
            return
    pytest.fail(f"{queued} tasks are left")


def test_the_first_time_is_the_estimate() -> None:
    """A kind that was never measured takes over what was measured, and its overhead."""
    assert updated(None, 1000, 1) == 1000 + OVERHEAD_US
    assert updated(None, 4000, 2) == 2000 + OVERHEAD_US


def test_a_no_op_costs_more_than_nothing() -> None:
    """No estimate is zero, so that no batch is without bound."""
    assert updated(None, 0, 1) == updated(float(OVERHEAD_US), 0, 2) == OVERHEAD_US


def test_a_new_time_weighs_a_quarter() -> None:
    """An estimate moves by WEIGHT towards each new time."""
    assert updated(1000.0, 2000 - OVERHEAD_US, 1) == pytest.approx(1000 + WEIGHT * 1000)


@quickly
@given(st.floats(OVERHEAD_US, 1e9), st.integers(0, 10**9), st.integers(1, 50))
def test_many_equal_times_count_as_if_one_by_one(estimate: float, micros: int, count: int) -> None:
    """A batch of results moves the estimate as far as its results one after the other."""
    one_by_one = estimate
    for _ in range(count):
        one_by_one = updated(one_by_one, micros, 1)
    assert updated(estimate, micros * count, count) == pytest.approx(one_by_one)


@quickly
@given(ESTIMATES, st.lists(st.integers(0, 0xFFFF_FFFF), min_size=1, max_size=20))
def test_an_estimate_stays_between_what_was_measured(estimate: float | None, micros: list[int]) -> None:
    """The new estimate is between the old one and the new times, of which their sum and number are told."""
    costs = [cost + OVERHEAD_US for cost in micros] + ([] if estimate is None else [estimate])
    assert min(costs) * 0.999 <= updated(estimate, sum(micros), len(micros)) <= max(costs) * 1.001


@pytest.mark.parametrize(
    ("elapsed_s", "estimate", "stuck"),
    [
        (STUCK_S, 100.0, False),
        (STUCK_S * 1.01, 100.0, True),
        (0.19, float(AHEAD_US), False),  # as long as thought, or nearly
        (0.21, float(AHEAD_US), True),
        (0.0, 0.0, False),
    ],
)
def test_a_task_is_stuck_when_it_is_long_and_longer_than_thought(
    elapsed_s: float, estimate: float, stuck: bool
) -> None:
    """A batch that takes what was planned is not taken apart."""
    assert is_stuck(elapsed_s, estimate) is stuck
    assert STUCK_S * 1e6 > TARGET_US
