"""The bench under every script: rounds, a process for each measurement, `--json`, `--plot`.

How a figure comes about:

1. A round takes every part of the script, and each peer of the part once, in a fresh process of its own, one after
   the other; the next round starts with the next peer. So a slow minute of the machine hits all peers, and none is
   always first.
2. A cell of the table is the median over the rounds, with the smallest and the largest beside it.
3. A ratio divides two figures of the *same* round; the cell is the median of these ratios.
   It is a plain quotient, for times as for rates: the column "better" says which side of 1 is the good one.
4. A goal is held against the figures of the same round too; reached or missed goes by the median of these quotients.
5. A peer that is not installed, fails, or does not end in time is named with the reason and left out.

A script is a `Script`: its questions in parts, and for each part a function that answers them for one peer. It ends
with `harness.main(SCRIPT)`, which also is what runs in the peer's own process.
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
from typing import TYPE_CHECKING, Any

from .machine import describe_machine, usable_cores
from .questions import Figures, Missing, Options
from .report import goals_table, judge, summarise, table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .peers import Peer
    from .questions import Part, Script
    from .report import Row, Verdict

ROOT = Path(__file__).resolve().parents[1]
QUICK = 10  #: `--quick` makes one call in so many, in one round

#: What would send a peer to a gateway that somebody happens to run.
ENDPOINT_SETTINGS = ("MECA_ENDPOINT", "BACKEND_ENDPOINT", "SORNA_ENDPOINT")


@dataclass
class Outcome:
    """What all rounds gave; names in the two tables are `peer` or `peer (part)`."""

    rounds: list[dict[str, Figures]] = field(default_factory=list)  #: one entry a round: peer name → figures
    problems: dict[str, str] = field(default_factory=dict)  #: name → why it has no figures, or not all
    skipped: dict[str, str] = field(default_factory=dict)  #: name → why it did not take part


# -- one peer in one part of one round


def measure_in_child(script: Script, part: Part, peer: Peer, options: Options) -> Figures:
    """Return what the part measures for `peer`, in a fresh interpreter.

    Raises:
        Missing: The peer has no answer here.
        RuntimeError: The child failed or did not end in time; its last line is in the text.
    """
    command = [sys.executable, "-m", f"benchmarks.{script.name}", "--child", peer.name, "--parts", part.name]
    command += ["--tasks", str(options.tasks), "--workers", str(options.workers)]
    env = {name: value for name, value in os.environ.items() if name not in ENDPOINT_SETTINGS}
    # Some peers' workers start in another folder, and must find the tasks; Parsl finds its programs by PATH.
    env["PYTHONPATH"] = str(ROOT)
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
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
    answer = json.loads(out.splitlines()[-1])
    if "missing" in answer:
        raise Missing(answer["missing"])
    figures: Figures = answer["figures"]
    return figures


def answer_as_child(part: Part, peer: Peer, options: Options) -> None:
    """Measure in this process, and print the line that `measure_in_child` reads."""
    try:
        answer: dict[str, Any] = {"figures": part.measure(peer, options)}
    except Missing as reason:
        answer = {"missing": str(reason)}
    print("\n" + json.dumps(answer), flush=True)


def run_rounds(script: Script, parts: Sequence[Part], names: Sequence[str], options: Options) -> Outcome:
    """Measure the named peers in every part of every round, and say on stderr how far it is."""
    outcome = Outcome()
    outcome.skipped = {peer.name: reason for peer in script.peers if peer.name in names and (reason := peer.missing())}
    for number in range(options.rounds):
        figures: dict[str, Figures] = {}
        for part in parts:
            peers = [peer for peer in part.peers if peer.name in names and peer.name not in outcome.skipped]
            turn = number % len(peers) if peers else 0
            for peer in peers[turn:] + peers[:turn]:
                name = f"{peer.name} ({part.name})" if len(script.parts) > 1 else peer.name
                began = time.perf_counter()
                try:
                    figures.setdefault(peer.name, {}).update(measure_in_child(script, part, peer, options))
                    said = f"{time.perf_counter() - began:.1f} s"
                except Missing as reason:
                    outcome.skipped[name] = said = str(reason)
                except RuntimeError as error:
                    outcome.problems[name] = said = str(error)
                print(f"{script.name} {number + 1}/{options.rounds}  {name:<36} {said}", file=sys.stderr, flush=True)
        outcome.rounds.append(figures)
    return outcome


# -- the command


def arguments(script: Script) -> argparse.ArgumentParser:
    """Return the parser of a script's command line."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{script.name}", description=script.purpose)
    parser.add_argument("--rounds", type=int, help=f"times that every peer is measured ({script.rounds})")
    parser.add_argument("--tasks", type=int, help=f"calls in a counted part, at most ({script.tasks})")
    parser.add_argument("--quick", action="store_true", help=f"one round, and a {QUICK}th of the calls")
    parser.add_argument(
        "--workers", type=int, default=usable_cores(), help="max_workers of every peer (%(default)s, one per core)"
    )
    parser.add_argument(
        "--timeout", type=float, default=script.timeout_s, help="seconds for one peer in one part (%(default)s)"
    )
    parser.add_argument("--peers", help=f"comma-separated, of: {', '.join(peer.name for peer in script.peers)} (all)")
    parser.add_argument("--parts", help=f"comma-separated, of: {', '.join(part.name for part in script.parts)} (all)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write machine, options and every figure there")
    parser.add_argument("--plot", metavar="FOLDER", type=Path, help=f"draw {script.name}.png there (needs matplotlib)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def parse(script: Script, argv: Sequence[str] | None) -> tuple[argparse.Namespace, Options]:
    """Read a script's command line; a wrong one ends the process with what is wrong."""
    parser = arguments(script)
    args = parser.parse_args(argv)
    rounds = args.rounds if args.rounds is not None else 1 if args.quick else script.rounds
    tasks = args.tasks if args.tasks is not None else max(1, script.tasks // QUICK) if args.quick else script.tasks
    if min(rounds, tasks, args.workers) < 1:
        parser.error("--rounds, --tasks and --workers must be 1 or more")
    args.peers = chosen(parser, "peer", args.peers, [peer.name for peer in script.peers])
    args.parts = chosen(parser, "part", args.parts, [part.name for part in script.parts])
    return args, Options(rounds, tasks, args.workers, args.timeout)


def chosen(parser: argparse.ArgumentParser, what: str, given: str | None, known: Sequence[str]) -> list[str]:
    """Return the names that were given, in the order of `known`; all when none was."""
    names = set((given or "").split(",")) - {""}
    if unknown := names - set(known):
        parser.error(f"no {what} named {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return [name for name in known if not names or name in names]


def main(script: Script, argv: Sequence[str] | None = None) -> int:
    """Run a script from its command line and return its exit code: 1 when a peer failed."""
    args, options = parse(script, argv)
    parts = [part for part in script.parts if part.name in args.parts]
    if args.child:
        answer_as_child(parts[0], next(peer for peer in script.peers if peer.name == args.child), options)
        return 0
    draw = plotter() if args.plot else None  # before the work: a missing library is told at once
    asked = [peer for peer in script.peers if peer.name in args.peers]
    machine = describe_machine([name for peer in asked for name in peer.packages])
    outcome = run_rounds(script, parts, args.peers, options)
    findings = Findings(
        script,
        options,
        machine,
        outcome,
        summarise(script.questions, args.peers, outcome.rounds, script.control_names),
        judge(script.questions, outcome.rounds),
    )
    print(findings.text())
    if args.json:
        args.json.write_text(json.dumps(findings.record(), indent=2) + "\n", encoding="utf-8")
    if draw:
        print(f"\nplot: {draw(findings.record(), args.plot)}")
    return 1 if outcome.problems else 0


def plotter() -> Callable[[Mapping[str, Any], Path], Path]:
    """Return `plot.draw`; ends the process with what to do when matplotlib is not there."""
    try:
        from . import plot
    except Missing as reason:
        raise SystemExit(f"--plot: {reason}") from None
    return plot.draw


@dataclass(frozen=True)
class Findings:
    """All that is known after the rounds."""

    script: Script
    options: Options
    machine: Mapping[str, Any]
    outcome: Outcome
    rows: Sequence[Row]
    verdicts: Sequence[Verdict]

    def record(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "benchmark": self.script.name,
            "machine": dict(self.machine),
            "options": asdict(self.options),
            "questions": [asdict(question) for question in self.script.questions],
            "axes": self.script.axes,
            "summary": [asdict(row) for row in self.rows],
            "goals": [asdict(verdict) for verdict in self.verdicts],
            **asdict(self.outcome),
        }

    def text(self) -> str:
        """Return what was measured where, the tables, and who is missing from them."""
        options, machine, questions = self.options, self.machine, self.script.questions
        lines = [
            f"{self.script.name}: {options.rounds} rounds, {options.tasks:,} tasks, {options.workers} workers",
            ", ".join(f"{name} {value}" for name, value in machine.items() if not isinstance(value, dict)),
            "versions: " + ", ".join(f"{name} {found}" for name, found in machine["versions"].items()),
            "",
            table(questions, self.rows, self.script.control_names),
        ]
        if self.verdicts:
            lines += ["", goals_table(questions, self.verdicts)]
        lines += [f"\nskipped {name}: {reason}" for name, reason in self.outcome.skipped.items()]
        lines += [f"\nfailed {name}: {reason}" for name, reason in self.outcome.problems.items()]
        return "\n".join(lines)
