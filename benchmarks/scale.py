"""What does one gateway carry, and what ends first?

    python -m benchmarks.scale [--rounds N] [--tasks N] [--parts A,B] [--json FILE] [--plot FOLDER]

- gateway: a `meca gateway` of its own with 16 workers; its process's own processor time (psutil) for no-ops that travel
  together, for sleeps of 12 ms, which travel alone, and for payloads of 1 MB over the link (a named session, so that no
  memory is shared); memory (RSS) and processor time of 32 connected clients that do nothing.
- broker: bytes a worker, and a task that waits, take in the broker (tracemalloc).
- simulated N: the real broker with N simulated workers, eight clients and calls of 50 ms on average (exponential) in
  virtual time (`benchmarks/simulation.py`): its own time for each batch given out, the share of the workers' time that
  was worked, and Jain's index of the clients' shares, of which one has ten times the backlog of the others. `--tasks`
  is the most calls in one.
- waiting N: the same with 1,000 workers and N clients that all have a backlog.

Behind the tables stands what `benchmarks/scale_model.py` makes of the medians: what one gateway carries by the length
of its tasks. All of it in one command; the machine should do nothing else.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import harness
from .peers import MECA, Peer, optional
from .questions import Figures, Options, Part, Question, Script
from .scale_model import Costs, report
from .scaling import settled
from .servers import standing_gateway
from .simulation import Simulation
from .tasks import echo, nap, noop
from .timing import MIB, US, check, submit_all, warm_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meca_executor import MecaExecutor

WORKERS = (10, 100, 1_000, 10_000)
WAITING = (64, 512)
EACH = 20  #: calls a simulated worker, where `--tasks` allows it
LEAST = 2_000  #: calls in a simulation, likewise
BATCHED, ALONE, LARGE, CLIENTS = 100_000, 5_000, 64, 32  #: calls, or clients, in the gateway's part
SLEEPERS, NAP_S = 16, 0.012  #: workers, and how long a task that travels alone sleeps in one
IDLE_S = 5.0  #: for which idle clients are watched
CLIENT_LIMIT_S = 60.0


class Gateway:
    """A standing gateway, and what its process uses."""

    def __init__(self, url: str) -> None:
        psutil = optional("psutil")
        self.url = url
        found = [child for child in psutil.Process().children() if "gateway" in child.cmdline()]
        self.process = found[-1]

    def processor_s(self) -> float:
        """Return the processor time of the gateway's own process so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def client(self, **options: Any) -> MecaExecutor:
        """Return a new executor on it."""
        from meca_executor import MecaExecutor

        return MecaExecutor(self.url, connect_timeout=CLIENT_LIMIT_S, **options)


def measure_gateway(_: Peer, options: Options) -> Figures:
    """Return what tasks, bytes and clients cost a gateway."""
    optional("psutil")
    scale = min(1.0, options.tasks / BATCHED)
    batched, alone, large = (max(16, int(count * scale)) for count in (BATCHED, ALONE, LARGE))
    with standing_gateway(SLEEPERS) as url:
        gateway = Gateway(url)
        with gateway.client() as ex:
            warm_up(ex, 200)
            began = gateway.processor_s()
            check(submit_all(ex, noop, range(batched)), range(batched))
            figures = {"batched_us": (gateway.processor_s() - began) / batched * US}
            began = gateway.processor_s()
            submit_all(ex, nap, [NAP_S] * alone)
            figures["alone_us"] = (gateway.processor_s() - began) / alone * US
        figures["megabyte_us"] = megabyte(gateway, large)
        return {**figures, **clients(gateway, max(2, int(CLIENTS * scale)))}


def megabyte(gateway: Gateway, count: int) -> float:
    """Return the gateway's microseconds for a megabyte that goes there and back over the link."""
    payload = bytes(MIB)
    with gateway.client(session="scale") as ex:
        warm_up(ex, 16)
        began = gateway.processor_s()
        for _ in range(count):
            check([ex.submit(echo, payload).result()], [payload])
        return (gateway.processor_s() - began) / (count * MIB / 1e6) * US


