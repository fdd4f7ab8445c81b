"""When the connection to a desktop app drops, or the app dies: what was out is offered again, under its attempts."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import pytest

from meca_executor import AttemptLost, Container, GatewayLost, MecaExecutor, TaskFailed, TaskTimeout
from meca_executor.client import desktop
from tests.helpers.waiting import LIMIT, wait_until
from tests.peers.desktop import DesktopApp, desktop_app

if TYPE_CHECKING:
    from collections.abc import Iterator

ECHO, HOLD, MUTE = Container("echo:latest"), Container("hold:latest"), Container("mute:latest")
WAYS = ("drop", "kick", "restart")  #: the connection · in Socket.IO's own words · the app is killed
numbers = itertools.count()


@pytest.fixture
def app() -> Iterator[DesktopApp]:
    """An app of the test's own, which may kill it."""
    with desktop_app() as one:
        yield one


@pytest.fixture
def word() -> str:
    """A text that no other test sends."""
    return f"word {next(numbers)}"


def cut(app: DesktopApp, way: str) -> None:
    """End all connections; returns when the app can be connected to again."""
    if way == "restart":
        app.restart()
    else:
        app.tell(way)


def offers(app: DesktopApp, content: str) -> int:
    """Return how often this was offered."""
    return sum(job["content"] == content for job in app.jobs())


@pytest.mark.parametrize("way", WAYS)
def test_what_was_out_is_offered_again(app: DesktopApp, word: str, way: str) -> None:
    """Under another name each time; with its attempts left nothing is lost."""
    texts = [f"{word}, {number}" for number in range(20)]
    with MecaExecutor(app.url) as ex:
        futures = [ex.submit(HOLD, text) for text in texts]
        for text in texts:
            app.wait_for("held", content=text)
        cut(app, way)
        for text in texts:
            app.wait_for("held", content=text, count=2)
        app.tell("release")
        assert [future.result(LIMIT) for future in futures] == texts
        assert ex.submit(ECHO, word).result(LIMIT) == word
    names = [job["task_id"] for job in app.jobs() if job["content"] in texts]
    assert len(names) == len(set(names)) == 40


def test_a_late_answer_to_the_first_offer_is_as_good(app: DesktopApp, word: str) -> None:
    """The app did not lose the first one: whichever answer comes first counts, the other one is ignored."""
    with MecaExecutor(app.url) as ex:
        future = ex.submit(HOLD, word)
        app.wait_for("held", content=word)
        cut(app, "drop")
        app.wait_for("held", content=word, count=2)
        app.tell(f"release {word}")  # both of them
        assert future.result(LIMIT) == word
        assert ex.submit(ECHO, word).result(LIMIT) == word
    assert offers(app, word) == 3


def test_attempts_are_counted(app: DesktopApp, word: str) -> None:
    """By default three; after the last one only a late answer could come, and the timeout ends that."""
    with MecaExecutor(app.url, timeout=0.5) as ex:
        assert ex.submit(Container("drop-once:latest"), word).result(LIMIT) == word
        assert offers(app, word) == 2
        with pytest.raises(TaskTimeout):
            ex.submit(Container("drop:latest"), f"{word} again").result(LIMIT)
        assert offers(app, f"{word} again") == 3


@pytest.mark.parametrize("way", ["drop", "kick"])
def test_with_one_attempt_it_waits_for_the_late_answer(app: DesktopApp, word: str, way: str) -> None:
    """`retry=1`: never offered again. The answer comes to the new connection, as it goes to everybody."""
    connects = len(app.seen("connect"))
    with MecaExecutor(app.url, retry=1) as ex:
        future = ex.submit(HOLD, word)
        app.wait_for("held", content=word)
        cut(app, way)
        app.wait_for("connect", count=connects + 2)
        wait_until(lambda: ex.state == "connected", "connected again")
        assert not future.done()
        app.tell(f"release {word}")
        assert future.result(LIMIT) == word
    assert offers(app, word) == 1


def test_with_one_attempt_the_wait_has_an_end(app: DesktopApp, word: str) -> None:
    """The app died and knows nothing of the task."""
    with MecaExecutor(app.url, retry=1, timeout=1.0) as ex:
        future = ex.submit(HOLD, word)
        app.wait_for("held", content=word)
        cut(app, "restart")
        with pytest.raises(TaskTimeout):
            future.result(LIMIT)
        assert ex.submit(ECHO, word).result(LIMIT) == word


def test_an_offer_that_was_never_acknowledged(app: DesktopApp, word: str) -> None:
    """The drop took `offloaded` away: with one attempt nobody knows, so the wait has an end; those behind it go on."""
    with MecaExecutor(app.url, retry=1, timeout=0.5) as ex:
        first, others = ex.submit(MUTE, word), [ex.submit(ECHO, f"{word}, {number}") for number in range(5)]
        app.wait_for("offload")
        cut(app, "drop")
        assert [future.result(LIMIT) for future in others] == [f"{word}, {number}" for number in range(5)]
        with pytest.raises(TaskTimeout):
            first.result(LIMIT)
    assert offers(app, word) == 1


