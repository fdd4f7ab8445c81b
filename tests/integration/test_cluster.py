"""Calls on a Dask cluster of real processes: nodes come, leave, and are killed; the scheduler goes; resources."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trustme

from meca_executor import AttemptLost, GatewayLost, MecaExecutor, NoHostFits
from tests.contract.rooms import Room
from tests.helpers.dask import DaskCluster, dask_cluster, other_client, skip_without_dask
from tests.helpers.processes import descendants, is_running
from tests.helpers.waiting import wait_until

from .standing import standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = 60.0  #: for what takes a fraction of it on an idle machine


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """Give a cluster of two nodes of one thread each; tests may add nodes, and take theirs away again."""
    with dask_cluster(tmp_path_factory.mktemp("cluster"), nodes=2) as made:
        yield made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[DaskCluster]:
    """Give a cluster without nodes that the test may break."""
    with dask_cluster(tmp_path / "own", nodes=0) as made:
        yield made


def note(folder: str, number: int) -> int:
    """Write down that this call ran."""
    with open(os.path.join(folder, "ran"), "a", encoding="ascii") as file:
        file.write(f"{number}\n")
    return number


def node_pid() -> int:
    """Return the process id of the Dask worker that this call's process belongs to."""
    return os.getppid()


def enter_and_stay(folder: str) -> int:
    """Enter a room, and stay until its door is opened."""
    Room(folder).stay(node_pid())
    return node_pid()


# -- nodes


