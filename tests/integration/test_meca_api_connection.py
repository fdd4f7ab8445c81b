"""`meca_api`: connecting, disconnecting, and event loops that come and go."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import ExecutorClosed, GatewayRefused, GatewayUnreachable, meca_api
from tests.helpers.waiting import LIMIT, wait_until
from tests.peers.desktop import DesktopApp, desktop_app

from .standing import standing_gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[DesktopApp]:
    """A desktop app of the test's own, named by the environment; nothing stays connected to it."""
    with desktop_app() as one:
        monkeypatch.setenv("MECA_ENDPOINT", one.url)
        yield one
        asyncio.run(meca_api.disconnect())


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a program that connects and disconnects by itself."""
    asyncio.run(asyncio.wait_for(main(), 2 * LIMIT))


# -- connecting


@pytest.mark.parametrize("mode", ["late-100ms", "repeated", "bare"])
def test_it_waits_for_registered(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """In each of its forms."""
    got: list[str] = []

    async def main() -> None:
        await meca_api.initiate_connection()
        await meca_api.offload_task("1", "echo:latest", "x", got.append)
        await meca_api.join(LIMIT, LIMIT)
        await meca_api.disconnect()

    with desktop_app(registered=mode) as app:
        monkeypatch.setenv("MECA_ENDPOINT", app.url)
        run(main)
    assert got == ["x"]


@pytest.mark.parametrize(
    ("mode", "timeout", "error", "why"),
    [
        ("false", 600, GatewayRefused, "log in"),
        ("never", 0.3, GatewayUnreachable, "is its user logged in"),
        ("no-window", 0.3, ConnectionError, "is its user logged in"),
    ],
)
def test_without_registration_it_fails_in_words(
    monkeypatch: pytest.MonkeyPatch, mode: str, timeout: float, error: type[Exception], why: str
) -> None:
    """A false at once, silence after the timeout; a later attempt may succeed."""
    got: list[str] = []

    async def main() -> None:
        for _ in range(2):
            with pytest.raises(error, match=why):
                await meca_api.initiate_connection(timeout)
        with pytest.raises(ExecutorClosed, match="initiate_connection"):
            await meca_api.offload_task("1", "echo:latest", "x", got.append)
        await meca_api.join()
        other.registered = "true"
        await asyncio.to_thread(other.restart)
        await meca_api.initiate_connection()
        await meca_api.offload_task("1", "echo:latest", "x", got.append)
        await meca_api.join(LIMIT, LIMIT)
        await meca_api.disconnect()

    with desktop_app(registered=mode) as other:
        monkeypatch.setenv("MECA_ENDPOINT", other.url)
        run(main)
    assert got == ["x"]


def test_the_endpoint_is_the_desktop_apps_unless_the_environment_names_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Port 3001 here, where the original connected to."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 3001)) == 0:
            pytest.skip("something listens on port 3001")

    async def main() -> None:
        monkeypatch.setenv("MECA_ENDPOINT", "http://127.0.0.1:1")
        with pytest.raises(GatewayUnreachable, match=r"127\.0\.0\.1:1"):
            await meca_api.initiate_connection(0.2)
        monkeypatch.delenv("MECA_ENDPOINT")
        await meca_api.initiate_connection()
        assert await meca_api.offload_task("1", "echo:latest", "x", print) == "1"
        await meca_api.join(LIMIT, LIMIT)
        await meca_api.disconnect()

    with desktop_app(port=3001):
        run(main)


def test_connecting_twice_is_connecting_once(app: DesktopApp) -> None:
    """One after the other, or at once."""

    async def main() -> None:
        await asyncio.gather(meca_api.initiate_connection(), meca_api.initiate_connection())
        await meca_api.initiate_connection()
        await meca_api.disconnect()
        await meca_api.disconnect()

    before = len(app.seen("disconnect"))
    run(main)
    app.wait_for("disconnect", count=before + len(app.seen("connect")))


def test_a_connection_that_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the program itself, before its time is over: nothing is left of it."""

    async def main() -> None:
        with pytest.raises((asyncio.TimeoutError, TimeoutError)):
            await asyncio.wait_for(meca_api.initiate_connection(2), 0.2)

    with desktop_app(registered="never") as app:
        monkeypatch.setenv("MECA_ENDPOINT", app.url)
        run(main)


# -- loops


def test_a_second_loop_works(app: DesktopApp) -> None:
    """On the connection of the first, or on a new one; the original was bound to its first loop."""
    got: list[str] = []

    async def offload(name: str) -> None:
        await meca_api.initiate_connection()
        await meca_api.offload_task(name, "sleep-20ms:latest", name, got.append)

    async def whole(name: str) -> None:
        await offload(name)
        await meca_api.join(LIMIT, LIMIT)

    async def end() -> None:
        await meca_api.disconnect()

    for name in "ab":
        run(lambda name=name: whole(name))  # type: ignore[misc]
    run(end)
    run(lambda: whole("c"))
    assert got == ["a", "b", "c"]
    assert len(app.seen("connect")) == 2


