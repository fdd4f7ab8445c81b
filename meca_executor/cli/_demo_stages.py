"""The stages of `meca demo`. Each prints what it did and leaves its checks with the report."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import Counter
from itertools import repeat
from typing import TYPE_CHECKING, TextIO

from .. import __version__
from ..client.container import Container
from ..errors import TaskError, WorkerDied
from ._demo_work import OutOfPaint, Row, end_worker, paint_wall, palette, render_row
from ._picture import lanes, png, read_png

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ..client.executor import MecaExecutor

SAMPLE = 8  #: every eighth row is also computed in line
PATIENCE_S = 300.0  #: for any one answer; the slowest machine is done long before

GREETED = ("meca dev 0", "meca dev 1")
POINTS = [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]]
NEIGHBOURS = (([2, 3], [0, 1]), ([9, 10], [4, 3]), ([6, 7], [2, 3]))  #: (point, rows of its two nearest)


class Report:
    """What the demo says: lines under a heading, and at the end the checks.

    Args:
        out: Where the lines go.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._checks: list[tuple[bool, str]] = []
        self._unfinished = False  #: a line of `progress` stands on the terminal

    def line(self, heading: str, text: str) -> None:
        """Print one line at once, so that the user sees where the time goes."""
        print(f"{self._line_start()}{heading:<11} {text}", file=self._out, flush=True)

    def progress(self, heading: str, text: str) -> None:
        """Show a line that the next one replaces, on a terminal only."""
        if self._out.isatty():
            print(f"{self._line_start()}{heading:<11} {text}", end="", file=self._out, flush=True)
            self._unfinished = True

    def leave(self) -> None:
        """Make room for what somebody else prints, such as an error."""
        if self._unfinished:
            print(file=self._out, flush=True)

    def _line_start(self) -> str:
        start = "\r" if self._unfinished else ""
        self._unfinished = False
        return start

    def check(self, passed: bool, text: str) -> None:
        """Note a check; `text` says what is so when it passed."""
        self._checks.append((passed, text))

    def close(self, elapsed_s: float) -> int:
        """Print the checks and return the exit code."""
        for number, (passed, text) in enumerate(self._checks):
            self.line("checked" if number == 0 else "", f"{'ok' if passed else '!!'}  {text}")
        failed = sum(not passed for passed, _ in self._checks)
        total = len(self._checks)
        verdict = f"{failed} of {total} checks failed" if failed else f"all {total} checks passed"
        self.line("result", f"{verdict}, {elapsed_s:.1f} s in all")
        return 1 if failed else 0


def opening(executor: MecaExecutor, report: Report, began: float) -> None:
    """Wait until a worker has answered, and say who serves us."""
    report.line("meca", f"{__version__} on Python {platform.python_version()}, process {os.getpid()}")
    worker = executor.submit(os.getpid).result(PATIENCE_S)
    answer_s = time.perf_counter() - began
    text = f"{executor.endpoint}, runs {_times(executor.slots, 'task')} at once; first answer after {answer_s:.2f} s"
    report.line("gateway", text)
    report.check(worker != os.getpid(), "calls run in other processes")


