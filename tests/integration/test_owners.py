"""Several owners on one gateway: what each of them may do, and that none gets at what is another's."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from meca_executor import Container, MecaExecutor, NoHostFits
from meca_executor.cli._checkup import workers
from meca_executor.keys import add_keys, revoke_keys
from meca_executor.wire.objects import fetch
from meca_executor.wire.records import Kind, encode
from tests.contract.rooms import Room
from tests.helpers.waiting import wait_until

from .gateways import Gateways
from .key_clients import LIMIT, client, greet
from .standing import EXAMPLES, standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meca_executor.settings import KeyPair

    from .standing import Standing

WAY_OUT = "--trust-all-keys"


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    meeting_place = Room(tmp_path / "room")
    yield meeting_place
    meeting_place.open()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "team.keys"


@pytest.fixture
def pairs(key_file: Path) -> tuple[KeyPair, KeyPair]:
    return add_keys(key_file), add_keys(key_file)


@pytest.fixture
def trusting(tmp_path: Path, key_file: Path, pairs: tuple[KeyPair, KeyPair]) -> Iterator[Standing]:
    """A gateway on which functions of both owners run, one at a time."""
    words = ("--workers", "1", "--key-file", str(key_file), "--trust-all-keys")
    with standing_gateway(tmp_path, *words) as standing:
        yield standing


def stay(folder: str, name: str) -> str:
    Room(folder).stay(name)
    return name


def leave(word: str) -> int:
    """Leave something in this process for those who come after."""
    os.environ["LEFT_BEHIND"] = word
    return os.getpid()


def find() -> tuple[str | None, int]:
    return os.environ.get("LEFT_BEHIND"), os.getpid()


def runs_functions(url: str, keys: KeyPair) -> bool:
    """Whether a function runs; containers do."""
    with client(url, keys) as ex:
        reply = ex.submit(Container("sampleserver:latest"), {"name": "me"})
        function, items = ex.submit(abs, -1), ex.map(abs, [-2, -3], timeout=LIMIT)
        assert "hello me" in str(reply.result(LIMIT))
        try:
            assert (function.result(LIMIT), list(items)) == (1, [2, 3])
        except NoHostFits as error:
            assert "2 owners" in str(error)
            assert WAY_OUT in str(error)
            with pytest.raises(NoHostFits, match=WAY_OUT):
                list(items)
            return False
        return True


# -- functions


def test_owners_run_containers_and_no_functions(tmp_path: Path, key_file: Path, pairs: tuple[KeyPair, KeyPair]) -> None:
    """Nor the container that runs functions as a local app; the operator is told, too, and a single owner runs all."""
    first, second = pairs
    with standing_gateway(tmp_path, "--workers", "1", "--key-file", str(key_file)) as standing:
        standing.await_log(f"functions are refused: the keys have 2 owners; {WAY_OUT}")
        assert not runs_functions(standing.url, first)
        with client(standing.url, second) as ex, pytest.raises(NoHostFits, match=f"meca-python:latest .* {WAY_OUT}"):
            ex.options(container_ref="meca-python:latest").submit(abs, -1).result(LIMIT)
        with client(standing.url, second) as ex:
            assert workers(ex).mark == "--", "the doctor takes it for no fault"
        revoke_keys(key_file, second.access_key)
        wait_until(lambda: runs_functions(standing.url, first), "the owner that is left runs functions", LIMIT)
        standing.await_log("functions are run again: the keys have 1 owner")


def test_the_operator_may_offer_the_container_that_runs_functions(
    tmp_path: Path, key_file: Path, pairs: tuple[KeyPair, KeyPair]
) -> None:
    """By name; it is their decision."""
    words = ("--workers", "1", "--key-file", str(key_file), "--app", f"meca-python:latest={EXAMPLES}/python-runner")
    with standing_gateway(tmp_path, *words) as standing, client(standing.url, pairs[0]) as ex:
        assert ex.options(container_ref="meca-python").submit(abs, -1).result(LIMIT) == 1


def test_an_owner_who_comes_later(tmp_path: Path, key_file: Path, room: Room) -> None:
    """What runs may end; what comes after the second owner is refused, by the gateway itself."""
    first = add_keys(key_file)
    with standing_gateway(tmp_path, "--workers", "1", "--key-file", str(key_file)) as standing:
        with client(standing.url, first) as ex:
            running = ex.submit(stay, str(room.folder), "a")
            room.await_count(1)
            assert not runs_functions(standing.url, add_keys(key_file))
            with pytest.raises(NoHostFits, match=WAY_OUT):
                ex.submit(abs, -1).result(LIMIT)
            room.open()
            assert running.result(LIMIT) == "a"


def test_the_pairs_of_a_users_own_file_are_one_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named or not: functions run, and a session may be taken up with another of the pairs."""
    monkeypatch.setenv("MECA_STATE_DIR", str(tmp_path / "state"))
    own = tmp_path / "state" / "keys"
    pairs = add_keys(own), add_keys(own)
    for words in ((), ("--key-file", str(own))):
        with standing_gateway(tmp_path, "--workers", "1", *words) as standing:
            assert all(runs_functions(standing.url, pair) for pair in pairs)
            for pair in pairs:
                assert "welcome" in asyncio.run(greet(standing.url, pair, hello={"session": "mine"}))
            assert WAY_OUT not in standing.log


