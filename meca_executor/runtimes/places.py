"""All machines that run containers, as one: the gateway's own, and the hosts that offered theirs.

Each call is made where there is most room for it (`policy/places.py`); what finds no room waits, in order.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from ..errors import NoHostFits
from ..policy.places import Place, Wish, able, best, why_never
from .engine_settings import full_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..wire.hosting import Offer
    from ..wire.printed import Log
    from .agent_calls import ContainerRuntime
    from .choice import AppsAndContainers
    from .cluster_calls import ClusterCalls

HERE = 0  #: the number of this machine, as the broker has it
REJOIN_S = 30.0  #: hosts have joined a gateway again within this time that was started anew


class Host(Protocol):
    """A machine that joined, as the gateway has it."""

    id: int
    slots: int

    @property
    def capacity(self) -> Mapping[str, float] | None: ...
    @property
    def connected(self) -> bool: ...
    @property
    def draining(self) -> bool: ...
    @property
    def serves(self) -> Callable[[str], bool]: ...


class Running(NamedTuple):
    """A call that is under way."""

    task: int  #: the gateway's number of it; 0 is none that its user knows
    owner: str
    ref: str
    since: float  #: monotonic seconds


@dataclass(eq=False)
class Member:
    """One machine."""

    calls: ContainerRuntime
    host: Host | None  #: None: this one
    place: Place
    running: dict[int, Running] = field(default_factory=dict)

    def serves(self, owner: str) -> bool:
        """Whether an owner's containers may run there."""
        return self.host is None or self.host.serves(owner)

    def look(self) -> Place:
        """Return the place as it is now."""
        place, host = self.place, self.host
        if host is not None:
            place.slots, place.capacity = host.slots, host.capacity or {}
            place.open = host.connected and not host.draining
        place.running = len(self.running)
        return place


@dataclass(eq=False)
class Waiting:
    """A call without a place."""

    wish: Wish
    running: Running
    turn: asyncio.Future[Member]


