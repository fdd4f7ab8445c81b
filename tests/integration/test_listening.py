"""On what a gateway listens, and whom it does not wait for."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from meca_executor.gateway import listening
from meca_executor.gateway.listening import bind_all
from meca_executor.serve import Gateway
from meca_executor.standing import server_context

from .key_clients import LIMIT, PLAIN, in_a_loop, works

if TYPE_CHECKING:
    from pathlib import Path

    from meca_executor.gateway.listening import Address

HERE: Address = (socket.AF_INET, ("127.0.0.1", 0))
THERE: Address = (socket.AF_INET, ("127.0.0.2", 0))
NOWHERE: Address = (socket.AF_INET, ("192.0.2.1", 0))  # of no machine (RFC 5737)
SIX: Address = (socket.AF_INET6, ("::1", 0, 0, 0))


def port_of(one: socket.socket) -> int:
    port: int = one.getsockname()[1]
    return port


def test_one_port_on_every_address() -> None:
    """Also when the first that is found is taken on another address."""
    taken = {port_of(one): one for one in (bind_all([THERE], 0)[0] for _ in range(20))}
    try:
        for _ in range(20):
            with contextlib.ExitStack() as closing:
                first, second = (closing.enter_context(one) for one in bind_all([HERE, THERE], 0))
                assert port_of(first) == port_of(second) not in taken
    finally:
        for one in taken.values():
            one.close()


def test_a_port_that_is_taken() -> None:
    """It is an error at once where it was asked for, and after some tries where any would do; nothing stays bound."""
    with bind_all([HERE], 0)[0] as holder:
        holder.listen()
        with pytest.raises(OSError, match="in use") as caught:
            bind_all([THERE, HERE], port_of(holder))
        assert caught.value.errno == errno.EADDRINUSE
    with pytest.raises(OSError, match="in use"):
        bind_all([HERE, HERE], 0)


def test_an_address_that_is_not_there() -> None:
    """One of several is left out, as ::1 where IPv6 is off; the only one is an error."""
    (one,) = bind_all([NOWHERE, HERE], 0)
    one.close()
    with pytest.raises(OSError, match="assign requested address"):
        bind_all([NOWHERE], 0)


def test_a_gateway_on_both_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    """The port that it tells is the one of each."""
    try:
        bind_all([SIX], 0)[0].close()
    except OSError:
        pytest.skip("no IPv6 here")
    resolve = socket.getaddrinfo

    def both(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host != "localhost":
            return resolve(host, port, *args, **kwargs)
        return [
            (family, socket.SOCK_STREAM, 6, "", (address[0], port, *address[2:])) for family, address in (SIX, HERE)
        ]

    async def test() -> None:
        gateway = Gateway(dict([PLAIN]), 1, {})
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(socket, "getaddrinfo", both)
                port = await gateway.listen("localhost", 0)
            for host in ("127.0.0.1", "[::1]"):
                assert await asyncio.to_thread(works, f"http://{host}:{port}", PLAIN)
        finally:
            await gateway.close()

    in_a_loop(test)


def test_a_tls_handshake_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects and says nothing is cut, in the time that a proof has."""
    assert listening.HANDSHAKE_S == 10.0
    monkeypatch.setattr(listening, "HANDSHAKE_S", 0.5)
    issued = trustme.CA().issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(str(cert))
    issued.private_key_pem.write_to_path(str(key))

    async def test() -> None:
        gateway = Gateway(dict([PLAIN]), 1, {})
        try:
            port = await gateway.listen("127.0.0.1", 0, server_context(cert, key))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            # asyncio's own limit is a minute.
            assert await asyncio.wait_for(reader.read(), LIMIT / 2) == b""
            writer.close()
            await writer.wait_closed()
        finally:
            await gateway.close()

    in_a_loop(test)
