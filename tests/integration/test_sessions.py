"""Sessions with a name: programs end in every way, and others claim what they left, with and without a journal."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import (
    ExecutorClosed,
    GatewayLost,
    MecaExecutor,
    SessionTaken,
    TaskKilled,
    UsageError,
    WorkerDied,
)
from meca_executor.keys import add_keys
from tests.contract.rooms import Room
from tests.helpers.waiting import wait_until

from .gateways import PATIENCE, Gateways
from .sessions_program import NAME, TASKS, WAYS, enter, stay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(params=[False, True], ids=["memory", "journal"])
def gateways(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateways]:
    yield from running(tmp_path, journaled=request.param)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Gateways]:
    yield from running(tmp_path, journaled=False)


@pytest.fixture
def journaled(tmp_path: Path) -> Iterator[Gateways]:
    yield from running(tmp_path, journaled=True)


def running(folder: Path, *, journaled: bool) -> Iterator[Gateways]:
    """Give gateways, the first one started."""
    made = Gateways(folder, journaled)
    made.start()
    yield made
    if made.process is not None:
        assert made.end(signal.SIGTERM) == 0, made.log


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path / "room")


@contextlib.contextmanager
def claimed(gateways: Gateways, name: str = NAME, **more: Any) -> Iterator[MecaExecutor]:
    """An executor with a session; one that a failed test has left is ended with all in it."""
    with contextlib.ExitStack() as stack:
        ex = MecaExecutor(gateways.url, session=name, connect_timeout=PATIENCE, **more)
        stack.callback(ex.kill_workers)
        yield ex
        ex.shutdown()


@contextlib.contextmanager
def program(gateways: Gateways, room: Room, way: str) -> Iterator[subprocess.Popen[str]]:
    """The program, after it has submitted all."""
    command = [sys.executable, "-m", "tests.integration.sessions_program", gateways.url, str(room.folder), way]
    with subprocess.Popen(command, env=gateways.environ(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert len(process.stdout.readline().split()) == TASKS - 1
            yield process
        finally:
            process.kill()


def run(gateways: Gateways, room: Room, way: str) -> None:
    """Run the program to its end, which comes while its tasks are held."""
    with program(gateways, room, way) as process:
        process.wait(PATIENCE)


def check_all(futures: dict[str, Any], room: Room) -> None:
    """All tasks of the program are there, and their outcomes are right; each ran once."""
    assert set(futures) == {*map(str, range(1, TASKS + 2)), "greeting", str(TASKS + 3), str(TASKS + 4)}
    assert futures["1"].result(PATIENCE) == 0
    assert isinstance(futures["2"].exception(PATIENCE), LookupError)
    assert [futures[str(2 + number)].result(PATIENCE) for number in range(1, TASKS)] == list(range(1, TASKS))
    assert "hello n" in futures["greeting"].result(PATIENCE)
    assert futures[str(TASKS + 3)].result(PATIENCE)["message"] == "hello m"
    assert futures[str(TASKS + 4)].result(PATIENCE) == 10
    assert all(future.task_id == name for name, future in futures.items())
    assert Counter(room.entered()) == Counter(map(str, range(TASKS)))


def test_what_a_program_left_is_there_for_the_next(gateways: Gateways, room: Room) -> None:
    """However it ended: tasks that were done and fetched, that run, and that wait."""
    for way in ("killed", "over") if gateways.journaled else [way for way in WAYS if way != "stopped"]:
        held = room.beside(way)
        run(gateways, held, way)
        with claimed(gateways) as ex:
            futures = ex.recover()
            assert not any(futures[str(2 + number)].done() for number in range(1, TASKS)), way
            held.open()
            check_all(futures, held)
    with claimed(gateways) as ex:
        assert ex.recover() == {}  # all was done and fetched when the last one was shut down


def test_it_is_there_also_when_all_is_done(gateways: Gateways, room: Room) -> None:
    """Two claim it one after the other, and each leaves it: the second reads again what the first has fetched."""
    run(gateways, room, "killed")
    room.open()
    room.await_count(TASKS, PATIENCE)
    for _ in range(2):
        ex = MecaExecutor(gateways.url, session=NAME, connect_timeout=PATIENCE)
        check_all(ex.recover(), room)
        ex.detach()
    with claimed(gateways) as ex:
        check_all(ex.recover(), room)


def test_a_session_that_another_program_has(gateways: Gateways, room: Room) -> None:
    """It is refused, in words; with `takeover` it is had, and the other one's futures fail."""
    with claimed(gateways) as first:
        held = [first.submit(stay, str(room.folder), number) for number in range(4)]
        room.await_count(2, PATIENCE)
        with pytest.raises(SessionTaken, match=rf"session 'night-run' is in use by .*pid {os.getpid()} .* since 20"):
            MecaExecutor(gateways.url, session=NAME, connect_timeout=PATIENCE)
        assert not held[0].done()
        with claimed(gateways, takeover=True) as second:
            for future in held:
                with pytest.raises(SessionTaken, match=rf"task {future.task_id}: .*was taken over by .*pid"):
                    future.result(PATIENCE)
            with pytest.raises(SessionTaken):
                first.submit(abs, -1)
            assert first.state == "lost"
            found = second.recover()
            room.open()
            assert [found[str(number + 1)].result(PATIENCE) for number in range(4)] == list(range(4))
    assert Counter(room.entered()) == Counter("0123")


