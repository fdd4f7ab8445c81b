"""Whose calls wait for a host that is not there, and when they are told."""

from __future__ import annotations

import asyncio

import pytest

from meca_executor.gateway.hosts import BrokerHost
from meca_executor.gateway.waits import Waits
from meca_executor.policy.leasing import TELL_S
from meca_executor.wire.records import Status, decode

from .test_hub import Client


def host(number: int, name: str, **capacity: float) -> BrokerHost:
    """A host of the client's owner."""
    return BrokerHost(number, name, 2, capacity, lambda owner: owner == "me")


async def told(client: Client, waits: Waits, now: float) -> list[str]:
    """Return what the client is told at this time."""
    waits.look(now)
    for _ in range(5):
        await asyncio.sleep(0)
    frames, client.frames[:] = list(client.frames), []
    messages = [message for frame in frames if (message := client.stream.receive(frame)) is not None]
    return [text.decode() for one in messages for _, tag, _, text in decode(one.body) if tag == Status.STDERR]


def client_of(*hosts: BrokerHost) -> Client:
    """A client of a gateway without workers of its own, that these hosts have joined."""
    client = Client()
    client.options(0)
    here = client.hub.broker.hosts.here
    here.slots = 0
    client.hub.broker.hosts.all.update({one.id: one for one in hosts})
    return client


def test_a_gateway_without_any_worker_says_so_and_then_seldom() -> None:
    async def test() -> None:
        client = client_of()
        waits = Waits(client.hub, dict)
        client.submit(0, [1, 2])
        times = [0.0, TELL_S - 1, TELL_S + 1, TELL_S + 2, 3 * TELL_S + 2, 3 * TELL_S + 3]
        said = [await told(client, waits, now) for now in times]
        why = "this gateway has no workers, and no host of yours is here; let one join: meca host --join URL"
        text = f"meca: calls wait: {why}\n"
        assert said == [[], [], [text], [], [text], []]
        one = client.hub.broker.hosts.all[1] = host(1, "box")
        assert await told(client, waits, 100 * TELL_S) == []
        one.connected = False
        assert await told(client, waits, 101 * TELL_S) == []
        (text,) = await told(client, waits, 103 * TELL_S)
        assert text == "meca: calls wait: box is away, and no other host can run them\n"

    asyncio.run(test())


@pytest.mark.parametrize("connected", [True, False])
def test_what_waits_for_its_turn_alone_is_no_reason(connected: bool) -> None:
    """Another host that could run it is there."""

    async def test() -> None:
        one, two = host(1, "box", gpu=1.0), host(2, "bigger", gpu=2.0)
        one.connected = connected
        client = client_of(one, two)
        waits = Waits(client.hub, dict)
        client.options(1, resource={"gpu": 1})
        client.submit(1, range(1, 9))
        assert [await told(client, waits, now) for now in (0.0, 2 * TELL_S)] == [[], []]

    asyncio.run(test())


def test_calls_whose_host_has_left_wait_for_another_one_like_it() -> None:
    async def test() -> None:
        client = client_of(host(1, "box", gpu=1.0), host(2, "plain", cpu=4.0))
        waits = Waits(client.hub, dict)
        client.options(1, resource={"gpu": 1})
        client.hub.broker.hosts.all[1].draining = True
        client.submit(1, [1])
        client.submit(0, [2])
        assert await told(client, waits, 0.0) == []
        (text,) = await told(client, waits, 2 * TELL_S)
        assert text == "meca: calls wait: box is leaving, and no other host can run them\n"
        del client.hub.broker.hosts.all[1]
        (text,) = await told(client, waits, 9 * TELL_S)
        assert text.endswith("needs 1 GPUs, and this host has 0; they run when a host that has it joins\n")

    asyncio.run(test())


def test_calls_of_containers_that_nobody_can_run() -> None:
    async def test() -> None:
        client = client_of()
        stuck = {"you": "other:latest"}
        waits = Waits(client.hub, lambda: stuck)
        client.options(1, container_ref="waits")
        client.submit(1, [1])
        await client.until_running(1)
        assert [await told(client, waits, now) for now in (0.0, 2 * TELL_S)] == [[], []]
        stuck["me"] = "waits:latest"
        assert await told(client, waits, 3 * TELL_S) == []
        (text,) = await told(client, waits, 5 * TELL_S)
        assert (
            text == "meca: calls wait: no host is here that can run waits:latest; let one join: meca host --join URL\n"
        )
        client.containers.release.set()

    asyncio.run(test())
