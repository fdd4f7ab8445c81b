"""Hosts that joined: the session of each, which outlives its connection, and when it counts as gone.

A host that is away gets nothing more; what its workers have goes on there. When it stays away for longer than its
grace time it is gone, and so is what it had: its calls are made again elsewhere. If it comes back later than that it
joins anew, with fresh workers, and nothing that it did before is taken.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import platform
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ..settings import MESSAGE_LIMIT
from ..wire.hosting import Introduction
from ..wire.records import Kind, MalformedBatch
from ..wire.stream import Stream
from .hosts import BrokerHost
from .session import SessionInUse, SessionRefused, may_read

if TYPE_CHECKING:
    from collections.abc import Callable

    from .broker import Broker
    from .ports import ContainerPlaces, HostFleet, RemoteHost
    from .session import Session
    from .tasks import Instruction

ACK_S = 0.05  #: an acknowledgement waits no longer than this for a frame to travel with
DRAINED_S = 0.02  #: between two looks whether a host that is to leave has anything left
MESSAGE_MOST = MESSAGE_LIMIT + (64 << 20)  #: outcomes of one turn travel together
HOSTS_MOST = 1024  #: of one gateway

log = logging.getLogger("meca.hosts")


class Doer(Protocol):
    """Who carries out what the broker decides: the hub."""

    sessions: dict[str, Session]

    def do(self, instructions: list[Instruction]) -> None: ...


@dataclass(eq=False)
class Joined:
    """One host's session."""

    id: str
    owner: str
    host: BrokerHost
    grace: float
    key: str = ""  #: the access key with which it came last
    stream: Stream = field(default_factory=lambda: Stream(MESSAGE_MOST))
    birth: str = field(default_factory=lambda: secrets.token_hex(8))
    send: Callable[[bytes], None] | None = None  #: None while the link is down
    expiry: asyncio.TimerHandle | None = None
    acknowledging: bool = False
    remote: RemoteHost = field(init=False)
    released: bool = False  #: it was told that it may leave


