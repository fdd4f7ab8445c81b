"""Hosts that join: who is taken, who takes whose place, and when one counts as gone."""

from __future__ import annotations

import asyncio
import functools
import os
import platform
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.gateway.broker import Broker
from meca_executor.gateway.hosts import BrokerHost
from meca_executor.gateway.joined import Joined, Joining
from meca_executor.gateway.session import Session, SessionInUse, SessionRefused
from meca_executor.wire.hosting import Introduction, Offer
from meca_executor.wire.records import Kind, MalformedBatch
from meca_executor.wire.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meca_executor.gateway.tasks import Instruction

TOLD = Introduction("box", 2, {"cpu": 2.0}, 600.0, platform.python_version())


class Remote:
    """A host's workers; writes down what it is told."""

    def __init__(self, send: Callable[[bytes], object], on_leave: Callable[[bool], object]) -> None:
        self.send, self.on_leave = send, on_leave
        self.messages: list[bytes] = []
        self.was: list[bool] = []
        self.let_go = False
        self.calls = self
        self.running = 0
        self.was_lost: list[str] = []

    def lost(self, why: str) -> None:
        self.was_lost.append(why)

    def on_message(self, message: bytes) -> None:
        self.messages.append(message)

    def away(self, away: bool) -> None:
        self.was.append(away)

    def let_leave(self) -> None:
        self.let_go = True


class Containers:
    """The machines that containers run on; writes down who they are."""

    def __init__(self) -> None:
        self.hosts: dict[int, tuple[Offer, Any]] = {}
        self.looks = 0

    def join(self, host: Any, offer: Offer, calls: Any) -> None:
        self.hosts[host.id] = offer, calls

    def leave(self, number: int) -> None:
        self.hosts.pop(number, None)

    def look(self) -> None:
        self.looks += 1

    def running(self, number: int) -> list[Any]:
        return []

    def has_engine(self, number: int) -> bool:
        return False


class Place:
    """A gateway's joining, and the fleet behind it."""

    def __init__(self) -> None:
        self.broker = Broker(0, BrokerHost(0, "here", 0, {}))
        self.remotes: dict[int, Remote] = {}
        self.removed: list[int] = []
        self.changes = 0
        self.gone = asyncio.Event()
        self.containers = Containers()
        self.sessions: dict[str, Session] = {}
        self.joining = Joining(self, self.broker, self, self.containers)
        self.joining.changed = self._changed

    def _changed(self) -> None:
        self.changes += 1

    def do(self, instructions: list[Instruction]) -> None: ...

    def add(
        self,
        host: int,
        name: str,
        send: Callable[[bytes], object],
        on_leave: Callable[[bool], object],
        may_read: Callable[[int], bool],
    ) -> Remote:
        self.may_read = may_read
        self.remotes[host] = Remote(send, on_leave)
        return self.remotes[host]

    def remove(self, host: int) -> None:
        self.removed.append(host)
        self.gone.set()

    def attach(self, session: str = "s", owner: str = "me", birth: str = "", told: Any = TOLD) -> tuple[Joined, bool]:
        return self.joining.attach(session, owner, 9, None, birth, told)

    def join(self, session: str = "s", **more: Any) -> tuple[Joined, list[bytes]]:
        """Have a host join and be connected; returns its session, and the frames that it is sent."""
        joined, _ = self.attach(session, **more)
        frames: list[bytes] = []
        joined.send = None
        self.joining.connect(joined, frames.append, 0)
        return joined, frames

    @property
    def names(self) -> list[str]:
        return [host.name for host in self.broker.hosts.all.values() if host.id]


def in_a_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test's coroutine."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 60.0))

    return run


@in_a_loop
async def test_a_host_counts_from_when_it_is_connected() -> None:
    """Before that it gets nothing."""
    place = Place()
    joined, resumed = place.attach()
    assert (resumed, joined.host.open, place.names) == (False, False, ["box"])
    place.joining.connect(joined, lambda frame: None, 0)
    assert joined.host.open
    assert place.broker.hosts.slots_of("me") == 2
    assert place.broker.hosts.slots_of("you") == 0
    assert place.changes == 1


@in_a_loop
async def test_another_python_is_refused_in_words() -> None:
    """Functions could not travel."""
    place = Place()
    with pytest.raises(SessionRefused, match=r"host box has Python 2\.7\.18 and this gateway 3\."):
        place.attach(told=replace(TOLD, python="2.7.18"))
    with pytest.raises(SessionRefused, match="says what it is"):
        place.attach(told=None)
    assert place.names == []


