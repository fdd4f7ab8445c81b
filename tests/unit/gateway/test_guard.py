"""Who has to wait because proofs failed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meca_executor.gateway import guard as module
from meca_executor.gateway.guard import ENTRIES, FAILURES, Guard, is_shared, last_hop, party

FAR = "198.51.100.7"
NEAR = "127.0.0.1"


def failing(guard: Guard, address: str, times: int, now: float = 0.0, key: str = "A") -> None:
    for _ in range(times):
        guard.failed(address, key, now)


# -- an address of one party


def test_a_few_failures_are_free() -> None:
    guard = Guard()
    failing(guard, FAR, FAILURES - 1)
    assert guard.refused(FAR, 0.0) == 0.0


def test_the_wait_doubles_up_to_a_minute() -> None:
    guard, now = Guard(), 0.0
    failing(guard, FAR, FAILURES - 1, now)
    waits = []
    for _ in range(9):
        guard.failed(FAR, "A", now)
        waits.append(guard.refused(FAR, now))
        now += waits[-1]
        assert guard.refused(FAR, now) == 0.0
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_any_key_counts_there() -> None:
    guard = Guard()
    for number in range(FAILURES):
        guard.failed(FAR, f"A{number}", 0.0)
    assert guard.refused(FAR, 0.0) == 1.0
    assert guard.refused("198.51.100.8", 0.0) == 0.0
    assert guard.delay(FAR, "A0", 0.0) == 0.0


def test_slow_failures_are_free() -> None:
    guard = Guard()
    for number in range(50):
        guard.failed(FAR, "A", number * 15.0)
    assert guard.refused(FAR, 50 * 15.0 - 15.0) == 0.0


def test_a_success_clears() -> None:
    guard = Guard()
    failing(guard, FAR, FAILURES + 3)
    guard.passed(FAR, "A")
    assert (guard.refused(FAR, 0.0), len(guard)) == (0.0, 0)
    failing(guard, FAR, FAILURES - 1)
    assert guard.refused(FAR, 0.0) == 0.0


def test_a_long_peace_clears() -> None:
    guard = Guard()
    failing(guard, FAR, FAILURES + 10)
    assert guard.refused(FAR, 0.0) == 60.0
    later = 60.0 + module.FORGOTTEN_S
    guard.failed(FAR, "A", later)
    assert guard.refused(FAR, later) == 0.0
    failing(guard, FAR, FAILURES - 1, later)
    assert guard.refused(FAR, later) == 1.0


# -- an address that many share


@pytest.mark.parametrize("address", [NEAR, "::1", "127.9.9.9", "::ffff:127.0.0.1", "", "a pipe"])
def test_one_users_old_secret_hinders_no_other(address: str) -> None:
    """Nobody is shut out there, and only hellos that name the same key wait."""
    guard = Guard()
    failing(guard, address, 100, key="A")
    assert guard.refused(address, 0.0) == 0.0
    assert guard.delay(address, "A", 0.0) == 4.0
    assert guard.delay(address, "B", 0.0) == 0.0
    guard.passed(address, "A")
    assert guard.delay(address, "A", 0.0) == 0.0


def test_the_delay_grows_and_is_forgotten() -> None:
    guard = Guard()
    failing(guard, NEAR, FAILURES - 1)
    seen = []
    for _ in range(4):
        seen.append(guard.delay(NEAR, "A", 0.0))
        guard.failed(NEAR, "A", 0.0)
    assert seen == [0, 1, 2, 4]
    assert guard.delay(NEAR, "A", 500.0) == 4.0
    assert guard.delay(NEAR, "A", 4.0 + module.FORGOTTEN_S) == 0.0


# -- limits


def test_memory_is_bounded() -> None:
    """The address that failed longest ago gives way."""
    guard = Guard()
    failing(guard, FAR, FAILURES)
    failing(guard, "198.51.100.8", FAILURES)
    guard.failed(FAR, "A", 0.0)
    for number in range(ENTRIES - 1):
        guard.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", "A", 0.0)
    assert len(guard) == ENTRIES
    assert (guard.refused(FAR, 0.0), guard.refused("198.51.100.8", 0.0)) == (2.0, 0.0)


@given(st.lists(st.tuples(st.sampled_from([FAR, "2001:db8::1", NEAR, "x"]), st.booleans(), st.floats(0, 400))))
def test_no_wait_is_negative_or_longer_than_promised(events: list[tuple[str, bool, float]]) -> None:
    guard, now = Guard(), 0.0
    for address, good, later in events:
        now += later
        if good:
            guard.passed(address, "A")
        else:
            guard.failed(address, "A", now)
        assert 0.0 <= guard.refused(address, now) <= 60.0
        assert 0.0 <= guard.delay(address, "A", now) <= 4.0
        assert not (guard.refused(address, now) and guard.delay(address, "A", now))
        assert guard.refused(address, now + 60.0) == 0.0


# -- addresses


def test_whom_an_address_is_counted_under() -> None:
    assert party("198.51.100.7") == party("::ffff:198.51.100.7") == "198.51.100.7"
    assert party("2001:db8:1:2:3:4:5:6") == party("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert party("2001:db8:1:3::9") != party("2001:db8:1:2::9")
    assert party("127.0.0.1") == party("::1")
    assert [is_shared(text) for text in ("127.0.0.1", "::1", "", "198.51.100.7", "2001:db8::1")] == [True] * 3 + [
        False
    ] * 2


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["198.51.100.7"], "198.51.100.7"),
        (["1.1.1.1, 198.51.100.7"], "198.51.100.7"),
        (["1.1.1.1", "2.2.2.2,198.51.100.7 "], "198.51.100.7"),
        (["198.51.100.7:4711"], "198.51.100.7"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["2001:db8::1"], "2001:db8::1"),
        (["1.1.1.1, unknown"], "10.0.0.1"),
        (["1.1.1.1,"], "10.0.0.1"),
    ],
)
def test_only_the_last_hop_is_the_proxys_word(headers: list[str], address: str) -> None:
    assert last_hop(headers, "10.0.0.1") == address
