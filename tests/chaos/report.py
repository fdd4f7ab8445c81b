"""What came of a chaos run: the table, and which promises were broken."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from .client import Told

LAST = 25  #: faults that are shown
SHOWN = 10  #: promises that are shown


@dataclass
class Report:
    """The reckoning."""

    seed: str
    faults: Counter[str]
    history: list[str]
    broken: list[str]  #: a line for each promise that was
    runs: defaultdict[tuple[int, int], Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    most: dict[tuple[int, int, int], int] = field(default_factory=dict)  #: task -> its retry; those that ran twice only
    kinds: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)  #: that the faults allow
    tasks: int = 0  #: of clients that were not killed
    done: int = 0  #: with their own result
    lost: int = 0
    wrong: int = 0
    twice: int = 0  #: results that came again
    too_often: int = 0
    orphans: int = 0  #: processes that tasks started and that outlived their gateway
    unrun: int = 0  #: errors of tasks that never began

    def count_runs(self, marks: Path) -> None:
        """Read the lines that the tasks left."""
        for file in [*marks.glob("ran-*"), *marks.glob("app-*")]:
            for line in file.read_text().splitlines():
                client, generation, number, retry = map(int, line.split())
                runs = self.runs[client, generation]
                runs[number] += 1
                if runs[number] > retry:
                    self.most[client, generation, number] = retry

    def add(self, client: int, generation: int, told: Told, *, exactly_once: bool) -> None:
        """Add what a client said, and hold it against what ran."""
        who, runs, never = f"client {client}-{generation}", self.runs[client, generation], set(told.never)
        self.kinds += told.kinds
        self.tasks += told.tasks
        self.done += told.tasks - len(told.failed) - len(told.wrong) - len(told.stuck) - len(never)
        self.errors.update(told.failed.values())
        self.lost += len(told.stuck)
        self.wrong += len(told.wrong)
        self.twice += len(told.twice)
        self.unrun += sum(not runs[number] for number in told.failed)
        self.broken += [f"{who}: stuck: {text}" for text in told.stuck]
        self.broken += [f"{who}: wrong: {text}" for text in told.wrong]
        self.broken += [f"{who}: delivered twice: {text}" for text in told.twice]
        self.broken += [f"{who}: task {number} was cancelled and ran" for number in never if runs[number]]
        if told.left:
            self.broken.append(f"{who}: {told.left}")
        if told.stuck or told.wrong:
            return
        for number in range(told.tasks):
            count = runs[number]
            if number in never:
                continue
            if exactly_once and count != 1:
                self.broken.append(f"{who}: task {number} ran {count} times")
            elif not count and number not in told.failed:
                self.broken.append(f"{who}: task {number} has an outcome and never ran")

    def check_runs(self) -> None:
        """No task may run more often than its retry says, also those of clients that were killed."""
        self.too_often = len(self.most)
        for (client, generation, number), retry in self.most.items():
            count = self.runs[client, generation][number]
            self.broken.append(f"client {client}-{generation}: task {number} ran {count} times with retry={retry}")

    @property
    def executions(self) -> Counter[int]:
        """How many tasks ran how often."""
        return Counter(count for runs in self.runs.values() for count in runs.values())

    def __str__(self) -> str:
        rows = [("faults", str(self.faults.total()))]
        rows += [(f"  {kind}", str(count)) for kind, count in sorted(self.faults.items())]
        rows += [("operations", str(self.kinds.total()))]
        rows += [(f"  {kind}", str(count)) for kind, count in sorted(self.kinds.items())]
        rows += [("tasks", str(self.tasks)), ("  with their own outcome", str(self.done))]
        rows += [(f"  {name}, as the faults allow", str(count)) for name, count in sorted(self.errors.items())]
        rows += [("    of these, never begun", str(self.unrun))] if self.errors else []
        rows += [("lost", str(self.lost)), ("wrong", str(self.wrong)), ("delivered twice", str(self.twice))]
        rows += [("run more often than allowed", str(self.too_often))]
        runs = sorted(self.executions.items())
        rows += [("executions of a task", ", ".join(f"{count}: {tasks}" for count, tasks in runs))]
        rows += [("processes left by tasks", str(self.orphans))]
        rows += [("promises broken", str(len(self.broken))), ("seed", self.seed)]
        width = max(len(name) for name, _ in rows)
        lines = [f"{name:<{width}}  {text}" for name, text in rows]
        if self.broken:
            lines += ["", *(f"BROKEN {text}" for text in self.broken[:SHOWN])]
            lines += [f"... and {len(self.broken) - SHOWN} more"] if len(self.broken) > SHOWN else []
            lines += ["", "the last faults:", *self.history[-LAST:]]
        return "\n".join(lines)