class Joining:
    """All of them; make it inside the loop.

    Args:
        hub: Carries out what the broker decides.
        broker: Decides which host runs what.
        fleet: The workers of all hosts.
        places: The machines that containers run on.

    Attributes:
        changed: Called when there are more slots than before, or fewer.
    """

    durable = False

    def __init__(self, hub: Doer, broker: Broker, fleet: HostFleet, places: ContainerPlaces) -> None:
        self.sessions: dict[str, Joined] = {}
        self.changed: Callable[[], object] = lambda: None
        self._hub = hub
        self._broker = broker
        self._fleet = fleet
        self.places = places
        self._numbers = itertools.count(1)
        self._loop = asyncio.get_running_loop()

    # -- coming -----------------------------------------------------------------------------------

    def attach(
        self,
        session_id: str,
        owner: str,
        cap: int,
        tasks_per_worker: int | None,
        birth: str = "",
        claim: object = None,
    ) -> tuple[Joined, bool]:
        """As `Hub.attach`; the claim is what the host says of itself.

        Raises:
            SessionRefused: It cannot join, and why.
        """
        if not isinstance(claim, Introduction):
            raise SessionRefused("a host says what it is when it joins")
        joined = self.sessions.get(session_id)
        if joined is not None and joined.owner != owner:
            raise SessionRefused(f"session {session_id!r} belongs to another access key")
        if joined is not None and joined.birth == birth:
            return joined, True
        self._check(owner, claim)
        for other in list(self.sessions.values()):
            if other is not joined and (other.owner, other.host.name) != (owner, claim.name):
                continue
            if other.send is not None and other is not joined:
                raise SessionInUse(f"a host {claim.name!r} is here already; choose another --name")
            self._lose(other, f"host {other.host.name} joined anew, without what it had before")
        return self._begin(session_id, owner, claim), False

    def _check(self, owner: str, told: Introduction) -> None:
        ours = platform.python_version()
        if ours.split(".")[:2] != told.python.split(".")[:2]:
            raise SessionRefused(
                f"host {told.name} has Python {told.python[:20]} and this gateway {ours}; functions need the same "
                "major.minor version on both"
            )
        if len(self.sessions) >= HOSTS_MOST:
            raise SessionRefused(f"{HOSTS_MOST} hosts have joined here, and that is the limit")

    def _begin(self, session_id: str, owner: str, told: Introduction) -> Joined:
        number = next(self._numbers)
        # It runs its own owner's functions only: it sees what they get, and they may do anything there.
        host = BrokerHost(number, told.name, told.workers, told.capacity, lambda other: other == owner)
        host.connected = False
        joined = self.sessions[session_id] = Joined(session_id, owner, host, told.grace)
        joined.remote = self._fleet.add(
            number,
            told.name,
            lambda message: self._tell(joined, message),
            lambda drain: self._leaves(joined, drain),
            lambda process: may_read(process, self._hub.sessions.values(), host.serves),
        )
        self._broker.hosts.all[number] = host
        if told.containers is not None:
            self.places.join(host, told.containers, joined.remote.calls)
        self._wait(joined)
        return joined

    def when_kept(self, joined: Joined, then: Callable[[], object]) -> None:
        """As `Hub.when_kept`; nothing is kept, so at once."""
        then()

    def connect(self, joined: Joined, send: Callable[[bytes], None], received: int) -> None:
        """As `Hub.connect`."""
        log.info("host %s is here, with %d workers", joined.host.name, joined.host.slots)
        if joined.expiry is not None:
            joined.expiry.cancel()
            joined.expiry = None
        frames = joined.stream.replay(received)
        joined.send = send
        for frame in frames:
            send(frame)
        joined.host.connected = True
        joined.remote.away(False)
        self._hub.do(self._broker.changed(time.monotonic()))
        self.places.look()
        self.changed()

    # -- going ------------------------------------------------------------------------------------

    def detach(self, joined: Joined, send: Callable[[bytes], None]) -> None:
        """As `Hub.detach`."""
        if joined.send in (send, None) and self._has(joined):
            joined.send = None
            joined.host.connected = False
            joined.remote.away(True)
            if joined.released:
                self.end(joined)
            else:
                log.warning("host %s is away; its calls go on there for %g s", joined.host.name, joined.grace)
                self._wait(joined)

    def _has(self, joined: Joined) -> bool:
        return self.sessions.get(joined.id) is joined

    def _wait(self, joined: Joined) -> None:
        if joined.expiry is None:
            joined.expiry = self._loop.call_later(joined.grace, self._gone, joined)

    def _gone(self, joined: Joined) -> None:
        self._lose(joined, f"host {joined.host.name} was away for longer than its grace time of {joined.grace:g} s")

    def end(self, joined: Joined) -> None:
        """As `Hub.end`."""
        self._lose(joined, f"host {joined.host.name} left")

    def _lose(self, joined: Joined, why: str) -> None:
        if not self._has(joined):
            return
        log.info("%s", why)
        del self.sessions[joined.id]
        joined.send = None
        if joined.expiry is not None:
            joined.expiry.cancel()
        self.places.leave(joined.host.id)
        joined.remote.calls.lost(why)
        self._fleet.remove(joined.host.id)
        self._broker.vanished(joined.host, why)
        self._hub.do(self._broker.changed(time.monotonic()))
        self.changed()

    def drain(self, joined: Joined) -> None:
        """Let a host leave when what its workers run is done, and its container calls are."""
        if not joined.host.draining:
            log.info("host %s leaves when its running calls are done", joined.host.name)
            self._broker.drain(joined.host)
            self._hub.do(self._broker.changed(time.monotonic()))
            self.places.look()
            self.changed()
            self._release(joined)

    def _release(self, joined: Joined) -> None:
        if not self._has(joined):
            return
        if joined.remote.calls.running or any(w.host is joined.host for w in self._broker.workers.values()):
            self._loop.call_later(DRAINED_S, self._release, joined)
        else:
            joined.released = True
            joined.remote.let_leave()

    def _leaves(self, joined: Joined, drain: bool) -> None:
        if drain:
            self.drain(joined)
        else:
            self._loop.call_soon(self.end, joined)  # not amid its own message

    # -- frames -----------------------------------------------------------------------------------

    def on_frame(self, joined: Joined, frame: bytes) -> None:
        """Take a frame in.

        Raises:
            ValueError: Garbage; drop the connection.
        """
        if not self._has(joined):
            return
        message = joined.stream.receive(frame)
        if message is not None:
            if message.kind is not Kind.HOSTING:
                raise MalformedBatch(f"{message.kind.name} in a session of a host")
            joined.remote.on_message(message.body)
        if joined.stream.ack_due:
            self._transmit(joined, joined.stream.acknowledge())
        elif joined.stream.ack_owed and not joined.acknowledging:
            joined.acknowledging = True
            self._loop.call_later(ACK_S, self._acknowledge, joined)

    def _acknowledge(self, joined: Joined) -> None:
        joined.acknowledging = False
        if joined.stream.ack_owed:
            self._transmit(joined, joined.stream.acknowledge())

    def _tell(self, joined: Joined, message: bytes) -> None:
        for frame in joined.stream.send(Kind.HOSTING, message):
            self._transmit(joined, frame)

    def _transmit(self, joined: Joined, frame: bytes) -> None:
        if joined.send is not None:
            joined.send(frame)
