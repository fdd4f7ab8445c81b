"""What a program sees of its link: its state, when it changes, and how everything ends while it is down."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import subprocess
import sys
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import GatewayLost, MecaExecutor, TaskKilled, UsageError
from meca_executor.client import link_state
from tests.contract.rooms import Room
from tests.contract.tasks import enter, stay, stay_as_pid
from tests.helpers.processes import is_running
from tests.helpers.proxy import proxy
from tests.helpers.scripts import finish, started
from tests.helpers.waiting import wait_until

from .standing import ROOT, Standing, standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.helpers.proxy import Proxy

LIMIT = 60.0
MAIN = "import sys; from meca_executor.cli import main; sys.exit(main(sys.argv[1:]))"
QUICK = "import meca_executor.gateway.server as server; server.PING_S, server.PONG_S = 0.5, 1.5; "
RESUMING = re.compile(r"resuming \((\d+) s, attempt (\d+)\)")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with standing_gateway(tmp_path_factory.mktemp("gateway"), "--workers", "2") as standing:
        yield standing


@pytest.fixture
def link(gateway: Standing) -> Iterator[Proxy]:
    with proxy(gateway.port) as one:
        yield one


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    meeting_place = Room(tmp_path / "room")
    yield meeting_place
    meeting_place.open()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An end waits for the callback as long as a busy machine may need."""
    monkeypatch.setattr(link_state, "LAST_WORD_S", LIMIT)


