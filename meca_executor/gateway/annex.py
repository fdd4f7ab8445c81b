"""The annex: the nodes of a cluster, as hosts of the broker. How many places each of them has, the cluster decides.

A node is a host whose slots and capacity are the leases that the gateway has there: they grow and shrink.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..wire.records import Status, encode
from .hosts import BrokerHost
from .session import may_read
from .tasks import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .broker import Broker
    from .joined import Doer
    from .ports import HostFleet, RemoteHost

DRAINED_S = 0.02  #: between two looks whether a node that is to leave has anything left
FIRST = 1 << 20  #: the number of the first node; hosts that join have lower ones

log = logging.getLogger("meca.gateway")


@dataclass(eq=False)
class Member:
    """One node."""

    host: BrokerHost
    remote: RemoteHost = field(init=False)


class Annex:
    """All nodes of a gateway's cluster; make it inside the loop.

    Args:
        hub: Carries out what the broker decides.
        broker: Decides which host runs what.
        fleet: The workers of all hosts.
        changed: Called when there are more slots than before, or fewer.
        serves: Whether an owner's functions may run there.
        callers: Returns the ids of the sessions that have calls of containers.
    """

    def __init__(
        self,
        hub: Doer,
        broker: Broker,
        fleet: HostFleet,
        changed: Callable[[], object],
        serves: Callable[[str], bool],
        callers: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._hub = hub
        self._broker = broker
        self._fleet = fleet
        self._changed = changed
        self._serves = serves
        self._callers = callers
        self._numbers = itertools.count(FIRST)
        self._loop = asyncio.get_running_loop()

    # -- what waits -------------------------------------------------------------------------------

    def waiting(self) -> list[tuple[tuple[tuple[str, float], ...], int]]:
        """Return what calls need that wait, and how many of them could begin at once if there were places."""
        found = []
        for session in self._broker.sessions.values():
            if not session.queue or session.paused or not self._serves(session.pool.owner):
                continue
            room = session.cap - len(session.workers)
            for lane in session.queue.lanes:
                if (count := min(room, lane.count)) > 0:
                    found.append((lane.shape, count))
                    room -= count
        return found

    def refuse(self, text: str) -> None:
        """Have all calls fail that no host takes: there will be none."""
        for session in self._broker.sessions.values():
            if session.queue and not any(host.open for host in self._broker.hosts.of(session.pool.owner)):
                ids = [id_ for group in session.queue.take_all() for id_ in group.ids]
                batch = encode((id_, int(Status.NO_HOST), 0, text.encode()) for id_ in ids)
                self._hub.do([Report(session.id, batch)])

    def tell(self, text: str, containers: bool) -> None:
        """Have those told whose calls wait; with `containers` those, too, whose calls of containers may."""
        line = encode([(0, int(Status.STDERR), 0, f"meca: {text}\n".encode())])
        waiting = {session.id for session in self._broker.sessions.values() if session.queue}
        callers = set(self._callers()) if containers else set()
        self._hub.do([Report(session, line) for session in sorted(waiting | callers)])

    # -- nodes ------------------------------------------------------------------------------------

    def reserve(self, slots: int, capacities: Iterable[Mapping[str, float]]) -> None:
        """Take note of what the cluster could give besides what it gives now; no capacity is: that is not known."""
        hosts = self._broker.hosts
        before = hosts.reserve
        hosts.reserve, hosts.could = slots, list(capacities)
        if slots != before:
            self._changed()

    def join(self, name: str, send: Callable[[bytes], object], on_drained: Callable[[], object]) -> Member:
        """Return a node as a host without any slot.

        Args:
            name: What the node is called.
            send: Takes a message for it.
            on_drained: Called when it wanted to leave, and nothing runs there any more.
        """
        host = BrokerHost(next(self._numbers), name, 0, {}, self._serves, rented=True)
        member = Member(host)
        member.remote = self._fleet.add(
            host.id,
            name,
            send,
            lambda _: self._drain(member, on_drained),
            lambda process: may_read(process, self._hub.sessions.values(), self._serves),
        )
        self._broker.hosts.all[host.id] = host
        return member

    def resize(self, member: Member, slots: int, capacity: Mapping[str, float]) -> None:
        """Say what a node gives now; idle workers that are too many end."""
        member.host.slots, member.host.capacity = slots, capacity
        self._hub.do(self._broker.changed(time.monotonic()))
        self._changed()

    def use(self, member: Member) -> tuple[int, dict[str, float]]:
        """Return how many workers of a node have calls, and what these hold."""
        busy = sum(1 for worker in self._broker.workers.values() if worker.host is member.host and worker.in_flight)
        return busy, self._broker.hosts.in_use(member.host)

    def _drain(self, member: Member, on_drained: Callable[[], object]) -> None:
        if not member.host.draining:
            log.warning("node %s leaves when its running calls are done", member.host.name)
            self._broker.drain(member.host)
            self._hub.do(self._broker.changed(time.monotonic()))
            self._changed()
            self._look_drained(member, on_drained)

    def _look_drained(self, member: Member, on_drained: Callable[[], object]) -> None:
        if member.host.id not in self._broker.hosts.all:
            return
        if any(worker.host is member.host for worker in self._broker.workers.values()):
            self._loop.call_later(DRAINED_S, self._look_drained, member, on_drained)
        else:
            on_drained()

    def leave(self, member: Member, how: str) -> None:
        """A node is gone with its workers; what these had is lost, and made again elsewhere."""
        if member.host.id in self._broker.hosts.all:
            self._fleet.remove(member.host.id)
            self._broker.vanished(member.host, how)
            self._hub.do(self._broker.changed(time.monotonic()))
            self._changed()
