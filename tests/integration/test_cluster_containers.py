"""Container calls on a Dask cluster of real processes, some of which have an engine; the gateway itself has none."""

from __future__ import annotations

import contextlib
import json
import os
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import Container, ContainerFailed, MecaExecutor, NoHostFits, TaskKilled, TaskTimeout
from meca_executor.runtimes.engine import Engine
from meca_executor.runtimes.engine_settings import LABEL, EngineSettings
from tests.helpers import engine
from tests.helpers.dask import DaskCluster, dask_cluster, other_client
from tests.helpers.waiting import wait_until

from .app_tools import OBEDIENT, make_app
from .standing import standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 60.0


@pytest.fixture
def obedient(images: engine.Images) -> Container:
    """The app that does as it is told, as an image."""
    return Container(images.of_source("obedient", OBEDIENT))


@pytest.fixture
def own(tmp_path: Path) -> Iterator[DaskCluster]:
    """Give a cluster without nodes; those that a test adds have the engine."""
    with dask_cluster(tmp_path / "own", nodes=0) as made:
        made.environ["MECA_ENGINE"] = engine.url()
        yield made


def made_by(pid: int) -> list[str]:
    """Return the ids of the containers that a process made, for whomever."""
    with contextlib.closing(Engine(engine.url(), EngineSettings())) as one:
        found = one._client.containers(all=True, filters={"label": LABEL})
    return [each["Id"] for each in found if each["Labels"][LABEL].split("/")[3] == str(pid)]


def made_on(cluster: DaskCluster, name: str) -> list[str]:
    """Return the ids of the containers that a node made."""
    return made_by(cluster.nodes[name].pid)


def open_door(container: str) -> None:
    """Let a call go on that waits for the file /tmp/go."""
    with contextlib.closing(Engine(engine.url(), EngineSettings())) as one:
        started = one._client.exec_create(container, ["touch", "/tmp/go"])
        one._client.exec_start(started["Id"])


WAIT = {"do": "wait", "begun": "/tmp/begun", "file": "/tmp/go"}


def sleeping(future: Any) -> bool:
    """Whether a call has said that it sleeps; it must not be over."""
    assert not future.done(), future.exception()
    return "asleep" in future.logs()


# -- where they run


def test_they_run_on_the_nodes_that_have_an_engine(own: DaskCluster, obedient: Container) -> None:
    """More calls than places; replies, errors, logs, timeouts and kills are as at home, and nothing is left."""
    own.add("first")
    own.add("second")
    own.environ["MECA_ENGINE"] = "none"
    own.add("bare")
    own.await_nodes(3)
    with MecaExecutor(cluster=own.address) as ex:
        futures = [ex.submit(obedient, {"do": "pid", "number": number}) for number in range(20)]
        assert len({future.result(PATIENCE)["born"] for future in futures}) >= 2
        assert made_on(own, "first") and made_on(own, "second") and not made_on(own, "bare")
        large = ex.submit(obedient, {"do": "measure", "back": 2_000_000, "pad": "x" * 1_000_000}).result(PATIENCE)
        assert large["length"] > 1_000_000 and len(large["back"]) == 2_000_000
        late = ex.options(timeout=2).submit(obedient, {"do": "sleep"})
        with pytest.raises(TaskTimeout, match="within the timeout of 2 s"):
            late.result(PATIENCE)
        killed = ex.submit(obedient, {"do": "sleep"})
        wait_until(lambda: sleeping(killed), "it runs", PATIENCE)
        assert ex.kill(killed)
        assert isinstance(killed.exception(PATIENCE), TaskKilled)
        crashed = ex.options(retry=1).submit(obedient, {"do": "exit", "code": 3})
        with pytest.raises(ContainerFailed, match=r"on host (first|second): .*code 3"):
            crashed.result(PATIENCE)
        assert ex.submit(pow, 2, 3).result(PATIENCE) == 8
    assert not made_on(own, "first") and not made_on(own, "second"), "shutdown returns after the last one is gone"


def test_what_no_node_can_run_is_refused_in_words(own: DaskCluster, obedient: Container) -> None:
    own.add("first", "--resources", "memory=500")
    with MecaExecutor(cluster=own.address) as ex:
        wait_until(lambda: ex.slots == 1, "the node is there", PATIENCE)
        for resource, words in (
            ({"memory": 501}, "501 MiB of memory"),
            ({"gpu": 1}, "1 GPUs"),
            ({"cpu": 2}, "2 cores"),
        ):
            with pytest.raises(NoHostFits, match=words):
                ex.options(resource=resource).submit(obedient, {"do": "pid"}).result(PATIENCE)
        assert ex.options(resource={"memory": 400, "cpu": 0.5}).submit(obedient, {"do": "pid"}).result(PATIENCE)


def test_without_an_engine_anywhere(tmp_path: Path) -> None:
    """It is said at once, and what to do; a local app is the gateway's, as ever."""
    app = make_app(tmp_path / "app")
    with dask_cluster(tmp_path / "own", nodes=1) as cluster:
        with MecaExecutor(cluster=cluster.address, apps={"mine:latest": str(app)}) as ex:
            with pytest.raises(NoHostFits, match=r"a container engine: node tcp://.*no container engine here.*Docker"):
                ex.submit(Container("elsewhere:1"), {}).result(PATIENCE)
            told = ex.submit(Container("mine"), {"do": "tell"}).result(PATIENCE)
            assert told["cwd"] == str(app) or told["path"].startswith(str(app))


