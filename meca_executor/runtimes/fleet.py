"""The workers of all machines: sends what concerns a worker to the runtime of its host."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from .remote import RemoteWorkers

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.records import Kind
    from .processes import Events

HERE = 0  #: the number of this machine, as the broker has it


class Workers(Protocol):
    """The workers of one machine."""

    def spawn(self, worker: int) -> None: ...
    def send(self, worker: int, kind: Kind, batch: bytes) -> None: ...
    def revoke(self, worker: int, start: int, stop: int) -> None: ...
    def stop(self, worker: int) -> None: ...
    def kill(self, worker: int) -> None: ...
    def look(self) -> None: ...
    async def close(self) -> None: ...


class Fleet:
    """The gateway's `WorkerRuntime`, and the `Events` of the runtimes that it is made of.

    Args:
        events: Who is told what happens.
    """

    def __init__(self, events: Events) -> None:
        self._events = events
        self.on_outcomes = events.on_outcomes
        self.on_setup_failed = events.on_setup_failed
        self.on_printed = events.on_printed
        self.on_look = events.on_look
        self._members: dict[int, Workers] = {}
        self._places: dict[int, Workers] = {}  # worker -> who has it

    def on_end(self, worker: int, started: int, how: str) -> None:
        """A worker is gone."""
        self._places.pop(worker, None)
        self._events.on_end(worker, started, how)

    # -- machines ---------------------------------------------------------------------------------

    def begin_here(self, workers: Workers) -> None:
        """Take the workers of this machine into service."""
        self._members[HERE] = workers

    def add(
        self,
        host: int,
        name: str,
        send: Callable[[bytes], object],
        on_leave: Callable[[bool], object],
        may_read: Callable[[int], bool],
    ) -> RemoteWorkers:
        """Return the workers of a host that joined, as `gateway.ports.RemoteHost` has it."""
        member = RemoteWorkers(self, name, send, on_leave, may_read)
        self._members[host] = member
        return member

    def remove(self, host: int) -> None:
        """A host is gone; nothing more is told to its workers, or of them."""
        member = self._members.pop(host, None)
        self._places = {worker: place for worker, place in self._places.items() if place is not member}

    # -- WorkerRuntime ----------------------------------------------------------------------------

    def spawn(self, worker: int, host: int) -> None:
        """Start a worker under this number on a host; on one that is gone meanwhile it does not start."""
        if (member := self._members.get(host)) is None:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._events.on_end, worker, 0, "its host is gone")
            return
        self._places[worker] = member
        member.spawn(worker)

    def send(self, worker: int, kind: Kind, batch: bytes) -> None:
        """Write a message to a worker; one that is gone is ignored."""
        if (place := self._places.get(worker)) is not None:
            place.send(worker, kind, batch)

    def revoke(self, worker: int, start: int, stop: int) -> None:
        """Tell it to leave ordinals start .. stop - 1 alone."""
        if (place := self._places.get(worker)) is not None:
            place.revoke(worker, start, stop)

    def stop(self, worker: int) -> None:
        """Let it end after what it has been sent."""
        if (place := self._places.get(worker)) is not None:
            place.stop(worker)

    def kill(self, worker: int) -> None:
        """End it and its children now."""
        if (place := self._places.get(worker)) is not None:
            place.kill(worker)

    def look(self) -> None:
        """Report of every worker what it is running."""
        for member in list(self._members.values()):
            member.look()

    async def close(self) -> None:
        """End all workers and wait until those of this machine are gone; hosts end theirs when they are told."""
        await asyncio.gather(*(member.close() for member in self._members.values()))
