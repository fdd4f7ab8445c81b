"""From figures to tables: medians, ratios within a round, goals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from benchmarks.peers import MECA, PROCESSES, RAY, THREADS
from benchmarks.questions import Limit, Question
from benchmarks.report import goal_in_words, goals_table, in_words, judge, ratio_to, summarise, table

if TYPE_CHECKING:
    from benchmarks.questions import Figures

RATE = Question("rate", "no-op", "tasks/s", "higher", (Limit(PROCESSES.name, 12), Limit(THREADS.name, 1.2)))
DELAY = Question("delay", "one call", "µs", "lower", (Limit(PROCESSES.name, 1.5), Limit("bare", 1, 100)))
SHARE = Question("share", "ideal", "%", "higher", (Limit(plus=97),))


def rounds(key: str, **figures: list[float]) -> list[dict[str, Figures]]:
    """Return rounds with one figure a peer; `ours` is MecaExecutor, `ppe` and `threads` the standard library's."""
    names = {"ours": MECA.name, "ppe": PROCESSES.name, "threads": THREADS.name}
    count = max(map(len, figures.values()))
    return [
        {names.get(peer, peer): {key: values[number]} for peer, values in figures.items() if number < len(values)}
        for number in range(count)
    ]


def test_a_row_is_median_smallest_and_largest() -> None:
    (row,) = summarise([RATE], [MECA.name], rounds("rate", ours=[5, 1, 3]), [])
    assert (row.median, row.min, row.max, row.ratios) == (3, 1, 5, {})


def test_a_peer_without_figures_has_no_row() -> None:
    rows = summarise([RATE, DELAY], [MECA.name, RAY.name], rounds("rate", ours=[1.0]), [])
    assert [(row.question, row.peer) for row in rows] == [("rate", MECA.name)]


def test_a_ratio_is_of_one_round() -> None:
    """The quotient of the medians would be 1 here: a slow minute of the machine hits both."""
    found = rounds("rate", ours=[10, 20, 90], ppe=[5, 20, 30])
    assert ratio_to(PROCESSES.name, MECA.name, "rate", found) == 2
    assert summarise([RATE], [MECA.name], found, [PROCESSES.name])[0].ratios == {PROCESSES.name: 2}


def test_peers_that_never_met_have_no_ratio() -> None:
    found = [{MECA.name: {"rate": 1.0}}, {PROCESSES.name: {"rate": 1.0}}]
    assert ratio_to(PROCESSES.name, MECA.name, "rate", found) is None


@pytest.mark.parametrize(
    ("ours", "of_goal", "reached"),
    [(1200, 1.0, True), (1199, 1199 / 1200, False), (2400, 2.0, True)],
)
def test_a_rate_must_reach_every_limit(ours: float, of_goal: float, reached: bool) -> None:
    (verdict,) = judge([RATE], rounds("rate", ours=[ours], ppe=[10], threads=[1000]))
    assert (verdict.of_goal, verdict.reached, verdict.without) == (of_goal, reached, ())


@pytest.mark.parametrize(("ours", "reached"), [(300, True), (301, False)])
def test_a_time_may_reach_the_largest_limit(ours: float, reached: bool) -> None:
    (verdict,) = judge([DELAY], rounds("delay", ours=[ours], ppe=[100], bare=[200]))
    assert verdict.reached is reached


def test_a_goal_goes_by_the_median_of_the_rounds() -> None:
    (verdict,) = judge([SHARE], rounds("share", ours=[98, 90, 99]))
    assert verdict.reached


def test_a_goal_without_one_of_its_peers_says_so() -> None:
    (verdict,) = judge([RATE], rounds("rate", ours=[13], ppe=[1]))
    assert verdict.reached
    assert verdict.without == (THREADS.name,)
    assert f"reached (not measured: {THREADS.name})" in goals_table([RATE], [verdict])


def test_a_goal_without_any_of_its_peers_or_without_us_is_open() -> None:
    assert judge([RATE], rounds("rate", ours=[13])) == []
    assert judge([RATE], rounds("rate", ppe=[13])) == []


def test_goals_in_words() -> None:
    assert goal_in_words(RATE) == "at least 12 x ProcessPoolExecutor and 1.2 x ThreadPoolExecutor"
    assert goal_in_words(DELAY) == "at most 1.5 x ProcessPoolExecutor or bare + 100 µs"
    assert goal_in_words(SHARE) == "at least 97 %"


@pytest.mark.parametrize(
    ("value", "words"), [(0, "0"), (0.01234, "0.0123"), (999.4, "999"), (1234, "1,230"), (1_234_567, "1,230,000")]
)
def test_three_digits_count(value: float, words: str) -> None:
    assert in_words(value) == words


def test_the_table_is_markdown_with_columns_of_one_width() -> None:
    found = rounds("rate", ours=[1234.0], ppe=[617.0])
    names = [PROCESSES.name, MECA.name]
    lines = table([RATE], summarise([RATE], names, found, names[:1]), names[:1]).splitlines()
    assert len(lines) == 4
    assert len(set(map(len, lines))) == 1
    cells = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert cells == ["no-op, tasks/s", "MecaExecutor", "1,230", "1,230", "1,230", "2", "higher"]