def test_a_result_whose_loop_is_closed(app: DesktopApp, caplog: pytest.LogCaptureFixture) -> None:
    """It cannot be delivered, and says so; a `join` in another loop does not wait for it."""
    got: list[str] = []

    async def first() -> None:
        await meca_api.initiate_connection()
        await meca_api.offload_task("1", "hold:latest", "x", got.append)
        await meca_api.join(0.1, LIMIT)

    async def second() -> None:
        app.tell("release")
        await meca_api.join(LIMIT, LIMIT)

    run(first)
    run(second)
    assert got == []
    assert "loop of its callback is closed" in caplog.records[-1].getMessage()
    assert {record.name for record in caplog.records} == {"meca_api"}  # nothing else went wrong


def test_a_sync_callback_holds_up_its_own_loop_only(app: DesktopApp) -> None:
    """The link goes on meanwhile: what comes then is delivered afterwards."""
    got: list[str] = []

    def slow(response: str) -> None:
        app.tell("release b")
        wait_until(lambda: "0 running" in repr(meca_api._executor), "the answer is here")
        got.append(response)

    async def main() -> None:
        await meca_api.initiate_connection()
        await meca_api.offload_task("b", "hold:latest", "b", got.append)
        await meca_api.offload_task("a", "echo:latest", "a", slow)
        await meca_api.join(LIMIT, LIMIT)

    run(main)
    assert got == ["a", "b"]


# -- ends


def test_disconnect_with_tasks_under_way(app: DesktopApp) -> None:
    """They are let go: their callbacks do not come, nobody waits, and a new connection knows nothing of them."""
    got: list[str] = []

    async def main() -> None:
        await meca_api.initiate_connection()
        for number in range(3):
            await meca_api.offload_task(str(number), "hold:latest", "x", got.append)
        joining = asyncio.ensure_future(meca_api.join(LIMIT, LIMIT))
        hanging = asyncio.ensure_future(meca_api.offload_task("mute", "mute:latest", "x", got.append))
        await asyncio.to_thread(app.wait_for, "offload", count=4)
        await meca_api.disconnect()
        await joining
        with pytest.raises(ExecutorClosed):
            await hanging
        await meca_api.initiate_connection()
        app.tell("release")
        await meca_api.offload_task("0", "echo:latest", "new", got.append)
        await meca_api.join(LIMIT, LIMIT)

    run(main)
    assert got == ["new"]


def test_an_offload_that_is_given_up_is_not_offered(app: DesktopApp) -> None:
    """It waits behind one that the app does not acknowledge."""
    got: list[str] = []

    async def main() -> None:
        await meca_api.initiate_connection()
        first = asyncio.ensure_future(meca_api.offload_task("1", "mute:latest", "x", got.append))
        await asyncio.to_thread(app.wait_for, "offload")
        with pytest.raises((asyncio.TimeoutError, TimeoutError)):
            await asyncio.wait_for(meca_api.offload_task("2", "echo:latest", "given up", got.append), 0.1)
        first.cancel()
        await asyncio.wait([first])
        await meca_api.join(LIMIT, LIMIT)
        await meca_api.offload_task("2", "echo:latest", "again", got.append)
        await meca_api.join(LIMIT, LIMIT)

    run(main)
    assert got == ["again"]
    assert [job["content"] for job in app.jobs()] == ["x", "again"]


def test_a_drop_with_a_task_under_way(app: DesktopApp) -> None:
    """It has one attempt: the late answer comes to its callback, once."""
    got: list[str] = []

    async def main() -> None:
        await meca_api.initiate_connection()
        await meca_api.offload_task("1", "hold:latest", "x", got.append)
        app.tell("drop")
        app.wait_for("connect", count=2)
        wait_until(lambda: "connected, " in repr(meca_api._executor), "connected again")
        await meca_api.offload_task("2", "echo:latest", "y", got.append)
        app.tell("release")
        await meca_api.join(LIMIT, LIMIT)

    run(main)
    assert sorted(got) == ["x", "y"]
    assert len(app.jobs()) == 2


def test_gpus_are_a_wish(
    app: DesktopApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The desktop app is told; a gateway of ours has none, and the task runs."""
    got: list[str] = []

    async def main(ref: str) -> None:
        await meca_api.initiate_connection()
        await meca_api.offload_task("1", ref, "1", got.append, use_gpu=True, gpu_count=2)
        await meca_api.offload_task("2", ref, "2", got.append, gpu_count=2)
        await meca_api.join(LIMIT, LIMIT)
        await meca_api.disconnect()

    run(lambda: main("echo:latest"))
    assert [(job.get("use_gpu"), job.get("gpu_count")) for job in app.jobs()] == [(True, 2), (None, None)]
    assert caplog.records == []
    with standing_gateway(tmp_path, "--workers", "1") as gateway, caplog.at_level(logging.WARNING):
        monkeypatch.setenv("MECA_ENDPOINT", gateway.url)
        run(lambda: main("python-template:latest"))
    assert got == ["1", "2", "1", "2"]
    assert ["task 1: use_gpu is ignored" in record.getMessage() for record in caplog.records] == [True]
