"""Waiting for something to become true, always with a limit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT = 60.0  #: seconds that a test waits for what takes a fraction of one on an idle machine
POLL_S = 0.005  #: between two looks; short, because tests spend most of their time here


def becomes_true(predicate: Callable[[], object], timeout: float = LIMIT) -> bool:
    """Return True as soon as `predicate()` holds, False when it still does not after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def wait_until(predicate: Callable[[], object], what: str, timeout: float = LIMIT) -> None:
    """Return as soon as `predicate()` holds.

    Raises:
        AssertionError: It still does not after `timeout` seconds; `what` says what was awaited.
    """
    if not becomes_true(predicate, timeout):
        raise AssertionError(f"{what}: still not so after {timeout:g} s")