# -- crossings


def test_another_owners_session(trusting: Standing, pairs: tuple[KeyPair, KeyPair], room: Room) -> None:
    """It cannot be had, whatever else is known of it; its own client loses nothing by the try."""
    mine, other = pairs
    with client(trusting.url, mine) as ex:
        future = ex.submit(stay, str(room.folder), "a")
        room.await_count(1)
        driver = ex._link._driver
        known = {"session": driver._session, "birth": driver._birth}  # type: ignore[attr-defined]
        for hello in (known, {"session": known["session"]}):
            answer = asyncio.run(greet(trusting.url, other, hello=hello))
            assert answer["code"] == "session"
            assert "belongs to another access key" in answer["text"]
        room.open()
        assert future.result(LIMIT) == "a"
        assert ex.state == "connected"


def test_another_owners_worker(trusting: Standing, pairs: tuple[KeyPair, KeyPair]) -> None:
    """With one place for all, each of them gets a fresh process, and nothing that the other left there."""
    first, second = pairs
    with client(trusting.url, first) as ex, client(trusting.url, second) as other:
        seen = ex.submit(leave, "a secret").result(LIMIT)
        assert ex.submit(find).result(LIMIT) == ("a secret", seen)
        left, process = other.submit(find).result(LIMIT)
        assert left is None
        assert process != seen


def test_another_owners_object(trusting: Standing, pairs: tuple[KeyPair, KeyPair]) -> None:
    """Its number is of no use to anybody else."""
    first, second = pairs
    with client(trusting.url, first) as ex, client(trusting.url, second) as other:
        handle = ex.put(["a", "secret"])
        assert ex.submit(len, handle).result(LIMIT) == 2
        assert ex.submit(fetch, handle._number).result(LIMIT) == ["a", "secret"]
        with pytest.raises(LookupError, match="is gone"):
            other.submit(fetch, handle._number).result(LIMIT)


def test_another_owners_task(trusting: Standing, pairs: tuple[KeyPair, KeyPair], room: Room) -> None:
    """A kill names a task of its own session: the same number in another one's is not touched."""
    first, second = pairs
    with client(trusting.url, first) as ex, client(trusting.url, second) as other:
        mine = [ex.submit(stay, str(room.folder), name) for name in ("runs", "waits")]
        room.await_count(1)
        numbers = [future.number for future in mine if future.number is not None]
        wait_until(lambda: other.slots == 1, "the other one is connected", LIMIT)
        kill = encode((number, 0, 0, b"") for number in numbers)
        assert len(numbers) == 2
        loop = other._link._loop
        assert loop is not None
        loop.call_soon_threadsafe(other._link._driver._tell, Kind.KILL, kill)  # type: ignore[attr-defined]
        # Answered after what was sent before it.
        assert "hello me" in other.offload_task("sampleserver:latest", '{"name": "me"}').result(LIMIT)
        room.open()
        assert [future.result(LIMIT) for future in mine] == ["runs", "waits"]
        assert room.entered() == ["runs", "waits"]


# -- and over a gateway's end


@pytest.fixture
def gateways(tmp_path: Path, key_file: Path, pairs: tuple[KeyPair, KeyPair]) -> Iterator[Gateways]:
    made = Gateways(tmp_path)
    made.start("--key-file", str(key_file), "--trust-all-keys")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


def session_of(ex: MecaExecutor) -> dict[str, str]:
    driver = ex._link._driver
    return {"session": driver._session, "birth": driver._birth}  # type: ignore[attr-defined]


def test_another_owners_session_from_a_journal(
    gateways: Gateways, key_file: Path, pairs: tuple[KeyPair, KeyPair], room: Room
) -> None:
    """It is whose it was."""
    mine, other = pairs
    with client(gateways.url, mine) as ex:
        future = ex.submit(stay, str(room.folder), "a")
        room.await_count(1)
        known = session_of(ex)
        gateways.kill()
        gateways.start("--key-file", str(key_file), "--trust-all-keys")
        answer = asyncio.run(greet(gateways.url, other, hello=known))
        assert "belongs to another access key" in answer["text"]
        room.open()
        assert future.result(LIMIT) == "a"


def test_a_journal_of_keys_that_are_gone(
    gateways: Gateways, key_file: Path, pairs: tuple[KeyPair, KeyPair], room: Room
) -> None:
    """Nothing of theirs is run again, and the log says so; others' work goes on."""
    going, staying = pairs
    with client(gateways.url, staying) as ex, client(gateways.url, going) as gone:
        future = ex.submit(stay, str(room.folder), "stays")
        doomed = gone.submit(stay, str(room.folder), "goes")
        room.await_count(2)
        gateways.kill()
        revoke_keys(key_file, going.access_key)
        gateways.start("--key-file", str(key_file), "--trust-all-keys")
        room.open()
        assert future.result(LIMIT) == "stays"
        assert "was revoked" in str(doomed.exception(LIMIT)) or "unknown here" in str(doomed.exception(LIMIT))
    assert f"its access key {going.access_key} is unknown here" in gateways.log
    assert sorted(room.entered()) == ["goes", "stays", "stays"]
