"""How fast do calls go through, and how soon does the first one come back?

    python -m benchmarks.throughput [--rounds N] [--tasks N] [--workers N] [--peers A,B] [--json FILE]

run from the checkout root with the package's dependencies installed. `MecaExecutor` is measured with its
embedded gateway; `ThreadPoolExecutor` is the floor (a future and a queue, no second process) and
`ProcessPoolExecutor` what a user would take otherwise. loky takes part where it is installed.

What is asked, per peer and round, in a fresh process (`benchmarks.harness` tells how rounds become figures):

| question | what is timed |
|---|---|
| import | `import MODULE`, and `from MODULE import CLASS`: a child that does it, less a bare child |
| first result | class already imported: construct, submit one no-op, its result |
| submit | `--tasks` no-ops by `submit`, then every result, in order |
| map | `list(ex.map(noop, range(tasks)))` with default arguments |
| one at a time | `submit(noop, i).result()`, a twentieth of `--tasks` times: median and 99th percentile |
| shutdown | `shutdown(wait=True)` with nothing left to do |

Between "first result" and "submit" stands an uncounted warm-up: as many calls as one at a time, by both
ways, so that workers are up, code paths warm and whatever a peer adapts has adapted. Answers are compared
with what they must be, outside of the timed parts.
"""

from __future__ import annotations

import gc
import subprocess
import sys
from statistics import median, quantiles
from time import perf_counter
from typing import TYPE_CHECKING

from .harness import Figures, Options, Question, Script, main
from .peers import LOKY, MECA, PROCESSES, THREADS, Peer
from .tasks import noop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

QUESTIONS = (
    Question("submit", "no-op `submit`", "tasks/s", "higher"),
    Question("map", "no-op `map`", "tasks/s", "higher"),
    Question("latency_p50", "one at a time, p50", "µs", "lower"),
    Question("latency_p99", "one at a time, p99", "µs", "lower"),
    Question("first_result", "construct to first result", "ms", "lower"),
    Question("import_module", "`import MODULE`", "ms", "lower"),
    Question("import_class", "`from MODULE import CLASS`", "ms", "lower"),
    Question("shutdown", "shutdown", "ms", "lower"),
)

IMPORT_TRIES = 5  #: children a round; one start varies by some milliseconds
MS, US = 1e3, 1e6


def measure(peer: Peer, options: Options) -> Figures:
    """Answer every question for one peer."""
    figures: Figures = {
        "import_module": import_ms(f"import {peer.module}"),
        "import_class": import_ms(f"from {peer.module} import {peer.attribute}"),
    }
    make = peer.load()
    calls = max(20, options.tasks // 20)

    began = perf_counter()
    executor = make(max_workers=options.workers)
    first = executor.submit(noop, 7).result()
    figures["first_result"] = (perf_counter() - began) * MS
    check(peer, [first], [7])

    submit_rate(peer, executor, calls)
    map_rate(peer, executor, calls)
    figures["submit"] = submit_rate(peer, executor, options.tasks)
    figures["map"] = map_rate(peer, executor, options.tasks)
    took = latencies(peer, executor, calls)
    figures["latency_p50"] = median(took) * US
    figures["latency_p99"] = quantiles(took, n=100)[98] * US

    began = perf_counter()
    executor.shutdown(wait=True)
    figures["shutdown"] = (perf_counter() - began) * MS
    return figures


def submit_rate(peer: Peer, executor: Executor, tasks: int) -> float:
    """Return calls a second from the first `submit` to the last result."""
    gc.collect()
    began = perf_counter()
    futures = [executor.submit(noop, number) for number in range(tasks)]
    answers = [future.result() for future in futures]
    elapsed_s = perf_counter() - began
    check(peer, answers, range(tasks))
    return tasks / elapsed_s


def map_rate(peer: Peer, executor: Executor, tasks: int) -> float:
    """Return calls a second of one `map` with default arguments."""
    gc.collect()
    began = perf_counter()
    answers = list(executor.map(noop, range(tasks)))
    elapsed_s = perf_counter() - began
    check(peer, answers, range(tasks))
    return tasks / elapsed_s


def latencies(peer: Peer, executor: Executor, calls: int) -> list[float]:
    """Return the seconds of each of `calls` calls, made one after the other."""
    gc.collect()
    took = []
    answers = []
    for number in range(calls):
        began = perf_counter()
        answers.append(executor.submit(noop, number).result())
        took.append(perf_counter() - began)
    check(peer, answers, range(calls))
    return took


def check(peer: Peer, answers: Sequence[int], expected: Sequence[int]) -> None:
    """Refuse to report a speed for wrong answers."""
    if list(answers) != list(expected):
        raise RuntimeError(f"{peer.name} gave wrong answers; its figures would mean nothing")


def import_ms(statement: str) -> float:
    """Return what `statement` adds to the life of an interpreter: median of pairs, with and without."""
    added = [child_s(statement) - child_s("pass") for _ in range(IMPORT_TRIES)]
    return max(0.0, median(added)) * MS


def child_s(code: str) -> float:
    began = perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    return perf_counter() - began


SCRIPT = Script(
    name="throughput",
    purpose="No-op throughput, latency and start-up of MecaExecutor beside the standard library's executors.",
    questions=QUESTIONS,
    peers=(THREADS, PROCESSES, LOKY, MECA),
    measure=measure,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
