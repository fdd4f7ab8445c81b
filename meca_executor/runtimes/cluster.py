"""A Dask cluster as a place for worker processes: the gateway's side.

Dask does what it is good at: who is in the cluster, where there is room, who has died, when to add machines. The
gateway asks it for *leases* (`policy/leasing.py`), each one an unpinned Dask task with the resources that it needs. A
lease that begins says so by one of Dask's events; the gateway connects to that node's own port, and calls go to worker
processes there without the scheduler having any part in them. A lease carries no call: which attempt runs where, and
whether it may run again, is the broker's to say, so a lease that Dask runs again elsewhere can do no harm. One that is
known already is refused there, and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import GatewayUnreachable
from ..policy.leasing import Leases, Reminder, Use, wanted
from .cluster_nodes import ClusterNode, NodeHouse
from .dask_door import close_client, connect_client, in_words, local_cluster, security_of
from .node import PYTHON, hold, prepare, topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..policy.leasing import Lease, Shape
    from .dask_door import ClusterSettings

LOOK_S = 2.0  #: between two looks at the scheduler, when no event calls for one
BALANCE_S = 0.25  #: between two looks at what waits and what is idle
WAKE_S = 0.01  #: what comes within this time is looked at together
ANSWER_S = 10.0  #: for an answer of the scheduler or a node
CONNECT_S = 2.0  #: for an attempt to reach a scheduler again
AGAIN_S = 0.5  #: between two attempts to reach a scheduler that is gone
END_S = 10.0

log = logging.getLogger("meca.cluster")


class House(NodeHouse, Protocol):
    """What a cluster needs of the gateway; `gateway/annex.py` is it."""

    def waiting(self) -> list[tuple[Shape, int]]: ...
    def reserve(self, slots: int, capacities: Iterable[Mapping[str, float]]) -> None: ...
    def refuse(self, text: str) -> None: ...
    def tell(self, text: str) -> None: ...


class Cluster:
    """The leases of one gateway, and the nodes that it has them on.

    Args:
        settings: Which cluster.
        house: Where the nodes are hosts.
    """

    def __init__(self, settings: ClusterSettings, house: House) -> None:
        self._settings = settings
        self._house = house
        self._id = secrets.token_hex(8)
        self._loop = asyncio.get_running_loop()
        self._topics = {topic(self._id): self._on_begun, "all": self._on_news}
        self._leases = Leases(most=settings.leases)
        self._futures: dict[str, Any] = {}  # lease -> Dask's future
        self._nodes: dict[str, ClusterNode] = {}  # by address
        self._known: dict[str, dict[str, Any]] = {}  # nodes that Dask tells of
        self._unfit: dict[str, str] = {}  # node -> why it cannot be used
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._balancing = False
        self._local: Any = None
        self._folder: str | None = None  # of a local one's nodes
        self._client: Any = None
        self._comm: Any = None  # its connection
        self._gone_since: float | None = None
        self._not_before = 0.0
        self._reminder = Reminder()
        self._closing = False
        self.address = settings.address

    def __repr__(self) -> str:
        state = "gone" if self._client is None else f"{len(self._known)} nodes, {len(self._leases.all)} leases"
        return f"<Cluster {self.address} {state}>"

    @property
    def places(self) -> int:
        """How many calls can run at once, as the cluster is now."""
        return self._leases.places if self._settings.leases is None else self._settings.leases

    # -- scheduler --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect to the scheduler, or start a cluster.

        Raises:
            UsageError: Packages are missing.
            GatewayUnreachable: The scheduler does not answer.
        """
        self._security = security_of(self._settings)
        if self._settings.local:
            self._folder = tempfile.mkdtemp(prefix="meca-dask-")
            self._local = await local_cluster(self._settings.local, self._folder)
            self.address, self._security = self._local.scheduler_address, self._local.security
        try:
            await self._connect(self._settings.connect_s)
        except (OSError, ValueError, TypeError, RuntimeError) as error:  # the last two: for want of a certificate
            raise GatewayUnreachable(
                f"the Dask scheduler {self.address} does not answer: {error or type(error).__name__}; is it running "
                "(`dask scheduler`), can it be reached from here, and has it, if it has TLS, the same CA?"
            ) from error
        await asyncio.gather(*self._tasks, return_exceptions=True)  # nodes that are there count from the first call on
        self._changed.set()
        with contextlib.suppress(OSError, asyncio.TimeoutError):  # `_tend` finds that out, too
            await self._take_stock()
        self._do(self._tend())
        self._balance_again()

    async def _connect(self, timeout: float) -> None:
        client = await connect_client(self.address, self._security, timeout)
        try:
            for name, handler in self._topics.items():
                client.subscribe_topic(name, handler)
            self._client = client
            await self._take_stock()
        except BaseException:
            self._client = self._comm = None
            await close_client(client, self._topics)
            raise
        self._gone_since = None

    async def _tend(self) -> None:
        """Look at who is in the cluster, until it is closed: up to Python 3.11 `wait_for` may lose a cancellation."""
        while not self._closing:
            try:
                await self._look()
            except (Exception, asyncio.CancelledError) as error:  # noqa: PERF203  # whatever Dask makes of its loss
                if self._closing:
                    raise
                await self._lost_scheduler(error)

    def _on_news(self, _: object) -> None:
        """Somebody joined the cluster, or left it, or some such thing."""
        self._changed.set()

    async def _look(self) -> None:
        if self._client is None:
            await self._connect(CONNECT_S)
            log.warning("the Dask scheduler %s is back", self.address)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), LOOK_S)
        await self._take_stock()

    async def _lost_scheduler(self, error: BaseException) -> None:
        client, self._client, self._comm = self._client, None, None
        if self._gone_since is None:
            self._gone_since = self._loop.time()
            log.warning("the Dask scheduler %s is gone: %s", self.address, error or type(error).__name__)
        self._known.clear()
        self._unfit.clear()
        self._count()
        for lease in self._leases.waiting:
            self._leases.end(lease.id)
            self._futures.pop(lease.id, None)
        if client is not None:
            await close_client(client, self._topics)
        await asyncio.sleep(AGAIN_S)

    async def _take_stock(self) -> None:
        """Learn which nodes there are; those that are new are prepared."""
        self._changed.clear()
        identity = await asyncio.wait_for(self._client.scheduler.identity(), ANSWER_S)
        comm = self._client.scheduler_comm
        if self._comm is not None and self._comm is not comm:  # Dask's client has connected anew, and lost our topics
            raise OSError("the connection to it dropped")
        self._comm = comm
        workers: dict[str, dict[str, Any]] = dict(identity["workers"])
        running = {address: told for address, told in workers.items() if told.get("status") == "running"}
        for address in running.keys() - self._known.keys():
            self._do(self._prepare(address))
        self._known = running
        self._unfit = {address: why for address, why in self._unfit.items() if address in running}
        self._count()

    async def _prepare(self, address: str) -> None:
        try:
            answer = await asyncio.wait_for(
                self._client.run(prepare, workers=[address], on_error="return"), self._settings.connect_s
            )
            told = answer[address]
        except (OSError, KeyError, ValueError, AttributeError, asyncio.TimeoutError) as error:  # it has just gone
            told = error
        if isinstance(told, BaseException):
            why = f"node {address} of the Dask cluster cannot be used: {in_words(told)}"
        elif told["kind"] != PYTHON:
            why = f"node {address} of the Dask cluster has {told['kind']}, this gateway {PYTHON}: they must be the same"
        else:
            # Leases that no node fitted before are offered again: Dask looks only once.
            for lease in self._leases.waiting:
                self._take_back(lease)
            self._changed.set()
            self.wake()
            return
        if address in self._known:
            self._unfit[address] = why
            log.warning("%s", why)

    def _count(self) -> None:
        """Take note of what the cluster has."""
        fit = [told for told in self._known.values() if PYTHON in told.get("resources", ())]
        self._leases.places = sum(int(told["nthreads"]) for told in fit)
        held = sum(1 for lease in self._leases.all.values() if lease.node is not None)
        free = max(0, self.places - held)
        self._house.reserve(free if self.places else 1, [told["resources"] for told in fit])

    # -- leases -----------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something waits, perhaps: look soon."""
        if not self._balancing and not self._closing:
            self._balancing = True
            self._loop.call_later(WAKE_S, self._balance)

    def _balance_again(self) -> None:
        if not self._closing:
            self._balance()
            self._loop.call_later(BALANCE_S, self._balance_again)

    def _balance(self) -> None:
        """Ask for leases, and give back what nobody needs."""
        self._balancing = False
        if self._closing:
            return
        now, waiting = self._loop.time(), self._house.waiting()
        self._say_that_it_waits(now, waiting)
        if self._client is None:
            return
        wants = wanted(waiting)
        for lease in self._leases.ask(wants) if now >= self._not_before else ():
            self._submit(lease)
        for lease in self._leases.unwanted(wants, now):
            self._take_back(lease)
        uses = {node.address: Use(*self._house.use(node.member)) for node in self._nodes.values() if node.open}
        if idle := self._leases.idle(uses, wants, now):
            for lease in idle:
                self._give_back(lease)
            self._count()

    def _say_that_it_waits(self, now: float, waiting: list[tuple[Shape, int]]) -> None:
        """Tell those whose calls wait why they do; have them fail when the scheduler stays away.

        That calls wait for their turn, as they do while nodes work, needs no words, if they need no more than a place.
        """
        needs = sorted({shape for shape, _ in waiting if shape})
        gone = None if self._gone_since is None else now - self._gone_since
        if gone is not None and gone >= self._settings.away_s:
            self._house.refuse(f"the Dask scheduler {self.address} has been gone for {gone:.0f} s")
        elif self._reminder.due(bool(waiting) and (gone is not None or not self._nodes or bool(needs)), now):
            self._house.tell(f"calls wait: {self._why_waiting(needs)}")

    def _why_waiting(self, needs: list[Shape]) -> str:
        if self._client is None:
            return f"the Dask scheduler {self.address} is gone, and tried again"
        if not self._leases.places:
            return "; ".join(self._unfit.values()) or f"the Dask cluster {self.address} has no node yet"
        amounts = " or ".join(", ".join(f"{name} {amount:g}" for name, amount in shape) for shape in needs)
        return f"no node of the Dask cluster {self.address} has {amounts or 'room'} free for them now"

    def _submit(self, lease: Lease) -> None:
        future = self._client.submit(
            hold,
            self._id,
            lease.id,
            key=f"meca-lease-{self._id}-{lease.id}",
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
        if self._leases.all.get(lease.id) is lease and self._futures.get(lease.id) is future:
            self._forget(lease)
            self._resize(lease.node)
            self._count()
            if lease.node is None:
                self._not_before = self._loop.time() + AGAIN_S
            self.wake()

    def _forget(self, lease: Lease) -> Any:
        self._leases.end(lease.id)
        return self._futures.pop(lease.id, None)

    def _take_back(self, lease: Lease) -> None:
        """Have a lease not run, wherever it is."""
        if (future := self._forget(lease)) is not None and self._client is not None:
            self._do(cancelled(future))

    def _give_back(self, lease: Lease) -> None:
        node = lease.node
        self._forget(lease)
        if node is not None and (there := self._nodes.get(node)) is not None:
            self._resize(node)
            there.release([lease.id])

    def _resize(self, address: str | None) -> None:
        if address is not None and (node := self._nodes.get(address)) is not None and node.open:
            node.resize(self._leases.on(address))

    # -- nodes ------------------------------------------------------------------------------------

    def _on_begun(self, event: tuple[float, dict[str, Any]]) -> None:
        """A lease says that it has begun."""
        told = event[1]
        self._do(self._begun(str(told["lease"]), str(told["node"])))

    async def _begun(self, number: str, address: str) -> None:
        if (node := self._nodes.get(address)) is None:
            told = self._known.get(address, {}).get("name")
            name = told if isinstance(told, str) else address  # LocalCluster counts its own
            silence = self._settings.silence_s
            node = self._nodes[address] = ClusterNode(address, name, self._house, self._security, silence)
            self._do(self._attend(node))
        if not await node.connected(ANSWER_S):
            return
        lease = self._leases.all.get(number)
        if lease is None or lease.node not in (None, address):
            node.release([number])  # not known any more, or it is elsewhere
        elif lease.node is None:
            self._leases.begin(lease, address, self._loop.time())
            self._count()
            self._resize(address)

    async def _attend(self, node: ClusterNode) -> None:
        """Have a node's workers for as long as it is there."""
        how = await node.run(self._id)
        if self._nodes.get(node.address) is node:
            del self._nodes[node.address]
        for lease in self._leases.on(node.address):
            self._take_back(lease)  # Dask would run it elsewhere, wanted or not
        log.warning("node %s: %s", node.name, how)
        node.leave(f"node {node.name} of the Dask cluster was lost: {how}")
        self._changed.set()
        self._count()
        self.wake()

    # -- end --------------------------------------------------------------------------------------

    def _do(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("the Dask cluster's side of this gateway: %r", error, exc_info=error)

    async def close(self) -> None:
        """Give everything back, and end a cluster that was started here."""
        self._closing = True
        for node in list(self._nodes.values()):
            node.release([lease.id for lease in self._leases.on(node.address)])
        futures = [future for lease in self._leases.waiting if (future := self._futures.get(lease.id)) is not None]
        if self._client is not None:
            with contextlib.suppress(Exception):  # it may be gone in this moment; nodes end their leases by themselves
                await asyncio.wait_for(asyncio.gather(*map(cancelled, futures)), END_S)
        for node in list(self._nodes.values()):
            await node.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await close_client(self._client, self._topics)
        if self._local is not None:
            await self._local.close(timeout=END_S)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


async def cancelled(future: Any) -> None:
    """Cancel a Dask future; one of a scheduler that is gone is cancelled already."""
    with contextlib.suppress(OSError, asyncio.CancelledError, RuntimeError):
        await future.cancel(force=True)