# -- nodes that go


def test_a_call_whose_node_dies_is_made_again_elsewhere(own: DaskCluster, obedient: Container) -> None:
    """If it may be; what the dead node left in its engine is removed by the next node that comes."""
    own.add("first")
    with MecaExecutor(cluster=own.address) as ex:
        once, twice = ex.options(retry=1).submit(obedient, {"do": "sleep"}), None
        wait_until(lambda: sleeping(once), "it runs", PATIENCE)
        pid = own.nodes["first"].pid
        own.kill("first")
        with pytest.raises(ContainerFailed, match="node first of the Dask cluster was lost"):
            once.result(PATIENCE)
        assert made_by(pid)
        own.add("second")
        wait_until(lambda: not made_by(pid), "they are swept", PATIENCE)
        twice = ex.submit(obedient, {"do": "sleep"})
        wait_until(lambda: sleeping(twice), "it runs", PATIENCE)
        own.add("third")
        own.kill("second")
        wait_until(lambda: made_on(own, "third") and sleeping(twice), "it runs again", PATIENCE)
        assert ex.kill(twice)
        assert isinstance(twice.exception(PATIENCE), TaskKilled)
        assert len(twice.attempts) == 2


def test_a_node_that_is_retired_ends_its_calls_first(own: DaskCluster, obedient: Container, tmp_path: Path) -> None:
    """What comes meanwhile runs elsewhere."""
    own.add("leaving")
    with MecaExecutor(cluster=own.address) as ex:
        staying = ex.submit(obedient, WAIT)
        wait_until(lambda: bool(made_on(own, "leaving")), "it runs", PATIENCE)
        (container,) = made_on(own, "leaving")
        own.add("other")
        own.await_nodes(2)
        with other_client(own, "client.retire_workers(names=['leaving'])") as retire:
            retire()
            wait_until(lambda: any(host["state"] == "draining" for host in ex.hosts()), "it is to leave", PATIENCE)
            assert ex.submit(obedient, {"do": "pid"}).result(PATIENCE)["pid"] == 1
            assert len(made_on(own, "other")) == 1
            open_door(container)
            assert staying.result(PATIENCE)["pid"] == 1
        own.nodes.pop("leaving").wait(PATIENCE)
        assert len(staying.attempts) == 1


# -- gateways and functions beside each other


def test_gateways_on_one_node_leave_each_other_alone(own: DaskCluster, obedient: Container, tmp_path: Path) -> None:
    """One ends, and one is killed: only their containers go."""
    own.add("only", threads=3)
    with MecaExecutor(cluster=own.address) as ex:
        assert ex.submit(obedient, {"do": "pid"}).result(PATIENCE)
        mine = made_on(own, "only")
        with MecaExecutor(cluster=own.address) as other:
            other.submit(obedient, {"do": "pid"}).result(PATIENCE)
            assert len(made_on(own, "only")) == 2
        assert made_on(own, "only") == mine
        with standing_gateway(tmp_path, "--cluster", own.address, killed=True) as gateway:
            with MecaExecutor(gateway.url, resume_window=1.0) as client:
                future = client.options(retry=1).submit(obedient, {"do": "sleep"})
                wait_until(lambda: sleeping(future), "it runs", PATIENCE)
                assert len(made_on(own, "only")) == 2
                gateway.process.kill()
                wait_until(lambda: made_on(own, "only") == mine, "its containers are gone", PATIENCE)
                future.exception(PATIENCE)
        assert ex.submit(obedient, {"do": "pid"}).result(PATIENCE)
        assert made_on(own, "only") == mine


def test_functions_and_containers_both_have_their_turn(own: DaskCluster, obedient: Container) -> None:
    """On one place, while functions never end, and while containers never end."""
    own.add("only")
    with MecaExecutor(cluster=own.address) as ex:
        assert ex.submit(os.getpid).result(PATIENCE)
        container = ex.submit(obedient, {"do": "pid"})
        while not container.done():
            wait([ex.submit(abs, -1) for _ in range(20)], PATIENCE)
        assert container.result()["pid"] == 1
        function = ex.submit(abs, -1)
        while not function.done():
            ex.submit(obedient, {"do": "pid"}).result(PATIENCE)
        assert function.result() == 1


def test_places_are_given_back(own: DaskCluster, obedient: Container) -> None:
    """A call that waits for a place that is never there is cancelled; an idle place is another client's again."""
    own.add("only")
    with MecaExecutor(cluster=own.address) as ex:
        runs = ex.submit(obedient, {"do": "sleep"})
        wait_until(lambda: sleeping(runs), "it runs", PATIENCE)
        waits = [ex.submit(obedient, {"do": "pid"}) for _ in range(3)]
        assert ex.kill(waits[0])
        assert ex.kill(runs)
        assert [future.result(PATIENCE)["pid"] for future in waits[1:]] == [1, 1]
        wait_until(lambda: "executing" not in tasks_of(own), "the places are given back", PATIENCE)


def tasks_of(cluster: DaskCluster) -> str:
    """Return what tasks the scheduler has, in which state."""
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        states = client.run_on_scheduler(lambda dask_scheduler: {k: t.state for k, t in dask_scheduler.tasks.items()})
    return json.dumps({key: "executing" if state == "processing" else state for key, state in states.items()})
