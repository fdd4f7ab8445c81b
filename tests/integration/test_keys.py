"""Who may come in: keys that come and go, failed proofs, limits, and secrets that stay where they are."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
import socketio

from meca_executor import GatewayRefused, MecaExecutor
from meca_executor.gateway import door, server
from meca_executor.keys import add_keys, revoke_keys
from meca_executor.settings import HELLO_LIMIT, KEY_LIMIT, NAME_LIMIT, PREFIXES, KeyPair
from tests.helpers.processes import children, command, descendants, is_running
from tests.helpers.proxy import proxy
from tests.helpers.waiting import wait_until

from .joined import joined_host
from .key_clients import LIMIT, client, greet, in_a_loop, own_gateway, refusal, works
from .standing import standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .standing import Standing


def wrong(pair: KeyPair) -> KeyPair:
    return pair._replace(secret_key="wrong")


def stay(folder: str, name: str) -> str:
    """Leave the process's number, and wait until the test lets it go."""
    Path(folder, f"{name}.tmp").write_text(str(os.getpid()))
    Path(folder, f"{name}.tmp").rename(Path(folder, name))
    while not Path(folder, "open").exists():
        threading.Event().wait(0.01)
    return name


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


@pytest.fixture
def gateway(tmp_path: Path, key_file: Path) -> Iterator[Standing]:
    words = ("--workers", "2", "--key-file", str(key_file), "--trust-all-keys")
    with standing_gateway(tmp_path, *words) as standing:
        yield standing


# -- keys that come and go while a gateway runs


def test_keys_that_come_and_go(gateway: Standing, key_file: Path, tmp_path: Path) -> None:
    """A new pair is let in at once; a revoked one's session is ended, its tasks with it, and nobody else's."""
    going, staying = add_keys(key_file), add_keys(key_file)
    with client(gateway.url, going) as first, client(gateway.url, staying) as second:
        doomed = first.submit(stay, str(tmp_path), "doomed")
        kept = second.submit(stay, str(tmp_path), "kept")
        wait_until(lambda: (tmp_path / "doomed").exists() and (tmp_path / "kept").exists(), "both run", LIMIT)
        worker = int((tmp_path / "doomed").read_text())
        revoke_keys(key_file, going.access_key)
        with pytest.raises(GatewayRefused, match=f"'{going.access_key}' was revoked"):
            doomed.result(LIMIT)
        wait_until(lambda: not is_running(worker), "the task is ended", LIMIT)
        (tmp_path / "open").touch()
        assert kept.result(LIMIT) == "kept"
        assert second.submit(abs, -1).result(LIMIT) == 1
    assert "was revoked" in refusal(gateway.url, going)
    assert going.secret_key not in gateway.log


def test_a_revoked_key_whose_client_is_away(gateway: Standing, key_file: Path, tmp_path: Path) -> None:
    """Its session ends also while the link is down."""
    going = add_keys(key_file)
    with proxy(gateway.port) as link, client(link.url, going) as ex:
        future = ex.submit(stay, str(tmp_path), "doomed")
        wait_until((tmp_path / "doomed").exists, "it runs", LIMIT)
        worker = int((tmp_path / "doomed").read_text())
        link.down()
        revoke_keys(key_file, going.access_key)
        wait_until(lambda: not is_running(worker), "the task is ended", LIMIT)
        link.up()
        with pytest.raises(GatewayRefused):
            future.result(LIMIT)


# -- failed proofs


def test_one_users_wrong_secret_hinders_no_other(gateway: Standing, key_file: Path) -> None:
    """On this machine all have one address: who names another key is let in, and the right secret is, too, later."""
    victim, other = add_keys(key_file), add_keys(key_file)
    for _ in range(6):
        assert "its secret is another one" in refusal(gateway.url, wrong(victim))
    assert works(gateway.url, other)
    assert works(gateway.url, victim)
    assert victim.secret_key not in gateway.log


@contextlib.contextmanager
def forwarder(port: int, address: str) -> Iterator[str]:
    """Give the URL of a proxy that says that its clients come from `address`, whatever they say themselves."""
    ready, loop, port_of = threading.Event(), asyncio.new_event_loop(), []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        there, back = await asyncio.open_connection("127.0.0.1", port)
        back.write(head[:-2] + f"X-Forwarded-For: 203.0.113.9, {address}\r\n\r\n".encode())
        await asyncio.gather(carry(reader, back), carry(there, writer))

    async def main() -> None:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        port_of.append(listening.sockets[0].getsockname()[1])
        ready.set()
        await ended.wait()
        listening.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    ended = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert ready.wait(LIMIT)
    try:
        yield f"http://127.0.0.1:{port_of[0]}"
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(LIMIT)
        loop.close()


