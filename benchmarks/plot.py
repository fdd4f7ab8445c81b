"""Pictures of what the scripts wrote with `--json`: one PNG a script.

    python -m benchmarks.plot FOLDER FILE...

A question that stands alone is a panel with a bar for each peer; questions on one curve are a panel with a line for
each peer. Bars and points are medians, the thin lines go from the smallest to the largest. Needs matplotlib.
"""

from __future__ import annotations

import json
import math
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .peers import MECA, optional

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

matplotlib = optional("matplotlib")
matplotlib.use("agg")  # no display is asked for
Figure = optional("matplotlib.figure").Figure

COLUMNS = 2
PANEL_INCHES = (7.0, 3.6)
OURS, THEIRS = "#c03a2b", "#7f8c8d"
WIDE = 20.0  #: a panel whose largest value is that many times the smallest gets a logarithmic axis


def draw(record: Mapping[str, Any], folder: Path) -> Path:
    """Draw what a script recorded, and return the file."""
    panels = panels_of(record)
    rows = max(1, math.ceil(len(panels) / COLUMNS))
    columns = min(COLUMNS, max(1, len(panels)))
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows + 0.5), layout="constrained")
    machine, options = record["machine"], record["options"]
    figure.suptitle(
        f"{record['benchmark']}: {options['rounds']} rounds, {options['workers']} workers, {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['python']}, commit {machine['commit']}",
        fontsize="small",
    )
    for place, questions in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, place)
        if questions[0]["curve"]:
            lines(axes, questions, record)
        else:
            bars(axes, questions[0], record["summary"])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{record['benchmark']}.png"
    figure.savefig(file, dpi=110)
    return file


def panels_of(record: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the questions that have figures, those of one curve together, in the order of their first."""
    answered = {row["question"] for row in record["summary"]}
    asked = [question for question in record["questions"] if question["key"] in answered]
    firsts = list(dict.fromkeys(question["curve"] or question["key"] for question in asked))
    ordered = sorted(asked, key=lambda question: firsts.index(question["curve"] or question["key"]))
    return [list(group) for _, group in groupby(ordered, lambda question: question["curve"] or question["key"])]


def bars(axes: Any, question: Mapping[str, Any], summary: Sequence[Mapping[str, Any]]) -> None:
    """Fill a panel with one bar a peer, the first on top."""
    rows = [row for row in summary if row["question"] == question["key"]][::-1]
    middles = [row["median"] for row in rows]
    colours = [OURS if row["peer"] == MECA.name else THEIRS for row in rows]
    axes.barh([row["peer"] for row in rows], middles, xerr=spread(rows), color=colours, ecolor="black", capsize=2)
    if min(middles) > 0 and max(middles) / min(middles) > WIDE:
        axes.set_xscale("log")
    axes.set_title(question["text"], fontsize="medium")
    axes.set_xlabel(f"{question['unit']} ({question['better']} is better)")


def lines(axes: Any, questions: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> None:
    """Fill a panel with one line a peer."""
    places = {question["key"]: question["x"] for question in questions}
    on_curve = [row for row in record["summary"] if row["question"] in places]
    for peer in dict.fromkeys(row["peer"] for row in on_curve):
        rows = sorted((row for row in on_curve if row["peer"] == peer), key=lambda row: places[row["question"]])
        at = [places[row["question"]] for row in rows]
        style = {"color": OURS, "linewidth": 2, "zorder": 3} if peer == MECA.name else {}
        axes.errorbar(at, [row["median"] for row in rows], spread(rows), marker="o", capsize=2, label=peer, **style)
    axes.set_xscale("log")
    middles = [row["median"] for row in on_curve]
    if min(middles) > 0 and max(middles) / min(middles) > WIDE:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0, *middles))
    first = questions[0]
    title, below = record["axes"][first["curve"]]
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(below)
    axes.set_ylabel(f"{first['unit']} ({first['better']} is better)")
    axes.legend(fontsize="small")


def spread(rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Return the distances from the medians down to the smallest and up to the largest."""
    return [[row["median"] - row["min"] for row in rows], [row["max"] - row["median"] for row in rows]]


def main(argv: Sequence[str]) -> int:
    """Draw each file into the folder, and say where."""
    folder, *files = map(Path, argv)
    for file in files:
        print(draw(json.loads(file.read_text(encoding="utf-8")), folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
