"""The simulation behind "Scale", with small numbers, and the model that is fitted to what was measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks import harness, scale
from benchmarks.questions import Missing, Options
from benchmarks.scale_model import BUSY, GOAL, Costs, capacity, report
from benchmarks.simulation import Simulation, jain

if TYPE_CHECKING:
    from pathlib import Path

COSTS = Costs(
    batched_us=5, alone_us=200, megabyte_us=2_000, decision_us=0, task_bytes=500, worker_bytes=2_000,
    session_bytes=50_000, session_us=100,
)  # fmt: skip


def test_all_calls_end_and_workers_are_busy() -> None:
    """Shares are equal though one client has ten times the backlog of the others."""
    found = Simulation(20, 2_000, sessions=4).run()
    assert found.tasks == 2_000
    assert found.decisions >= 2_000 / 2  # 50 ms: they travel alone, or by two
    assert found.utilisation > 0.97
    assert found.fairness > 0.95
    assert found.virtual_s == pytest.approx(2_000 * 0.05 / 20, rel=0.25)
    assert found.us_per_decision * found.decisions_per_s == pytest.approx(1e6)


def test_short_calls_travel_together() -> None:
    """As at a gateway."""
    found = Simulation(4, 40_000, sessions=2, mean_s=0.0001, ahead=1_000).run()
    assert found.decisions < 40_000 / 10
    assert found.utilisation > 0.9


def test_it_is_the_same_every_time() -> None:
    """But for how long the broker took on this machine."""
    first, second = (Simulation(8, 400).run() for _ in range(2))
    assert (first.virtual_s, first.decisions, first.events) == (second.virtual_s, second.decisions, second.events)


def test_equal_and_unequal_shares() -> None:
    """Jain's index."""
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([0.0, 0.0]) == 0.0


def test_what_a_gateway_carries() -> None:
    """By hand: 100 ms tasks travel alone, and a kilobyte costs 2 µs."""
    one = capacity(COSTS, 0.1, payload=1_000, sessions=0)
    assert one.tasks_per_s == pytest.approx(BUSY * 1e6 / 202)
    assert one.workers == int(BUSY * 1e6 / 202 * 0.1)
    assert one.ends_with == "core"
    assert one.gateways(10 * one.workers) == 10
    assert one.gateways(10 * one.workers + 1) == 11


def test_short_tasks_share_a_message() -> None:
    """Ten of 1 ms do; the rest of the cost is each one's own."""
    assert capacity(COSTS, 0.001, payload=0, sessions=0).tasks_per_s == pytest.approx(BUSY * 1e6 / (5 + 195 / 10))


def test_memory_may_end_first() -> None:
    """With long tasks, little memory, or much in each of them."""
    small = capacity(COSTS, 600.0, payload=10e6, memory=1 << 30, sessions=0)
    assert small.ends_with == "memory"
    assert small.workers == int((1 << 30) / (2_000 + 2 * (500 + 10e6)))
    assert capacity(COSTS, 1.0, memory=1 << 20, sessions=64).workers == 0  # its clients alone have it


def test_more_of_anything_carries_less() -> None:
    """Clients, bytes, and decisions that take longer."""
    plain = capacity(COSTS, 0.1, sessions=0)
    slow = Costs(**{**COSTS.__dict__, "decision_us": 100.0})
    for other in (capacity(COSTS, 0.1, sessions=500), capacity(COSTS, 0.1, payload=1e6), capacity(slow, 0.1)):
        assert other.workers < plain.workers


def test_the_report_has_a_line_a_length() -> None:
    """And says what it was fitted to."""
    text = report(COSTS)
    assert f"gateways for {GOAL:,} workers" in text
    assert "5.0 µs among many and 200 µs alone" in text
    assert text.count("\n| ") == 8


def test_the_model_needs_all_its_figures() -> None:
    """Which one is missing is said."""
    with pytest.raises(KeyError, match="decision_10"):
        Costs.of({"batched_us": 1.0})


def test_the_parts_answer_their_questions() -> None:
    """With few calls; a gateway of its own where psutil can watch it."""
    options = Options(1, 200, 2, 60.0)
    for part in scale.SCRIPT.parts:
        if part.name in ("simulated 10000", "waiting 512"):
            continue  # the same with larger numbers
        try:
            figures = part.measure(part.peers[0], options)
        except Missing as reason:
            assert "psutil" in str(reason)
            continue
        assert figures.keys() == {question.key for question in part.questions}


def test_the_command_ends_with_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the medians; or says what was not measured."""
    figures: dict[str, Any] = {**COSTS.__dict__, "decision_10": 100.0, "decision_10000": 150.0}

    def measured(_: object, words: list[str]) -> int:
        rows = [{"question": name, "median": value} for name, value in figures.items()]
        (tmp_path / "scale.json").write_text(json.dumps({"summary": rows}))
        assert words[-2:] == ["--json", str(tmp_path / "scale.json")]
        return 0

    monkeypatch.setattr(harness, "main", measured)
    assert scale.main(["--json", str(tmp_path / "scale.json")]) == 0
    assert "50 µs more among 10,000 workers" in capsys.readouterr().out
    del figures["alone_us"]
    scale.main(["--json", str(tmp_path / "scale.json")])
    assert "no model: 'alone_us' was not measured" in capsys.readouterr().out
