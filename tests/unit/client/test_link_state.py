"""The state of a link in words, and who is told of a change."""

from __future__ import annotations

import re
import time

from meca_executor.client.link_state import LinkState
from tests.helpers.waiting import wait_until

LIMIT = 60.0


def test_a_state_is_a_word() -> None:
    """Only that of a link which is tried again says more."""
    state = LinkState()
    assert str(state) == "connecting"
    state.change("connected", "")
    assert str(state) == "connected"


def test_resuming_tells_seconds_and_attempts() -> None:
    """Whole seconds since the drop; both begin anew with each drop."""
    state = LinkState()
    state.change("resuming", "it dropped")
    assert re.fullmatch(r"resuming \(\d+ s, attempt 0\)", str(state))
    state.attempts += 4
    state.since = time.monotonic() - 600.9
    assert re.fullmatch(r"resuming \(60[0-9] s, attempt 4\)", str(state))
    before = state.since
    state.change("resuming", "told again")
    assert (state.attempts, state.since) == (4, before), "it is the same drop still"
    state.change("connected", "")
    state.change("resuming", "it dropped again")
    assert state.attempts == 0 and state.since > before


def test_an_end_is_for_good() -> None:
    """Whatever the link does on its way out."""
    for end in ("lost", "closed"):
        state = LinkState()
        state.change(end, "")
        for word in ("resuming", "connected", "closed", "lost"):
            state.change(word, "")
        assert str(state) == end


def test_each_change_is_told_once_and_in_order() -> None:
    """What is no change is not; nothing is told after the end."""
    told: list[tuple[str, str]] = []
    state = LinkState(lambda word, why: told.append((word, why)))
    for number, word in enumerate(["connected", "connected", "resuming", "resuming", "connected", "lost", "closed"]):
        state.change(word, str(number))
    wait_until(lambda: told and told[-1][0] == "lost", "all is told", LIMIT)
    state.told()
    assert told == [("connected", "0"), ("resuming", "2"), ("connected", "4"), ("lost", "5")]


def test_a_forked_child_tells_nobody() -> None:
    """Its parent does."""
    told: list[str] = []
    state = LinkState(lambda word, why: told.append(word))
    telling = state._telling
    assert telling is not None
    state.end_here()
    assert str(state) == "closed"
    state.change("lost", "")
    telling.tell("closed", "so that the thread ends")
    wait_until(lambda: told, "it ends", LIMIT)
    assert told == ["closed"]
