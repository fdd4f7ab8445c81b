"""How does a task's cost grow, and how near to the ideal are tasks that do something?

    python -m benchmarks.scaling [--rounds N] [--tasks N] [--parts A,B] [--peers A,B] [--json FILE] [--plot FOLDER]

What is asked, per peer and round, each part in a fresh process; `--tasks` is the most calls in any part, and what is
about more tasks outstanding is left out:

- outstanding N: N no-ops by `submit`, all at once, then all results; time over N. From 10,000 on also, before that, the
  memory that the client gained for each while all N waited behind one blocked task a worker, and what the gateway's
  process gained in all (RSS, by psutil).
- payload N: N bytes there and back, many calls at once; time over calls.
- clients N: no-ops from N processes, each with an executor of its own on one `meca gateway`; the time from the first to
  begin to the last to end, over all calls.
- 50 ms CPU: `map` of 64 tasks that use 50 ms of processor time each, as the share of the ideal, which is all that time
  over the workers. What other processes take of the cores is missing from everybody's share.
- 1 ms and exponential: `map` over sleeps of 1 ms, and of random length (fixed seed) with a mean of 1 and of 10 ms. The
  ideal is what the tasks themselves measured as slept, over the workers.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .clients import cost_with_clients
from .harness import main
from .peers import LOKY, MECA, MP_POOL, PROCESSES, THREADS, Peer, optional
from .questions import Figures, Limit, Missing, Options, Part, Question, Script
from .tasks import RELEASE, burn, echo, hold, nap, noop
from .timing import US, check, rate, rss_bytes, submit_all, timed, warm_up

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from concurrent.futures import Executor, Future

OUTSTANDING = (1_000, 10_000, 100_000, 1_000_000)
MOST_OF_PEERS = 100_000  #: outstanding tasks of others than ours
MEMORY_FROM = 10_000  #: fewer tasks do not stand out from what an interpreter allocates by itself
PAYLOADS = {100: 5_000, 10_000: 1_000, 1_000_000: 50}  #: bytes → calls at most
CLIENTS = (1, 8, 64)
CLIENT_CALLS = 64_000  #: of all clients together, at most
SEED = 7
WARM = 200  #: uncounted calls

SETTLE_S, SETTLE_SHARE, SETTLE_TRIES = 0.25, 0.005, 80  #: memory is read when it has stopped to change
BLOCKED_S = 60.0  #: for every worker to be at its blocker


# -- outstanding


def measure_outstanding(count: int, peer: Peer, options: Options) -> Figures:
    """Return cost and memory of `count` tasks under way at once."""
    if count > options.tasks:
        raise Missing("more than --tasks")
    with peer.load()(max_workers=options.workers) as executor:
        warm_up(executor, WARM)
        figures = memory(count, executor, peer, options.workers) if count >= MEMORY_FROM else {}
        figures[f"outstanding_{count}"] = US / rate(lambda: submit_all(executor, noop, range(count)), range(count))
    return figures


def memory(count: int, executor: Executor, peer: Peer, workers: int) -> Figures:
    """Return what client and gateway gain while `count` tasks wait; answers are checked."""
    me = optional("psutil").Process()
    gateway = [child.pid for child in me.children()] if peer is MECA else []
    with blocked(executor, workers):
        before, gateway_before = settled(me.pid), rss_bytes(*gateway)
        futures: Sequence[Future[int]] = [executor.submit(noop, number) for number in range(count)]
        after = settled(me.pid, *gateway) - (gateway_after := rss_bytes(*gateway))
        check([future.done() for future in (futures[0], futures[-1])], [False, False])
    check([future.result() for future in futures], range(count))
    figures = {f"client_{count}": (after - before) / count}
    if gateway:
        figures[f"gateway_{count}"] = (gateway_after - gateway_before) / 1e6
    return figures


@contextmanager
def blocked(executor: Executor, workers: int) -> Iterator[None]:
    """Have every worker held by one task while the block runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        blockers = [executor.submit(hold, name, number) for number in range(workers)]
        until = time.monotonic() + BLOCKED_S
        while len(list(folder.iterdir())) < workers:
            if time.monotonic() > until:
                raise RuntimeError("not every worker took a blocker")
            time.sleep(SETTLE_S / 10)
        try:
            yield
        finally:
            (folder / RELEASE).touch()
        check([blocker.result() for blocker in blockers], range(workers))


def settled(*pids: int) -> int:
    """Return the memory of these processes together, once it stays what it is."""
    now = rss_bytes(*pids)
    for _ in range(SETTLE_TRIES):
        last = now
        time.sleep(SETTLE_S)
        now = rss_bytes(*pids)
        if abs(now - last) <= SETTLE_SHARE * last:
            break
    return now


# -- payloads


