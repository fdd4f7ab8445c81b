"""A short chaos run; a long one: `python -m tests.chaos --minutes 30`."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from .engine import Engine, Plan

if TYPE_CHECKING:
    from pathlib import Path

    from .report import Report

LINKS_S = 36.0  #: a connection that falls silent is noticed after 30 s
ALL_S = 30.0
LIMIT_S = 600.0  #: what is stuck is told long before


def run(folder: Path, seconds: float, *, links_only: bool = False) -> Report:
    """Run with a seed of the clock, or that of `CHAOS_SEED`, which repeats a schedule."""
    seed = os.environ.get("CHAOS_SEED") or str(random.SystemRandom().randrange(10**6))
    report = Engine(Plan(seed, seconds, folder, links_only)).run()
    assert not report.broken, f"CHAOS_SEED={seed}\n{report}"
    return report


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
def test_a_bad_link_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Cuts at any byte, black holes, delays and refusals: each task runs exactly once and has its result."""
    report = run(tmp_path, LINKS_S, links_only=True)
    assert report.tasks >= 1000, report
    assert report.faults.keys() >= {"reset", "truncate", "silence", "half-open"}, report


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S)
def test_everything_at_once(tmp_path: Path) -> None:
    """Workers, clients, containers and the gateway die too: nothing is wrong, stuck, or runs more often than it may."""
    report = run(tmp_path, ALL_S)
    assert report.tasks >= 100, report
    assert report.faults.keys() >= {"worker killed", "client killed", "gateway killed"}, report
