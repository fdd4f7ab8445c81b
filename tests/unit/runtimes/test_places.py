"""All machines that run containers, as one: who gets which call, who waits, and what becomes of it."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.errors import ContainerFailed, NoHostFits, TaskFailed
from meca_executor.runtimes.places import Places
from meca_executor.wire.hosting import Offer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ENGINE = Offer(engine=True)
TURNS = 20  #: of the loop, in which what needs no time must have happened


class Machine:
    """Runs containers until it is told to go on."""

    def __init__(self, name: str, offer: Offer = ENGINE) -> None:
        self.name = name
        self.has = offer
        self.running: dict[str, asyncio.Future[bytes]] = {}

    def offer(self, ref: str = "") -> Offer:
        return self.has

    async def call(self, ref: str, content: bytes, **_: Any) -> bytes:
        name = content.decode()
        self.running[name] = asyncio.get_running_loop().create_future()
        try:
            return await self.running[name]
        finally:
            del self.running[name]

    def finish(self, name: str) -> None:
        self.running[name].set_result(self.name.encode())

    def add(self, ref: str, folder: str) -> None: ...
    async def close(self) -> None: ...


@dataclass
class Host:
    """A machine that joined, as the gateway has it."""

    id: int
    slots: int = 1
    capacity: dict[str, float] | None = None
    connected: bool = True
    draining: bool = False
    owner: str = "me"

    def serves(self, owner: str) -> bool:
        return owner == self.owner


class House:
    """The gateway's own machine with one slot, and hosts."""

    def __init__(self, *hosts: Host, here: Offer = ENGINE, patient: bool = False) -> None:
        self.here = Machine("here", here)
        self.places = Places(self.here, 1, {"cpu": 2.0}, lambda _: patient)  # type: ignore[arg-type]
        self.changes = 0
        self.places.changed = self._changed
        self.machines: dict[int, Machine] = {0: self.here}
        for host in hosts:
            self.join(host)

    def _changed(self) -> None:
        self.changes += 1

    def join(self, host: Host, offer: Offer = ENGINE) -> Machine:
        machine = self.machines[host.id] = Machine(f"host{host.id}", offer)
        self.places.join(host, offer, machine)
        return machine

    async def ask(self, name: str, ref: str = "any", **more: Any) -> asyncio.Task[bytes]:
        """Begin a call; returns when it has a place, or waits."""
        loop = asyncio.get_running_loop()
        asked = loop.create_task(self.places.call(ref, name.encode(), **{"owner": "me", "resource": {}, **more}))
        await self.settle()
        return asked

    async def settle(self) -> None:
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def where(self) -> dict[str, int]:
        """Return which machine has which call."""
        return {name: number for number, machine in self.machines.items() for name in machine.running}


def in_a_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test's coroutine."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 60.0))

    return run


async def until(condition: Callable[[], bool]) -> None:
    """Return when it is so; the test's own limit ends what never comes."""
    while True:
        if condition():
            return
        await asyncio.sleep(0)


@in_a_loop
async def test_calls_are_spread_and_the_rest_wait_in_order() -> None:
    """Who ends gives its slot to who waits for longest."""
    house = House(Host(1), Host(2))
    asked = {name: await house.ask(name) for name in "abcde"}
    assert house.where() == {"a": 0, "b": 1, "c": 2}
    house.machines[2].finish("c")
    assert await asked["c"] == b"host2"
    await house.settle()
    assert house.where() == {"a": 0, "b": 1, "d": 2}
    asked["a"].cancel()
    await house.settle()
    assert house.where() == {"e": 0, "b": 1, "d": 2}
    assert [call.owner for call in house.places.running(1)] == ["me"]
    for name, number in house.where().items():
        house.machines[number].finish(name)
    await asyncio.wait([asked["b"], asked["d"], asked["e"]])
    assert not any(house.places.running(number) for number in range(3))


@in_a_loop
async def test_a_waiting_call_that_is_cancelled_is_taken_out() -> None:
    """Also at the very moment at which its turn comes."""
    house = House(Host(1), Host(2))
    asked = {name: await house.ask(name) for name in "abcdef"}
    asked["d"].cancel()
    await house.settle()
    house.machines[1].finish("b")
    await until(lambda: "b" not in house.where())
    for _ in range(TURNS):  # its turn has come in one of these, and it does not know yet
        if len(house.places.running(1)) == 1 and "e" not in house.where():
            asked["e"].cancel()
        await asyncio.sleep(0)
    assert house.where() in ({"a": 0, "f": 1, "c": 2}, {"a": 0, "e": 1, "c": 2})
    for one in asked.values():
        one.cancel()
    await asyncio.wait(asked.values())
    assert not any(house.places.running(number) for number in range(3))