class Heard:
    """An `on_link` that keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.threads: set[threading.Thread] = set()

    def __call__(self, state: str, why: str) -> None:
        self.threads.add(threading.current_thread())
        if state == "closed":
            time.sleep(0.2)  # so that it would be missed by who does not wait
        self.calls.append((state, why))

    @property
    def states(self) -> list[str]:
        return [state for state, _ in self.calls]


@contextlib.contextmanager
def mortal_gateway(folder: Path, port: int = 0, prelude: str = "") -> Iterator[Standing]:
    """Give a gateway that may be killed; with `QUICK` its pings have other times than users have."""
    command = [sys.executable, "-c", prelude + MAIN, "gateway", "--port", str(port), "--workers", "2"]
    folder.mkdir(exist_ok=True)
    log = folder / "mortal.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        assert process.stdout
        try:
            ready = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)", ready)
            assert found, ready + log.read_text()
            yield Standing(process, int(found[1]), log)
        finally:
            process.kill()


def kill(gateway: Standing) -> None:
    """End it as a power cut would."""
    gateway.process.kill()
    gateway.process.wait(LIMIT)


def take_down(link: Proxy, ex: MecaExecutor) -> None:
    """Drop the connection for longer; returns when the executor has noticed."""
    link.down()
    wait_until(lambda: ex.state.startswith("resuming"), "it notices", LIMIT)


def attempt_of(ex: MecaExecutor) -> int:
    """Return the number of the attempt to connect again, as the state tells it; 0 in other states."""
    found = RESUMING.fullmatch(ex.state)
    return int(found[2]) if found else 0


# -- the state


def test_the_state_counts_seconds_and_attempts(link: Proxy) -> None:
    """Both grow while nothing answers, in `repr` too; the next drop begins anew."""
    with MecaExecutor(link.url) as ex:
        assert ex.submit(abs, -1).result(LIMIT) == 1
        take_down(link, ex)
        first = RESUMING.fullmatch(ex.state)
        assert first, ex.state
        wait_until(lambda: attempt_of(ex) > int(first[2]) + 1, "it tries again and again", LIMIT)
        later = ex.state
        assert RESUMING.search(repr(ex)), repr(ex)
        wait_until(lambda: (now := RESUMING.fullmatch(ex.state)) and int(now[1]) >= 1, "a second passes", LIMIT)
        link.up()
        wait_until(lambda: ex.state == "connected", "it comes back", LIMIT)
        assert ex.submit(abs, -2).result(LIMIT) == 2
        link.cut()
        wait_until(lambda: ex.state != "connected" or link.connections >= 3, "it notices the second drop", LIMIT)
        assert attempt_of(ex) < int(RESUMING.fullmatch(later)[2])  # type: ignore[index]
        wait_until(lambda: ex.state == "connected", "it comes back", LIMIT)


@pytest.mark.usefixtures("patient")
def test_on_link_is_told_each_change(link: Proxy) -> None:
    """In order, with why, on a thread of its own; and of the end before `shutdown` returns."""
    heard = Heard()
    with MecaExecutor(link.url, on_link=heard) as ex:
        assert ex.submit(abs, -1).result(LIMIT) == 1
        take_down(link, ex)
        wait_until(lambda: link.refused >= 2, "it tries again", LIMIT)
        link.up()
        assert ex.submit(abs, -2).result(LIMIT) == 2
    assert heard.states == ["connected", "resuming", "connected", "closed"]
    assert all(link.url in why for _, why in heard.calls[:-1])
    assert heard.calls[1][1] == f"the connection to {link.url} dropped"
    (thread,) = heard.threads
    assert thread is not threading.main_thread() and not thread.name.endswith("-link")


@pytest.mark.usefixtures("patient")
def test_an_embedded_gateway_is_told_of_too() -> None:
    """Connected and closed; an executor that is never used as well."""
    heard = Heard()
    with MecaExecutor(1, on_link=heard) as ex:
        assert ex.submit(abs, -1).result(LIMIT) == 1
    assert heard.states == ["connected", "closed"]
    unused = Heard()
    MecaExecutor(1, on_link=unused).shutdown()
    assert unused.states[-1] == "closed"
    assert set(unused.states) <= {"connected", "closed"}


@pytest.mark.usefixtures("patient")
def test_an_executor_that_never_connects_is_lost(link: Proxy) -> None:
    """Also that is told, with the reason."""
    link.down()
    heard = Heard()
    with MecaExecutor(link.url, connect_timeout=0.2, on_link=heard) as ex:
        assert ex.submit(abs, -1).exception(LIMIT) is not None
    assert heard.states == ["lost"] and link.url in heard.calls[0][1]
    assert ex.state == "lost"


def test_a_slow_callback_delays_nobody(link: Proxy) -> None:
    """Results, reconnects and the end go on while it is busy; what it missed it is told afterwards, in order."""
    heard, go_on = Heard(), threading.Event()

    def slow(state: str, why: str) -> None:
        assert go_on.wait(LIMIT)
        heard(state, why)

    ex = MecaExecutor(link.url, on_link=slow)
    try:
        assert ex.submit(abs, -1).result(LIMIT) == 1
        connections = link.connections
        link.cut()
        wait_until(lambda: link.connections > connections and ex.state == "connected", "it comes back", LIMIT)
        assert ex.submit(abs, -2).result(LIMIT) == 2
        ex.shutdown()
        assert (ex.state, heard.states) == ("closed", [])
    finally:
        go_on.set()
    wait_until(lambda: len(heard.calls) == 4, "all is told", LIMIT)
    assert heard.states == ["connected", "resuming", "connected", "closed"]


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("error", [ValueError("the user's"), SystemExit(3)])
def test_what_a_callback_raises_is_logged(link: Proxy, caplog: pytest.LogCaptureFixture, error: BaseException) -> None:
    """And nothing else comes of it: the next change is told."""
    states: list[str] = []

    def broken(state: str, why: str) -> None:
        states.append(state)
        raise error

    with caplog.at_level(logging.ERROR, logger="meca"), MecaExecutor(link.url, on_link=broken) as ex:
        assert ex.submit(abs, -1).result(LIMIT) == 1
    assert states == ["connected", "closed"]
    assert [(record.name, record.exc_info[1]) for record in caplog.records if record.exc_info] == [("meca", error)] * 2


def test_a_callback_may_end_the_executor(link: Proxy) -> None:
    """On its own thread: no wait for itself."""
    done = threading.Event()

    def end(state: str, why: str) -> None:
        if state == "resuming":
            ex.kill_workers()
            done.set()

    ex = MecaExecutor(link.url, on_link=end)
    assert ex.submit(abs, -1).result(LIMIT) == 1
    link.down()
    assert done.wait(LIMIT)
    assert ex.state == "closed"


@pytest.mark.parametrize("given", [{"on_link": 3}, {"on_link": "print"}])
def test_on_link_has_to_be_a_function(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"on_link {given['on_link']!r} is not callable"):
        MecaExecutor("http://127.0.0.1:1", **given)


@pytest.mark.parametrize("window", [0, -1, "600", None, float("nan"), True])
def test_a_resume_window_is_a_time(window: Any) -> None:
    with pytest.raises(UsageError, match=re.escape(f"resume_window {window!r} is not a positive number of seconds")):
        MecaExecutor("http://127.0.0.1:1", resume_window=window)


# -- the resume window


@pytest.mark.usefixtures("patient")
def test_when_the_window_ends_each_future_fails_with_its_own_error(link: Proxy, room: Room) -> None:
    """Running, queued, and items of a map; the window, the endpoint and the task are named."""
    heard = Heard()
    with MecaExecutor(link.url, resume_window=1.5, on_link=heard) as ex:
        futures = [ex.submit(stay, str(room.folder), number) for number in range(2)]
        room.await_count(2, LIMIT)
        futures += [ex.submit(stay, str(room.folder), number) for number in range(2, 6)]
        items = ex.map(stay, [str(room.folder)] * 3, range(6, 9))
        link.down()
        errors = [future.exception(LIMIT) for future in futures]
        with pytest.raises(GatewayLost, match=r"^task \d+: the connection .* \(resume_window\)"):
            next(items)
        for future, error in zip(futures, errors, strict=True):
            assert type(error) is GatewayLost
            assert str(error).startswith(f"task {future.task_id}: "), error
            assert link.url in str(error) and "1.5 s (resume_window)" in str(error)
        assert len({id(error) for error in errors}) == 6
        with pytest.raises(GatewayLost, match="resume_window"):
            ex.submit(abs, -1)
        assert ex.state == "lost"
    assert heard.states == ["connected", "resuming", "lost"]
    assert "resume_window" in heard.calls[-1][1]


# -- a gateway that comes back and knows nothing


def test_a_gateway_that_was_killed(tmp_path: Path, room: Room) -> None:
    """Without a journal: what may not run again fails in its own words, the rest runs again or for the first time."""
    with mortal_gateway(tmp_path) as first, proxy(first.port) as link, MecaExecutor(link.url) as ex:
        once = ex.options(retry=1).submit(stay, str(room.folder), "once")
        again = ex.submit(stay, str(room.folder), "again")
        room.await_count(2, LIMIT)
        queued = [ex.submit(enter, str(room.folder), number) for number in range(20)]
        kill(first)
        wait_until(lambda: ex.state.startswith("resuming"), "it notices", LIMIT)
        with mortal_gateway(tmp_path / "second", first.port):
            error = once.exception(LIMIT)
            assert type(error) is GatewayLost
            assert str(error).startswith(f"task {once.task_id}: the gateway at {link.url} ended while it had")
            room.open()
            assert again.result(LIMIT) == "again"
            assert [future.result(LIMIT) for future in queued] == list(range(20))
            ex.shutdown()
    lost, done = again.attempts
    assert (type(lost.error), done.error) == (GatewayLost, None)
    assert str(lost.error).startswith(f"task {again.task_id}: ")
    assert (lost.host, done.host) == (link.url, link.url)
    assert [attempt.error for attempt in once.attempts] == [error]
    assert sorted(room.entered()) == sorted(["once", "again", "again", *map(str, range(20))])


# -- half open


def test_a_peer_that_fell_silent_is_noticed(tmp_path: Path, room: Room) -> None:
    """No FIN, no RST, nothing: the pings stay away. What ran meanwhile is not run again."""
    with mortal_gateway(tmp_path, prelude=QUICK) as gateway, proxy(gateway.port) as link, MecaExecutor(link.url) as ex:
        futures: list[Any] = [ex.submit(stay, str(room.folder), number) for number in range(2)]
        room.await_count(2, LIMIT)
        link.silence()
        futures += [ex.submit(abs, -number) for number in range(100)]
        wait_until(lambda: ex.state.startswith("resuming"), "it notices", LIMIT)
        room.open()
        link.up()
        assert [future.result(LIMIT) for future in futures] == [0, 1, *range(100)]
        assert ex.state == "connected"
    assert sorted(room.entered()) == ["0", "1"]


@pytest.mark.parametrize(("to_server", "to_client"), [(True, False), (False, True)])
def test_silence_in_one_direction_is_noticed(tmp_path: Path, to_server: bool, to_client: bool) -> None:
    """Also with much on its way: full buffers must not hide it. Each call runs once."""
    data = os.urandom(100_000)
    with mortal_gateway(tmp_path, prelude=QUICK) as gateway, proxy(gateway.port) as link, MecaExecutor(link.url) as ex:
        assert list(ex.map(len, [b""] * 50)) == [0] * 50  # known as short: all of it may go out at once
        assert ex.submit(len, b"").result(LIMIT) == 0
        connections = link.connections
        link.silence(to_server=to_server, to_client=to_client)
        futures = [ex.submit(len, data) for _ in range(200)]
        wait_until(lambda: ex.state.startswith("resuming") or link.connections > connections, "it notices", LIMIT)
        link.up()
        assert [future.result(LIMIT) for future in futures] == [len(data)] * 200


# -- ends while the link is down


def test_a_running_task_is_killed_while_the_link_is_down(link: Proxy, room: Room) -> None:
    """Its future ends at once; the gateway ends it when the link is back, and it is not run again."""
    with MecaExecutor(link.url) as ex:
        future = ex.submit(stay_as_pid, str(room.folder))
        (pid,) = room.await_count(1, LIMIT)
        take_down(link, ex)
        assert ex.kill(future)
        error = future.exception(LIMIT)
        assert type(error) is TaskKilled and str(error).startswith(f"task {future.task_id}: ended by kill()")
        assert is_running(int(pid))
        assert not ex.kill(future)
        link.up()
        wait_until(lambda: not is_running(int(pid)), "its process ends", LIMIT)
        assert ex.submit(abs, -1).result(LIMIT) == 1
        assert len(room.entered()) == 1


def test_a_task_is_not_run_again_that_was_killed_before_its_gateway_was_gone(tmp_path: Path, room: Room) -> None:
    """The gateway never heard of it, and the next one does not know the task: it has ended."""
    with mortal_gateway(tmp_path) as first, proxy(first.port) as link, MecaExecutor(link.url, retry=5) as ex:
        future = ex.submit(stay, str(room.folder), "killed")
        room.await_count(1, LIMIT)
        link.silence()
        assert ex.kill(future)
        kill(first)
        link.up()
        link.cut()
        with mortal_gateway(tmp_path / "second", first.port):
            assert type(future.exception(LIMIT)) is TaskKilled
            assert ex.submit(abs, -1).result(LIMIT) == 1
            ex.shutdown()
    assert room.entered() == ["killed"]


def test_what_was_not_handed_over_is_cancelled_while_the_link_is_down(link: Proxy, room: Room) -> None:
    """At once; and what was submitted meanwhile, too. The rest goes on when the link is back."""
    with MecaExecutor(link.url) as ex:
        kept = [ex.submit(stay, str(room.folder), number) for number in range(2)]
        room.await_count(2, LIMIT)
        take_down(link, ex)
        late = [ex.submit(enter, str(room.folder), number) for number in range(10, 20)]
        assert all(future.cancel() for future in late[5:])
        assert all(future.attempts == () for future in late)
        link.up()
        room.open()
        assert [future.result(LIMIT) for future in (*kept, *late[:5])] == [0, 1, 10, 11, 12, 13, 14]
    assert all(future.cancelled() for future in late[5:])
    assert sorted(map(int, room.entered())) == [0, 1, 10, 11, 12, 13, 14]


def test_shutdown_waits_for_the_results_of_a_link_that_comes_back(link: Proxy, room: Room) -> None:
    """As the standard library's waits for what runs."""
    ex = MecaExecutor(link.url)
    futures = [ex.submit(stay, str(room.folder), number) for number in range(2)]
    room.await_count(2, LIMIT)
    take_down(link, ex)
    ending = threading.Thread(target=ex.shutdown)
    ending.start()
    attempts = attempt_of(ex)
    wait_until(lambda: attempt_of(ex) > attempts + 1, "it goes on trying", LIMIT)
    assert ending.is_alive() and not any(future.done() for future in futures)
    room.open()
    link.up()
    ending.join(LIMIT)
    assert not ending.is_alive()
    assert [future.result(0) for future in futures] == [0, 1]
    assert ex.state == "closed"


