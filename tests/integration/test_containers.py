"""Containers of an engine, beyond what every runtime of containers promises."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.errors import ContainerFailed, NoHostFits, TaskTimeout
from meca_executor.runtimes.containers import Containers
from meca_executor.runtimes.engine import Engine
from meca_executor.runtimes.engine_settings import LABEL, EngineSettings
from tests.helpers import engine
from tests.helpers.registry import NO_PROGRAM, Registry, registry

from .app_tools import OBEDIENT, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

CAPACITY = {"cpu": 2.0, "memory": 1000.0}
LIMIT = 60.0


@pytest.fixture
def ref(images: engine.Images) -> str:
    """The image of the app that does as it is told."""
    return images.of_source("obedient", OBEDIENT)


def run(test: Callable[[Containers], Awaitable[None]], *, slots: int = 2, **settings: Any) -> None:
    """Run a test on containers that are gone after it."""

    async def main() -> None:
        containers = Containers(EngineSettings(url=engine.url(), **{"pull": "never", **settings}), slots, CAPACITY)
        try:
            await asyncio.wait_for(test(containers), LIMIT)
        finally:
            await containers.close()

    asyncio.run(main())


async def ask(
    containers: Containers,
    ref: str,
    do: str,
    *,
    resource: Mapping[str, float] | None = None,
    runtime: str | None = None,
    timeout: float | None = None,
    **more: Any,
) -> Any:
    """Have the obedient container do something."""
    shape = containers.shape_of(ref, runtime, resource or {})
    return json.loads(await containers.call(shape, json.dumps({"do": do, **more}).encode(), timeout=timeout))


@contextlib.contextmanager
def client() -> Iterator[Any]:
    """Give the `docker` package's own client."""
    with contextlib.closing(Engine(engine.url(), EngineSettings())) as one:
        yield one._client


def host_config(ref: str) -> dict[str, Any]:
    """Return what the engine says of the one container of an image."""
    with client() as docker:
        (one,) = docker.containers(filters={"ancestor": ref, "label": LABEL})
        found: dict[str, Any] = docker.inspect_container(one["Id"])["HostConfig"]
    return found


def test_two_calls_have_two_containers(ref: str) -> None:
    """Both are there at once, each sees its own; a third one has to wait."""

    async def test(containers: Containers) -> None:
        calls = [asyncio.ensure_future(ask(containers, ref, "sleep", timeout=1)) for _ in range(3)]
        await until(lambda: len(containers._running) == 2)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [TaskTimeout] * 3
        assert len(engine.ours(str(containers._engine and containers._engine.owner))) <= 2

    run(test)


def test_limits_are_the_containers(ref: str) -> None:
    async def test(containers: Containers) -> None:
        await ask(containers, ref, "pid", resource={"cpu": 0.5, "memory": 64})
        config = await asyncio.to_thread(host_config, ref)
        assert config["NanoCpus"] == 500_000_000
        assert config["Memory"] == config["MemorySwap"] == 64 << 20
        assert config["CapDrop"] == ["ALL"] and config["SecurityOpt"] == ["no-new-privileges:true"]
        assert config["ReadonlyRootfs"] and list(config["Tmpfs"]) == ["/tmp"]
        assert config["PidsLimit"] == 512
        assert not config["PortBindings"]
        with client() as docker:
            network = docker.inspect_network(config["NetworkMode"])
            assert network["Name"].startswith("meca-internal-") and network["Internal"]

    run(test)


def test_the_operator_lifts_limits(ref: str) -> None:
    async def test(containers: Containers) -> None:
        await ask(containers, ref, "pid")
        config = await asyncio.to_thread(host_config, ref)
        assert not config["CapDrop"] and not config["SecurityOpt"] and not config["ReadonlyRootfs"]
        assert not config["PidsLimit"]
        with client() as docker:
            network = docker.inspect_network(config["NetworkMode"])
            assert network["Name"].startswith("meca-open-") and not network["Internal"]

    run(test, allow=frozenset({"network", "writes", "capabilities", "privileges", "processes"}))


def test_too_much_memory_is_told(ref: str) -> None:
    async def test(containers: Containers) -> None:
        with pytest.raises(ContainerFailed, match=r"more memory than its limit of 64 MiB"):
            await ask(containers, ref, "measure", back=500_000_000, resource={"memory": 64})

    run(test)


def test_what_never_fits_is_refused_at_once() -> None:
    """Without asking the engine."""

    async def test(containers: Containers) -> None:
        for resource, text in (
            ({"cpu": 3}, "needs 3 cores, and this host has 2"),
            ({"memory": 1001}, "needs 1,001 MiB of memory, and this host has 1,000"),
            ({"gpu": 1}, "needs 1 GPUs, and this host has 0"),
        ):
            with pytest.raises(NoHostFits, match=text):
                await ask(containers, "any", "pid", resource=resource)
        with pytest.raises(
            NoHostFits, match=r"no runtime 'microVM' here \(known: container, other\).*--runtime microVM="
        ):
            await ask(containers, "any", "pid", runtime="microVM")
        assert containers._engine is None

    run(test, runtimes={"other": "runc"})


def test_what_fits_later_waits(ref: str) -> None:
    """Two that need more than half of the memory take turns; neither is refused."""

    async def test(containers: Containers) -> None:
        first = asyncio.ensure_future(ask(containers, ref, "sleep", timeout=1, resource={"memory": 600}))
        await until(lambda: len(containers._running) == 1)
        second = asyncio.ensure_future(ask(containers, ref, "pid", resource={"memory": 601}))
        with pytest.raises(TaskTimeout):
            await first
        assert (await second)["pid"]

    run(test)


