"""Hosts that join a gateway: calls run there, also when they sleep, leave, are cut off or killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import wait
from typing import TYPE_CHECKING

import pytest

from meca_executor import AttemptLost, MecaExecutor, NoHostFits, TaskKilled, TaskTimeout, UsageError, WorkerDied
from tests.contract.rooms import Room
from tests.helpers.processes import is_running
from tests.helpers.proxy import proxy
from tests.helpers.waiting import wait_until

from .joined import joined_host
from .standing import ROOT, standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .standing import Standing

PATIENCE = 60.0


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Standing]:
    """Give a gateway without workers of its own."""
    with standing_gateway(tmp_path, "--workers", "0") as standing:
        yield standing


def stay(folder: str, name: object) -> int:
    """Stay in a room, and return the process id."""
    Room(folder).stay(name)
    return os.getpid()


def note(folder: str, number: int) -> int:
    """Leave a mark of each run."""
    with open(f"{folder}/noted", "a", encoding="utf-8") as file:
        file.write(f"{number}\n")
    return number


def noted(folder: Path) -> Counter[str]:
    """Return how often each ran."""
    return Counter((folder / "noted").read_text(encoding="utf-8").split())


def parent() -> int:
    """Return the process that the worker belongs to."""
    return os.getppid()


def meca(*words: str) -> subprocess.CompletedProcess[str]:
    """Run one command."""
    command = [sys.executable, "-m", "meca_executor.cli", *words]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)


# -- what runs there


def test_calls_run_on_the_host_and_all_that_is_true_of_workers_is_true_there(gateway: Standing, tmp_path: Path) -> None:
    """Results, errors, prints, limits, kills, deaths, large values and objects that are sent once."""
    lines: list[tuple[str, str]] = []
    with joined_host(tmp_path, gateway.url) as host:
        with MecaExecutor(gateway.url, output=lambda text, stream: lines.append((text, stream))) as ex:
            assert ex.submit(parent).result(PATIENCE) == host.process.pid
            assert list(ex.map(abs, range(-2000, 0), timeout=PATIENCE)) == list(range(2000, 0, -1))
            with pytest.raises(ZeroDivisionError):
                ex.submit(divmod, 1, 0).result(PATIENCE)
            ex.submit(print, "from afar").result(PATIENCE)
            wait_until(lambda: ("from afar\n", "stdout") in lines, "its text is here", PATIENCE)
            with pytest.raises(TaskTimeout, match=r"longer than its timeout of 0\.5 s"):
                ex.options(timeout=0.5).submit(time.sleep, PATIENCE).result(PATIENCE)
            with pytest.raises(WorkerDied, match=r"exited with code 7, on host host"):
                ex.options(retry=1).submit(os._exit, 7).result(PATIENCE)
            large = bytes(1 << 20)
            assert ex.submit(bytes.__add__, large, large).result(PATIENCE) == large + large
            table = ex.put({n: str(n) * 10 for n in range(50_000)})
            looked_up = ex.map(lambda table, n: table[n], [table] * 4, range(4), timeout=PATIENCE)
            assert list(looked_up) == [str(n) * 10 for n in range(4)]
            stuck = ex.submit(time.sleep, PATIENCE)
            wait_until(lambda: any(one["running"] for one in ex.hosts()), "it runs", PATIENCE)
            assert ex.kill(stuck)
            with pytest.raises(TaskKilled):
                stuck.result(PATIENCE)


def test_arrays_travel_both_ways(gateway: Standing, tmp_path: Path) -> None:
    """They lie in shared memory at the client, and again at the gateway."""
    np = pytest.importorskip("numpy")
    array = np.arange(1 << 20)
    with joined_host(tmp_path, gateway.url), MecaExecutor(gateway.url) as ex:
        doubled = [ex.submit(np.multiply, array, factor) for factor in range(2, 6)]
        for factor, future in zip(range(2, 6), doubled, strict=True):
            result = future.result(PATIENCE)
            assert (result == array * factor).all()
            result[0] = 1  # it is ours to write to


def test_a_call_waits_for_the_first_host(gateway: Standing, tmp_path: Path) -> None:
    """The gateway has no workers, and says so: one call may be out, which waits."""
    with MecaExecutor(gateway.url) as ex:
        future = ex.submit(parent)
        assert ex.slots == 1
        assert [(one["here"], one["slots"]) for one in ex.hosts()] == [(True, 0)]
        assert not future.done()
        with joined_host(tmp_path, gateway.url, workers=3) as host:
            assert future.result(PATIENCE) == host.process.pid
            wait_until(lambda: ex.slots == 3, "the client knows how many run at once", PATIENCE)


def test_the_gateways_own_workers_and_several_hosts_share_the_work(tmp_path: Path) -> None:
    """Five calls at once on five workers of three machines."""
    room = Room(tmp_path / "room")
    with (
        standing_gateway(tmp_path, "--workers", "1") as gateway,
        joined_host(tmp_path, gateway.url, name="one"),
        joined_host(tmp_path, gateway.url, name="two"),
        MecaExecutor(gateway.url) as ex,
    ):
        futures = [ex.submit(stay, str(room.folder), number) for number in range(5)]
        room.await_count(5, PATIENCE)
        hosts = ex.hosts()
        assert [one["name"] for one in hosts[1:]] == ["one", "two"]
        assert [(one["slots"], one["free"], len(one["running"])) for one in hosts] == [(1, 0, 1), (2, 0, 2), (2, 0, 2)]
        room.open()
        assert len({future.result(PATIENCE) for future in futures}) == 5


def test_resources_are_held_and_what_nobody_has_is_refused(gateway: Standing, tmp_path: Path) -> None:
    """Two slots and one GPU: calls that need it run one at a time, beside one that does not."""
    room = Room(tmp_path / "room")
    with joined_host(tmp_path, gateway.url, "--resource", "gpu=1"), MecaExecutor(gateway.url) as ex:
        with pytest.raises(NoHostFits, match=r"needs 2 GPUs, and this host has 1"):
            ex.options(resource={"gpu": 2}).submit(parent).result(PATIENCE)
        needs = ex.options(resource={"cpu": 0.5, "gpu": 1})
        futures = [needs.submit(stay, str(room.folder), "needs it") for _ in range(2)]
        room.await_count(1, PATIENCE)
        futures.append(ex.submit(stay, str(room.folder), "does not"))
        assert room.await_count(2, PATIENCE) == ["needs it", "does not"]
        assert ex.hosts()[1]["in_use"] == {"cpu": 0.5, "gpu": 1}
        room.open()
        assert not wait(futures, PATIENCE).not_done


# -- going away


def test_a_host_that_is_cut_off_and_comes_back_has_gone_on(gateway: Standing, tmp_path: Path) -> None:
    """What it ran meanwhile ran once, and its results arrive once."""
    room = Room(tmp_path / "room")
    with proxy(gateway.port) as link, joined_host(tmp_path, link.url) as host, MecaExecutor(gateway.url) as ex:
        futures = [ex.submit(stay, str(room.folder), number) for number in range(2)]
        room.await_count(2, PATIENCE)
        link.down()
        wait_until(lambda: ex.hosts()[1]["state"] == "away", "the gateway knows", PATIENCE)
        waiting = ex.submit(parent)
        room.open()
        wait_until(lambda: link.refused > 0, "the host tries to come back", PATIENCE)
        link.up()
        assert len({future.result(PATIENCE) for future in futures}) == 2
        assert waiting.result(PATIENCE) == host.process.pid
        assert sorted(room.entered()) == ["0", "1"]


def test_a_host_that_sleeps_longer_than_its_grace_loses_what_it_had(gateway: Standing, tmp_path: Path) -> None:
    """Its calls are made elsewhere as further attempts; with one attempt they fail; its late results are dropped."""
    room = Room(tmp_path / "room")
    with (
        proxy(gateway.port) as link,
        joined_host(tmp_path, link.url, "--grace", "0.2", name="sleepy") as sleepy,
        MecaExecutor(gateway.url) as ex,
    ):
        again = ex.submit(stay, str(room.folder), "again")
        once = ex.options(retry=1).submit(stay, str(room.folder), "once")
        room.await_count(2, PATIENCE)
        os.kill(sleepy.process.pid, signal.SIGSTOP)  # asleep: its workers finish, and it tells nobody
        link.down()
        with pytest.raises(AttemptLost, match=r"host sleepy was away for longer than its grace time of 0\.2 s"):
            once.result(PATIENCE)
        room.open()
        with joined_host(tmp_path, gateway.url, name="other") as other:
            assert is_running(again.result(PATIENCE))
            assert ex.submit(parent).result(PATIENCE) == other.process.pid
            assert len(again.attempts) == 2
            link.up()
            os.kill(sleepy.process.pid, signal.SIGCONT)
            wait_until(lambda: len(ex.hosts()) == 3, "it joins anew", PATIENCE)
            assert sorted(room.entered()) == ["again", "again", "once"]
            futures = [ex.submit(parent) for _ in range(8)]
            assert {future.result(PATIENCE) for future in futures} <= {other.process.pid, sleepy.process.pid}


def test_a_timeout_is_judged_by_how_long_the_call_ran(gateway: Standing, tmp_path: Path) -> None:
    """Not by how long its host was away: a call that was short enough is not killed for that."""
    room = Room(tmp_path / "room")
    with proxy(gateway.port) as link, joined_host(tmp_path, link.url), MecaExecutor(gateway.url) as ex:
        limit = 20.0
        future = ex.options(timeout=limit, retry=1).submit(stay, str(room.folder), "in time")
        room.await_count(1, PATIENCE)
        link.down()
        wait_until(lambda: ex.hosts()[1]["state"] == "away", "the gateway knows", PATIENCE)
        room.open()
        wait_until(lambda: link.refused > 1, "the host tries to come back", PATIENCE)
        link.up()
        assert is_running(future.result(PATIENCE))


# -- leaving


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_host_that_is_told_to_leave_ends_what_runs_first(gateway: Standing, tmp_path: Path, number: int) -> None:
    """What waits in the gateway goes to another host."""
    room = Room(tmp_path / "room")
    with joined_host(tmp_path, gateway.url, workers=1) as host, MecaExecutor(gateway.url) as ex:
        running = ex.submit(stay, str(room.folder), "running")
        room.await_count(1, PATIENCE)
        waiting = ex.submit(parent)
        host.process.send_signal(number)
        assert "leaving" in host.line()
        wait_until(lambda: ex.hosts()[1]["state"] == "draining", "the gateway knows", PATIENCE)
        room.open()
        assert running.result(PATIENCE)
        assert host.process.wait(PATIENCE) == 0, host.log
        assert not waiting.done()
        with joined_host(tmp_path, gateway.url, name="next") as following:
            assert waiting.result(PATIENCE) == following.process.pid


def test_a_second_signal_ends_it_at_once(gateway: Standing, tmp_path: Path) -> None:
    """Its calls are made elsewhere, without any grace time."""
    room = Room(tmp_path / "room")
    with joined_host(tmp_path, gateway.url) as host, MecaExecutor(gateway.url) as ex:
        future = ex.submit(stay, str(room.folder), "running")
        room.await_count(1, PATIENCE)
        host.process.send_signal(signal.SIGINT)
        assert "leaving" in host.line()
        assert host.leave(signal.SIGINT) == 130
        room.open()
        with joined_host(tmp_path, gateway.url, name="next"):
            assert is_running(future.result(PATIENCE))
        assert len(room.entered()) == 2


def test_a_host_can_be_drained_from_elsewhere_and_ps_shows_it(gateway: Standing, tmp_path: Path) -> None:
    """`meca host --drain NAME`, and `meca ps` before it."""
    with joined_host(tmp_path, gateway.url, name="bench") as host:
        shown = meca("ps", "--endpoint", gateway.url)
        assert shown.returncode == 0, shown.stderr
        assert [line.split()[0] for line in shown.stdout.splitlines()][-1] == "bench"
        listed = json.loads(meca("ps", "--json", "--endpoint", gateway.url).stdout)
        assert [(one["name"], one["slots"]) for one in listed[1:]] == [("bench", 2)]
        nobody = meca("host", "--join", gateway.url, "--drain", "nobody")
        assert (nobody.returncode, "no host 'nobody' of yours" in nobody.stderr) == (2, True)
        assert meca("host", "--join", gateway.url, "--drain", "bench").returncode == 0
        assert host.process.wait(PATIENCE) == 0


def test_a_gateway_that_ends_takes_the_calls_of_its_hosts_along(tmp_path: Path) -> None:
    """The host joins the next one with fresh workers."""
    room = Room(tmp_path / "room")
    with standing_gateway(tmp_path, "--workers", "0", killed=True) as gateway:
        with joined_host(tmp_path, gateway.url) as host:
            with MecaExecutor(gateway.url) as ex:
                future = ex.submit(stay, str(room.folder), "first")
                room.await_count(1, PATIENCE)
                gateway.process.kill()
                gateway.process.wait(PATIENCE)
                room.open()
                with standing_gateway(tmp_path, "--workers", "0", port=gateway.port):
                    assert is_running(future.result(PATIENCE))
                    assert ex.submit(parent).result(PATIENCE) == host.process.pid
                    assert host.leave() == 0


# -- 10,000 calls


@pytest.mark.parametrize("how", ["cut off", "killed"])
def test_nothing_is_lost_and_nothing_comes_twice(gateway: Standing, tmp_path: Path, how: str) -> None:
    """One of two hosts is cut off for a while, or killed, in the middle of 10,000 calls."""
    count = 10_000
    came: Counter[int] = Counter()
    grace = "600" if how == "cut off" else "1"  # a busy machine takes its time to come back
    with (
        proxy(gateway.port) as link,
        joined_host(tmp_path, gateway.url, name="steady"),
        joined_host(tmp_path, link.url, "--grace", grace, name="shaky") as shaky,
        MecaExecutor(gateway.url) as ex,
    ):
        futures = [ex.submit(note, str(tmp_path), number) for number in range(count)]
        for future in futures:
            future.add_done_callback(lambda future: came.update([future.result()]))
        wait_until(lambda: len(came) > count // 10, "some are done", PATIENCE)
        if how == "cut off":
            link.down()
            wait_until(lambda: link.refused > 0, "it tries to come back", PATIENCE)
            link.up()
        else:
            shaky.process.kill()
        assert [future.result(PATIENCE) for future in futures] == list(range(count))
    assert came == Counter(range(count))
    ran = noted(tmp_path)
    assert len(ran) == count
    if how == "cut off":
        assert set(ran.values()) == {1}, "it was back within its grace time"


# -- who may join


def test_a_host_that_cannot_be_taken_is_told_why(gateway: Standing, tmp_path: Path) -> None:
    """A name that is there already; a key that nobody knows; a gateway that is none; wrong arguments."""
    with joined_host(tmp_path, gateway.url, name="twin"):
        again = meca("host", "--join", gateway.url, "--name", "twin")
        assert (again.returncode, "a host 'twin' is here already; choose another --name" in again.stderr) == (3, True)
    keys = tmp_path / "other.keys"
    assert meca("keys", "create", "--file", str(keys)).returncode == 0
    stranger = meca("host", "--join", gateway.url, "--key-file", str(keys))
    assert stranger.returncode == 3 and "access key" in stranger.stderr
    assert meca("host", "--join", "embedded").returncode == 2
    bad = meca("host", "--join", gateway.url, "--resource", "cpu=many")
    assert (bad.returncode, "NAME=AMOUNT" in bad.stderr) == (2, True)
    unknown = meca("host", "--join", gateway.url, "--resource", "press=1")
    assert (unknown.returncode, "resource 'press' is unknown" in unknown.stderr) == (2, True)


def test_a_host_runs_its_owners_functions_only(tmp_path: Path) -> None:
    """With several owners functions run on one's own hosts, and nowhere else."""
    keys = tmp_path / "team.keys"
    pairs = []
    for _ in range(2):
        told = meca("keys", "create", "--file", str(keys)).stdout
        pairs.append(dict(line.split("=", 1) for line in told.splitlines()))
    with standing_gateway(tmp_path, "--workers", "1", "--key-file", str(keys)) as gateway:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in pairs[0].items():
                patch.setenv(name, value)
            with MecaExecutor(gateway.url) as ex:
                with pytest.raises(NoHostFits, match="owners"):
                    ex.submit(parent).result(PATIENCE)
                with joined_host(tmp_path, gateway.url, name="mine", env=pairs[0]) as mine:
                    with joined_host(tmp_path, gateway.url, name="theirs", env=pairs[1]):
                        wait_until(lambda: ex.slots == 2, "the client knows of its host", PATIENCE)
                        futures = [ex.submit(parent) for _ in range(20)]
                        assert {future.result(PATIENCE) for future in futures} == {mine.process.pid}
                        assert [one["name"] for one in ex.hosts() if not one["here"]] == ["mine"]
                        with pytest.raises(UsageError, match="no host 'theirs' of yours"):
                            ex.drain_host("theirs")