def test_an_address_that_fails_has_to_wait(tmp_path: Path, key_file: Path) -> None:
    """Behind a proxy its clients' addresses count: one that fails is told how long to wait, another is let in."""
    pair = add_keys(key_file)
    with standing_gateway(tmp_path, "--workers", "2", "--behind-proxy", "--key-file", str(key_file)) as standing:
        with (
            forwarder(standing.port, "198.51.100.7") as bad,
            forwarder(standing.port, "198.51.100.8") as good,
            proxy(int(bad.rpartition(":")[2])) as link,
            client(link.url, pair) as ex,
        ):
            assert ex.submit(abs, -1).result(LIMIT) == 1
            texts = [refusal(bad, wrong(pair)) for _ in range(4)]
            assert all("its secret is another one" in text for text in texts)
            # A slow machine may take so long for each that a wait is over; then the next one is longer.
            wait_until(lambda: "try again in" in refusal(bad, wrong(pair)), "it is refused", LIMIT)
            link.cut()  # who was let in before comes back when the time is over, and loses nothing
            assert works(good, pair)
            assert ex.submit(abs, -2).result(LIMIT) == 2
        assert "198.51.100.7 has to wait" in standing.log
        assert "203.0.113.9" not in standing.log


def test_a_host_that_had_nothing_to_do_waits_like_others(tmp_path: Path, key_file: Path) -> None:
    """Who shares its address and fails does not end it, though it was never sent a thing."""
    pair = add_keys(key_file)
    env = {"MECA_ACCESS_KEY": pair.access_key, "MECA_SECRET_KEY": pair.secret_key}
    with standing_gateway(tmp_path, "--workers", "0", "--behind-proxy", "--key-file", str(key_file)) as standing:
        with (
            forwarder(standing.port, "198.51.100.7") as bad,
            forwarder(standing.port, "198.51.100.8") as good,
            proxy(int(bad.rpartition(":")[2])) as link,
            joined_host(tmp_path, link.url, env=env) as host,
        ):
            wait_until(lambda: "try again in" in refusal(bad, wrong(pair)), "it is refused", LIMIT)
            link.cut()
            host.await_log("is back")
            assert works(good, pair)


def test_the_old_dialect_is_not_served_behind_a_proxy(tmp_path: Path, key_file: Path) -> None:
    """Who comes through it may be anywhere."""
    add_keys(key_file)
    with standing_gateway(tmp_path, "--behind-proxy", "--key-file", str(key_file)) as standing:

        async def on_root() -> None:
            lone = socketio.AsyncClient(reconnection=False)
            for transport in ("websocket", "polling"):
                with pytest.raises(socketio.exceptions.ConnectionError):
                    await lone.connect(standing.url, namespaces=["/"], transports=[transport], wait_timeout=LIMIT)
                await lone.disconnect()

        asyncio.run(asyncio.wait_for(on_root(), LIMIT))


# -- limits


def test_connections_without_a_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many at once and no more, the next is told so; after their time all are ended, said they something or not."""
    assert (door.UNPROVED, door.PROOF_S) == (256, 10.0)
    monkeypatch.setattr(door, "UNPROVED", 3)
    monkeypatch.setattr(door, "PROOF_S", 1.0)
    monkeypatch.setattr(server, "PING_S", 10 * LIMIT)  # which would end them, too

    async def test() -> None:
        async with own_gateway({"A": "S"}) as url, aiohttp.ClientSession() as session:
            silent, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            where = f"{url}/socket.io/?EIO=4&transport=websocket"
            sockets = [await session.ws_connect(where) for _ in range(3)]
            async with session.get(where, headers={"Connection": "Upgrade", "Upgrade": "websocket"}) as reply:
                told = await reply.text()
                assert (reply.status, reply.headers[door.REFUSED]) == (503, told.strip())
                assert told.startswith("3 connections that have not proved themselves")
            for ws in sockets:
                while (message := await asyncio.wait_for(ws.receive(), LIMIT)).type is aiohttp.WSMsgType.TEXT:
                    pass
                assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.ERROR)
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(silent.read(), LIMIT) == b""
            writer.close()
            async with session.ws_connect(where) as ws:
                assert (await ws.receive()).type is aiohttp.WSMsgType.TEXT

    in_a_loop(test)


def test_a_client_waits_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """While all places for unproved connections are taken, it tries again; it is no refusal for good."""
    monkeypatch.setattr(door, "UNPROVED", 1)

    async def test() -> None:
        async with own_gateway({"A": "S"}) as url, aiohttp.ClientSession() as session:
            async with session.ws_connect(f"{url}/socket.io/?EIO=4&transport=websocket"):
                working = asyncio.create_task(asyncio.to_thread(works, url, KeyPair("A", "S")))
                await asyncio.wait([working], timeout=0.5)
                assert not working.done()
            assert await working

    in_a_loop(test)


def test_sessions_of_one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many at once; another key has its own count, and an end makes room."""
    assert server.SESSIONS == 256
    monkeypatch.setattr(server, "SESSIONS", 2)
    mine, other = KeyPair("A", "S"), KeyPair("B", "S")

    def clients(url: str) -> None:
        with client(url, mine) as first:
            with client(url, mine) as second:
                assert [ex.submit(abs, -1).result(LIMIT) for ex in (first, second)] == [1, 1]
                assert "access key A has 2 sessions here already" in refusal(url, mine)
                assert works(url, other)
            assert works(url, mine)

    async def test() -> None:
        async with own_gateway(dict([mine, other])) as url:
            await asyncio.to_thread(clients, url)

    in_a_loop(test)


