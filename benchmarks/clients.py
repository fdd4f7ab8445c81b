"""Many client processes on one standing gateway.

`python -m benchmarks.clients URL CALLS` is one of them: connects and warms up, prints `ready`, waits for a line, makes
its calls, and prints when it began and when it ended on the machine's monotonic clock.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

from .harness import ROOT
from .servers import standing_gateway
from .tasks import noop
from .timing import check, submit_all, warm_up

WARM = 100  #: uncounted calls of each client


def cost_with_clients(count: int, calls: int, workers: int) -> float:
    """Return the seconds a call, when `count` clients make `calls` each at the same time.

    Raises:
        RuntimeError: A client failed; its words are on stderr.
    """
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(standing_gateway(workers))
        command = [sys.executable, "-m", "benchmarks.clients", url, str(calls)]
        clients = []
        for _ in range(count):
            client = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            stack.enter_context(client)
            stack.callback(client.kill)
            clients.append(client)
        for client in clients:
            line_of(client)
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
        spans = [[float(word) for word in line_of(client).split()] for client in clients]
    return (max(ended for _, ended in spans) - min(began for began, _ in spans)) / (count * calls)


def line_of(client: subprocess.Popen[str]) -> str:
    """Return the next line that a client says.

    Raises:
        RuntimeError: It ended without one.
    """
    assert client.stdout is not None
    line = client.stdout.readline()
    if not line:
        raise RuntimeError(f"a client ended with exit code {client.wait()}")
    return line


def main() -> None:
    """Be one client."""
    from meca_executor import MecaExecutor

    url, calls = sys.argv[1], int(sys.argv[2])
    # Many start at once on few cores, so the first answer may take its time.
    with MecaExecutor(url, connect_timeout=60) as executor:
        warm_up(executor, WARM)
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        answers = submit_all(executor, noop, range(calls))
        ended = time.monotonic()
    check(answers, range(calls))
    print(began, ended, flush=True)


if __name__ == "__main__":
    main()
