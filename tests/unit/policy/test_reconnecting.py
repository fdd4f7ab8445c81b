"""Pauses before a connection that was dropped at once is tried again."""

from __future__ import annotations

from meca_executor.policy.reconnecting import LONGEST_S, STEADY_S, Reconnecting


def test_a_connection_that_lasted_is_tried_again_at_once() -> None:
    reconnecting = Reconnecting()
    assert reconnecting.pause(1.0) == 0.0
    reconnecting.dropped(STEADY_S)
    assert reconnecting.pause(1.0) == 0.0


def test_pauses_grow_until_one_lasts() -> None:
    reconnecting, pauses = Reconnecting(), list[float]()
    for _ in range(8):
        reconnecting.dropped(0.01)
        pauses.append(reconnecting.pause(1.0))
        assert reconnecting.pause(0.0) == pauses[-1] / 2
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    reconnecting.dropped(60.0)
    assert reconnecting.pause(1.0) == 0.0
    reconnecting.dropped(0.0)
    assert reconnecting.pause(1.0) == 0.1


def test_it_goes_on_for_ever() -> None:
    """Ten minutes of it, and more."""
    reconnecting = Reconnecting()
    for _ in range(5000):
        reconnecting.dropped(0.0)
    assert reconnecting.pause(1.0) == LONGEST_S