def test_nothing_is_lost_and_nothing_comes_twice_when_a_node_is_killed(cluster: DaskCluster, tmp_path: Path) -> None:
    """One of three nodes and its nanny are killed in the middle of 10,000 calls."""
    count = 10_000
    came: Counter[int] = Counter()
    cluster.add("victim", nanny=True)
    with MecaExecutor(cluster=cluster.address) as ex:
        wait_until(lambda: ex.slots == 3, "three places", PATIENCE)
        futures = [ex.submit(note, str(tmp_path), number) for number in range(count)]
        for future in futures:
            future.add_done_callback(lambda future: came.update([future.result()]))
        wait_until(lambda: len(came) > count // 10, "some are done", PATIENCE)
        wait_until(
            lambda: any(host["name"] == "victim" and host["running"] for host in ex.hosts()), "it works", PATIENCE
        )
        cluster.kill("victim")
        assert [future.result(PATIENCE) for future in futures] == list(range(count))
    assert came == Counter(range(count))
    assert len(set((tmp_path / "ran").read_text().split())) == count


def test_an_attempt_that_died_with_its_node_is_made_again_only_if_it_may(own: DaskCluster, tmp_path: Path) -> None:
    """With `retry=1` it is lost and has run once; else it runs again, counted once."""
    own.add("first")
    with MecaExecutor(cluster=own.address) as ex:
        once, twice = Room(tmp_path / "once"), Room(tmp_path / "twice")
        lost = ex.options(retry=1).submit(enter_and_stay, str(once.folder))
        once.await_count(1, PATIENCE)
        own.kill("first")
        with pytest.raises(AttemptLost, match="node first"):
            lost.result(PATIENCE)
        own.add("second")
        future = ex.submit(enter_and_stay, str(twice.folder))
        twice.await_count(1, PATIENCE)
        own.add("third")
        own.kill("second")
        twice.await_count(2, PATIENCE)
        twice.open()
        future.result(PATIENCE)
        assert len(future.attempts) == 2
        assert (len(once.entered()), len(twice.entered())) == (1, 2)


def test_a_node_that_joins_takes_what_waits(own: DaskCluster, tmp_path: Path) -> None:
    """First there is none at all, and those whose calls wait are told so."""
    told: list[str] = []
    room = Room(tmp_path / "room")
    with MecaExecutor(cluster=own.address, output=lambda text, _: told.append(text)) as ex:
        futures = [ex.submit(enter_and_stay, str(room.folder)) for _ in range(2)]
        wait_until(lambda: any("has no node yet" in text for text in told), "it is told why", PATIENCE)
        own.add("first")
        room.await_count(1, PATIENCE)
        own.add("second")
        room.await_count(2, PATIENCE)
        assert {host["name"] for host in ex.hosts() if host["running"]} == {"first", "second"}
        room.open()
        assert len({future.result(PATIENCE) for future in futures}) == 2


def test_a_node_that_is_retired_ends_its_calls_first(own: DaskCluster, tmp_path: Path) -> None:
    """What it has not begun runs elsewhere."""
    room = Room(tmp_path / "room")
    own.add("leaving")
    with MecaExecutor(cluster=own.address) as ex:
        staying = ex.submit(enter_and_stay, str(room.folder))
        room.await_count(1, PATIENCE)
        own.add("other")
        with other_client(own, "client.retire_workers(names=['leaving'])") as retire:
            retire()
            wait_until(lambda: any(host["state"] == "draining" for host in ex.hosts()), "it is to leave", PATIENCE)
            elsewhere = ex.submit(node_pid).result(PATIENCE)
            room.open()
            assert staying.result(PATIENCE) == own.nodes["leaving"].pid
            assert elsewhere == own.nodes["other"].pid
        own.nodes.pop("leaving").wait(PATIENCE)
        assert (room.entered(), len(staying.attempts)) == ([str(staying.result())], 1)


def test_places_are_given_back(cluster: DaskCluster) -> None:
    """An executor that does nothing leaves the nodes to other users of the cluster; one that ends does so at once."""
    with MecaExecutor(cluster=cluster.address) as ex:
        ex.submit(node_pid).result(PATIENCE)
        wait_until(lambda: not any(host["slots"] for host in ex.hosts()), "all places are given back", PATIENCE)
        with other_client(cluster, "assert client.submit(abs, -1).result(timeout=60) == 1") as compute:
            compute()
        assert ex.submit(node_pid).result(PATIENCE) in {node.pid for node in cluster.nodes.values()}


def test_a_killed_gateway_leaves_nothing_on_the_nodes(cluster: DaskCluster, tmp_path: Path) -> None:
    """Its workers end, and its places are free."""
    room = Room(tmp_path / "room")
    with standing_gateway(tmp_path, "--cluster", cluster.address, killed=True) as gateway:
        with MecaExecutor(gateway.url, resume_window=1.0) as ex:
            future = ex.options(retry=1).submit(enter_and_stay, str(room.folder))
            (pid,) = map(int, room.await_count(1, PATIENCE))
            workers = [process.pid for process in descendants(pid)]
            assert workers
            gateway.process.kill()
            wait_until(lambda: not any(map(is_running, workers)), "its workers are gone", PATIENCE)
            with pytest.raises(GatewayLost):
                future.result(PATIENCE)
    with MecaExecutor(cluster=cluster.address) as ex:
        assert len(set(ex.map(enter_and_stay, [str(open_room(tmp_path))] * 8, timeout=PATIENCE))) >= 1


def open_room(folder: Path) -> Path:
    """Return the folder of a room where nobody stays."""
    room = Room(folder / "open")
    room.open()
    return room.folder


# -- resources


def test_resources(own: DaskCluster, tmp_path: Path) -> None:
    """What no node has is refused at once; what is in use is waited for; calls that need nothing go on."""
    own.add("plain")
    own.add("gpu", "--resources", "gpu=1", threads=2)
    own.await_nodes(2)
    room, told = Room(tmp_path / "room"), list[str]()
    with MecaExecutor(cluster=own.address, output=lambda text, _: told.append(text)) as ex:
        wait_until(lambda: ex.slots == 3, "three places", PATIENCE)
        with pytest.raises(NoHostFits, match="needs 3 cores, and the best host has 2"):
            ex.options(resource={"cpu": 3}).submit(abs, -1).result(PATIENCE)
        needs = ex.options(resource={"gpu": 1})
        first = needs.submit(enter_and_stay, str(room.folder))
        assert room.await_count(1, PATIENCE) == [str(own.nodes["gpu"].pid)]
        second = needs.submit(enter_and_stay, str(room.folder))
        assert ex.submit(abs, -1).result(PATIENCE) == 1
        wait_until(lambda: any("has gpu 1 free" in text for text in told), "it is told what is waited for", PATIENCE)
        assert len(room.entered()) == 1
        room.open()
        assert {first.result(PATIENCE), second.result(PATIENCE)} == {own.nodes["gpu"].pid}


# -- scheduler


def test_a_scheduler_that_comes_back(own: DaskCluster, tmp_path: Path) -> None:
    """Its nodes leave with it, as Dask has it; what waits goes on with the next ones."""
    own.add("first")
    with MecaExecutor(cluster=own.address) as ex:
        ex.submit(node_pid).result(PATIENCE)
        own.kill_scheduler()
        future = ex.submit(abs, -1)
        own.restart_scheduler()
        own.add("second")
        assert future.result(PATIENCE) == 1
        assert ex.submit(node_pid).result(PATIENCE) == own.nodes["second"].pid


def test_a_scheduler_that_stays_away(own: DaskCluster, tmp_path: Path) -> None:
    """Calls fail with the reason; nothing hangs. A cluster that is not there at all is told at the start."""
    own.add("first")
    words = "--cluster", own.address, "--cluster-away", "1"
    with standing_gateway(tmp_path, *words) as gateway, MecaExecutor(gateway.url) as ex:
        ex.submit(node_pid).result(PATIENCE)
        own.kill_scheduler()
        with pytest.raises(NoHostFits, match=r"the Dask scheduler tcp://.* has been gone for"):
            while True:
                ex.submit(node_pid).result(PATIENCE)
    with MecaExecutor(cluster=own.address) as ex, pytest.raises(GatewayLost, match=f"{own.address} does not answer"):
        ex.submit(abs, -1).result(PATIENCE)


# -- certificates


def test_a_cluster_with_certificates(tmp_path: Path) -> None:
    """Calls go to its nodes by TLS; who has no certificate of its CA is told what may be wrong."""
    skip_without_dask()
    authority = trustme.CA()
    pair = authority.issue_cert("127.0.0.1", "localhost")
    ca, cert, key = (str(tmp_path / name) for name in ("ca.pem", "cert.pem", "key.pem"))
    authority.cert_pem.write_to_path(ca)
    pair.cert_chain_pems[0].write_to_path(cert)
    pair.private_key_pem.write_to_path(key)
    tls = "--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key
    with dask_cluster(tmp_path / "own", nodes=1, tls=tls) as own:
        assert own.address.startswith("tls://")
        words = "--cluster", own.address, "--cluster-ca", ca, "--cluster-cert", cert, "--cluster-key", key
        with standing_gateway(tmp_path, *words) as gateway, MecaExecutor(gateway.url) as ex:
            assert ex.submit(node_pid).result(PATIENCE) == own.nodes["n1"].pid
        with MecaExecutor(cluster=own.address) as ex, pytest.raises(GatewayLost, match="the same CA"):
            ex.submit(abs, -1).result(PATIENCE)


# -- one for trying out


def test_a_local_cluster() -> None:
    """It has certificates of its own, and ends with the executor."""
    skip_without_dask()
    with MecaExecutor(cluster="local:2") as ex:
        values = [bytes(1 << 20), "text", 3]
        assert list(ex.map(lambda value: value, values, timeout=PATIENCE)) == values
        assert [host["slots"] for host in ex.hosts() if host["here"]] == [0]