def test_shutdown_waits_no_longer_than_the_window(link: Proxy, room: Room) -> None:
    """Then the futures fail and the executor is lost."""
    ex = MecaExecutor(link.url, resume_window=1.0)
    future = ex.submit(stay, str(room.folder), 0)
    room.await_count(1, LIMIT)
    take_down(link, ex)
    ex.shutdown()
    assert type(future.exception(0)) is GatewayLost
    assert ex.state == "lost"


@pytest.mark.parametrize("way", ["nothing left", "cancel_futures", "cancelled later", "kill", "kill_workers"])
def test_an_end_does_not_wait_for_a_link_that_nobody_needs(link: Proxy, room: Room, way: str) -> None:
    """The window is ten minutes; with nothing to wait for, or nothing any more, it ends now."""
    ex = MecaExecutor(link.url)
    running = ex.submit(stay, str(room.folder), 0) if way in ("kill", "kill_workers") else None
    assert ex.submit(abs, -1).result(LIMIT) == 1
    if running:
        room.await_count(1, LIMIT)
    take_down(link, ex)
    queued = [ex.submit(abs, -1) for _ in range(3)] if way != "nothing left" else []
    if way == "kill_workers":
        ex.kill_workers()
    elif way == "cancel_futures":
        ex.shutdown(cancel_futures=True)
    else:
        ex.shutdown(wait=False)
        attempts = attempt_of(ex)
        wait_until(lambda: way == "nothing left" or attempt_of(ex) > attempts + 1, "it has looked", LIMIT)
        for future in queued:
            assert future.cancel()
        if running:
            assert ex.kill(running)
    wait_until(lambda: ex.state == "closed", "it ends", LIMIT)
    assert all(future.done() for future in queued)
    assert running is None or running.done()


