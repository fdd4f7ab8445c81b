"""What does a gateway in front of a Dask cluster cost, and bring, beside Dask's own client of the same cluster?

    python -m benchmarks.cluster [--rounds N] [--tasks N] [--peers A,B] [--json FILE] [--plot FOLDER]

All peers use one cluster: the one at DASK_SCHEDULER_ADDRESS, or one that this script starts for the time of the run,
with a node of one thread for each of `--workers`. Calls of each kind have been made before the clock runs.

- No-ops: `--tasks` calls handed over at once by `submit`, until the last result is there; Dask's client makes a tenth
  of them.
- 50 ms calls: 40 for each place in the cluster; the part of the ideal time, which is 40 x 50 ms. They sleep, so that a
  machine with fewer cores than places can answer it.
- 64 MB to every node: an array is handed over once, by `put` or `scatter(broadcast=True)`, and calls on all nodes have
  it; the time until the last one has said so.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .harness import ROOT, main, parse
from .peers import DASK, MECA, Peer, optional
from .questions import Figures, Limit, Options, Part, Question, Script
from .tasks import DOZE_S, doze, noop, total
from .timing import check, rate, timed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADDRESS = "DASK_SCHEDULER_ADDRESS"  #: Dask's own variable
NAPS = 40  #: for each place
WARM = 200
ELEMENTS = 8 << 20  #: of eight bytes
START_S = 120.0
CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers={nodes}, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


def measure(peer: Peer, options: Options) -> Figures:
    """Answer all questions for one peer."""
    optional("distributed")
    array = optional("numpy").ones(ELEMENTS)
    if peer is MECA:
        from meca_executor import MecaExecutor

        with MecaExecutor(cluster=os.environ[ADDRESS]) as executor:
            places = executor.slots
            return figures(
                lambda fn, values: [future.result() for future in [executor.submit(fn, value) for value in values]],
                lambda: spread(executor.put(array), lambda handle, n: executor.submit(total, handle, n), places),
                places,
                options.tasks,
            )
    with optional("distributed").Client(os.environ[ADDRESS]) as client:
        places = sum(client.nthreads().values())
        return figures(
            lambda fn, values: client.gather([client.submit(fn, value, pure=False) for value in values]),
            lambda: spread(
                client.scatter(array, broadcast=True, hash=False),
                lambda handle, n: client.submit(total, handle, n, pure=False),
                places,
            ),
            places,
            peer.calls(options.tasks),
        )


def figures(
    run: Callable[[Callable[[int], int], list[int]], list[int]], send: Callable[[], int], places: int, tasks: int
) -> Figures:
    """Return what one peer takes.

    Args:
        run: Makes a call with each value, all at once, and returns the results.
        send: Sends the array to all nodes; returns how many had it.
        places: Calls that run at once.
        tasks: No-ops to make.
    """
    run(noop, list(range(WARM)))
    run(doze, list(range(places)))
    made = rate(lambda: run(noop, list(range(tasks))), range(tasks))
    naps = list(range(NAPS * places))
    answers, naps_s = timed(lambda: run(doze, naps))
    check(answers, naps)
    nodes, sent_s = timed(send)
    check([nodes], [places])
    return {"noops": made, "naps": 100 * NAPS * DOZE_S / naps_s, "array": sent_s}


def spread(handle: Any, submit: Callable[[Any, int], Any], places: int) -> int:
    """Call `total` in all places; returns on how many nodes that was."""
    results = [future.result() for future in [submit(handle, number) for number in range(places)]]
    check([value for value, _, _ in results], [ELEMENTS] * places)
    return len({node for _, node, _ in results})


QUESTIONS = (
    Question("noops", "no-ops, all at once", "calls/s", "higher", (Limit(DASK.name, 20.0),)),
    Question("naps", "50 ms calls, part of the ideal", "%", "higher", (Limit(plus=97.0),)),
    Question("array", "64 MB array to every node", "s", "lower"),
)

SCRIPT = Script(
    name="cluster",
    purpose="Calls on a Dask cluster through MecaExecutor, beside Dask's own client.",
    parts=(Part("cluster", QUESTIONS, (DASK, MECA), measure),),
    controls=(DASK,),
    tasks=20_000,
)


@contextmanager
def a_cluster(nodes: int) -> Iterator[None]:
    """Have a cluster for the peers, if the environment names none."""
    if ADDRESS in os.environ or find_spec("distributed") is None:  # then each peer says what is missing
        yield
        return
    program = CLUSTER.format(nodes=nodes)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}  # nodes are to find the tasks
    with subprocess.Popen(
        [sys.executable, "-c", program], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        os.environ[ADDRESS] = process.stdout.readline().decode().strip()
        try:
            yield
        finally:
            process.communicate(timeout=START_S)
            del os.environ[ADDRESS]


if __name__ == "__main__":
    args, chosen = parse(SCRIPT, sys.argv[1:])
    with nullcontext() if args.child else a_cluster(chosen.workers):
        sys.exit(main(SCRIPT))