def clients(gateway: Gateway, count: int) -> Figures:
    """Return what connected clients cost that do nothing."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(gateway.client()).submit(noop, 1).result()
        memory = settled(gateway.process.pid)
        for _ in range(count):
            check([stack.enter_context(gateway.client()).submit(noop, 1).result()], [1])
        gained = settled(gateway.process.pid) - memory
        began = gateway.processor_s()
        time.sleep(IDLE_S)
        used = gateway.processor_s() - began
    return {"session_bytes": gained / count, "session_us": used / (count * IDLE_S) * US}


def measure_broker(_: Peer, options: Options) -> Figures:
    """Return what a worker and a task take in the broker."""
    from meca_executor.gateway.broker import Broker
    from meca_executor.gateway.tasks import Options as TaskOptions
    from meca_executor.wire.records import encode

    count = max(LEAST, min(options.tasks, WORKERS[-1]))
    tracemalloc.start()
    try:
        broker = Broker(count)
        before, _peak = tracemalloc.get_traced_memory()
        broker.prepare(count)
        prepared, _peak = tracemalloc.get_traced_memory()
        broker.open("s", "me", b"setup", 1, None)
        broker.set_options("s", 0, TaskOptions())
        batch = encode((number, 0, 0, b"call") for number in range(1, count + 1))
        broker.submit("s", [(count, 0, 0, batch)], 0.0)
        submitted, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return {"worker_bytes": (prepared - before) / count, "task_bytes": (submitted - prepared) / count}


def measure_simulated(workers: int, sessions: int, suffix: str, _: Peer, options: Options) -> Figures:
    """Return what a simulation showed."""
    tasks = max(sessions, min(options.tasks, max(LEAST, EACH * workers)))
    found = Simulation(workers, tasks, sessions).run()
    return {
        f"decision_{suffix}": found.us_per_decision,
        f"decisions_{suffix}": found.decisions_per_s,
        f"utilisation_{suffix}": 100 * found.utilisation,
        f"fairness_{suffix}": found.fairness,
    }


def simulated_part(name: str, said: str, workers: int, sessions: int, suffix: str, x: int, curve: str) -> Part:
    """Return the part about one simulation."""
    questions = (
        Question(f"decision_{suffix}", f"a batch given out, {said}", "µs", "lower", curve=curve, x=x),
        Question(f"decisions_{suffix}", f"batches given out, {said}", "1/s", "higher"),
        Question(f"utilisation_{suffix}", f"workers' time worked, {said}", "%", "higher"),
        Question(f"fairness_{suffix}", f"fairness, {said}", "Jain", "higher"),
    )
    return Part(name, questions, (MECA,), partial(measure_simulated, workers, sessions, suffix))


SCRIPT = Script(
    name="scale",
    purpose="What one gateway carries, and what ends first.",
    parts=(
        Part(
            "gateway",
            (
                Question("batched_us", "gateway's core, a no-op among many", "µs", "lower"),
                Question("alone_us", "gateway's core, a sleep of 12 ms", "µs", "lower"),
                Question("megabyte_us", "gateway's core, 1 MB there and back", "µs", "lower"),
                Question("session_bytes", "gateway's memory, a client", "bytes", "lower"),
                Question("session_us", "gateway's core, an idle client a second", "µs", "lower"),
            ),
            (MECA,),
            measure_gateway,
        ),
        Part(
            "broker",
            (
                Question("worker_bytes", "broker's memory, a worker", "bytes", "lower"),
                Question("task_bytes", "broker's memory, a task that waits, with a call of 4 bytes", "bytes", "lower"),
            ),
            (MECA,),
            measure_broker,
        ),
        *(simulated_part(f"simulated {n}", f"{n:,} workers", n, 8, str(n), n, "decision") for n in WORKERS),
        *(simulated_part(f"waiting {n}", f"{n} clients wait", 1_000, n, f"of_{n}", n, "waiting") for n in WAITING),
    ),
    controls=(),
    tasks=EACH * WORKERS[-1],
    rounds=3,
    timeout_s=900.0,
    axes={
        "decision": ("the broker's time for a batch", "workers"),
        "waiting": ("the broker's time for a batch, 1,000 workers", "clients that wait"),
    },
)


def main(argv: list[str] | None = None) -> int:
    """Measure, print the tables, and what the model makes of them."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "--child" in words or {"-h", "--help"} & set(words):
        return harness.main(SCRIPT, words)
    with written_to(words) as file:
        code = harness.main(SCRIPT, words)
        medians = {row["question"]: row["median"] for row in json.loads(file.read_text())["summary"]}
    try:
        print(f"\n{report(Costs.of(medians))}")
    except KeyError as missing:
        print(f"\nno model: {missing} was not measured; it needs the parts gateway, broker, simulated 10 and 10000")
    return code


@contextlib.contextmanager
def written_to(words: list[str]) -> Iterator[Path]:
    """Give the file to which the figures are written; `words` name it from then on."""
    with tempfile.TemporaryDirectory() as folder:
        if "--json" not in words:
            words += ["--json", str(Path(folder) / "scale.json")]
        yield Path(words[words.index("--json") + 1])


if __name__ == "__main__":
    sys.exit(main())
