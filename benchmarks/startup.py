"""How soon is the first result there, and how soon is everything gone?

    python -m benchmarks.startup [--rounds N] [--peers A,B] [--json FILE] [--plot FOLDER]

- import: `import MODULE`, and `from MODULE import CLASS`: the life of a child that does it, less a bare child's.
- first result: class already imported; construct, submit one no-op, its result.
- shutdown: `shutdown(wait=True)` with nothing left to do.

An adapter of ours (`benchmarks.adapters`) is not what its library's users import: there the first question alone is
asked, of the library.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from typing import TYPE_CHECKING

from .harness import main
from .peers import ADAPTERS, DASK, LOKY, MECA, MP_POOL, PARSL, PEBBLE, PROCESSES, RAY, THREADS, Peer
from .questions import Figures, Limit, Options, Part, Question, Script
from .tasks import noop
from .timing import MS, check, timed

if TYPE_CHECKING:
    from concurrent.futures import Executor


IMPORT_TRIES = 5  #: pairs of children a round, at most; one start varies by some milliseconds


def measure_import(peer: Peer, options: Options) -> Figures:
    """Answer both questions about imports for one peer."""
    adapted = peer.module == ADAPTERS
    library = peer.needs or peer.module
    tries = min(options.tasks, IMPORT_TRIES)
    figures = {"import_module": import_ms(f"import {library}", tries)}
    if not adapted:
        figures["import_class"] = import_ms(f"from {peer.module} import {peer.attribute}", tries)
    return figures


def import_ms(statement: str, tries: int) -> float:
    """Return what `statement` adds to the life of an interpreter: median of pairs, with and without."""
    return max(0.0, median(child_s(statement) - child_s("pass") for _ in range(tries))) * MS


def child_s(code: str) -> float:
    """Return the seconds of an interpreter's life with this code."""
    # No timeout here: with one, `subprocess` looks for the end in steps of up to 50 ms.
    return timed(lambda: subprocess.run([sys.executable, "-c", code], check=True))[1]


def measure_life(peer: Peer, options: Options) -> Figures:
    """Answer the questions about a whole life for one peer."""
    make = peer.load()

    def first() -> tuple[Executor, int]:
        executor = make(max_workers=options.workers)
        return executor, executor.submit(noop, 7).result()

    (executor, answer), first_s = timed(first)
    check([answer], [7])
    _, shutdown_s = timed(executor.shutdown)
    return {"first_result": first_s * MS, "shutdown": shutdown_s * MS}


IMPORTS = (
    Question("import_module", "`import MODULE`", "ms", "lower", goal=(Limit(plus=100),)),
    Question("import_class", "`from MODULE import CLASS`", "ms", "lower"),
)
LIFE = (
    Question("first_result", "construct to first result", "ms", "lower", goal=(Limit(plus=500),)),
    Question("shutdown", "shutdown", "ms", "lower", goal=(Limit(plus=200),)),
)

SCRIPT = Script(
    name="startup",
    purpose="Import, construct to first result and shutdown of MecaExecutor and of the pools that people use.",
    parts=(
        Part("life", LIFE, (THREADS, PROCESSES, MP_POOL, PEBBLE, LOKY, MECA, DASK, RAY, PARSL), measure_life),
        Part("import", IMPORTS, (PROCESSES, LOKY, PEBBLE, MECA, DASK, RAY, PARSL), measure_import),
    ),
    controls=(PROCESSES, THREADS),
    tasks=IMPORT_TRIES,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