@pytest.mark.parametrize(("retry", "offered"), [(1, 1), (3, 3)])
def test_an_app_that_does_not_acknowledge(
    app: DesktopApp, word: str, monkeypatch: pytest.MonkeyPatch, retry: int, offered: int
) -> None:
    """The wait for `offloaded` has a limit; then the attempt counts as lost, and the next task has its turn."""
    monkeypatch.setattr(desktop, "OFFLOADED_S", 0.1)
    with MecaExecutor(app.url, retry=retry) as ex:
        lost, echoed = ex.submit(MUTE, word), ex.submit(ECHO, "x")
        with pytest.raises(AttemptLost, match="did not take the task within"):
            lost.result(LIMIT)
        assert echoed.result(LIMIT) == "x"
        assert offers(app, word) == offered
        once = ex.options(retry=2).submit(Container("mute-once:latest"), f"{word} once")
        assert once.result(LIMIT) == f"{word} once"


def test_a_drop_in_the_middle_of_many(app: DesktopApp, word: str) -> None:
    """Offered, waiting and not yet handed over: each has one result, and it is its own."""
    texts = [f"{word}, {number}" for number in range(300)]
    with MecaExecutor(app.url, retry=4) as ex:  # some may be out at each of the three drops
        results = ex.map(Container("sleep-5ms:latest"), texts, timeout=LIMIT)
        for turn in range(3):
            app.wait_for("offload", count=len(app.seen("offload")) + 20)
            cut(app, WAYS[turn])
        assert list(results) == texts


def test_failures_are_not_tried_again_because_of_a_drop(app: DesktopApp, word: str) -> None:
    """Only what was lost is."""
    with MecaExecutor(app.url) as ex:
        with pytest.raises(TaskFailed):
            ex.submit(Container("fails:latest"), word).result(LIMIT)
        cut(app, "drop")
        assert ex.submit(ECHO, "x").result(LIMIT) == "x"
    assert offers(app, word) == 1


def test_an_app_whose_user_logs_in_late_after_a_restart(app: DesktopApp) -> None:
    """At first it would not register anybody; what was out waits for that."""
    with MecaExecutor(app.url) as ex:
        future = ex.submit(HOLD, "x")
        app.wait_for("held")
        app.registered = "false"
        app.restart()
        app.wait_for("connect", count=2)
        wait_until(lambda: ex.state.startswith("resuming"), "waiting")
        assert not future.done()
        app.registered = "true"
        app.restart()
        app.wait_for("held", count=2)
        app.tell("release")
        assert future.result(LIMIT) == "x"


def test_an_app_that_does_not_come_back(app: DesktopApp) -> None:
    """After a time open futures fail, and the executor takes no more."""
    with MecaExecutor(app.url, resume_window=0.5) as ex:
        futures = [ex.submit(HOLD, str(number)) for number in range(3)]
        app.wait_for("held", count=3)
        app.kill()
        for future in futures:
            with pytest.raises(GatewayLost, match=f"task {future.task_id}: "):
                future.result(LIMIT)
        assert ex.state == "lost"
        with pytest.raises(GatewayLost, match="resume_window"):
            ex.submit(ECHO, "x")


def test_an_executor_can_be_ended_while_the_app_is_gone(app: DesktopApp) -> None:
    """Nothing waits for it to come back."""
    ex = MecaExecutor(app.url)
    future = ex.submit(HOLD, "x")
    app.wait_for("held")
    app.kill()
    wait_until(lambda: ex.state.startswith("resuming"), "noticed")
    began = time.monotonic()
    ex.kill_workers()
    assert future.exception(0) is not None
    idle = MecaExecutor(app.url, connect_timeout=600)
    idle.shutdown()
    assert idle.state == "closed"
    assert time.monotonic() - began < LIMIT


def test_killed_while_the_connection_was_down(app: DesktopApp, word: str) -> None:
    """A task that is killed meanwhile is not offered again."""
    with MecaExecutor(app.url) as ex:
        killed, kept = ex.submit(HOLD, word), ex.submit(HOLD, "kept")
        app.wait_for("held", count=2)
        app.kill()
        wait_until(lambda: ex.state.startswith("resuming"), "noticed")
        assert ex.kill(killed)
        assert killed.exception(LIMIT) is not None
        app.start()
        app.wait_for("held", content="kept", count=2)
        app.tell("release")
        assert kept.result(LIMIT) == "kept"
        assert offers(app, word) == 1
