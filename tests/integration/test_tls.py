"""A gateway with TLS: who is believed, and that everything works over it."""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
import pytest
import socketio
import trustme

from meca_executor import GatewayRefused, GatewayUnreachable, MecaExecutor, UsageError
from meca_executor.client.http import Handshake
from meca_executor.keys import add_keys
from meca_executor.standing import Standing as Wanted
from meca_executor.standing import checked_keys, checked_tls, server_context
from meca_executor.wire import segments
from tests.helpers.proxy import proxy
from tests.helpers.scripts import run as run_program
from tests.helpers.waiting import wait_until

from .joined import joined_host
from .standing import standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .standing import Standing

LIMIT = 60.0


class Files(NamedTuple):
    """PEM files."""

    ca: Path
    cert: Path
    key: Path


def issue(folder: Path, *names: str, not_after: datetime.datetime | None = None) -> Files:
    """Make a CA and a certificate of its."""
    folder.mkdir()
    ca = trustme.CA()
    leaf = ca.issue_cert(*names, not_after=not_after)
    files = Files(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
    ca.cert_pem.write_to_path(str(files.ca))
    files.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(str(files.key))
    return files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return issue(tmp_path_factory.mktemp("certificates") / "right", "127.0.0.1")


@pytest.fixture
def gateway(
    request: pytest.FixtureRequest, tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Standing]:
    """A gateway on every address, whose key this process has; it has two workers, or as many as the parameter says."""
    workers = str(getattr(request, "param", 2))
    pair = add_keys(tmp_path / "keys")
    monkeypatch.setenv("MECA_ACCESS_KEY", pair.access_key)
    monkeypatch.setenv("MECA_SECRET_KEY", pair.secret_key)
    monkeypatch.setenv("MECA_CA_FILE", str(files.ca))
    words = ("--key-file", str(tmp_path / "keys"), "--tls-cert", str(files.cert), "--tls-key", str(files.key))
    with standing_gateway(tmp_path, "--host", "0.0.0.0", "--workers", workers, *words) as standing:
        assert standing.url.startswith("https://")
        yield standing


def double(value: bytes) -> bytes:
    return value * 2


def note(path: str, number: int) -> int:
    with open(path, "a") as file:
        file.write(f"{number}\n")
    return number


@pytest.mark.parametrize("shared", [True, False], ids=["shared memory", "frames alone"])
def test_small_and_large_values(gateway: Standing, monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    """Calls, a map, and values far larger than a frame, both ways; on one machine through shared memory as ever."""
    if not shared:
        monkeypatch.setattr(segments, "available", lambda: False)
    with MecaExecutor(gateway.url) as ex:
        assert ex.submit(abs, -1).result(LIMIT) == 1
        assert list(ex.map(abs, range(-500, 0), timeout=LIMIT)) == list(range(500, 0, -1))
        values = [os.urandom(1 << 20) * 6, os.urandom(300_000)]
        assert list(ex.map(double, values, timeout=LIMIT)) == [value * 2 for value in values]
        assert ex._link.shares == (shared and segments.available())
        reply = ex.offload_task("sampleserver:latest", '{"name": "me"}').result(LIMIT)
        assert "hello me" in reply


def test_the_link_drops_and_comes_back(gateway: Standing, tmp_path: Path) -> None:
    """Each task runs once and each result arrives once, whatever the cuts."""
    ran = tmp_path / "ran"
    with proxy(gateway.port) as link, MecaExecutor(link.url.replace("http:", "https:")) as ex:
        futures = [ex.submit(note, str(ran), number) for number in range(1000)]
        for done in (100, 500):
            futures[done].result(LIMIT)
            before = link.connections
            link.cut()
            wait_until(lambda before=before: link.connections > before, "the client comes back", LIMIT)  # type: ignore[misc]
        assert [future.result(LIMIT) for future in futures] == list(range(1000))
    assert sorted(map(int, ran.read_text().split())) == list(range(1000))


@pytest.mark.parametrize("gateway", [0], indirect=True)
def test_a_host_joins_and_is_cut_off(gateway: Standing, tmp_path: Path) -> None:
    """It believes the gateway's CA, and what it does arrives once, whatever the cuts."""
    ran = tmp_path / "ran"
    with proxy(gateway.port) as link, joined_host(tmp_path, link.url.replace("http:", "https:")):
        with MecaExecutor(gateway.url) as ex:
            futures = [ex.submit(note, str(ran), number) for number in range(300)]
            futures[100].result(LIMIT)
            before = link.connections
            link.cut()
            wait_until(lambda: link.connections > before, "the host comes back", LIMIT)
            assert [future.result(LIMIT) for future in futures] == list(range(300))
            assert ex.submit(double, b"x" * 4_000_000).result(LIMIT) == b"x" * 8_000_000
    assert sorted(map(int, ran.read_text().split())) == list(range(300))


@pytest.mark.parametrize("gateway", [0], indirect=True)
def test_a_host_that_does_not_believe_the_gateway_does_not_join(
    gateway: Standing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MECA_CA_FILE")
    command = [sys.executable, "-m", "meca_executor", "host", "--join", gateway.url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 3
    assert "its certificate is not believed" in done.stderr
    assert "MECA_CA_FILE" in done.stderr


def test_who_is_not_believed_is_not_spoken_to(
    gateway: Standing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason and the way out are told at the first connection, which is the only one."""
    other = issue(tmp_path / "other", "127.0.0.1")
    for ca_file, text in (
        ("", "set MECA_CA_FILE or ca_file= to"),
        (str(other.ca), f"MECA_CA_FILE or ca_file= is {other.ca}"),
    ):
        monkeypatch.setenv("MECA_CA_FILE", ca_file)
        with proxy(gateway.port) as link:
            ex = MecaExecutor(link.url.replace("http:", "https:"), connect_timeout=30)
            with pytest.raises(GatewayRefused, match="certificate is not believed") as caught:
                ex.submit(abs, -1).result(LIMIT)
            ex.shutdown()
            assert text in str(caught.value)
            assert link.connections == 1


def test_plain_http_at_a_gateway_with_tls(gateway: Standing) -> None:
    """It does not work, and the words say why."""
    with MecaExecutor(gateway.url.replace("https:", "http:"), connect_timeout=0.5) as ex:
        with pytest.raises(GatewayUnreachable, match="endpoint with https://"):
            ex.submit(abs, -1).result(LIMIT)


def test_the_old_dialect_is_not_served_to_other_machines(gateway: Standing, files: Files) -> None:
    """Not on `/`, and not by polling."""

    async def both() -> None:
        tls = ssl.create_default_context(cafile=str(files.ca))
        session = Handshake(aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)))  # lets go of websockets
        async with session.get(f"{gateway.url}/socket.io/?EIO=4&transport=polling") as reply:
            assert reply.status == 400
        client = socketio.AsyncClient(reconnection=False, http_session=session)
        with pytest.raises(socketio.exceptions.ConnectionError):
            await client.connect(gateway.url, namespaces=["/"], transports=["websocket"], wait_timeout=LIMIT)
        await client.disconnect()
        await session.close()

    asyncio.run(asyncio.wait_for(both(), LIMIT))


def test_the_doctor_says_how_to_mend_it(gateway: Standing, tmp_path: Path, files: Files) -> None:
    """One line says what is wrong with the certificate, and the next what to do."""
    program = """
        import sys
        from meca_executor.cli import main
        sys.exit(main(["doctor", "--endpoint", sys.argv[-1]]))
    """.replace("sys.argv[-1]", repr(gateway.url))
    out = run_program(program, tmp_path, env={**os.environ, "MECA_CA_FILE": ""}).expect(1).out
    wrong, _, after = out.partition("certificate is not believed")[2].partition("\n")
    assert "MECA_CA_FILE" in wrong
    assert "set MECA_CA_FILE to its path" in after.splitlines()[0]
    out = run_program(program, tmp_path, env={**os.environ, "MECA_CA_FILE": "/no.pem"}).expect(1).out
    assert "MECA_CA_FILE or ca_file= '/no.pem' cannot be read" in out
    assert run_program(program, tmp_path, env={**os.environ, "MECA_CA_FILE": str(files.ca)}).expect(0)


@pytest.mark.parametrize(
    ("names", "days", "text"), [(("other.example",), 1, "use a name that"), (("127.0.0.1",), -1, "has to be renewed")]
)
def test_a_certificate_of_another_name_or_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], days: int, text: str
) -> None:
    """MECA_CA_FILE does not help there, and the words do not lead to it."""
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    files = issue(tmp_path / "wrong", *names, not_after=until)
    monkeypatch.setenv("MECA_CA_FILE", str(files.ca))
    with standing_gateway(tmp_path, "--tls-cert", str(files.cert), "--tls-key", str(files.key)) as standing:
        with MecaExecutor(standing.url, connect_timeout=30) as ex, pytest.raises(GatewayRefused, match=text):
            ex.submit(abs, -1).result(LIMIT)


def test_a_bad_ca_file_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the constructor, and only where TLS is asked for."""
    monkeypatch.setenv("MECA_CA_FILE", "/no/such.pem")
    with pytest.raises(UsageError, match=r"'/no/such.pem' cannot be read"):
        MecaExecutor("https://127.0.0.1:1")
    MecaExecutor("http://127.0.0.1:1", connect_timeout=0.1).shutdown()


def test_a_ca_file_as_an_argument(gateway: Standing, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts before the environment's, and is complained about by the constructor."""
    monkeypatch.setenv("MECA_CA_FILE", "/no/such.pem")
    with MecaExecutor(gateway.url, ca_file=files.ca) as ex:
        assert ex.submit(abs, -1).result(LIMIT) == 1
    with pytest.raises(UsageError, match=r"'/no/other.pem' cannot be read"):
        MecaExecutor(gateway.url, ca_file="/no/other.pem")
    with pytest.raises(UsageError, match="ca_file 7 is not the path"):
        MecaExecutor(gateway.url, ca_file=7)  # type: ignore[arg-type]
    for endpoint in ("http://127.0.0.1:1", "desktop", "embedded"):
        with pytest.raises(UsageError, match="is for an endpoint with https://"):
            MecaExecutor(endpoint, ca_file=files.ca)


# -- what a gateway starts with


def test_no_other_address_without_tls_and_keys(tmp_path: Path, files: Files) -> None:
    """Each of them is asked for by name; loopback needs neither."""
    keys = tmp_path / "keys"
    both = {"tls_cert": files.cert, "tls_key": files.key, "key_file": keys}
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.com"):
        with pytest.raises(UsageError, match=f"--host {host} .* needs --tls-cert FILE and --tls-key FILE"):
            checked_tls(Wanted(host, 0))
        assert checked_tls(Wanted(host, 0, tls_cert=files.cert, tls_key=files.key)) is not None
        with pytest.raises(UsageError, match="meca keys create"):
            checked_keys(Wanted(host, 0, **both))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="meca keys create"):
        checked_keys(Wanted("127.0.0.1", 0, behind_proxy=True, key_file=keys))
    assert not keys.exists()
    assert checked_tls(Wanted("0.0.0.0", 0, behind_proxy=True)) is None
    assert checked_tls(Wanted("127.0.0.1", 0)) is None
    assert len(checked_keys(Wanted("127.0.0.1", 0, key_file=keys)).secrets()) == 1


def test_certificates_that_cannot_be_used(tmp_path: Path, files: Files) -> None:
    """The error names the file."""
    other = issue(tmp_path / "other", "127.0.0.1")
    text = tmp_path / "text"
    text.write_text("no PEM")
    for cert, key, why in (
        (tmp_path / "none", files.key, "--tls-cert .*/none cannot be read: No such file"),
        (files.cert, tmp_path, "--tls-key .* cannot be read: Is a directory"),
        (files.cert, other.key, "they do not belong together"),
        (text, files.key, "one is no PEM file"),
        (files.cert, text, "one is no PEM file"),
    ):
        with pytest.raises(UsageError, match=why):
            server_context(cert, key)


def test_a_key_with_a_password(tmp_path: Path, files: Files) -> None:
    """Nobody is asked for it at a terminal."""
    from cryptography.hazmat.primitives import serialization as pem

    key = pem.load_pem_private_key(files.key.read_bytes(), None)
    locked = tmp_path / "locked.pem"
    how = pem.BestAvailableEncryption(b"word")
    locked.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, how))
    with pytest.raises(UsageError, match=r"locked.pem needs a password"):
        server_context(files.cert, locked)


def test_no_old_tls(files: Files) -> None:
    """TLS 1.2 or later."""
    assert server_context(files.cert, files.key).minimum_version == ssl.TLSVersion.TLSv1_2
