"""What does a container call cost over a bare HTTP POST to the same app?

    python -m benchmarks.containers [--rounds N] [--tasks N] [--peers A,B] [--json FILE] [--plot FOLDER]

The app is the shipped example `sampleserver`, run as a local process, and then as a container of a Docker engine.
`MecaExecutor` calls it through its embedded gateway, which starts it; for the others this script starts the same
`src/app.py`, and they post to its port. All keep their connections, encode and decode JSON, and have made uncounted
calls of both kinds before the clock runs.

- One at a time: `--tasks` greetings, one after the other; median and 99th percentile.
- 16 in flight: `--tasks` greetings, at most 16 of them under way. That is the gateway's own limit for one app; beside
  it are 16 threads with a connection each, and an aiohttp session with 16 connections.
- On Docker (left out without an engine): a first call, split into create, start (with the address), ready (the mark on
  its output and a connection) and the call itself, beside the `docker` package by hand; then as above. Of ours a
  container takes one call at a time, so 16 in flight are 16 containers; by hand it is one.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

from meca_executor.runtimes.container import PORT
from meca_executor.runtimes.examples import shipped

from . import docker
from .harness import main
from .peers import MECA, Peer
from .questions import Figures, Limit, Options, Part, Question, Script
from .servers import bare_app
from .timing import check, latencies, latencies_in_loop, p50_and_p99, rate

if TYPE_CHECKING:
    import aiohttp

HTTP = Peer("http.client", "http.client", "HTTPConnection")
AIOHTTP = Peer("aiohttp", "aiohttp", "ClientSession", packages=("aiohttp",))

REF = "sampleserver:latest"
IN_FLIGHT = 16
WARM = 64  #: uncounted calls of each kind
SETTLED = 2  #: on Docker the counted calls so often, in flight, before the clock runs: until all containers are there
JSON = {"Content-Type": "application/json"}


def measure(peer: Peer, options: Options) -> Figures:
    """Answer all questions for one peer."""
    calls = max(2, options.tasks)
    if peer is MECA:
        return ours(calls, options.workers)
    with bare_app(shipped()[REF]) as port:
        return by_threads(port, calls) if peer is HTTP else asyncio.run(by_session(port, calls))


def measure_docker(peer: Peer, options: Options) -> Figures:
    """Answer the questions about a Docker engine for one peer."""
    calls = max(2, options.tasks)
    with docker.engine_with_image() as engine:
        if peer is MECA:
            cold = asyncio.run(docker.our_cold_start(engine)).figures()
            return {**cold, **on_docker(ours(calls, IN_FLIGHT, docker.IMAGE, SETTLED * calls))}
        with docker.bare_container(engine) as (address, first):
            return {**first.figures(), **on_docker(by_threads(PORT, calls, address, SETTLED * calls))}


def on_docker(figures: Figures) -> Figures:
    """Return figures under the names that they have in that part."""
    return {f"docker_{name}": value for name, value in figures.items()}


def ours(calls: int, workers: int, ref: str = REF, warm: int = WARM) -> Figures:
    """Return the figures of the executor, after so many uncounted calls in flight."""
    from meca_executor import Container, MecaExecutor

    greet = Container(ref)
    with MecaExecutor(max_workers=workers) as executor:

        def call(number: int) -> int:
            return number_in(executor.submit(greet, greeting(number)).result())

        def many(count: int) -> list[int]:
            futures = [executor.submit(greet, greeting(number)) for number in range(count)]
            return [number_in(future.result()) for future in futures]

        latencies(call, WARM)
        many(warm)
        took = latencies(call, calls)
        return {**p50_and_p99(took), "in_flight": rate(lambda: many(calls), range(calls))}


def by_threads(port: int, calls: int, address: str = "127.0.0.1", warm: int = WARM) -> Figures:
    """Return the figures of the standard library's client."""
    own = threading.local()

    def connect() -> None:
        own.connection = HTTPConnection(address, port)

    def post(number: int) -> int:
        own.connection.request("POST", "/", json.dumps(greeting(number)), JSON)
        with own.connection.getresponse() as response:
            return number_in(json.loads(response.read()))

    connect()
    with closing(own.connection), ThreadPoolExecutor(IN_FLIGHT, initializer=connect) as pool:
        latencies(post, WARM)
        list(pool.map(post, range(warm)))
        took = latencies(post, calls)
        return {**p50_and_p99(took), "in_flight": rate(lambda: list(pool.map(post, range(calls))), range(calls))}


async def by_session(port: int, calls: int) -> Figures:
    """Return the figures of aiohttp's client."""
    import aiohttp

    connector = aiohttp.TCPConnector(limit=IN_FLIGHT)  # whoever comes when all are busy waits for one
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", connector=connector) as session:

        async def post(number: int) -> int:
            return await post_in(session, number)

        await latencies_in_loop(post, WARM)
        await asyncio.gather(*map(post, range(WARM)))
        took = await latencies_in_loop(post, calls)
        began = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*map(post, range(calls)))
        elapsed_s = asyncio.get_running_loop().time() - began
    check(answers, range(calls))
    return {**p50_and_p99(took), "in_flight": calls / elapsed_s}


async def post_in(session: aiohttp.ClientSession, number: int) -> int:
    """Return the number that comes back."""
    async with session.post("/", data=json.dumps(greeting(number)), headers=JSON) as response:
        return number_in(json.loads(await response.read()))


def greeting(number: int) -> dict[str, str]:
    """Return an input whose answer has this number in it."""
    return {"name": f"meca dev {number}"}


def number_in(reply: Any) -> int:
    """Return the number in the answer."""
    return int(reply["message"].rpartition(" ")[2])


QUESTIONS = (
    Question("p50", "warm call, one at a time, p50", "µs", "lower", (Limit(HTTP.name, 1.3),)),
    Question("p99", "warm call, one at a time, p99", "µs", "lower"),
    Question("in_flight", f"warm calls, {IN_FLIGHT} in flight", "calls/s", "higher", (Limit(AIOHTTP.name, 0.8),)),
)

ON_DOCKER = (
    Question("cold", "Docker: first call, all", "ms", "lower", (Limit(HTTP.name, 1.3),)),
    Question("cold_create", "Docker: first call, create", "ms", "lower"),
    Question("cold_start", "Docker: first call, start", "ms", "lower"),
    Question("cold_ready", "Docker: first call, ready", "ms", "lower"),
    Question("cold_first", "Docker: first call, the call", "ms", "lower"),
    Question("docker_p50", "Docker: warm call, one at a time, p50", "µs", "lower", (Limit(HTTP.name, 1.3),)),
    Question("docker_p99", "Docker: warm call, one at a time, p99", "µs", "lower"),
    Question("docker_in_flight", f"Docker: warm calls, {IN_FLIGHT} in flight", "calls/s", "higher"),
)

SCRIPT = Script(
    name="containers",
    purpose="Warm calls of a local app through MecaExecutor, beside bare HTTP to the same app.",
    parts=(
        Part("containers", QUESTIONS, (HTTP, AIOHTTP, MECA), measure),
        Part("docker", ON_DOCKER, (HTTP, MECA), measure_docker),
    ),
    controls=(HTTP, AIOHTTP),
    tasks=2_000,
)

if __name__ == "__main__":
    sys.exit(main(SCRIPT))