def test_an_executor_that_nobody_holds_ends_while_the_link_is_down(link: Proxy, room: Room) -> None:
    """At once without tasks; with some when they are done, after the link came back."""
    ex: MecaExecutor | None = MecaExecutor(link.url, thread_name_prefix="dropped")
    assert ex is not None
    future = ex.submit(stay, str(room.folder), 7)
    room.await_count(1, LIMIT)
    idle: MecaExecutor | None = MecaExecutor(link.url, thread_name_prefix="idle")
    assert idle is not None
    assert idle.submit(abs, -1).result(LIMIT) == 1
    take_down(link, ex)
    wait_until(lambda: idle is None or idle.state.startswith("resuming"), "it notices, too", LIMIT)
    seen = weakref.ref(ex), weakref.ref(idle)
    ex = idle = None
    gc.collect()
    assert [reference() for reference in seen] == [None, None]
    wait_until(lambda: "idle-link" not in {thread.name for thread in threading.enumerate()}, "one ends", LIMIT)
    assert "dropped-link" in {thread.name for thread in threading.enumerate()}
    room.open()
    link.up()
    assert future.result(LIMIT) == 7
    wait_until(lambda: "dropped-link" not in {t.name for t in threading.enumerate()}, "the other ends", LIMIT)


EXIT = """
    import time
    from pathlib import Path
    from meca_executor import MecaExecutor


    def hold(folder):
        Path(folder, "ready").touch()
        for _ in range(6000):
            if Path(folder, "open").exists():
                return
            time.sleep(0.01)


    ex = MecaExecutor({url!r}, resume_window={window})
    assert ex.submit(abs, -1).result(60) == 1
    if {busy}:
        future = ex.submit(hold, {folder!r})
        future.add_done_callback(lambda future: print(type(future.exception()).__name__, ex.state, flush=True))
    else:
        Path({folder!r}, "ready").touch()
    while not ex.state.startswith("resuming"):
        time.sleep(0.01)
"""


@pytest.mark.parametrize(("busy", "window", "said"), [(False, 600, ""), (True, 1, "GatewayLost lost\n")])
def test_the_interpreter_ends_while_the_link_is_down(
    link: Proxy, tmp_path: Path, busy: bool, window: float, said: str
) -> None:
    """At once with nothing to wait for, else when the window has ended."""
    source = EXIT.format(url=link.url, folder=str(tmp_path), busy=busy, window=window)
    try:
        with started(source, tmp_path) as program:
            wait_until((tmp_path / "ready").exists, "the program is connected", LIMIT)
            link.down()
            assert finish(program, LIMIT).expect().out == said
    finally:
        (tmp_path / "open").touch()  # what still runs at the gateway ends