def test_a_program_that_hangs_is_taken_over(memory: Gateways, room: Room) -> None:
    """It cannot be asked; when it goes on, after all is done and forgotten, it learns what happened."""
    with program(memory, room, "stopped") as process:
        process.send_signal(signal.SIGSTOP)
        with claimed(memory, takeover=True) as ex:
            room.open()
            check_all(ex.recover(), room)
        process.send_signal(signal.SIGCONT)
        wait_until(lambda: "was taken over by" in memory.log, "the first one has asked", PATIENCE)
    assert Counter(room.entered()) == Counter(map(str, range(TASKS)))


def test_recovered_again(gateways: Gateways, room: Room) -> None:
    """The same futures; with its own tasks and those of `map`, under names that tell the programs apart."""
    run(gateways, room, "killed")
    with claimed(gateways) as ex:
        first = ex.recover()
        second = ex.recover()
        assert {name: id(future) for name, future in second.items()} == {n: id(f) for n, f in first.items()}
        room.open()
        check_all(first, room)
        own = ex.submit(abs, -5)
        assert list(ex.map(abs, range(-3, 0))) == [3, 2, 1]
        assert own.task_id == "2-1"
        third = ex.recover()
        assert set(third) == {*first, "2-1", "2-2", "2-3", "2-4"}
        assert [third[f"2-{n}"].result(PATIENCE) for n in range(1, 5)] == [5, 3, 2, 1]
        ex.offload_task("sampleserver:latest", '{"name": "x"}', task_id="greeting").result(PATIENCE)
        assert {name for name in ex.recover() if "greeting" in name} == {"greeting", f"greeting#{(1 << 40) + 5}"}


def test_nothing_to_recover(memory: Gateways) -> None:
    """A new session is empty, and so is one of another name."""
    with claimed(memory) as ex, claimed(memory, "another.one_-2") as other:
        assert ex.recover() == {}
        future = ex.submit(abs, -1)
        assert future.result(PATIENCE) == 1
        assert other.recover() == {}
        with pytest.raises(UsageError, match="task id"):
            ex.offload_task("sampleserver:latest", "{}", task_id="x" * 2000)


