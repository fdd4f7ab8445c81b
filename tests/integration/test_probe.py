"""Probes: whether two processes are on one machine and may read each other's memory is shown, not said."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from meca_executor.wire.probe import Probe, answer
from meca_executor.wire.segments import available
from tests.helpers.scripts import run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not available(), reason="no memory files (memfd) or no /proc on this system")


@pytest.fixture
def probe() -> Iterator[Probe]:
    with closing(Probe()) as probe:
        yield probe


def test_another_process_of_this_user_can_answer(probe: Probe, tmp_path: Path) -> None:
    """It has read the secret; whoever only sees the offer has not."""
    ran = run(
        f"""
        from meca_executor.wire.probe import answer
        print(answer("{probe.offer()}"))
        """,
        tmp_path,
    ).expect()
    told = ran.out.strip()
    assert len(told) == 64
    assert told not in probe.offer()
    assert probe.accepts(told)


@pytest.mark.parametrize("wrong", [None, "", "0" * 64, "ä" * 64, "\ud800"])
def test_a_wrong_answer_is_not_accepted(probe: Probe, wrong: str | None) -> None:
    assert not probe.accepts(wrong)


def test_the_hash_in_the_offer_is_not_the_answer(probe: Probe) -> None:
    """What anybody can see on the wire does not help."""
    assert not probe.accepts(probe.offer().split(":")[3])


def test_an_answer_is_good_for_one_probe(probe: Probe) -> None:
    with closing(Probe()) as other:
        assert not probe.accepts(answer(other.offer()))


def test_a_closed_probe_has_no_answer(probe: Probe) -> None:
    offer = probe.offer()
    probe.close()
    probe.close()
    assert answer(offer) is None
    with pytest.raises(ValueError, match="the probe was closed"):
        probe.offer()


@pytest.mark.parametrize(
    ("place", "other"),
    [(0, "1"), (0, "-1"), (0, "../1"), (1, "9" * 5000), (2, "1"), (3, "0" * 64), (3, "\ud800"), (3, "")],
)
def test_an_offer_of_something_else_has_no_answer(probe: Probe, place: int, other: str) -> None:
    """Another process, descriptor, file or hash: as seen from another machine, or made up by a hostile peer."""
    parts = probe.offer().split(":")
    parts[place] = other
    assert answer(":".join(parts)) is None


@pytest.mark.parametrize("text", ["", ":::", "1:2:3", "1:2:3:4:5", "a:b:c:d", "\0:0:0:0"])
def test_what_is_no_offer_has_no_answer(text: str) -> None:
    assert answer(text) is None
