"""Clients with keys of their own, and what they are told."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import socketio

from meca_executor import GatewayRefused, MecaExecutor
from meca_executor.serve import Gateway
from meca_executor.settings import KeyPair
from meca_executor.wire import proof

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

LIMIT = 60.0
PLAIN = KeyPair("A", "S")
CONNECT_S = 60.0  #: none of these clients is to give up because the machine is busy


@contextlib.contextmanager
def client(url: str, keys: KeyPair, **options: Any) -> Iterator[MecaExecutor]:
    """An executor with these keys."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MECA_ACCESS_KEY", keys.access_key)
        patch.setenv("MECA_SECRET_KEY", keys.secret_key)
        ex = MecaExecutor(url, connect_timeout=CONNECT_S, **options)
    with ex:
        yield ex


def refusal(url: str, keys: KeyPair) -> str:
    """Return what a client with these keys is refused with."""
    with client(url, keys) as ex, pytest.raises(GatewayRefused) as caught:
        ex.submit(abs, -1).result(LIMIT)
    return str(caught.value)


def works(url: str, keys: KeyPair) -> bool:
    """Whether a client with these keys is served."""
    with client(url, keys) as ex:
        return ex.submit(abs, -1).result(LIMIT) == 1


def in_a_loop(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 2 * LIMIT))


@contextlib.asynccontextmanager
async def own_gateway(keys: Mapping[str, str]) -> AsyncIterator[str]:
    """Give the URL of a gateway in this process, whose limits a test may change."""
    gateway = Gateway(keys, 1, {}, trust_all_keys=True)
    try:
        yield f"http://127.0.0.1:{await gateway.listen('127.0.0.1', 0)}"
    finally:
        await gateway.close()


async def greet(url: str, pair: KeyPair = PLAIN, **changes: Any) -> dict[str, str]:
    """Return what a gateway answers to a hello of this pair with these fields."""
    heard: asyncio.Queue[Any] = asyncio.Queue()
    lone = socketio.AsyncClient(reconnection=False)
    for event in (proof.CHALLENGE, proof.WELCOME, proof.REFUSED):
        lone.on(event, heard.put, namespace=proof.NAMESPACE)
    await lone.connect(url, namespaces=[proof.NAMESPACE], transports=["websocket"], wait_timeout=LIMIT)
    nonce = (await asyncio.wait_for(heard.get(), LIMIT))["nonce"]
    hello = proof.to_text({"protocol": proof.PROTOCOL, "session": "s", "received": 0, **changes.pop("hello", {})})
    signature = proof.client_proof(pair.secret_key, nonce, "n", hello)
    fields = {"key": pair.access_key, "nonce": "n", "hello": hello, "proof": signature}
    await lone.emit(proof.HELLO, {**fields, **changes}, namespace=proof.NAMESPACE)
    answer: dict[str, str] = await asyncio.wait_for(heard.get(), LIMIT)
    await lone.disconnect()
    return answer