def picture(executor: MecaExecutor, report: Report, path: Path, size: tuple[int, int]) -> None:
    """Compute the picture row by row on the workers, and every eighth row also here, to compare."""
    width, height = size
    sample = range(SAMPLE // 2, height, SAMPLE)
    palette()  # not a cost of a row
    # Half of the sample before and half after, because the speed of a machine changes by the second.
    first, first_s = in_line(sample[::2], size)
    began = time.perf_counter()
    rows = []
    for row in executor.map(render_row, range(height), repeat(width), repeat(height), timeout=PATIENCE_S):
        rows.append(row)
        if len(rows) % SAMPLE == 0:
            report.progress("picture", f"{len(rows)} of {height} rows")
    map_s = time.perf_counter() - began
    second, second_s = in_line(sample[1::2], size)
    own, own_s = first + second, first_s + second_s
    inline_s = own_s * height / len(own)
    report.line("in line", f"{len(own)} of {height} rows in this process: {own_s:.2f} s, so {inline_s:.2f} s for all")
    report.line("picture", f"{height} rows by ex.map in {map_s:.2f} s: {inline_s / map_s:.1f} times as fast as in line")
    report.line("", shares(rows))

    pixels = [row.pixels for row in rows]
    canvas = pixels + lanes(rows, width)
    path.write_bytes(png(width, canvas))
    report.line("", f"{path}, {width} x {len(canvas)}; at its foot a lane per worker, a block per row, in time")

    same = sum(rows[row.y].pixels == row.pixels for row in own)
    report.check(same == len(own), f"{same} of {len(own)} rows from workers equal those computed in line")
    report.check([row.y for row in rows] == list(range(height)), "the results came in the order of the calls")
    report.check(read_png(path.read_bytes()) == (width, canvas), f"{path} reads back as it was written")


def in_line(chosen: Sequence[int], size: tuple[int, int]) -> tuple[list[Row], float]:
    """Compute some rows in this process; returns them and the seconds it took."""
    began = time.perf_counter()
    rows = [render_row(y, *size) for y in chosen]
    return rows, time.perf_counter() - began


def shares(rows: Sequence[Row]) -> str:
    """Return who computed how many rows, worker by worker while there are few."""
    counts = Counter(row.worker for row in rows)
    if len(counts) > 6:
        return f"{len(counts)} workers took {min(counts.values())} to {max(counts.values())} rows each"
    return ", ".join(f"worker {worker} took {_times(number, 'row')}" for worker, number in sorted(counts.items()))


def calls_in_containers(executor: MecaExecutor, report: Report) -> None:
    """Offload to the example containers, several calls at once."""
    try:
        began = time.perf_counter()
        futures = [executor.offload_task("sampleserver:latest", json.dumps({"name": name})) for name in GREETED]
        messages = [json.loads(future.result(PATIENCE_S))["message"] for future in futures]
        elapsed_s = time.perf_counter() - began
        report.line(
            "containers", f"sampleserver:latest, {len(messages)} calls in {elapsed_s:.2f} s: {', '.join(messages)}"
        )
        report.check(messages == [f"hello {name}" for name in GREETED], "sampleserver greets the names that were sent")

        began = time.perf_counter()
        knn = Container("knn:latest", resource={"cpu": 1, "memory": 256})
        inputs = [{"dataset": POINTS, "point": point, "k": 2, "num_processes": 1} for point, _ in NEIGHBOURS]
        found = list(executor.map(knn, inputs, timeout=PATIENCE_S))
        elapsed_s = time.perf_counter() - began
        answers = ", ".join(f"{point} -> rows {rows}" for (point, _), rows in zip(NEIGHBOURS, found, strict=True))
        report.line("", f"knn:latest, {len(found)} calls in {elapsed_s:.2f} s: {answers}")
        report.check(found == [rows for _, rows in NEIGHBOURS], "knn finds the right neighbours")
    except (TaskError, ValueError, LookupError) as error:
        report.line("containers", f"{type(error).__name__}: {error}")
        report.check(False, "the example containers answer")


def failures(executor: MecaExecutor, report: Report) -> None:
    """Let a call raise and a worker die, with other calls beside them."""
    error = executor.submit(paint_wall, "red").exception(PATIENCE_S)
    cause = str(error.__cause__) if error is not None else ""
    report.line("failures", f"a call that raises: {error!r} came back with the worker's traceback")
    report.check(
        isinstance(error, OutOfPaint) and error.args == ("red",) and "in paint_wall" in cause,
        "the exception kept its own class, its argument and its traceback",
    )

    # One attempt: the default of three would end three workers before it gives up.
    doomed = executor.options(retry=1).submit(end_worker)
    beside = [executor.submit(lambda n: n**2, number) for number in range(20)]
    death = doomed.exception(PATIENCE_S)
    answered = sum(future.exception(PATIENCE_S) is None and future.result() == n**2 for n, future in enumerate(beside))
    report.line("", f"a worker that dies: {type(death).__name__}; {answered} of {len(beside)} calls beside it answered")
    report.check(isinstance(death, WorkerDied), f"the call of the dead worker says so: {death}")
    report.check(answered == len(beside), "no other call was harmed, and the executor goes on")


def _times(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
