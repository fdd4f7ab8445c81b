"""Container calls on the nodes of a Dask cluster: each waits for a place of its own and runs on its node."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING

from ..errors import ContainerFailed, NoHostFits
from ..policy.booking import ENGINE
from .places import Running

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..policy.booking import Booking
    from ..wire.printed import Log
    from .cluster_leases import HeldLeases


class ClusterCalls:
    """What a cluster is for container calls.

    Args:
        leases: Where the places come from.
        why_never: Says why no node that there is can ever run a call that needs this; None when one can.
        wake: Called when something waits that did not.
    """

    def __init__(
        self,
        leases: HeldLeases,
        why_never: Callable[[Mapping[str, float]], str | None],
        wake: Callable[[], object],
    ) -> None:
        self._leases = leases
        self.why_never = why_never
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._given: dict[int, asyncio.Future[Booking]] = {}  # calls that wait
        self._running: dict[int, tuple[int, Running]] = {}  # with the number of the node, as the broker has it
        self._closed = False
        self.changed: Callable[[], object] = lambda: None  #: called when there are more or fewer slots, or nodes
        leases.on_begun = self._hand_out

    def __repr__(self) -> str:
        return f"<ClusterCalls waiting={len(self._given)} {self._leases!r}>"

    @property
    def slots(self) -> int:
        """How many calls are taken at once; those that wait among them show an autoscaler that more is wanted."""
        return self._leases.bookings.limit

    def running(self, number: int) -> list[Running]:
        """Return the calls that a node has."""
        return [running for node, running in self._running.values() if node == number]

    def has_engine(self, number: int) -> bool:
        """Return whether a node has an engine."""
        at = [node.address for node in self._leases.nodes.values() if node.open and node.member.host.id == number]
        return any(self._leases.known.get(address, {}).get("resources", {}).get(ENGINE, 0) >= 1 for address in at)

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
        """Return a container's reply, as `gateway.ports.ContainerRuntime` has it.

        It waits for its place for as long as the cluster is there; `timeout` does not count then.

        Raises:
            NoHostFits: No node can ever run it, or the scheduler is gone for too long.
            ContainerFailed: As there; `lost` is set when its node was lost.
            TaskFailed: As there.
            TaskTimeout: As there.
        """
        if (why := self.why_never(resource or {})) is not None:
            raise NoHostFits(why)
        if self._closed:
            raise ContainerFailed("no container is started any more: the gateway is closing")
        number = next(self._numbers)
        try:
            booking = await self._place(number, ref, resource or {})
            node = self._leases.nodes.get(booking.node or "")
            if node is None or not node.open:
                raise _lost("the node of the Dask cluster that was to run it is gone")
            self._running[number] = node.member.host.id, Running(task, owner, ref, time.monotonic())
            return await node.use().call(
                ref, content, timeout=timeout, runtime=runtime, resource=resource, owner=owner, written=written
            )
        finally:
            self._running.pop(number, None)
            self._leases.bookings.done(number, self._loop.time())
            self._hand_out()

    async def _place(self, number: int, ref: str, resource: Mapping[str, float]) -> Booking:
        """Wait for a place."""
        given: asyncio.Future[Booking] = self._loop.create_future()
        self._given[number] = given
        try:
            self._leases.bookings.want(number, ref, resource)
            self._hand_out()
            return await given
        finally:
            del self._given[number]

    def _hand_out(self) -> None:
        """Give free places to calls that wait."""
        bookings = self._leases.bookings
        for number, booking in bookings.match(self._leases.takers):
            if (given := self._given.get(number)) is not None and not given.done():
                given.set_result(booking)
        if bookings.calls:
            self._wake()

    def refuse_impossible(self) -> None:
        """Have those fail that no node can run, now that it is known what there is."""
        for number, waiting in list(self._leases.bookings.calls.items()):
            needs = {name: amount for name, amount in waiting.shape if name != ENGINE}
            if (why := self.why_never(needs)) is not None:
                self._fail(number, NoHostFits(why))

    def refuse(self, text: str) -> None:
        """Have all calls fail that wait: there will be no place."""
        for number in list(self._leases.bookings.calls):
            self._fail(number, NoHostFits(text))

    def _fail(self, number: int, error: Exception) -> None:
        if (given := self._given.get(number)) is not None and not given.done():
            given.set_exception(error)

    async def close(self) -> None:
        """Have what waits fail; what runs ends with its node's connection. May be called again."""
        self._closed = True
        self.refuse("the gateway is closing")


def _lost(text: str) -> ContainerFailed:
    error = ContainerFailed(text)
    error.lost = True
    return error
