"""What does a kernel behind a gateway cost over a plain Jupyter client, and a plain pipe?

    python -m benchmarks.kernels [--rounds N] [--tasks N] [--peers A,B] [--json FILE] [--plot FOLDER]

- Ready: from the wish for a Python kernel to the answer of its first cell. Ours starts its gateway within that time.
- Cell: `1`, one after the other, on a warm kernel; median.
- Output: 64 MiB that a program writes, until all of it is here; the pipe is `subprocess` and `read()`.
- Many: 50 Python kernels at once (fewer with fewer --tasks, or where the machine has not 100 MiB for each: the table
  says how many), until each has answered a cell; and the memory of each, with its share of the gateway: PSS, in which
  memory that several processes have in common counts once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import TYPE_CHECKING, Any

from .harness import main
from .peers import MECA, Peer
from .questions import Figures, Limit, Missing, Options, Part, Question, Script
from .timing import MIB, MS, check, timed

if TYPE_CHECKING:
    from collections.abc import Callable

JUPYTER = Peer("jupyter_client", "jupyter_client", "KernelManager", "jupyter_client", ("jupyter_client", "ipykernel"))
PIPE = Peer("pipe", "subprocess", "Popen")

OUTPUT_MIB = 64
WRITE = f"head -c {OUTPUT_MIB * MIB} /dev/zero | tr '\\0' x"
MANY = 50
EACH_MIB = 100  #: of free memory, that a kernel wants at most
ANSWER_S = 60.0


def measure_cells(peer: Peer, options: Options) -> Figures:
    """Answer how soon a kernel is ready, and what a cell takes."""
    (end, run), ready = timed(ours if peer is MECA else plain)
    try:
        took = []
        for _ in range(max(2, options.tasks)):
            answer, seconds = timed(run)
            check([answer], ["1"])
            took.append(seconds)
    finally:
        end()
    return {"ready": ready * MS, "cell": median(took) * MS}


def ours() -> tuple[Callable[[], object], Callable[[], str | None]]:
    """Return how to end a kernel of ours, and how to run a cell in it; it has run one."""
    from meca_executor.kernel import Kernel

    kernel = Kernel.get_or_create("python3")

    def run() -> str | None:
        return kernel.execute("1").text

    run()
    return kernel.destroy, run


def plain() -> tuple[Callable[[], object], Callable[[], str | None]]:
    """Return the same of a kernel that a plain client starts."""
    from jupyter_client.manager import KernelManager

    folder = tempfile.TemporaryDirectory(prefix="bench-")  # or kernels that start at once would share their sockets
    manager = KernelManager(transport="ipc", connection_file=os.path.join(folder.name, "c.json"))
    manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=ANSWER_S)

    def run() -> str | None:
        said: list[str] = []

        def hook(message: Any) -> None:
            if message["msg_type"] == "execute_result":
                said.append(message["content"]["data"]["text/plain"])

        client.execute_interactive("1", output_hook=hook, timeout=ANSWER_S)
        return said[-1] if said else None

    def end() -> None:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        folder.cleanup()

    run()
    return end, run


def measure_output(peer: Peer, options: Options) -> Figures:
    """Answer how fast output arrives."""
    if peer is PIPE:
        text, seconds = timed(lambda: subprocess.run(["sh", "-c", WRITE], stdout=subprocess.PIPE, check=True).stdout)
        return {"output": rate(len(text), seconds)}
    from meca_executor.kernel import Kernel

    with Kernel.get_or_create("sh") as kernel:
        kernel.execute("true")
        result, seconds = timed(lambda: kernel.execute(WRITE))
        return {"output": rate(len(result.stdout), seconds)}


def rate(size: int, seconds: float) -> float:
    """Return megabytes a second, of output that is whole."""
    check([size], [OUTPUT_MIB * MIB])
    return size / seconds / 1e6


def measure_many(peer: Peer, options: Options) -> Figures:
    """Answer what many kernels at once take."""
    if not os.path.isfile("/proc/self/smaps_rollup"):
        raise Missing("memory is read from /proc/PID/smaps_rollup")
    many = max(1, min(MANY, options.tasks, int(free_mib() / EACH_MIB)))
    with ThreadPoolExecutor(many) as pool:
        began = [pool.submit(ours if peer is MECA else plain) for _ in range(many)]
        kernels, seconds = timed(lambda: [future.result() for future in began])
        memory = children_mib() / many
        list(pool.map(lambda kernel: kernel[0](), kernels))
    return {"kernels": many, "many": seconds, "memory": memory}


def free_mib() -> float:
    """Return the memory that programs can still have here."""
    with open("/proc/meminfo", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("MemAvailable:")) / 1024


def children_mib() -> float:
    """Return the memory of all that comes from this process, each page divided among those who have it."""
    parents = dict[int, int]()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue  # gone meanwhile
        parents[pid] = int(fields[1])
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    return sum(map(pss_mib, mine - {os.getpid()}))


def pss_mib(pid: int) -> float:
    """Return a process's share of memory; nothing when it is gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024
    except OSError:
        return 0.0


READY = Question("ready", "a Python kernel, to its first answer", "ms", "lower")
CELL = Question("cell", "a simple cell, p50", "ms", "lower", (Limit(JUPYTER.name, 1.2),))
OUTPUT = Question("output", f"{OUTPUT_MIB} MiB of output", "MB/s", "higher")
KERNELS = Question("kernels", f"Python kernels at once, of {MANY}", "kernels", "higher")
ALL_READY = Question("many", "all of these, to their first answers", "s", "lower")
MEMORY = Question("memory", "memory of each of these (PSS)", "MiB", "lower")

SCRIPT = Script(
    name="kernels",
    purpose="Kernels behind a gateway, beside a plain Jupyter client and a plain pipe.",
    parts=(
        Part("cells", (READY, CELL), (JUPYTER, MECA), measure_cells),
        Part("output", (OUTPUT,), (PIPE, MECA), measure_output),
        Part("many", (KERNELS, ALL_READY, MEMORY), (JUPYTER, MECA), measure_many),
    ),
    controls=(JUPYTER, PIPE),
    tasks=100,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
