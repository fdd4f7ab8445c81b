"""How fast do large arrays travel?

    python -m benchmarks.payload [--rounds N] [--tasks N] [--parts A,B] [--peers A,B] [--json FILE] [--plot FOLDER]

Needs numpy. What is asked, per peer and round, each part in a fresh process:

- 1MiB, 64MiB, 512MiB: `submit(echo, array).result()` with an array of float64. The figure is its size over the time of
  one call, median of at most `--tasks` calls.
- put: `handle = ex.put(array)` with 64 MiB, then 100 tasks that get the handle, until all results are there. The figure
  is that time over the time in which the same array is sent once as an argument, and 100 tasks get a number each.

Rates are MB/s of 10^6 bytes, there *and* back counted once. An uncounted echo goes before. The answer must have the
right shape and the right values at both ends and in the middle. It must be writable, as the array that was sent is,
except from Ray and Dask, who share memory with the reader: that they hand out less is not held against them here.
"""

from __future__ import annotations

import sys
from statistics import median
from typing import TYPE_CHECKING, Any

from .harness import main
from .peers import DASK, LOKY, MECA, MECA_APART, PROCESSES, RAY, Peer, optional
from .questions import Figures, Limit, Options, Part, Question, Script
from .tasks import echo, last_item, noop
from .timing import MIB, check, submit_all, timed, warm_up

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

MB = 1e6
ECHOES = {1: 50, 64: 5, 512: 2}  #: MiB → counted echoes at most
PUT_MIB = 64
PUT_TASKS = 100
PUT_TRIES = 3
READ_ONLY = (RAY, DASK)


def array_of(mib: int) -> Any:
    """Return an array of that size with a different number in each place.

    Raises:
        Missing: numpy is not installed.
    """
    return optional("numpy").arange(mib * MIB // 8, dtype="float64")


def check_array(got: Any, sent: Any, writable: bool) -> None:
    """Refuse what is not the array that was sent, without looking at all of it."""
    places = [0, len(sent) // 2, -1]
    check([got.shape, got.dtype, *got[places]], [sent.shape, sent.dtype, *sent[places]])
    if writable:
        got[0] += 1.0  # a ValueError when it is not
        check([sent[0]], [0.0])


def measure_echo(mib: int) -> Callable[[Peer, Options], Figures]:
    """Return the function that answers for one size."""

    def measure(peer: Peer, options: Options) -> Figures:
        array = array_of(mib)
        with peer.load()(max_workers=options.workers) as executor:
            warm_up(executor, 20)
            took = [echo_s(executor, array, peer) for _ in range(1 + min(options.tasks, ECHOES[mib]))]
        return {key_of(mib): array.nbytes / median(took[1:]) / MB}

    return measure


def echo_s(executor: Executor, array: Any, peer: Peer) -> float:
    """Return the seconds of one echo, whose answer was right."""
    got, elapsed_s = timed(lambda: executor.submit(echo, array).result())
    check_array(got, array, writable=peer not in READ_ONLY)
    return elapsed_s


def measure_put(peer: Peer, options: Options) -> Figures:
    """Answer "put" for one peer."""
    array = array_of(PUT_MIB)
    count = min(options.tasks, PUT_TASKS)
    with peer.load()(max_workers=options.workers) as executor:
        warm_up(executor, 20)

        def once_and_tasks() -> list[Any]:
            return [executor.submit(last_item, array).result(), *submit_all(executor, noop, range(count))]

        def by_handle() -> list[float]:
            handle = executor.put(array)  # type: ignore[attr-defined]  # of the executors that are asked this
            return submit_all(executor, last_item, [handle] * count)

        with_handle, apart = [], []
        for _ in range(1 + PUT_TRIES):
            answers, elapsed_s = timed(once_and_tasks)
            check(answers, [array[-1], *range(count)])
            apart.append(elapsed_s)
            answers, elapsed_s = timed(by_handle)
            check(answers, [array[-1]] * count)
            with_handle.append(elapsed_s)
    return {"put": median(a / b for a, b in zip(with_handle[1:], apart[1:], strict=True))}


def key_of(mib: int) -> str:
    """Return the key of the question about one size."""
    return f"echo_{mib}MiB"


def echo_question(mib: int) -> Question:
    """Return the question about one size."""
    goal = (Limit(PROCESSES.name, 5), Limit(RAY.name))
    return Question(key_of(mib), f"array of {mib} MiB there and back", "MB/s", "higher", goal, "echo", mib)


PUT_TEXT = f"{PUT_MIB} MiB by `put` to {PUT_TASKS} tasks, over sent once and the tasks"
PUT = Question("put", PUT_TEXT, "x", "lower", goal=(Limit(plus=1.3),))

SCRIPT = Script(
    name="payload",
    purpose="Arrays of 1, 64 and 512 MiB there and back, and one array for many tasks.",
    parts=(
        *(
            Part(f"{mib}MiB", (echo_question(mib),), (PROCESSES, LOKY, MECA, MECA_APART, DASK, RAY), measure_echo(mib))
            for mib in ECHOES
        ),
        Part("put", (PUT,), (MECA, MECA_APART, DASK, RAY), measure_put),
    ),
    controls=(PROCESSES, RAY),
    tasks=PUT_TASKS,
    axes={"echo": ("array of float64 there and back", "MiB")},
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