def test_what_is_too_long_is_refused() -> None:
    """In words that name the limit, and before anything is made of it."""

    async def test() -> None:
        async with own_gateway({"A": "S"}) as url:
            assert "welcome" in await greet(url)
            assert "welcome" in await greet(url, hello={"session": "s" * NAME_LIMIT})
            long = await greet(url, hello={"session": "s" * (NAME_LIMIT + 1)})
            assert "1 to 128 characters" in long["text"]
            assert "1 to 128 characters" in (await greet(url, hello={"session": ""}))["text"]
            assert "more than 65,536 characters" in (await greet(url, hello={"x": "x" * HELLO_LIMIT}))["text"]
            assert "more than 65,536 characters" in (await greet(url, nonce="n" * HELLO_LIMIT))["text"]
            key = await greet(url, key="K" * (KEY_LIMIT + 1))
            assert key["text"] == "the access key has 129 characters, and 128 are allowed"
            for odd in (None, 7, ["A"], {"A": 1}, ""):
                assert (await greet(url, key=odd))["code"] == "key"

    in_a_loop(test)


# -- secrets

SECRETS = {
    f"{prefix}{half}_KEY": f"not-for-tasks-{prefix}{half}" for prefix in PREFIXES for half in ("ACCESS", "SECRET")
}


def environment(pid: int) -> bytes:
    """Return what a process was started with; nothing for one that has just ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def seen_by_a_task() -> str:
    """Return all that a task sees of its surroundings without asking other processes."""
    import sys

    return repr((dict(os.environ), sys.argv, Path("/proc/self/environ").read_bytes()))


def look_at_workers(ex: MecaExecutor, gateway: int) -> None:
    """See that neither tasks nor workers nor apps of the gateway with this process id have a secret."""
    reply = ex.offload_task("sampleserver:latest", '{"name": "me"}')
    told = ex.submit(seen_by_a_task).result(LIMIT)
    assert "hello me" in reply.result(LIMIT)
    below = descendants(gateway)
    assert len(below) >= 2, "a worker and an app"
    assert any("sampleserver" in command(process.pid) for process in below)
    seen = [told.encode(), *(environment(process.pid) for process in below)]
    for secret in SECRETS.values():
        assert not any(secret.encode() in text for text in seen)
    assert b"PATH=" in b"".join(seen), "it was looked at"


def test_workers_of_an_embedded_gateway_have_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has anybody its token."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    before = {process.pid for process in children(os.getpid())}
    with MecaExecutor(max_workers=1) as ex:
        (gateway,) = (process.pid for process in children(os.getpid()) if process.pid not in before)
        look_at_workers(ex, gateway)
        token = ex._link._driver._gateway.token.encode()  # type: ignore[attr-defined]
        assert len(token) > 40
        for pid in (os.getpid(), gateway, *(process.pid for process in descendants(gateway))):
            assert token not in Path(f"/proc/{pid}/cmdline").read_bytes() + environment(pid)
        folder = Path(os.environ["TMPDIR"])
        for path in (path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o044):
            assert token not in path.read_bytes(), path
        assert token.decode() not in ex.submit(seen_by_a_task).result(LIMIT)


def test_workers_of_a_standing_gateway_have_no_secrets(
    tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the client's nor those of the gateway's own environment; nor has the log."""
    pair = add_keys(key_file)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with standing_gateway(tmp_path, "--workers", "1", "--key-file", str(key_file)) as standing:
        with client(standing.url, pair) as ex:
            look_at_workers(ex, standing.process.pid)
            assert pair.secret_key not in ex.submit(seen_by_a_task).result(LIMIT)
        refusal(standing.url, wrong(pair))
        assert "refused a client" in standing.log
        assert pair.secret_key not in standing.log