def test_another_key_has_sessions_of_its_own(memory: Gateways, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name is not the same session."""
    gateways = memory
    keys = gateways.folder / "two-keys"
    pairs = add_keys(keys), add_keys(keys)
    assert gateways.end(signal.SIGTERM) == 0
    gateways.start("--key-file", str(keys), "--trust-all-keys")
    for mine in (0, 1):
        monkeypatch.setenv("MECA_ACCESS_KEY", pairs[mine].access_key)
        monkeypatch.setenv("MECA_SECRET_KEY", pairs[mine].secret_key)
        ex = MecaExecutor(gateways.url, session=NAME, takeover=True, connect_timeout=PATIENCE)
        assert ex.recover() == {}
        ex.submit(stay, str(room.folder), mine)
        ex.detach()
    room.open()
    with claimed(gateways) as ex:
        assert {name: future.result(PATIENCE) for name, future in ex.recover().items()} == {"1": 1}


@pytest.mark.parametrize(("retry", "attempts"), [(3, 2), (1, 1)])
def test_the_gateway_tries_again(gateways: Gateways, room: Room, retry: int, attempts: int) -> None:
    """When nobody is there to do it: as often as the program had said with a number."""
    ex = MecaExecutor(gateways.url, session=NAME, retry=retry, connect_timeout=PATIENCE)
    ex.submit(die_once, str(room.folder))
    room.await_count(1, PATIENCE)
    ex.detach()
    room.open()
    with claimed(gateways) as ex:
        future = ex.recover()["1"]
        if retry == 1:
            with pytest.raises(WorkerDied):
                future.result(PATIENCE)
        else:
            assert future.result(PATIENCE) == "alive"
    assert room.entered() == ["here"] * attempts


def die_once(folder: str) -> str:
    """Kill the worker, the first time."""
    room = Room(folder)
    first = not room.entered()
    room.stay("here")
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


def test_killed_by_another_program(journaled: Gateways, room: Room) -> None:
    """`kill` ends recovered tasks that run and that wait."""
    run(journaled, room, "killed")
    with claimed(journaled) as ex:
        room.await_count(3, PATIENCE)
        futures = ex.recover()
        for number in range(1, TASKS):
            assert ex.kill(futures[str(2 + number)])
        for number in range(1, TASKS):
            with pytest.raises(TaskKilled):
                futures[str(2 + number)].result(PATIENCE)
        assert futures[str(TASKS + 4)].result(PATIENCE) == 10


def test_a_session_ends_only_when_nothing_is_left(gateways: Gateways, room: Room) -> None:
    """Who does not ask for what is in it does not end it, though its own tasks are done."""
    run(gateways, room, "killed")
    room.open()  # else they have all workers
    with MecaExecutor(gateways.url, session=NAME, connect_timeout=PATIENCE) as ex:
        assert ex.submit(abs, -1).result(PATIENCE) == 1
    with claimed(gateways) as ex:
        futures = ex.recover()
        assert futures.pop("2-1").result(PATIENCE) == 1
        check_all(futures, room)
        late = ex.submit(abs, -1)
    with pytest.raises(ExecutorClosed):
        ex.recover()
    assert late.result(PATIENCE) == 1


def test_open_futures_after_a_detach(memory: Gateways, room: Room) -> None:
    """They fail at once, and say where their tasks are."""
    ex = MecaExecutor(memory.url, session=NAME, connect_timeout=PATIENCE)
    future = ex.submit(stay, str(room.folder), 1)
    ex.detach()
    with pytest.raises(ExecutorClosed, match=r"task 1: left in session 'night-run'.*recover"):
        future.result(0)
    with pytest.raises(ExecutorClosed):
        ex.submit(abs, -1)
    room.open()
    with claimed(memory) as ex:
        assert ex.recover()["1"].result(PATIENCE) == 1


def test_gateways_come_and_go(journaled: Gateways, room: Room) -> None:
    """Killed before anyone claims, while recovered futures wait, and when all is done."""
    run(journaled, room, "killed")
    journaled.kill()
    journaled.start()
    ex = MecaExecutor(journaled.url, session=NAME, connect_timeout=PATIENCE)
    futures = ex.recover()
    assert futures["1"].result(PATIENCE) == 0
    journaled.kill()
    journaled.start()
    room.open()
    assert [futures[str(2 + number)].result(PATIENCE) for number in range(1, TASKS)] == list(range(1, TASKS))
    ex.detach()
    journaled.kill()
    journaled.start()
    with claimed(journaled) as ex:
        again = ex.recover()
        assert [again[str(2 + number)].result(PATIENCE) for number in range(1, TASKS)] == list(range(1, TASKS))
        assert again["greeting"].result(PATIENCE)
        assert again[str(TASKS + 4)].result(PATIENCE) == 10
    runs = Counter(map(int, room.entered()))
    assert set(runs) == set(range(TASKS))
    assert max(runs.values()) <= 3  # those that ran when a gateway was killed
    assert journaled.end(signal.SIGTERM) == 0
    assert journaled.rows() == {"sessions": 0, "entries": 0}


def test_large_results_wait_in_the_journal(journaled: Gateways) -> None:
    """Files beside the journal are read again, also by another gateway, and are gone with the session."""
    ex = MecaExecutor(journaled.url, session=NAME, connect_timeout=PATIENCE)
    for number in range(4):
        ex.submit(bytes, (number + 1) << 20)
    ex.detach()
    for _ in range(2):
        ex = MecaExecutor(journaled.url, session=NAME, connect_timeout=PATIENCE)
        sizes = [len(future.result(PATIENCE)) >> 20 for future in ex.recover().values()]
        assert sizes == [1, 2, 3, 4]
        ex.detach()
        journaled.kill()
        journaled.start()
    beside = journaled.folder / "journal.db.d"
    assert any(beside.iterdir())
    with claimed(journaled) as ex:
        assert len(ex.recover()["4"].result(PATIENCE)) == 4 << 20
    wait_until(lambda: not any(beside.iterdir()), "they are gone", PATIENCE)


def test_a_gateway_that_forgets(tmp_path: Path, room: Room) -> None:
    """Without a journal recovered tasks are lost with it; one's own are made again."""
    made = Gateways(tmp_path, journaled=False)
    made.start()
    run(made, room, "killed")
    with claimed(made) as ex:
        futures = ex.recover()
        own = ex.submit(enter, str(room.folder), 99)
        made.kill()
        made.start()
        with pytest.raises(GatewayLost, match="task 3: "):
            futures["3"].result(PATIENCE)
        assert own.result(PATIENCE) == 99
        assert set(ex.recover()) == {"2-1"}
    assert made.end(signal.SIGTERM) == 0


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "naïve", "a/b", 7, "line\n"])
def test_names_that_are_none(name: Any) -> None:
    """Refused at once, and the name is in the text."""
    with pytest.raises(UsageError, match="is no name: it has 1 to 64 characters"):
        MecaExecutor("http://127.0.0.1:9", session=name)


def test_wrong_uses() -> None:
    """Each says what to do instead."""
    with pytest.raises(UsageError, match=r"an embedded one ends with this program.*meca gateway"):
        MecaExecutor(session=NAME)
    with pytest.raises(UsageError, match="give session=NAME"):
        MecaExecutor("http://127.0.0.1:9", takeover=True)
    with MecaExecutor("http://127.0.0.1:9", connect_timeout=0.1) as ex:
        with pytest.raises(UsageError, match="session=NAME"):
            ex.recover()
        with pytest.raises(UsageError, match="session=NAME"):
            ex.detach()
