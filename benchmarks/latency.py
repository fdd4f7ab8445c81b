"""How long does one call take when nothing else is under way?

    python -m benchmarks.latency [--rounds N] [--tasks N] [--peers A,B] [--json FILE] [--plot FOLDER]

Timed is `submit(noop, i).result()`, `--tasks` times one after the other, in an executor that is up and warm: median and
99th percentile of the calls of a round. Wake-ups dominate (each is some 10 µs on a busy machine and 80 on an idle one),
so only figures of the same round can be compared.

What a call over Socket.IO costs by itself stands beside it: `call` of python-socketio's asyncio client and the
acknowledgement of an `AsyncServer` on aiohttp in a process of its own (`benchmarks.echo_server`), websocket only.

- bare Socket.IO: a coroutine in the client's own loop waits for it; the goal counts from here.
- bare Socket.IO by thread: another thread waits, by `run_coroutine_threadsafe`, as an `Executor` over it would have to.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any, cast

from .harness import main
from .peers import LOKY, MECA, MP_POOL, PEBBLE, PROCESSES, SOCKET_IO, THREADS, Peer
from .questions import Figures, Limit, Options, Part, Question, Script
from .servers import python_server
from .tasks import noop
from .timing import latencies, latencies_in_loop, p50_and_p99, warm_up

BARE = Peer("bare Socket.IO", "socketio", "AsyncClient", packages=SOCKET_IO)
BARE_BY_THREAD = Peer("bare Socket.IO by thread", "socketio", "AsyncClient", packages=SOCKET_IO)
LIMIT_S = 60.0  #: for one call
WARM = 50  #: uncounted calls


def measure(peer: Peer, options: Options) -> Figures:
    """Answer both questions for one peer."""
    calls = max(2, options.tasks)
    with peer.load()(max_workers=options.workers) as executor:
        warm_up(executor, WARM)
        latencies(lambda number: executor.submit(noop, number).result(), WARM)
        return p50_and_p99(latencies(lambda number: executor.submit(noop, number).result(), calls))


def measure_bare(peer: Peer, options: Options) -> Figures:
    """Answer both questions for Socket.IO alone."""
    way = by_loop if peer is BARE else by_thread
    calls = max(2, options.tasks)
    with python_server(["-m", "benchmarks.echo_server"], "port ") as line:
        return p50_and_p99(way(f"http://127.0.0.1:{line.split()[1]}", calls))


def by_loop(url: str, calls: int) -> list[float]:
    """Return the seconds of each call as a coroutine of the client's loop sees them."""

    async def run() -> list[float]:
        client = await connected(url)

        async def call(number: int) -> int:
            return cast("int", await client.call("echo", number, timeout=LIMIT_S))

        await latencies_in_loop(call, WARM)
        took = await latencies_in_loop(call, calls)
        await client.disconnect()
        return took

    return asyncio.run(run())


def by_thread(url: str, calls: int) -> list[float]:
    """Return the seconds of each call as a thread beside the client's loop sees them."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(LIMIT_S)

    client = run(connected(url))

    def call(number: int) -> int:
        return cast("int", run(client.call("echo", number, timeout=LIMIT_S)))

    latencies(call, WARM)
    took = latencies(call, calls)
    run(client.disconnect())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    return took


async def connected(url: str) -> Any:
    """Return a client of the echo server."""
    import socketio

    client = socketio.AsyncClient()
    await client.connect(url, transports=["websocket"])
    return client


def goal(plus_us: float) -> tuple[Limit, ...]:
    """Return half as much again as `ProcessPoolExecutor`, or the link by itself and a little, whichever is larger."""
    return Limit(PROCESSES.name, 1.5), Limit(BARE.name, 1, plus_us)


QUESTIONS = (
    Question("p50", "one call at a time, p50", "µs", "lower", goal(100)),
    Question("p99", "one call at a time, p99", "µs", "lower", goal(100)),
)
BARES = (BARE, BARE_BY_THREAD)


def measure_any(peer: Peer, options: Options) -> Figures:
    """Answer both questions for an executor, or for Socket.IO alone."""
    return (measure_bare if peer in BARES else measure)(peer, options)


SCRIPT = Script(
    name="latency",
    purpose="One call at a time through MecaExecutor, beside process pools and bare Socket.IO.",
    parts=(Part("latency", QUESTIONS, (THREADS, PROCESSES, MP_POOL, PEBBLE, LOKY, MECA, *BARES), measure_any),),
    controls=(PROCESSES, BARE),
    tasks=2_000,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
