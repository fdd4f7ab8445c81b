"""How fast do calls go through?

    python -m benchmarks.throughput [--rounds N] [--tasks N] [--workers N] [--peers A,B] [--json FILE] [--plot FOLDER]

run from the checkout root with the package's dependencies installed. `MecaExecutor` is measured with its embedded
gateway; `ThreadPoolExecutor` is the floor (a future and a queue, no second process) and `ProcessPoolExecutor` what a
user would take otherwise. The others take part where they are installed (`pip install -e .[peers]`).

What is asked, per peer and round, in a fresh process (`benchmarks.harness` tells how rounds become figures):

| part | what is timed | without |
|---|---|---|
| submit | `--tasks` no-ops, a function that workers can import, by `submit`, then every result, in order | |
| closure | the same with a lambda that holds a value | pools that pickle by name alone |
| map | `list(ex.map(noop, range(tasks)))` with default arguments, and `ProcessPoolExecutor` with larger chunks | |

Before each stands an uncounted warm-up, a twentieth of the calls by both ways. Dask, Ray and Parsl make a tenth of
the calls: their rates do not depend on the number, and an hour would go by.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .harness import main
from .peers import CHUNKS_100, CHUNKS_1000, DASK, LOKY, MECA, MP_POOL, PARSL, PEBBLE, PROCESSES, RAY, THREADS, Peer
from .questions import Figures, Limit, Options, Part, Question, Script
from .tasks import noop
from .timing import rate, submit_all, warm_up

if TYPE_CHECKING:
    from concurrent.futures import Executor

FAR = (DASK, RAY, PARSL)
OFFSET = 7  #: what the closure adds


def warm(peer: Peer, options: Options) -> tuple[Executor, int]:
    """Return an executor that is up and warm, and how many calls it is to make."""
    calls = peer.calls(options.tasks)
    executor = peer.load()(max_workers=options.workers)
    warm_up(executor, max(20, calls // 20))
    return executor, calls


def measure_submit(peer: Peer, options: Options) -> Figures:
    """Answer "submit" for one peer."""
    executor, calls = warm(peer, options)
    with executor:
        return {"submit": rate(lambda: submit_all(executor, noop, range(calls)), range(calls))}


def measure_closure(peer: Peer, options: Options) -> Figures:
    """Answer "closure" for one peer."""
    executor, calls = warm(peer, options)
    offset = OFFSET
    with executor:
        closure = lambda value: value + offset  # noqa: E731  (it is what users write)
        submit_all(executor, closure, range(20))
        expected = range(offset, calls + offset)
        return {"closure": rate(lambda: submit_all(executor, closure, range(calls)), expected)}


def measure_map(peer: Peer, options: Options) -> Figures:
    """Answer "map" for one peer."""
    executor, calls = warm(peer, options)
    with executor:
        return {"map": rate(lambda: list(executor.map(noop, range(calls))), range(calls))}


SUBMIT = Question(
    "submit", "no-op `submit`", "tasks/s", "higher", goal=(Limit(PROCESSES.name, 12), Limit(THREADS.name, 1.2))
)
CLOSURE = Question("closure", "no-op closure by `submit`", "tasks/s", "higher", goal=(Limit(LOKY.name, 3),))
MAP = Question("map", "no-op `map`", "tasks/s", "higher", goal=(Limit(PROCESSES.name, 20),))

SCRIPT = Script(
    name="throughput",
    purpose="No-op throughput of MecaExecutor beside the pools that people use.",
    parts=(
        Part("submit", (SUBMIT,), (THREADS, PROCESSES, MP_POOL, PEBBLE, LOKY, MECA, *FAR), measure_submit),
        Part("closure", (CLOSURE,), (THREADS, LOKY, MECA, *FAR), measure_closure),
        Part(
            "map",
            (MAP,),
            (THREADS, PROCESSES, CHUNKS_100, CHUNKS_1000, MP_POOL, PEBBLE, LOKY, MECA, *FAR),
            measure_map,
        ),
    ),
    controls=(PROCESSES, THREADS),
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
