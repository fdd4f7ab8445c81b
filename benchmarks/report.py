"""From the figures of the rounds to tables: medians, ratios, goals reached or missed."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from .peers import MECA

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .questions import Figures, Limit, Question

    Rounds = Sequence[Mapping[str, Figures]]  #: one entry a round: peer name → figures


@dataclass(frozen=True)
class Row:
    """One line of the table: a question and a peer, over all rounds."""

    question: str
    peer: str
    median: float
    min: float
    max: float
    ratios: dict[str, float]  #: control's name → median of the rounds' quotients


@dataclass(frozen=True)
class Verdict:
    """How a question with a goal came out."""

    question: str
    goal: str  #: in words
    of_goal: float  #: median over the rounds of figure / goal, both of the same round
    reached: bool
    without: tuple[str, ...]  #: peers that the goal names and that took no part


def summarise(
    questions: Sequence[Question], names: Sequence[str], rounds: Rounds, controls: Sequence[str]
) -> list[Row]:
    """Return a row for each question and peer that has a figure; `names` are the peers, in the order wanted."""
    rows = []
    for question in questions:
        for name in names:
            values = [figures[name][question.key] for figures in rounds if question.key in figures.get(name, {})]
            if values:
                ratios = {
                    control: ratio
                    for control in controls
                    if (ratio := ratio_to(control, name, question.key, rounds)) is not None
                }
                rows.append(Row(question.key, name, median(values), min(values), max(values), ratios))
    return rows


def ratio_to(control: str, peer: str, key: str, rounds: Rounds) -> float | None:
    """Return the median of `peer` over `control`, each quotient from one round; None when they never met."""
    quotients = [
        figures[peer][key] / figures[control][key]
        for figures in rounds
        if key in figures.get(peer, {}) and figures.get(control, {}).get(key)
    ]
    return median(quotients) if quotients else None


def judge(questions: Sequence[Question], rounds: Rounds) -> list[Verdict]:
    """Return a verdict for each question that has a goal, and a figure to hold against it."""
    verdicts = []
    for question in questions:
        shares = []
        absent: set[str] = set()
        for figures in rounds:
            known = {name: found[question.key] for name, found in figures.items() if question.key in found}
            met = [limit for limit in question.goal if limit.peer is None or limit.peer in known]
            if MECA.name not in known or not met:
                continue
            absent.update(limit.peer for limit in question.goal if limit.peer and limit not in met)
            shares.append(known[MECA.name] / max(bound(limit, known) for limit in met))
        if shares:
            share = median(shares)
            reached = share >= 1 if question.better == "higher" else share <= 1
            verdicts.append(Verdict(question.key, goal_in_words(question), share, reached, tuple(sorted(absent))))
    return verdicts


def bound(limit: Limit, known: Mapping[str, float]) -> float:
    """Return a limit as a number of the question's unit, from the figures of one round by peer."""
    return limit.plus + (limit.factor * known[limit.peer] if limit.peer else 0.0)


# -- words


def in_words(value: float) -> str:
    """Return `value` with three digits that count, thousands apart."""
    if abs(value) >= 1000:
        return f"{round(value, -max(0, len(str(int(abs(value)))) - 3)):,.0f}"
    return f"{value:.3g}"


def goal_in_words(question: Question) -> str:
    """Return a goal as in `at least 12 x ProcessPoolExecutor and 1.2 x ThreadPoolExecutor`."""
    limits = []
    for limit in question.goal:
        times = "" if limit.factor == 1 else f"{limit.factor:g} x "
        terms = [times + limit.peer] if limit.peer else []
        if limit.plus or not terms:
            terms.append(f"{limit.plus:g} {question.unit}")
        limits.append(" + ".join(terms))
    if question.better == "higher":
        return "at least " + " and ".join(limits)
    return "at most " + " or ".join(limits)


def table(questions: Sequence[Question], rows: Sequence[Row], controls: Sequence[str]) -> str:
    """Return all figures as Markdown, so that they can go to RESULTS.md as they are."""
    by_key = {question.key: question for question in questions}
    header = ["question", "peer", "median", "min", "max", *(f"/ {control}" for control in controls), "better"]
    body = []
    for row in rows:
        question = by_key[row.question]
        ratios = [in_words(row.ratios[control]) if control in row.ratios else "" for control in controls]
        numbers = [in_words(row.median), in_words(row.min), in_words(row.max)]
        body.append([f"{question.text}, {question.unit}", row.peer, *numbers, *ratios, question.better])
    return markdown(header, body, left=(0, 1, len(header) - 1))


def goals_table(questions: Sequence[Question], verdicts: Sequence[Verdict]) -> str:
    """Return the goals as Markdown: what is asked, how near it is, reached or missed."""
    by_key = {question.key: question for question in questions}
    body = []
    for verdict in verdicts:
        question = by_key[verdict.question]
        word = "reached" if verdict.reached else "missed"
        if verdict.without:
            word += f" (not measured: {', '.join(verdict.without)})"
        body.append([f"{question.text}, {question.unit}", verdict.goal, in_words(verdict.of_goal), word])
    return markdown([f"goals of {MECA.name}", "goal", "figure / goal", ""], body, left=(0, 1, 3))


def markdown(header: Sequence[str], body: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    """Return a padded Markdown table; columns in `left` are text, the others are numbers."""
    widths = [max(len(line[column]) for line in [header, *body]) for column in range(len(header))]

    def line_of(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if column in left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(line_of(cells) for cells in [header, rule, *body])