class Places:
    """The gateway's `ContainerRuntime`.

    Args:
        here: Who runs containers on this machine.
        slots: Calls that this machine is given at once where another one could take them.
        capacity: What it has of each resource.
        patient: Whether an owner's calls that this machine cannot make wait for the owner's first host.
    """

    def __init__(
        self,
        here: AppsAndContainers,
        slots: int,
        capacity: Mapping[str, float],
        patient: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self.changed: Callable[[], object] = lambda: None  #: called when there are more slots than before, or fewer
        self.cluster: ClusterCalls | None = None  #: of a gateway that has one
        self._home = here
        self._here = Member(here, None, Place(HERE, slots, capacity, here.offer()))
        self._members: dict[int, Member] = {HERE: self._here}
        self._patient = patient
        self._expected = False  # hosts that were here before this process
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Waiting] = {}

    def __repr__(self) -> str:
        running = sum(len(member.running) for member in self._members.values())
        return f"<Places {len(self._members)} running={running} waiting={len(self._waiting)}>"

    # -- machines ---------------------------------------------------------------------------------

    def join(self, host: Host, offer: Offer, calls: ContainerRuntime) -> None:
        """Take a machine that joined into service; say `look` when something about it has changed."""
        self._members[host.id] = Member(calls, host, Place(host.id, host.slots, host.capacity or {}, offer))
        self.look()

    def leave(self, number: int) -> None:
        """A machine is gone; its calls are its own `calls` to end."""
        if self._members.pop(number, None) is not None:
            self.look()

    def look(self) -> None:
        """Something about a machine has changed: calls that wait may have a place now, or never."""
        self._place_all()
        self.changed()

    def expect(self, seconds: float = REJOIN_S) -> None:
        """Hosts will be back within this time, that an earlier gateway had: what nobody can run waits so long."""
        self._expected = True
        asyncio.get_running_loop().call_later(seconds, self._expect_no_more)

    def _expect_no_more(self) -> None:
        self._expected = False
        self._place_all()

    def _waits(self, owner: str) -> bool:
        """Whether a host may come that can make an owner's calls that nobody can make now."""
        if self._expected:
            return True
        return self._patient(owner) and not any(one.host and one.serves(owner) for one in self._members.values())

    def slots(self, owner: str) -> int:
        """Return how many calls an owner may have at once."""
        hosts = [member.host for member in self._members.values() if member.host is not None and member.serves(owner)]
        nodes = 0 if self.cluster is None else self.cluster.slots
        return self._here.place.slots + sum(host.slots for host in hosts if not host.draining) + nodes

    def running(self, number: int) -> list[Running]:
        """Return the calls that a machine has."""
        if (member := self._members.get(number)) is None:
            return [] if self.cluster is None else self.cluster.running(number)
        return list(member.running.values())

    def has_engine(self, number: int) -> bool:
        """Return whether a machine has an engine."""
        if self.cluster is not None and number not in self._members:
            return self.cluster.has_engine(number)
        return (member := self._members.get(number)) is not None and member.place.offer.engine

    def stuck(self) -> dict[str, str]:
        """Return owner -> a container that one's calls wait for, and that no machine which is here now can run."""
        return {
            one.running.owner: one.running.ref
            for one in self._waiting.values()
            if not any(place.open for place in able(self._of(one.running.owner, one.wish.ref), one.wish))
        }

    # -- calls ------------------------------------------------------------------------------------

    def why_never(self, ref: str, runtime: str | None, resource: Mapping[str, float], owner: str) -> str | None:
        """Return why no machine that there is can ever make such a call; None when one can."""
        wish = Wish(full_name(ref), runtime, resource)
        cluster = self._cluster_for(wish, owner)
        return self._why_not(wish, owner) if cluster is None else cluster.why_never(resource)

    def _cluster_for(self, wish: Wish, owner: str) -> ClusterCalls | None:
        """Return the cluster if it makes such a call: all but local apps, and what only other machines can run."""
        if self.cluster is None:
            return None
        places = self._of(owner, wish.ref)
        if any(wish.ref in place.offer.apps or wish.ref in place.offer.examples for place in places):
            return None
        return self.cluster if self.cluster.why_never(wish.resource) is None or not able(places, wish) else None

    async def call(
        self,
        ref: str,
        content: bytes,
        *,
        timeout: float | None = None,
        runtime: str | None = None,
        resource: Mapping[str, float] | None = None,
        owner: str = "",
        written: Log | None = None,
        task: int = 0,
    ) -> bytes:
        """Return a container's reply, as `gateway.ports.ContainerRuntime` has it."""
        wish, number = Wish(full_name(ref), runtime, resource or {}), next(self._numbers)
        if (cluster := self._cluster_for(wish, owner)) is not None:
            return await cluster.call(
                ref,
                content,
                timeout=timeout,
                runtime=runtime,
                resource=resource,
                owner=owner,
                written=written,
                task=task,
            )
        running = Running(task, owner, ref, time.monotonic())
        member = await self._turn(number, wish, running)
        try:
            return await member.calls.call(
                ref, content, timeout=timeout, runtime=runtime, resource=resource, owner=owner, written=written
            )
        finally:
            del member.running[number]
            self._place_all()

    async def _turn(self, number: int, wish: Wish, running: Running) -> Member:
        """Return the machine that a call is made on, one of its slots taken."""
        if (why := self._why_not(wish, running.owner)) is not None:
            raise NoHostFits(why)
        if (member := self._best(wish, running.owner)) is not None:
            member.running[number] = running
            return member
        waiting = self._waiting[number] = Waiting(wish, running, asyncio.get_running_loop().create_future())
        try:
            return await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.cancelled() and waiting.turn.exception() is None:
                del waiting.turn.result().running[number]  # its turn came at the same moment
                self._place_all()
            raise
        finally:
            self._waiting.pop(number, None)

    def _place_all(self) -> None:
        for number, waiting in list(self._waiting.items()):
            if waiting.turn.done():
                continue
            if (why := self._why_not(waiting.wish, waiting.running.owner)) is not None:
                waiting.turn.set_exception(NoHostFits(why))
            elif (member := self._best(waiting.wish, waiting.running.owner)) is not None:
                member.running[number] = waiting.running._replace(since=time.monotonic())
                waiting.turn.set_result(member)

    def _why_not(self, wish: Wish, owner: str) -> str | None:
        return None if self._waits(owner) else why_never(self._of(owner, wish.ref), wish)

    def _best(self, wish: Wish, owner: str) -> Member | None:
        patient = self._waits(owner)
        if len(self._members) == 1 and not patient:  # as nearly always
            return self._here
        place = best(self._of(owner, wish.ref), wish, patient)
        return None if place is None else self._members[place.number]

    def _of(self, owner: str, ref: str) -> list[Place]:
        """Return the machines that an owner may have containers on, as they are now; this one is the first."""
        self._here.place.offer = self._home.offer(ref)
        return [member.look() for member in self._members.values() if member.serves(owner)]

    def add(self, ref: str, folder: str) -> None:
        """Learn where a local app's folder is, on this machine.

        Raises:
            UsageError: It is no such folder.
        """
        self._home.add(ref, folder)

    async def close(self) -> None:
        """End all apps and containers of this machine and wait until they are gone."""
        await self._home.close()