def measure_payload(size: int, peer: Peer, options: Options) -> Figures:
    """Return the cost of a call that carries `size` bytes both ways."""
    count = min(options.tasks, PAYLOADS[size])
    payload = random.Random(SEED).randbytes(size)
    with peer.load()(max_workers=options.workers) as executor:
        warm_up(executor, WARM)
        submit_all(executor, echo, [payload] * options.workers)
        answers = [payload] * count
        return {f"payload_{size}": US / rate(lambda: submit_all(executor, echo, answers), answers)}


# -- the ideal


def measure_ideal(key: str, fn: Callable[[float], float], seconds: Sequence[float], p: Peer, o: Options) -> Figures:
    """Return how near a `map` over tasks of these lengths comes to workers that never wait, in percent."""
    chosen = seconds[: o.tasks]
    with p.load()(max_workers=o.workers) as executor:
        warm_up(executor, WARM)
        took, elapsed_s = timed(lambda: list(executor.map(fn, chosen)))
    if len(took) != len(chosen) or any(real < asked for real, asked in zip(took, chosen, strict=True)):
        raise RuntimeError("a task did less than it was asked; the figures would mean nothing")
    return {key: 100 * sum(took) / o.workers / elapsed_s}


def exponential(mean_s: float, count: int) -> list[float]:
    """Return random lengths, the same in every run."""
    source = random.Random(SEED)
    return [source.expovariate(1 / mean_s) for _ in range(count)]


# -- the script


def outstanding_part(count: int) -> Part:
    """Return the part about `count` tasks at once."""
    said = f"{count:,} outstanding"
    questions = [Question(f"outstanding_{count}", f"no-op, {said}", "µs/task", "lower", curve="outstanding", x=count)]
    if count >= MEMORY_FROM:
        client, gateway = f"client_{count}", f"gateway_{count}"
        goal = (Limit(PROCESSES.name),) if count <= MOST_OF_PEERS else (Limit(plus=2_000),)
        questions += [
            Question(client, f"client memory, {said}", "bytes/task", "lower", goal, curve="client", x=count),
            Question(gateway, f"gateway memory gained, {said}", "MB", "lower", curve="gateway", x=count),
        ]
    peers = (THREADS, PROCESSES, MECA) if count <= MOST_OF_PEERS else (MECA,)
    return Part(f"outstanding {count}", tuple(questions), peers, partial(measure_outstanding, count))


def payload_part(size: int) -> Part:
    """Return the part about calls that carry `size` bytes."""
    question = Question(f"payload_{size}", f"{size:,} bytes there and back", "µs/task", "lower", (), "payload", size)
    return Part(f"payload {size}", (question,), (THREADS, PROCESSES, LOKY, MECA), partial(measure_payload, size))


def clients_part(count: int) -> Part:
    """Return the part about `count` clients of one gateway."""
    text = f"no-op, {count} clients of one gateway"
    question = Question(f"clients_{count}", text, "µs/task", "lower", curve="clients", x=count)

    def measure(_: Peer, options: Options) -> Figures:
        calls = max(1, min(options.tasks, CLIENT_CALLS) // count)
        return {question.key: cost_with_clients(count, calls, options.workers) * US}

    return Part(f"clients {count}", (question,), (MECA,), measure)


def ideal_part(name: str, text: str, fn: Callable[[float], float], seconds: Sequence[float]) -> Part:
    """Return a part about how near to the ideal a `map` is."""
    question = Question(f"ideal {name}", text, "% of ideal", "higher", (Limit(plus=97),))
    measure: Callable[[Peer, Options], Any] = partial(measure_ideal, question.key, fn, seconds)
    return Part(name, (question,), (THREADS, PROCESSES, MP_POOL, LOKY, MECA), measure)


SCRIPT = Script(
    name="scaling",
    purpose="What a task costs among many, with large payloads, from many clients; and how near to ideal.",
    parts=(
        *map(outstanding_part, OUTSTANDING),
        *map(payload_part, PAYLOADS),
        *map(clients_part, CLIENTS),
        ideal_part("50 ms CPU", "`map` of 64 CPU tasks of 50 ms", burn, [0.05] * 64),
        ideal_part("1 ms", "`map` of 2,000 tasks of 1 ms", nap, [0.001] * 2_000),
        ideal_part("exponential 1 ms", "`map` of 2,000 tasks, exponential, mean 1 ms", nap, exponential(0.001, 2_000)),
        ideal_part("exponential 10 ms", "`map` of 400 tasks, exponential, mean 10 ms", nap, exponential(0.01, 400)),
    ),
    controls=(PROCESSES, THREADS),
    tasks=OUTSTANDING[-1],
    timeout_s=900.0,
    axes={
        "outstanding": ("cost of a no-op among many", "tasks outstanding"),
        "client": ("client memory of a task that waits", "tasks outstanding"),
        "gateway": ("gateway memory gained", "tasks outstanding"),
        "payload": ("cost of a task with a payload", "bytes there and back"),
        "clients": ("cost of a no-op from many clients", "clients of one gateway"),
    },
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