def test_runtimes_have_the_operators_names(ref: str) -> None:
    async def test(containers: Containers) -> None:
        assert (await ask(containers, ref, "pid", runtime="plain"))["pid"]
        assert (await ask(containers, ref, "pid", runtime="container"))["pid"]
        with pytest.raises(ContainerFailed, match=rf"{ref} could not be started: .*[Uu]nknown runtime.* nothing-such"):
            await ask(containers, ref, "pid", runtime="wrong")

    run(test, runtimes={"plain": "runc", "wrong": "nothing-such"})


def test_owners_have_containers_of_their_own(ref: str) -> None:
    async def test(containers: Containers) -> None:
        lives = []
        for owner in ("one", "two", "one"):
            reply = await containers.call(containers.shape_of(ref, None, {}, owner), b'{"do": "pid"}')
            lives.append(json.loads(reply)["born"])
        assert lives[0] == lives[2] != lives[1]

    run(test)


def test_a_gpu_is_asked_of_the_engine(ref: str) -> None:
    """Which says so when it has no driver for one."""

    async def test(containers: Containers) -> None:
        containers._capacity = containers._pool.capacity = {"gpu": 1}
        try:
            await ask(containers, ref, "pid", resource={"gpu": 1})
        except ContainerFailed as error:
            assert "could not be started" in str(error) and "gpu" in str(error)
        else:
            requests = (await asyncio.to_thread(host_config, ref))["DeviceRequests"]
            assert requests[0]["DeviceIDs"] == ["0"]

    run(test)


def test_one_that_dies_alone_is_not_used(ref: str) -> None:
    """Killed from outside between two calls: the next one gets another."""

    async def test(containers: Containers) -> None:
        born = (await ask(containers, ref, "pid"))["born"]
        (name,) = (one.plan.name for one in containers._running.values())
        with client() as docker:
            docker.kill(name)
        await until(lambda: not containers._running)
        assert (await ask(containers, ref, "pid"))["born"] != born

    run(test)


# -- images


@pytest.fixture
def pulled() -> Iterator[Registry]:
    """Give a registry; what was pulled from it is removed."""
    engine.url()
    with registry() as one:
        yield one
        with client() as docker:
            for image in docker.images(filters={"reference": f"{one.host}/*"}):
                docker.remove_image(image["Id"], force=True)


@pytest.mark.parametrize("name", ["thing", "thing:v1@{digest}"])
def test_names_of_all_kinds_are_pulled_once(pulled: Registry, name: str) -> None:
    """With a registry's port; the error of a start names the image, then has the engine's words."""
    ref = f"{pulled.host}/{name.format(digest=pulled.digest)}"

    async def test(containers: Containers) -> None:
        for _ in range(2):
            with pytest.raises(
                ContainerFailed, match=rf"^{re.escape(ref)}.* could not be started: .*{NO_PROGRAM}"
            ) as caught:
                await ask(containers, ref, "pid")
            assert not caught.value.lost

    run(test, pull="missing")
    assert len([path for path in pulled.asked if "/blobs/" in path]) == 2
    assert not [path for path in pulled.asked if path.endswith("/tags/list")]


def test_always_asks_the_registry_each_time(pulled: Registry) -> None:
    async def test(containers: Containers) -> None:
        for _ in range(2):
            with pytest.raises(ContainerFailed, match=NO_PROGRAM):
                await ask(containers, f"{pulled.host}/thing", "pid")

    run(test, pull="always")
    assert len([path for path in pulled.asked if path.endswith("/manifests/latest")]) >= 2


def test_never_asks_no_registry(pulled: Registry) -> None:
    async def test(containers: Containers) -> None:
        with pytest.raises(ContainerFailed, match=r"thing:latest is not on this host.*--pull never"):
            await ask(containers, f"{pulled.host}/thing", "pid")

    run(test, pull="never")
    assert not pulled.asked


def test_a_pull_that_fails_has_the_engines_words(pulled: Registry) -> None:
    """Only what may go well the next time is tried again."""

    async def test(containers: Containers) -> None:
        with pytest.raises(
            ContainerFailed, match=r"none:v1 could not be had: .*manifest unknown to the test"
        ) as caught:
            await ask(containers, f"{pulled.host}/none:v1", "pid")
        assert not caught.value.lost
        with pytest.raises(
            ContainerFailed, match=r"127\.0\.0\.1:1/x:latest could not be had: .*connection refused"
        ) as other:
            await ask(containers, "127.0.0.1:1/x", "pid")
        assert other.value.lost

    run(test, pull="missing")


def test_a_pull_has_a_limit_of_its_own(pulled: Registry) -> None:
    async def test(containers: Containers) -> None:
        with pytest.raises(ContainerFailed, match=r"slow:latest could not be had: .* within 1 s"):
            await ask(containers, f"{pulled.host}/slow", "pid")

    run(test, pull="missing", pull_s=1.0)


def test_an_engine_that_is_not_there_is_told() -> None:
    async def main() -> None:
        containers = Containers(EngineSettings(url="tcp://127.0.0.1:1"), 1, CAPACITY)
        with pytest.raises(
            ContainerFailed, match=r"any:latest could not be had: .*no answer from the container engine"
        ):
            await ask(containers, "any", "pid")
        assert not await containers.has_image("any")
        await containers.close()

    pytest.importorskip("docker")
    asyncio.run(main())