@in_a_loop
async def test_a_name_is_taken_as_long_as_its_host_is_there() -> None:
    """Another owner may have the same; one that is away gives its place to who comes with its name."""
    place = Place()
    first, frames = place.join("s1")
    with pytest.raises(SessionInUse, match="'box' is here already"):
        place.attach("s2")
    place.join("s3", owner="you")
    place.joining.detach(first, frames.append if first.send is None else first.send)
    second, _ = place.join("s2")
    assert place.names == ["box", "box"]
    assert first.id not in place.joining.sessions
    assert place.removed == [first.host.id]
    assert second.host.open


@in_a_loop
async def test_one_session_is_one_host_whatever_it_calls_itself() -> None:
    """Else those from before would be counted for ever, and their calls waited for."""
    place = Place()
    first, _ = place.join("s1")
    second, _ = place.join("s1", told=replace(TOLD, name="crate"))
    assert place.names == ["crate"]
    assert place.removed == [first.host.id]
    assert list(place.joining.sessions.values()) == [second]


@in_a_loop
async def test_who_comes_back_goes_on_with_what_was() -> None:
    """Its session is the same, frames that it has not had are sent again, and nothing was judged meanwhile."""
    place = Place()
    joined, _ = place.join()
    assert joined.send is not None
    place.joining.detach(joined, joined.send)
    assert (joined.host.connected, joined.remote.was) == (False, [False, True])  # type: ignore[attr-defined]
    place.remotes[joined.host.id].send(b"order")
    again, resumed = place.attach(birth=joined.birth)
    assert resumed and again is joined
    frames: list[bytes] = []
    place.joining.connect(joined, frames.append, 0)
    assert [Stream().receive(frame) for frame in frames] == [(Kind.HOSTING, b"order")]
    assert joined.host.connected and joined.expiry is None
    with pytest.raises(SessionRefused, match="another access key"):
        place.attach(owner="you", birth=joined.birth)


@in_a_loop
async def test_who_stays_away_for_too_long_is_gone() -> None:
    """And joins anew when it is back."""
    place = Place()
    joined, _ = place.join(told=replace(TOLD, grace=0.0))
    assert joined.send is not None
    place.joining.detach(joined, joined.send)
    await asyncio.wait_for(place.gone.wait(), 60.0)
    assert place.names == []
    assert place.removed == [joined.host.id]
    again, resumed = place.attach(birth=joined.birth)
    assert not resumed and again.host.id != joined.host.id


@in_a_loop
async def test_a_host_with_nothing_to_do_may_leave_at_once() -> None:
    """It is no longer counted from then on, and gone with its connection, without any grace time."""
    place = Place()
    joined, _ = place.join()
    remote = place.remotes[joined.host.id]
    remote.on_leave(True)
    assert remote.let_go and joined.host.draining
    assert place.broker.hosts.slots_of("me") == 0
    assert joined.send is not None
    place.joining.detach(joined, joined.send)
    assert place.names == []


@in_a_loop
async def test_messages_reach_the_hosts_workers_and_others_are_refused() -> None:
    """Only those of hosts may come."""
    place = Place()
    joined, _ = place.join()
    theirs = Stream()
    for frame in theirs.send(Kind.HOSTING, b"message"):
        place.joining.on_frame(joined, frame)
    assert place.remotes[joined.host.id].messages == [b"message"]
    with pytest.raises(MalformedBatch, match="TASKS"):
        for frame in theirs.send(Kind.TASKS, b""):
            place.joining.on_frame(joined, frame)
    place.joining.end(joined)
    place.joining.end(joined)  # once is enough
    assert place.names == []


@in_a_loop
async def test_containers_of_a_host_come_and_go_with_it() -> None:
    """It leaves only when its container calls are over; they are lost with it."""
    place = Place()
    offer = Offer(engine=True)
    joined, _ = place.join(told=replace(TOLD, containers=offer))
    remote = place.remotes[joined.host.id]
    assert place.containers.hosts == {joined.host.id: (offer, remote)}
    remote.running = 1
    place.joining.drain(joined)
    await asyncio.sleep(0.1)
    assert not remote.let_go
    remote.running = 0
    for _ in range(10_000):
        await asyncio.sleep(0.005)
        if remote.let_go:
            break
    assert place.containers.looks == 2
    place.joining.end(joined)
    assert place.containers.hosts == {}
    assert remote.was_lost == ["host box left"]


@in_a_loop
async def test_a_host_of_before_has_no_containers() -> None:
    """It said nothing of them."""
    place = Place()
    place.join()
    assert place.containers.hosts == {}


@in_a_loop
async def test_only_memory_of_the_hosts_own_clients_may_be_sent_to_it() -> None:
    """And what the gateway itself has of theirs."""
    place = Place()
    place.join("s", owner="me")
    for name, owner, process in (("mine", "me", 111), ("yours", "you", 222), ("elsewhere", "me", None)):
        place.sessions[name] = Session(name, owner, 1, None, Stream())
        place.sessions[name].process = process
    assert [place.may_read(process) for process in (111, 222, 333, os.getpid())] == [True, False, False, True]
