"""The link to a desktop app: when the old dialect is spoken, how registration may go, how large a message may be."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from typing import TYPE_CHECKING

import pytest
import socketio
from aiohttp import web

from meca_executor import Container, GatewayRefused, GatewayUnreachable, MecaExecutor, TaskTooLarge
from meca_executor.client import desktop, link
from meca_executor.keys import ensure_keys
from meca_executor.settings import default_key_file
from tests.helpers.waiting import LIMIT, wait_until
from tests.peers.desktop import DesktopApp, desktop_app

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ECHO = Container("echo:latest")
MAX_PAYLOAD = 1_000_000


@pytest.fixture(scope="module")
def shared() -> Iterator[DesktopApp]:
    """An app for all tests that leave it as it was."""
    with desktop_app() as app:
        yield app


# -- which dialect


def test_the_users_own_key_file_does_not_count(
    shared: DesktopApp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is there since the user's first `meca gateway`, and says nothing about this endpoint."""
    monkeypatch.setenv("MECA_STATE_DIR", str(tmp_path))
    ensure_keys(default_key_file())
    with MecaExecutor(shared.url) as ex:
        assert ex.dialect == "desktop"


@pytest.mark.parametrize("prefix", ["MECA_", "BACKEND_"])
def test_with_a_key_there_is_no_way_back(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who names a key wants a gateway that proves itself; the app is told nothing."""
    monkeypatch.setenv(prefix + "ACCESS_KEY", "AKIAME")
    monkeypatch.setenv(prefix + "SECRET_KEY", "secret")
    with desktop_app() as app, MecaExecutor(app.url) as ex:
        future = ex.submit(ECHO, "x")
        with pytest.raises(GatewayRefused, match="no meca gateway"):
            future.result(LIMIT)
        with pytest.raises(GatewayRefused):
            _ = ex.dialect
        assert app.seen("connect") == []


def test_with_tls_there_is_no_way_back() -> None:
    """Who asks for TLS wants no server that cannot have it."""
    with desktop_app() as app:
        with MecaExecutor(app.url.replace("http:", "https:")) as ex:
            with pytest.raises(GatewayRefused, match="agree on TLS"):
                _ = ex.dialect
        assert app.seen("connect") == []


@contextlib.contextmanager
def server(message: str | None) -> Iterator[tuple[str, list[str]]]:
    """Give the URL of a server that answers like this to `/meca`, and the frames that it received.

    Args:
        message: Of the refusal; None is a web server without Socket.IO.
    """
    frames: list[str] = []

    async def on_request(request: web.Request) -> web.StreamResponse:
        if message is None:
            raise web.HTTPNotFound
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str('0{"sid":"1","upgrades":[],"pingInterval":25000,"pingTimeout":20000}')
        async for received in socket:
            if received.data.startswith("4"):  # not the farewell, which may come too late
                frames.append(received.data.removesuffix("{}"))  # which older versions leave out
            if received.data.startswith("40/meca"):
                await socket.send_str("44/meca," + json.dumps({"message": message}))
        return socket

    started, ended, urls = threading.Event(), asyncio.Event(), list[str]()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/socket.io/", on_request)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}")
        started.set()
        await ended.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(LIMIT)
    try:
        yield urls[0], frames
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(LIMIT)
        loop.close()


@pytest.mark.parametrize("message", ["Unable to connect", "invalid namespace!", "", None])
def test_no_other_failure_leads_to_the_old_dialect(message: str | None) -> None:
    """Only a server that says "Invalid namespace" is a desktop app."""
    with server(message) as (url, frames), MecaExecutor(url, connect_timeout=0.5) as ex:
        with pytest.raises(GatewayUnreachable):
            ex.submit(ECHO, "x").result(LIMIT)
    assert set(frames) <= {"40/meca,"}


def test_these_two_words_lead_there() -> None:
    """And nothing but the old dialect's own connection follows."""
    with server("Invalid namespace") as (url, frames), MecaExecutor(url, connect_timeout=3.0) as ex:
        with pytest.raises(GatewayUnreachable, match="desktop app"):
            ex.submit(ECHO, "x").result(LIMIT)
    assert frames[:2] == ["40/meca,", "40"]


# -- registration


@pytest.mark.parametrize("mode", ["true", "late-300ms", "repeated", "bare"])
def test_registered(mode: str) -> None:
    """Early, late, several times, or without its argument."""
    with desktop_app(registered=mode) as app, MecaExecutor(app.url) as ex:
        assert list(ex.map(ECHO, "abc", timeout=LIMIT)) == list("abc")
        app.tell("registered true")
        app.tell("registered false")  # told to another program, or after a logout: late answers still come
        assert ex.submit(ECHO, "d").result(LIMIT) == "d"
        assert len(app.seen("connect")) == 1


def test_registered_false_fails_at_once_in_words() -> None:
    """Nobody is logged in there, and no wait changes that."""
    began = time.monotonic()
    with desktop_app(registered="false") as app, MecaExecutor(app.url, connect_timeout=60) as ex:
        for _ in range(2):
            with pytest.raises(GatewayRefused, match="log in"):
                ex.submit(ECHO, "x").result(LIMIT)
        with pytest.raises(GatewayRefused, match="log in"):
            _ = ex.slots
        assert ex.state == "lost"
        assert app.jobs() == []
    assert time.monotonic() - began < LIMIT


@pytest.mark.parametrize("mode", ["never", "no-window"])
def test_without_registration_the_time_to_connect_ends(mode: str) -> None:
    """The app answers, and never says that we may work."""
    with desktop_app(registered=mode) as app, MecaExecutor(app.url, connect_timeout=3.0) as ex:
        with pytest.raises(GatewayUnreachable, match="does not register this program; is its user logged in"):
            ex.submit(ECHO, "x").result(LIMIT)
        assert app.jobs() == []


def test_who_is_late_may_take_the_whole_time_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes after we gave the first connection up reaches the next: it goes to everybody."""
    monkeypatch.setattr(desktop, "REGISTERED_S", 0.3)
    with desktop_app(registered="late-800ms") as app, MecaExecutor(app.url, connect_timeout=LIMIT) as ex:
        assert ex.submit(ECHO, "x").result(LIMIT) == "x"
        assert len(app.seen("connect")) > 1


def test_another_program_that_leaves_takes_our_registered_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real app then removes everybody's listeners; we connect anew."""
    monkeypatch.setattr(desktop, "REGISTERED_S", 1.4)

    async def come_and_go() -> None:
        other = socketio.AsyncClient()
        await other.connect(app.url)
        await other.disconnect()

    with desktop_app(registered="late-700ms") as app, MecaExecutor(app.url, connect_timeout=LIMIT) as ex:
        app.wait_for("connect")
        asyncio.run(come_and_go())
        assert ex.submit(ECHO, "x").result(LIMIT) == "x"
        assert len(app.seen("connect")) == 3


def test_nobody_there() -> None:
    """Said within the time to connect."""
    with MecaExecutor("http://127.0.0.1:1", connect_timeout=0.3) as ex:
        with pytest.raises(GatewayUnreachable, match="nothing listens there"):
            ex.submit(ECHO, "x").result(LIMIT)


def test_who_comes_later_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An app that is started after the program, within the time to connect."""
    with desktop_app() as app:
        app.kill()
        with MecaExecutor(app.url, connect_timeout=LIMIT) as ex:
            future = ex.submit(ECHO, "x")
            app.start()
            assert (future.result(LIMIT), ex.dialect) == ("x", "desktop")


# -- sizes


@pytest.mark.parametrize("letter", ["x", "é", "漢", "🎉", '"', "\\", "\n"])
def test_a_message_over_the_limit_fails_and_the_link_lives_on(shared: DesktopApp, letter: str) -> None:
    """The largest that fits goes through; one byte more is `TaskTooLarge`, with both numbers."""
    before = len(shared.seen("connect"))
    with MecaExecutor(shared.url) as ex:
        error = ex.submit(ECHO, letter * 1_000_000).exception(LIMIT)
        assert isinstance(error, TaskTooLarge)
        found = re.search(r"([\d,]+) bytes, and the desktop app takes 1,000,000", str(error))
        assert found is not None
        each = len(json.dumps(json.dumps(letter, ensure_ascii=False), ensure_ascii=False).encode()) - 6
        room = MAX_PAYLOAD - (int(found[1].replace(",", "")) - 1_000_000 * each)
        largest = letter * (room // each) + "x" * (room % each)
        assert isinstance(ex.submit(ECHO, largest + "x").exception(LIMIT), TaskTooLarge)
        assert ex.submit(ECHO, largest).result(LIMIT) == largest
        assert len(shared.seen("connect")) == before + 1


def test_many_too_large_ones_hold_nobody_up(shared: DesktopApp) -> None:
    """More than are offered at once, before one that fits."""
    with MecaExecutor(shared.url, max_workers=2) as ex:
        futures = [ex.submit(ECHO, "x" * MAX_PAYLOAD) for _ in range(10)]
        assert ex.submit(ECHO, "x").result(LIMIT) == "x"
        assert all(isinstance(future.exception(LIMIT), TaskTooLarge) for future in futures)


def test_an_answer_may_have_any_size(shared: DesktopApp) -> None:
    """6 MB, where the Socket.IO client for Python drops the link by default."""
    before = len(shared.seen("connect"))
    with MecaExecutor(shared.url) as ex:
        answers = ex.map(Container("big:latest"), "abc", timeout=LIMIT)
        assert {(len(answer), answer[:1], answer[-1:]) for answer in answers} == {(6_000_000, "x", "x")}
        assert ex.submit(ECHO, "x").result(LIMIT) == "x"
    assert len(shared.seen("connect")) == before + 1


def test_nothing_is_left_when_it_is_closed(shared: DesktopApp) -> None:
    """The connection is closed at the app, too; the thread and its socket are gone (`leaves_nothing_behind`)."""
    gone = len(shared.seen("disconnect"))
    executors = [MecaExecutor(shared.url) for _ in range(3)]
    assert [ex.submit(ECHO, "x").result(LIMIT) for ex in executors] == ["x"] * 3
    for ex in executors:
        ex.shutdown()
    shared.wait_for("disconnect", count=gone + 3)
    unused = MecaExecutor(shared.url)
    unused.shutdown()
    wait_until(lambda: unused.state == "closed", "closed")
    assert link.ATTEMPT_S > desktop.REGISTERED_S  # or silence would look like an app that is not there
