"""The leases of a gateway: which Dask tasks hold places for it, on which nodes, and when they are given back.

Those of functions are the slots of their node, whatever runs in them; one of a container is for one call at a time
(`policy/booking.py`). Both are alike for Dask.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from ..policy.booking import Booking, Bookings, fits
from ..policy.leasing import Leases, Use, wanted
from .cluster_nodes import ClusterNode
from .node import PYTHON, hold

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from ..policy.leasing import Lease, Shape
    from .cluster_nodes import NodeHouse
    from .dask_door import ClusterSettings
    from .engine_settings import EngineSettings

ANSWER_S = 10.0  #: for an answer of a node
AGAIN_S = 0.5  #: after a lease that ended before it began, until the next is asked for

log = logging.getLogger("meca.cluster")


class HeldLeases:
    """All leases of one gateway, and the nodes that it has them on.

    Args:
        gateway: What the gateway is called among the nodes.
        settings: Which cluster.
        engine: How containers run there.
        house: Where the nodes are hosts.
        changed: Called when places came or went; with True when a node is gone.
        do: Runs a coroutine, in the background.
    """

    def __init__(
        self,
        gateway: str,
        settings: ClusterSettings,
        engine: EngineSettings,
        house: NodeHouse,
        changed: Callable[[bool], object],
        do: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._gateway = gateway
        self._silence = settings.silence_s
        self._engine = engine
        self._house = house
        self._changed = changed
        self._do = do
        self._loop = asyncio.get_running_loop()
        self._futures: dict[str, Any] = {}  # lease -> Dask's future
        self._not_before = 0.0
        self.functions = Leases(most=settings.leases)
        self.bookings = Bookings(most=settings.leases)
        self.nodes: dict[str, ClusterNode] = {}  # by address
        self.known: dict[str, dict[str, Any]] = {}  #: nodes that Dask tells of, as it does; the cluster's to set
        self.client: Any = None  #: Dask's, while the scheduler is there; the cluster's to set, as `security`
        self.security: Any = None
        self.on_begun: Callable[[], object] = lambda: None  #: called when a call of a container may have its place

    def __repr__(self) -> str:
        return f"<HeldLeases {self.held} held, {len(self.waiting)} asked for>"

    @property
    def held(self) -> int:
        """How many have begun."""
        return self.functions.held + self.bookings.held

    @property
    def waiting(self) -> list[Lease]:
        """Those that have not begun."""
        return [*self.functions.waiting, *self.bookings.waiting]

    @property
    def takers(self) -> list[str]:
        """Addresses of the nodes that take container calls now."""
        return [address for address, node in self.nodes.items() if node.open and not node.draining]

    # -- asking and giving back -------------------------------------------------------------------

    def balance(self, waiting: list[tuple[Shape, int]], now: float) -> None:
        """Ask for leases, and give back what nobody needs.

        Args:
            waiting: What functions need that wait, and how many of them could run at once.
            now: The time.
        """
        wants = wanted(waiting)
        if now >= self._not_before:
            for lease in (*self.functions.ask(wants), *self.bookings.ask()):
                self._submit(lease)
        for lease in (*self.functions.unwanted(wants, now), *self.bookings.unwanted(now)):
            self._take_back(lease)
        others_wait = bool(self.bookings.calls) and bool(self.bookings.waiting)
        uses = {node.address: Use(*self._house.use(node.member)) for node in self.nodes.values() if node.open}
        idle: list[Lease] = [*self.functions.idle(uses, wants, now, others_wait)]
        idle += self.bookings.idle(self.functions.held, bool(self.functions.waiting), now)
        for lease in idle:
            self._give_back(lease)
        if self.bookings.is_short(self.functions.held, now):
            self._give_way()
        if idle:
            self._changed(False)

    def _give_way(self) -> None:
        """Have functions leave places to containers that have waited for long."""
        shapes = {booking.shape for booking in self.bookings.waiting}
        could = [at for at, told in self.known.items() if any(fits(shape, told["resources"]) for shape in shapes)]
        for lease in self.functions.waiting:  # Dask has these in the order in which they came
            self._take_back(lease)
        for address in self.functions.give_way(could):
            self._resize(address)

    def _submit(self, lease: Lease) -> None:
        future = self.client.submit(
            hold,
            self._gateway,
            lease.id,
            key=f"meca-lease-{self._gateway}-{lease.id}",
            resources={**dict(lease.shape), PYTHON: 1},
            pure=False,
            retries=0,
        )
        self._futures[lease.id] = future
        self._do(self._watch(lease, future))

    async def _watch(self, lease: Lease, future: Any) -> None:
        """Wait for the end of a lease that nobody gave back."""
        try:
            if (failure := await future.exception()) is not None and future.status == "error":
                log.warning("a lease of a place in the Dask cluster failed: %s", failure)
        except (Exception, asyncio.CancelledError) as error:  # as Dask says that a future is no more
            log.info("lease %s: %r", lease.id, error)
        if self._lease(lease.id) is lease and self._futures.get(lease.id) is future:
            self._forget(lease)
            self._resize(lease.node)
            if lease.node is None:
                self._not_before = self._loop.time() + AGAIN_S
            self._changed(False)

    def _lease(self, number: str) -> Lease | None:
        return self.functions.all.get(number) or self.bookings.all.get(number)

    def _forget(self, lease: Lease) -> Any:
        (self.bookings if isinstance(lease, Booking) else self.functions).end(lease.id)
        return self._futures.pop(lease.id, None)

    def forget_waiting(self) -> None:
        """The scheduler is gone, and what it was asked for with it."""
        for lease in self.waiting:
            self._forget(lease)

    def offer_again(self) -> None:
        """Ask for those anew that have not begun: Dask looks only once whether any node can have them."""
        for lease in self.waiting:
            self._take_back(lease)

    def _take_back(self, lease: Lease) -> None:
        """Have a lease not run, wherever it is."""
        if (future := self._forget(lease)) is not None and self.client is not None:
            self._do(cancelled(future))

    def _give_back(self, lease: Lease) -> None:
        node = lease.node
        self._forget(lease)
        if node is not None and (there := self.nodes.get(node)) is not None:
            self._resize(node)
            there.release([lease.id])

    def _resize(self, address: str | None) -> None:
        if address is not None and (node := self.nodes.get(address)) is not None and node.open:
            node.resize(self.functions.staying(address))

    # -- nodes ------------------------------------------------------------------------------------

    def begun(self, event: tuple[float, Mapping[str, Any]]) -> None:
        """A lease says that it has begun."""
        told = event[1]
        self._do(self._begun(str(told["lease"]), str(told["node"])))

    async def _begun(self, number: str, address: str) -> None:
        if (node := self.nodes.get(address)) is None:
            told = self.known.get(address, {}).get("name")
            name = told if isinstance(told, str) else address  # LocalCluster counts its own
            node = ClusterNode(address, name, self._house, self.security, self._silence, self._engine)
            self.nodes[address] = node
            self._do(self._attend(node))
        if not await node.connected(ANSWER_S):
            return
        lease = self._lease(number)
        if lease is None or lease.node not in (None, address):
            node.release([number])  # not known any more, or it is elsewhere
        elif lease.node is None:
            now = self._loop.time()
            if isinstance(lease, Booking):
                self.bookings.begin(lease, address, now)
                self.on_begun()
            else:
                self.functions.begin(lease, address, now)
            self._changed(False)
            self._resize(address)

    async def _attend(self, node: ClusterNode) -> None:
        """Have a node's workers for as long as it is there."""
        how = await node.run(self._gateway)
        if self.nodes.get(node.address) is node:
            del self.nodes[node.address]
        for lease in (*self.functions.on(node.address), *self.bookings.on(node.address)):
            self._take_back(lease)  # Dask would run it elsewhere, wanted or not
        log.warning("node %s: %s", node.name, how)
        node.leave(f"node {node.name} of the Dask cluster was lost: {how}")
        self._changed(True)

    async def close(self, limit: float) -> None:
        """Give everything back."""
        for node in list(self.nodes.values()):
            there = (*self.functions.on(node.address), *self.bookings.on(node.address))
            node.release([lease.id for lease in there])
        futures = [future for lease in self.waiting if (future := self._futures.get(lease.id)) is not None]
        if self.client is not None:
            with contextlib.suppress(Exception):  # it may be gone in this moment; nodes end their leases by themselves
                await asyncio.wait_for(asyncio.gather(*map(cancelled, futures)), limit)
        await asyncio.gather(*(node.close() for node in list(self.nodes.values())))


async def cancelled(future: Any) -> None:
    """Cancel a Dask future; one of a scheduler that is gone is cancelled already."""
    with contextlib.suppress(OSError, asyncio.CancelledError, RuntimeError):
        await future.cancel(force=True)
