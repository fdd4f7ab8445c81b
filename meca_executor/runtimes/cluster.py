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
from ..policy.booking import ENGINE, why_no_container
from ..policy.leasing import Reminder
from .cluster_calls import ClusterCalls
from .cluster_leases import HeldLeases
from .cluster_nodes import NodeHouse
from .dask_door import close_client, connect_client, in_words, local_cluster, security_of
from .engine_settings import EngineSettings
from .node import ASK_S, PYTHON, prepare, topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..policy.leasing import Shape
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
    def tell(self, text: str, containers: bool) -> None: ...


class Cluster:
    """The leases of one gateway, and the nodes that it has them on.

    Args:
        settings: Which cluster.
        house: Where the nodes are hosts.
        engine: How containers run there; where their engine is, the nodes find out themselves.
    """

    def __init__(self, settings: ClusterSettings, house: House, engine: EngineSettings | None = None) -> None:
        self._settings = settings
        self._house = house
        self._id = secrets.token_hex(8)
        self._loop = asyncio.get_running_loop()
        self._leases = HeldLeases(self._id, settings, engine or EngineSettings(), house, self._on_leases, self._do)
        self._topics = {topic(self._id): self._leases.begun, "all": self._on_news}
        self._unfit: dict[str, str] = {}  # node -> why it cannot be used
        self._no_engine: dict[str, str] = {}  # node -> why it has no containers
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._balancing = False
        self._local: Any = None
        self._folder: str | None = None  # of a local one's nodes
        self._comm: Any = None  # its connection
        self._gone_since: float | None = None
        self._reminder = Reminder()
        self._closing = False
        self.address = settings.address
        self.containers = ClusterCalls(self._leases, self.why_no_container, self.wake)

    def __repr__(self) -> str:
        state = "gone" if self._leases.client is None else f"{len(self._leases.known)} nodes, {self._leases!r}"
        return f"<Cluster {self.address} {state}>"

    @property
    def places(self) -> int:
        """How many calls can run at once, as the cluster is now."""
        return self._leases.functions.places if self._settings.leases is None else self._settings.leases

    # -- scheduler --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect to the scheduler, or start a cluster.

        Raises:
            UsageError: Packages are missing.
            GatewayUnreachable: The scheduler does not answer.
        """
        self._leases.security = security_of(self._settings)
        if self._settings.local:
            self._folder = tempfile.mkdtemp(prefix="meca-dask-")
            self._local = await local_cluster(self._settings.local, self._folder)
            self.address, self._leases.security = self._local.scheduler_address, self._local.security
        try:
            await self._connect(self._settings.connect_s)
        except (OSError, asyncio.TimeoutError, ValueError, TypeError, RuntimeError) as error:  # two for certificates
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
        client = await connect_client(self.address, self._leases.security, timeout)
        try:
            for name, handler in self._topics.items():
                client.subscribe_topic(name, handler)
            self._leases.client = client
            await self._take_stock()
        except BaseException:
            self._leases.client = self._comm = None
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
        if self._leases.client is None:
            await self._connect(CONNECT_S)
            log.warning("the Dask scheduler %s is back", self.address)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), LOOK_S)
        await self._take_stock()

    async def _lost_scheduler(self, error: BaseException) -> None:
        client, self._leases.client, self._comm = self._leases.client, None, None
        if self._gone_since is None:
            self._gone_since = self._loop.time()
            log.warning("the Dask scheduler %s is gone: %s", self.address, error or type(error).__name__)
        self._leases.known.clear()
        self._unfit.clear()
        self._count()
        self._leases.forget_waiting()
        if client is not None:
            await close_client(client, self._topics)
        await asyncio.sleep(AGAIN_S)

    async def _take_stock(self) -> None:
        """Learn which nodes there are; those that are new are prepared."""
        self._changed.clear()
        identity = await asyncio.wait_for(self._leases.client.scheduler.identity(), ANSWER_S)
        comm = self._leases.client.scheduler_comm
        if self._comm is not None and self._comm is not comm:  # Dask's client has connected anew, and lost our topics
            raise OSError("the connection to it dropped")
        self._comm = comm
        workers: dict[str, dict[str, Any]] = dict(identity["workers"])
        running = {address: told for address, told in workers.items() if told.get("status") == "running"}
        for address in running.keys() - self._leases.known.keys():
            self._do(self._prepare(address))
        self._leases.known = running
        self._unfit = {address: why for address, why in self._unfit.items() if address in running}
        self._no_engine = {address: why for address, why in self._no_engine.items() if address in running}
        self._count()
        self.containers.refuse_impossible()

    async def _prepare(self, address: str) -> None:
        try:
            asked = self._leases.client.run(prepare, workers=[address], on_error="return")
            answer = await asyncio.wait_for(asked, self._settings.connect_s + ASK_S)
            told = answer[address]
        except (OSError, KeyError, ValueError, AttributeError, asyncio.TimeoutError) as error:  # it has just gone
            told = error
        if isinstance(told, BaseException):
            why = f"node {address} of the Dask cluster cannot be used: {in_words(told)}"
        elif told["kind"] != PYTHON:
            why = f"node {address} of the Dask cluster has {told['kind']}, this gateway {PYTHON}: they must be the same"
        else:
            if (why_none := told.get("no_engine")) is not None:
                self._no_engine[address] = f"node {address}: {why_none}"
                log.info("node %s of the Dask cluster has no containers: %s", address, why_none)
            self._leases.offer_again()  # those that no node fitted before
            self._changed.set()
            self.wake()
            return
        if address in self._leases.known:
            self._unfit[address] = why
            log.warning("%s", why)

    def _count(self) -> None:
        """Take note of what the cluster has."""
        fit = self._fit
        places = sum(int(told["nthreads"]) for told in fit)
        self._leases.functions.places = self._leases.bookings.places = places
        free = max(0, self.places - self._leases.held)
        self._house.reserve(free if self.places else 1, [told["resources"] for told in fit])
        self.containers.changed()

    @property
    def _fit(self) -> list[dict[str, Any]]:
        """The nodes that calls can run on."""
        return [told for told in self._leases.known.values() if PYTHON in told.get("resources", ())]

    def why_no_container(self, resource: Mapping[str, float]) -> str | None:
        """Return why no node that there is can ever run such a call of a container; None when one can, or none is here.

        Args:
            resource: What the call needs.
        """
        told_of, fit = self._leases.known.keys(), self._fit
        if not fit or len(fit) + len(self._unfit.keys() & told_of) < len(told_of):
            return None  # some are prepared still
        if not (have := [told["resources"] for told in fit if told["resources"].get(ENGINE, 0) >= 1]):
            whys = "; ".join(sorted(self._no_engine.values())) or f"they were started with {ENGINE}=0"
            return (
                f"no node of the Dask cluster {self.address} has a container engine: {whys}; start Docker on some of "
                "them, and then these nodes anew"
            )
        return why_no_container(resource, have)

    # -- what waits -------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something waits, perhaps: look soon."""
        if not self._balancing and not self._closing:
            self._balancing = True
            self._loop.call_later(WAKE_S, self._balance)

    def _balance_again(self) -> None:
        if not self._closing:
            self._loop.call_later(BALANCE_S, self._balance_again)  # first: Dask may raise when its client closes
            self._balance()

    def _balance(self) -> None:
        self._balancing = False
        if self._closing:
            return
        now, waiting = self._loop.time(), self._house.waiting()
        self._say_that_it_waits(now, waiting)
        if self._leases.client is not None:
            self._leases.balance(waiting, now)

    def _on_leases(self, node_is_gone: bool) -> None:
        """Places came or went."""
        if node_is_gone:
            self._changed.set()
        self._count()
        self.wake()

    def _say_that_it_waits(self, now: float, waiting: list[tuple[Shape, int]]) -> None:
        """Tell those whose calls wait why they do; have them fail when the scheduler stays away.

        That calls wait for their turn, as they do while nodes work, needs no words, if they need no more than a place.
        """
        containers = self._leases.bookings.calls.values()
        needs = sorted({shape for shape, _ in waiting if shape} | {call.shape for call in containers})
        gone = None if self._gone_since is None else now - self._gone_since
        nothing = gone is not None or not self._leases.nodes or bool(needs)
        if gone is not None and gone >= self._settings.away_s:
            why = f"the Dask scheduler {self.address} has been gone for {gone:.0f} s"
            self._house.refuse(why)
            self.containers.refuse(why)
        elif self._reminder.due(bool(waiting or containers) and nothing, now):
            self._house.tell(f"calls wait: {self._why_waiting(needs)}", bool(containers))

    def _why_waiting(self, needs: list[Shape]) -> str:
        if self._leases.client is None:
            return f"the Dask scheduler {self.address} is gone, and tried again"
        if not self._leases.functions.places:
            return "; ".join(self._unfit.values()) or f"the Dask cluster {self.address} has no node yet"
        amounts = " or ".join(", ".join(f"{name} {amount:g}" for name, amount in shape) for shape in needs)
        return f"no node of the Dask cluster {self.address} has {amounts or 'room'} free for them now"

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
        await self.containers.close()
        await self._leases.close(END_S)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._leases.client is not None:
            await close_client(self._leases.client, self._topics)
        if self._local is not None:
            await self._local.close(timeout=END_S)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
