"""A gateway with a journal is killed, or ended, and another one goes on: nothing is lost, nothing is done too often."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from tenacity import retry_if_exception_type, stop_after_delay

from meca_executor import AttemptLost, Container, ContainerFailed, GatewayLost, GatewayRefused, MecaExecutor, TaskKilled
from meca_executor.policy import refusals
from tests.contract.rooms import Room
from tests.helpers.waiting import wait_until

from .gateways import PATIENCE, Gateways

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def gateways(tmp_path: Path) -> Iterator[Gateways]:
    made = Gateways(tmp_path)
    made.start()
    yield made
    if made.process is not None:
        assert made.end(signal.SIGTERM) == 0, made.log


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path / "room")


@contextlib.contextmanager
def client_of(gateways: Gateways) -> Iterator[MecaExecutor]:
    """An executor that does not wait for what a failed test has left."""
    # Not shipped: all of these tests would be in the journal, and have more than a MiB.
    with MecaExecutor(gateways.url, ship=None) as ex:
        try:
            yield ex
        finally:
            ex._link.abandon(lambda: GatewayLost("the test is over"))


@pytest.fixture
def client(gateways: Gateways) -> Iterator[MecaExecutor]:
    with client_of(gateways) as ex:
        yield ex


def stay(folder: str, number: int) -> int:
    """Stay until the door is open."""
    Room(folder).stay(number)
    return number


def enter(folder: str, number: int) -> int:
    """Leave a mark."""
    Room(folder).enter(number)
    return number


def kill_the_gateway(folder: str, pid: int) -> None:
    """Leave a mark, and do what no task should."""
    Room(folder).enter("poison")
    os.kill(pid, signal.SIGKILL)
    time.sleep(60)


def results_of(*lists: list[Any]) -> list[Any]:
    return [future.result(PATIENCE) for futures in lists for future in futures]


def test_the_queue_goes_on_and_what_ran_is_run_again(gateways: Gateways, client: MecaExecutor, room: Room) -> None:
    """Twice in a row: all results come, and only the two that ran were begun more than once."""
    futures = [client.submit(stay, str(room.folder), number) for number in range(40)]
    for killed in (1, 2):
        room.await_count(2 * killed)
        gateways.kill()
        gateways.start()
    room.await_count(6)
    room.open()
    assert results_of(futures) == list(range(40))
    runs = Counter(map(int, room.entered()))
    assert set(runs) == set(range(40))
    assert sum(runs.values()) == 44
    assert max(runs.values()) <= 3


def test_what_may_be_tried_once_is_begun_once(gateways: Gateways, client: MecaExecutor, room: Room) -> None:
    """Those that ran are AttemptLost; those that did not run are run."""
    once = client.options(retry=1)
    futures = [once.submit(stay, str(room.folder), number) for number in range(30)]
    running = set(map(int, room.await_count(2)))
    gateways.kill()
    gateways.start()
    for number in running:
        with pytest.raises(AttemptLost, match=f"task {futures[number].task_id}: the gateway was ended"):
            futures[number].result(PATIENCE)
    room.open()
    assert results_of([f for n, f in enumerate(futures) if n not in running]) == sorted(set(range(30)) - running)
    assert Counter(room.entered()) == Counter(map(str, range(30)))


def test_finished_results_are_delivered(gateways: Gateways, room: Room) -> None:
    """They came while nobody could fetch them: the client is stopped meanwhile, and the gateway killed."""
    command = [sys.executable, "-m", "tests.integration.journal_program", gateways.url, str(room.folder)]
    with subprocess.Popen(command, env=gateways.environ(), stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout
            assert program.stdout.readline() == "sent\n"
            wait_until(lambda: gateways.tasks() == 3, "the three have arrived", PATIENCE)
            program.send_signal(signal.SIGSTOP)
            room.open()
            wait_until(lambda: gateways.outcomes() == 3, "all outcomes are in the journal", PATIENCE)
            gateways.kill()
            gateways.start()
            program.send_signal(signal.SIGCONT)
            answer, _ = program.communicate(timeout=PATIENCE)
        finally:
            program.kill()
    assert answer == f"{list(range(30))}\n"
    assert Counter(room.entered()) == Counter(map(str, range(30)))


def test_everything_else_that_travels(gateways: Gateways, client: MecaExecutor, room: Room) -> None:
    """Closures, large arguments and results, objects of `put`, maps, containers and prints go on, too."""
    large = os.urandom(3_000_000)
    handle = client.put(large)
    held = [client.submit(stay, str(room.folder), number) for number in range(2)]
    room.await_count(2)
    folder = str(room.folder)
    futures: list[Any] = [
        client.submit(lambda x: x + 1, 41),
        client.submit(len, large),
        client.submit(bytes, 2_000_000),
        client.submit(lambda data: data[:10], handle),
        client.submit(Container("sampleserver:latest"), {"name": "n"}),
    ]
    mapped = client.map(enter, [folder] * 500, range(500))
    wait_until(lambda: ", 500 queued" not in repr(client), "they are on their way")
    gateways.kill()
    gateways.start()
    room.open()
    assert results_of(held) == [0, 1]
    assert results_of(futures[:4]) == [42, 3_000_000, bytes(2_000_000), large[:10]]
    assert futures[4].result(PATIENCE)
    assert list(mapped) == list(range(500))


def test_attempts_are_counted_over_restarts(gateways: Gateways, client: MecaExecutor, room: Room) -> None:
    """A task that kills its gateway is begun twice with retry=2, and then fails."""
    assert gateways.process
    # What it kills is the worker's parent, whichever gateway that is by then.
    poison = client.options(retry=2).submit(kill_my_gateway, str(room.folder))
    for _ in range(2):
        assert gateways.ended() == -signal.SIGKILL
        gateways.start()
    with pytest.raises(AttemptLost):
        poison.result(PATIENCE)
    assert room.entered() == ["poison"] * 2
    assert client.submit(enter, str(room.folder), 1).result(PATIENCE) == 1


def test_attempts_of_other_ends_are_counted_over_restarts(
    gateways: Gateways, client: MecaExecutor, room: Room, tmp_path: Path
) -> None:
    """One attempt ends with the gateway; then the call raises, or its container ends, and both count."""
    app = gateways.folder / "ends" / "src" / "app.py"
    app.parent.mkdir(parents=True)
    app.write_text(ENDING)
    words = ("--app", f"ends={gateways.folder / 'ends'}")
    gateways.kill()
    gateways.start(*words)
    again = (3, retry_if_exception_type(LookupError))
    raising = client.options(retry=again).submit(stay_and_raise, str(room.folder))
    room.await_count(1)
    place = tmp_path / "container"
    place.mkdir()
    ending = client.options(retry=3).submit(Container("ends"), {"place": str(place)})
    wait_until(lambda: list(place.iterdir()), "the container is called", PATIENCE)
    gateways.kill()
    room.open()
    (place / "open").touch()
    gateways.start(*words)
    with pytest.raises(LookupError):
        raising.result(PATIENCE)
    with pytest.raises(ContainerFailed, match="exit code 3"):
        ending.result(PATIENCE)
    assert room.entered() == ["raises"] * 3
    assert len([file for file in place.iterdir() if file.name != "open"]) == 3
    assert [len(future.attempts) for future in (raising, ending)] == [3, 3]


def stay_and_raise(folder: str) -> None:
    """Stay until the door is open, then raise."""
    Room(folder).stay("raises")
    raise LookupError


#: It leaves a file for each call, and ends as soon as it may.
ENDING = """
import json, os, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        place = Path(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["place"])
        (place / str(os.getpid())).touch()
        while not (place / "open").exists():
            time.sleep(0.01)
        os._exit(3)

server = HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
print("meca-init-done", flush=True)
server.serve_forever()
"""


def kill_my_gateway(folder: str) -> None:
    """Kill the process that started this worker."""
    kill_the_gateway(folder, os.getppid())


def test_a_kill_outlives_the_gateway(gateways: Gateways, client: MecaExecutor, room: Room) -> None:
    """`ex.kill` of a queued task holds whatever happens; others run."""
    futures = [client.submit(stay, str(room.folder), number) for number in range(3)]
    room.await_count(2)
    wait_until(lambda: ", 0 queued" in repr(client), "all are handed over")
    client.kill(futures[2])
    with pytest.raises(TaskKilled):
        futures[2].result(PATIENCE)
    gateways.kill()
    gateways.start()
    room.open()
    assert results_of(futures[:2]) == [0, 1]
    assert "2" not in room.entered()


def test_sigterm_hands_over_to_the_journal(gateways: Gateways, client: MecaExecutor, room: Room) -> None:
    """What runs may finish; the queue is left to the next gateway, and nothing runs twice."""
    futures = [client.submit(stay, str(room.folder), number) for number in range(10)]
    room.await_count(2)
    assert gateways.process
    gateways.process.send_signal(signal.SIGTERM)
    assert gateways.process.stdout
    assert "ending" in gateways.process.stdout.readline()
    room.open()
    assert gateways.ended() == 0
    gateways.start()
    assert results_of(futures) == list(range(10))
    assert Counter(room.entered()) == Counter(map(str, range(10)))


def test_a_session_that_said_goodbye_is_not_kept(gateways: Gateways, room: Room) -> None:
    """Its journal is empty then; a session that was left is gone when its time is over."""
    with MecaExecutor(gateways.url) as ex:
        assert list(ex.map(enter, [str(room.folder)] * 100, range(100))) == list(range(100))
    assert gateways.end(signal.SIGTERM) == 0
    with contextlib.closing(sqlite3.connect(gateways.journal)) as base:
        for table in ("sessions", "entries"):
            assert base.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_text("hello " * 1000), "damaged or no journal"),
        (lambda path: path.mkdir(), "cannot be used"),
    ],
)
def test_a_file_that_is_no_journal(tmp_path: Path, spoil: Callable[[Path], object], words: str) -> None:
    """Exit code 2, and one line that says so."""
    made = Gateways(tmp_path)
    spoil(made.journal)
    done = subprocess.run(made.command(), env=made.environ(), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_two_gateways_on_one_journal(gateways: Gateways, client: MecaExecutor) -> None:
    """The second says that there is one; the first goes on."""
    done = subprocess.run(
        gateways.command("--port", "0"), env=gateways.environ(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert "another gateway is using the journal" in done.stderr
    assert client.submit(abs, -1).result(PATIENCE) == 1


def test_a_full_disk(tmp_path: Path, room: Room) -> None:
    """The gateway ends with exit code 1 and says why; one that has room goes on with all that was accepted."""
    gateways = Gateways(tmp_path)
    gateways.start(limit_bytes=400_000)
    with client_of(gateways) as ex:
        futures = [ex.submit(enter, str(room.folder), number) for number in range(10)]
        futures += [ex.submit(len, os.urandom(50_000)) for _ in range(40)]
        assert gateways.ended() == 1
        assert "cannot be written" in gateways.log
        gateways.start()
        assert results_of(futures) == [*range(10), *[50_000] * 40]
    assert gateways.end(signal.SIGTERM) == 0


@contextlib.contextmanager
def full_gateway(folder: Path) -> Iterator[tuple[MecaExecutor, Callable[[], object]]]:
    """Give a client of a gateway whose journal has its size, until what is given beside it is called."""
    gateways = Gateways(folder)
    gateways.start("--journal-size", "1")
    with client_of(gateways) as ex:
        handles = [ex.put(os.urandom(3_000_000))]  # objects are not refused
        hasty = ex.options(retry=stop_after_delay(0.1))
        wait_until(lambda: hasty.submit(abs, -1).exception(PATIENCE) is not None, "it is full", PATIENCE)
        with pytest.raises(GatewayRefused, match=r"--journal-size \(and retry= says that it is enough\)"):
            hasty.submit(abs, -1).result(PATIENCE)
        yield ex, handles.clear
    assert gateways.end(signal.SIGTERM) == 0


def test_a_journal_that_has_its_size(tmp_path: Path, room: Room) -> None:
    """What is refused is offered again until there is room, also with one attempt: that was none."""
    with full_gateway(tmp_path) as (ex, make_room):
        once = ex.options(retry=1)
        refused = [once.submit(enter, str(room.folder), number) for number in range(3)]
        mapped = ex.map(abs, range(-100, 0))
        wait_until(lambda: ex._ledger.refused.policy.active, "they are refused")
        assert not any(future.done() for future in refused)
        make_room()
        assert results_of(refused) == [0, 1, 2]
        assert list(mapped) == list(range(100, 0, -1))
        assert [len(future.attempts) for future in refused] == [1, 1, 1]
    assert sorted(room.entered()) == ["0", "1", "2"]


def test_a_journal_that_stays_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is an error in the end, and says why; when there is room again, tasks are taken."""
    monkeypatch.setattr(refusals, "LIMIT_S", 3.0)
    with full_gateway(tmp_path) as (ex, make_room):
        futures = [ex.submit(abs, -number) for number in range(10)]
        for future in futures:
            with pytest.raises(GatewayRefused, match=r"--journal-size \(it has taken nothing for 3 s\)"):
                future.result(PATIENCE)
        make_room()
        wait_until(lambda: ex.submit(abs, -1).exception(PATIENCE) is None, "there is room again", PATIENCE)


def test_without_a_journal(tmp_path: Path, room: Room) -> None:
    """Calls with attempts left are made again by the next gateway; the others fail, each with its own name."""
    gateways = Gateways(tmp_path, journaled=False)
    gateways.start()
    with client_of(gateways) as ex:
        again = ex.submit(stay, str(room.folder), 1)
        once = ex.options(retry=1).submit(stay, str(room.folder), 2)
        room.await_count(2)
        gateways.kill()
        gateways.start()
        with pytest.raises(GatewayLost):
            once.result(PATIENCE)
        room.open()
        assert again.result(PATIENCE) == 1
    assert Counter(room.entered()) == {"1": 2, "2": 1}
    assert gateways.end(signal.SIGTERM) == 0