@in_a_loop
async def test_hosts_that_are_away_draining_or_another_owners_get_nothing() -> None:
    """What only they could run waits for the one, and fails for the other."""
    house = House(here=Offer())
    away, theirs = Host(1, connected=False), Host(2, owner="you")
    for host in (away, theirs):
        house.join(host)
    asked = await house.ask("a")
    assert house.where() == {}
    away.connected = True
    house.places.look()
    await house.settle()
    assert house.where() == {"a": 1}
    waits = await house.ask("b")
    away.draining = True
    house.machines[1].finish("a")
    await asked
    await house.settle()
    assert not waits.done() and house.where() == {}
    house.places.leave(1)
    await house.settle()
    assert house.where() == {"b": 0}, "it has the words for what cannot be had"
    house.machines[0].running["b"].set_exception(NoHostFits("no engine"))
    with pytest.raises(NoHostFits, match="no engine"):
        await waits


@in_a_loop
async def test_what_fits_nowhere_is_refused_whenever_that_is_so() -> None:
    """At once, and when the one host that had so much is gone."""
    big = Host(1, capacity={"cpu": 8.0}, connected=False)
    house = House(big)
    with pytest.raises(NoHostFits, match="needs 16 cores, and the best host has 8"):
        await (await house.ask("a", resource={"cpu": 16}))
    assert house.places.why_never("any", None, {"cpu": 16}, "me") is not None
    assert house.places.why_never("any", None, {"cpu": 8}, "me") is None
    assert house.places.why_never("any", None, {"cpu": 8}, "you") == "the task needs 8 cores, and this host has 2"
    asked = await house.ask("b", resource={"cpu": 4})
    assert not asked.done()
    house.places.leave(1)
    with pytest.raises(NoHostFits, match="needs 4 cores, and this host has 2"):
        await asked


@in_a_loop
async def test_a_place_is_free_again_however_the_call_ends() -> None:
    """By an error as by a reply."""
    house = House(Host(1), here=Offer())
    for error in (TaskFailed("status 400"), ContainerFailed("lost")):
        asked = await house.ask("a")
        house.machines[1].running["a"].set_exception(error)
        with pytest.raises(type(error)):
            await asked
    assert house.places.running(1) == []
    assert not house.places.running(77)


@in_a_loop
async def test_slots_follow_the_hosts() -> None:
    """Those of an owner's own; and whoever counts them is told."""
    house = House()
    assert house.places.slots("me") == 1
    host = Host(1, slots=4)
    house.join(host)
    assert (house.places.slots("me"), house.places.slots("you"), house.changes) == (5, 1, 1)
    host.draining = True
    house.places.look()
    assert (house.places.slots("me"), house.changes) == (1, 2)
    house.places.leave(1)
    house.places.leave(1)
    assert house.changes == 3


@in_a_loop
async def test_a_gateway_that_is_there_for_hosts_lets_calls_wait_for_the_first() -> None:
    """Then it counts what that has; an app of its own does not wait."""
    house = House(here=Offer(apps=frozenset({"mine:latest"})), patient=True)
    asked, mine = await house.ask("a", resource={"cpu": 4}), await house.ask("m", "mine")
    assert house.where() == {"m": 0}
    house.join(Host(1, capacity={"cpu": 4.0}))
    await house.settle()
    assert house.where() == {"m": 0, "a": 1}
    for one in (asked, mine):
        one.cancel()
    await asyncio.wait([asked, mine])


@in_a_loop
async def test_hosts_of_before_are_waited_for_but_not_for_ever() -> None:
    """After a restart nobody knows yet what they have."""
    house = House(here=Offer())
    house.places.expect(0.05)
    asked = await house.ask("a", resource={"cpu": 4})
    assert not asked.done() and house.where() == {}
    await until(lambda: bool(house.where()))
    assert house.where() == {"a": 0}
    house.machines[0].running["a"].set_exception(NoHostFits("no engine"))
    with pytest.raises(NoHostFits):
        await asked
