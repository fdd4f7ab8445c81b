"""Containers of a Docker engine, for `benchmarks.containers`: made by hand with the `docker` package, and by ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from http.client import HTTPConnection
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from meca_executor.runtimes.container import PORT, Failure, RunningContainer
from meca_executor.runtimes.engine import Engine, EngineError, Plan
from meca_executor.runtimes.engine_settings import EngineSettings, container_name, find_engine
from meca_executor.runtimes.examples import shipped

from .questions import Missing
from .servers import READY_APP
from .timing import MS

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = "meca-benchmark-sampleserver:latest"
GREETING = b'{"name": "meca dev 0"}'
LIMIT_S = 60.0


class Cold(NamedTuple):
    """Milliseconds of a first call, step by step."""

    create: float
    start: float
    ready: float
    first: float

    def figures(self) -> dict[str, float]:
        """Return them as answers to the questions."""
        return {f"cold_{name}": value for name, value in self._asdict().items()} | {"cold": sum(self)}


@contextlib.contextmanager
def engine_with_image() -> Iterator[Engine]:
    """Give an engine that has the image.

    Raises:
        Missing: There is none, or the image cannot be built.
    """
    settings = EngineSettings(pull="never")
    url = find_engine(os.environ, settings)
    if url is None:
        raise Missing("there is no container engine here")
    try:
        engine = Engine(url, settings)
    except Exception as error:
        raise Missing(str(error)) from error
    with contextlib.closing(engine):
        try:
            list(engine.build(str(shipped()["sampleserver:latest"]), IMAGE))
        except EngineError as error:
            raise Missing(f"the image of the sample app cannot be built: {error}") from error
        yield engine


async def our_cold_start(engine: Engine) -> Cold:
    """Return what a first call takes with our runtime."""
    image: asyncio.Future[Engine | Failure] = asyncio.get_running_loop().create_future()
    image.set_result(engine)
    container = RunningContainer(image, Plan(container_name(IMAGE, str(time.time_ns())), IMAGE, None, {}), LIMIT_S)
    failure = await container.ready
    if failure is not None:
        raise RuntimeError(failure.text)
    assert container.connections is not None
    began = time.perf_counter()
    await container.connections.post(PORT, GREETING, LIMIT_S)
    first = time.perf_counter() - began
    container.stop()
    await container.ended
    create, start, ready = (MS * container.times[name] for name in ("create", "start", "ready"))
    return Cold(create, start, ready, MS * first)


@contextlib.contextmanager
def bare_container(engine: Engine) -> Iterator[tuple[str, Cold]]:
    """Give the address of a container made by hand, on the engine's usual network, and what its start took."""
    client: Any = engine._client
    marks = [time.perf_counter()]
    name = client.create_container(IMAGE, name=container_name(IMAGE, str(time.time_ns())))["Id"]
    try:
        marks.append(time.perf_counter())
        client.start(name)
        address = client.inspect_container(name)["NetworkSettings"]["IPAddress"]
        marks.append(time.perf_counter())
        while READY_APP.encode() not in client.logs(name):
            if time.perf_counter() - marks[-1] > LIMIT_S:
                raise RuntimeError(f"{name} is not ready")
        marks.append(time.perf_counter())
        with contextlib.closing(HTTPConnection(address, PORT)) as connection:
            connection.request("POST", "/", GREETING)
            connection.getresponse().read()
        marks.append(time.perf_counter())
        create, start, ready, first = (MS * (after - before) for before, after in pairwise(marks))
        yield address, Cold(create, start, ready, first)
    finally:
        client.remove_container(name, force=True)
