"""The bench under every script: rounds, a process for each measurement, medians, one table, `--json`.

How a figure comes about:

1. A round takes every peer once, each in a fresh process of its own, one after the other; the next round
   starts with the next peer. So a slow minute of the machine hits all peers, and none is always first.
2. A cell of the table is the median over the rounds, with the smallest and the largest beside it.
3. A ratio divides two figures of the *same* round; the cell is the median of these ratios.
   It is a plain quotient, for times as for rates: the column "better" says which side of 1 is the good one.
4. A peer that is not installed, fails, or does not end in time is named with the reason and left out.

A script is a `Script`: its questions, and a function that answers them for one peer. It ends with
`harness.main(SCRIPT)`, which also is what runs in the peer's own process.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from .machine import describe_machine, usable_cores
from .peers import CONTROLS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .peers import Peer

ROOT = Path(__file__).resolve().parents[1]

#: What would send a peer to a gateway that somebody happens to run.
ENDPOINT_SETTINGS = ("MECA_ENDPOINT", "BACKEND_ENDPOINT", "SORNA_ENDPOINT")

Figures = dict[str, float]  #: question key → measured value; a question that has no answer here is absent


@dataclass(frozen=True)
class Question:
    """One row group of the table."""

    key: str
    text: str
    unit: str
    better: Literal["higher", "lower"]


@dataclass(frozen=True)
class Options:
    """What the command line settled, the same for every peer."""

    rounds: int
    tasks: int  #: calls in one counted part
    workers: int
    timeout_s: float  #: for one peer in one round


@dataclass(frozen=True)
class Script:
    """One benchmark: what it asks, of whom, and how one peer answers."""

    name: str  #: module name below `benchmarks`
    purpose: str
    questions: tuple[Question, ...]
    peers: tuple[Peer, ...]
    measure: Callable[[Peer, Options], Figures]  #: runs in the peer's own process
    tasks: int = 20_000
    rounds: int = 5


@dataclass
class Outcome:
    """What all rounds gave."""

    rounds: list[dict[str, Figures]] = field(default_factory=list)  #: one entry a round: peer name → figures
    problems: dict[str, str] = field(default_factory=dict)  #: peer name → why it has no figures, or not all
    skipped: dict[str, str] = field(default_factory=dict)  #: peer name → why it did not take part


@dataclass(frozen=True)
class Row:
    """One line of the table: a question and a peer, over all rounds."""

    question: str
    peer: str
    median: float
    min: float
    max: float
    ratios: dict[str, float]  #: control's name → median of the rounds' quotients


# -- one peer in one round


def measure_in_child(script: Script, peer: Peer, options: Options) -> Figures:
    """Return what the script measures for `peer`, in a fresh interpreter.

    Raises:
        RuntimeError: The child failed or did not end in time; its last line is in the text.
    """
    command = [sys.executable, "-m", f"benchmarks.{script.name}", "--child", peer.name]
    command += ["--tasks", str(options.tasks), "--workers", str(options.workers)]
    env = {name: value for name, value in os.environ.items() if name not in ENDPOINT_SETTINGS}
    child = subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, err = child.communicate(timeout=options.timeout_s)
    except BaseException as error:
        # Not reaped yet, so the group is still this child's: its workers must not run on beside the next peer.
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise RuntimeError(f"did not end within {options.timeout_s:g} s") from None
        raise
    if child.returncode:
        last = (err.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"exit code {child.returncode}: {last}")
    figures: Figures = json.loads(out.splitlines()[-1])
    return figures


def run_rounds(script: Script, peers: Sequence[Peer], options: Options) -> Outcome:
    """Measure every peer in every round, and say on stderr how far it is."""
    outcome = Outcome()
    taking_part = []
    for peer in peers:
        if reason := peer.missing():
            outcome.skipped[peer.name] = reason
        else:
            taking_part.append(peer)
    for number in range(options.rounds):
        turn = number % len(taking_part) if taking_part else 0
        figures: dict[str, Figures] = {}
        for peer in taking_part[turn:] + taking_part[:turn]:
            began = time.perf_counter()
            try:
                figures[peer.name] = measure_in_child(script, peer, options)
                said = f"{time.perf_counter() - began:.1f} s"
            except RuntimeError as error:
                outcome.problems[peer.name] = said = str(error)
            print(f"round {number + 1}/{options.rounds}  {peer.name:<20} {said}", file=sys.stderr, flush=True)
        outcome.rounds.append(figures)
    return outcome


# -- figures


def summarise(
    questions: Sequence[Question], names: Sequence[str], rounds: Sequence[Mapping[str, Figures]]
) -> list[Row]:
    """Return a row for each question and peer that has a figure; `names` are the peers, in the order wanted."""
    rows = []
    for question in questions:
        for name in names:
            values = [figures[name][question.key] for figures in rounds if question.key in figures.get(name, {})]
            if values:
                ratios = {
                    control.name: ratio
                    for control in CONTROLS
                    if (ratio := ratio_to(control.name, name, question.key, rounds)) is not None
                }
                rows.append(Row(question.key, name, median(values), min(values), max(values), ratios))
    return rows


def ratio_to(control: str, peer: str, key: str, rounds: Sequence[Mapping[str, Figures]]) -> float | None:
    """Return the median of `peer` over `control`, each quotient from one round; None when they never met."""
    quotients = [
        figures[peer][key] / figures[control][key]
        for figures in rounds
        if key in figures.get(peer, {}) and figures.get(control, {}).get(key)
    ]
    return median(quotients) if quotients else None


def in_words(value: float) -> str:
    """Return `value` with three digits that count, thousands apart."""
    if abs(value) >= 1000:
        return f"{round(value, -max(0, len(str(int(abs(value)))) - 3)):,.0f}"
    return f"{value:.3g}"


def table(questions: Sequence[Question], rows: Sequence[Row]) -> str:
    """Return the table as Markdown, so that it can go to RESULTS.md as it is."""
    header = ["question", "peer", "median", "min", "max", *(f"/ {control.name}" for control in CONTROLS), "better"]
    by_key = {question.key: question for question in questions}
    body = []
    for row in rows:
        question = by_key[row.question]
        ratios = [in_words(row.ratios[control.name]) if control.name in row.ratios else "" for control in CONTROLS]
        numbers = [in_words(row.median), in_words(row.min), in_words(row.max)]
        body.append([f"{question.text}, {question.unit}", row.peer, *numbers, *ratios, question.better])
    widths = [max(len(line[column]) for line in [header, *body]) for column in range(len(header))]
    left = (0, 1, len(header) - 1)

    def line_of(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * width if column in left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join(line_of(cells) for cells in [header, rule, *body])


# -- the command


def parse(script: Script, argv: Sequence[str] | None) -> tuple[argparse.Namespace, Options]:
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{script.name}", description=script.purpose)
    names = ", ".join(peer.name for peer in script.peers)
    parser.add_argument(
        "--rounds", type=int, default=script.rounds, help="times that every peer is measured (%(default)s)"
    )
    parser.add_argument("--tasks", type=int, default=script.tasks, help="calls in a counted part (%(default)s)")
    parser.add_argument(
        "--workers", type=int, default=usable_cores(), help="max_workers of every peer (%(default)s, one per core)"
    )
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one peer in one round (%(default)s)")
    parser.add_argument("--peers", help=f"comma-separated, of: {names} (all)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write machine, options and every figure there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.rounds, args.tasks, args.workers) < 1:
        parser.error("--rounds, --tasks and --workers must be 1 or more")
    unknown = set((args.peers or "").split(",")) - {"", *(peer.name for peer in script.peers)}
    if unknown:
        parser.error(f"no peer named {', '.join(sorted(unknown))}; there are {names}")
    return args, Options(args.rounds, args.tasks, args.workers, args.timeout)


def main(script: Script, argv: Sequence[str] | None = None) -> int:
    """Run a script from its command line and return its exit code: 1 when a peer failed."""
    args, options = parse(script, argv)
    if args.child:
        (peer,) = (peer for peer in script.peers if peer.name == args.child)
        print(json.dumps(script.measure(peer, options)))
        return 0
    chosen = [peer for peer in script.peers if not args.peers or peer.name in args.peers.split(",")]
    machine = describe_machine([name for peer in chosen for name in peer.packages])
    outcome = run_rounds(script, chosen, options)
    rows = summarise(script.questions, [peer.name for peer in chosen], outcome.rounds)
    report(script, options, machine, outcome, rows)
    if args.json:
        record = {
            "benchmark": script.name,
            "machine": machine,
            "options": asdict(options),
            "questions": [asdict(question) for question in script.questions],
            "summary": [asdict(row) for row in rows],
            **asdict(outcome),
        }
        args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return 1 if outcome.problems else 0


def report(script: Script, options: Options, machine: Mapping[str, Any], outcome: Outcome, rows: Sequence[Row]) -> None:
    """Print what was measured where, the table, and who is missing from it."""
    print(f"{script.name}: {options.rounds} rounds, {options.tasks:,} tasks, {options.workers} workers")
    print(", ".join(f"{name} {value}" for name, value in machine.items() if not isinstance(value, dict)))
    print()
    print(table(script.questions, rows))
    for name, reason in outcome.skipped.items():
        print(f"\nskipped {name}: {reason}")
    for name, reason in outcome.problems.items():
        print(f"\nfailed {name}: {reason}")
