"""A node of a Dask cluster: what runs inside of a Dask worker process for the gateways that use it.

Nothing of ours is on a node before a gateway has `prepare` run there. Then gateways submit *leases*: Dask tasks that do
nothing but hold one place of the node (`hold`, a coroutine, so no thread is blocked) and say so. While a gateway has a
lease here, it keeps a connection to the node's own port, and over that the node's agent starts worker processes for it
and ends them. What a lease waits for ends it: the gateway gives it back, the connection is over, or the node closes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from .. import __version__
from ..policy.booking import ENGINE
from ..policy.placement import UNITS
from ..settings import without_secrets
from .agent import Agent
from .apps import Apps
from .choice import AppsAndContainers
from .containers import Containers
from .dask_door import this_node
from .dask_link import SILENCE_S, DaskLink
from .engine_settings import EngineSettings
from .guardian import Guardian
from .processes import Processes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .dask_link import Control

log = logging.getLogger("meca.node")

OPERATION = "meca_link"  #: by which a gateway connects to a node
PYTHON = f"meca-{__version__}-python-{sys.version_info[0]}.{sys.version_info[1]}"  #: a resource: what a node runs
PLENTY = 1e6  #: what it has of that
CLAIM_S = 30.0  #: a lease that no gateway has connected for ends after so long
ASK_S = 15.0  #: for a container engine that is asked whether it is there; it removes then what killed processes left
DRAIN_S = 20.0  #: what runs has so long when a node closes; Dask itself waits for 30 s

_nodes: WeakKeyDictionary[Any, Node] = WeakKeyDictionary()


def topic(gateway: str) -> str:
    """Return the topic of Dask's events under which leases of a gateway tell that they have begun."""
    return f"meca-{gateway}"


async def prepare(dask_worker: Any) -> dict[str, Any]:
    """Make a Dask worker a node; a second time does nothing. Returns what is to be known of it.

    It publishes what the node has as Dask resources: `cpu` (the threads that Dask gives out), `memory` (MiB) and `gpu`,
    where the operator has not said that already (`dask worker --resources "gpu=1"`), which Python it runs, and
    `engine` (its threads) where a container engine answers.

    Raises:
        RuntimeError: This Dask worker cannot be one.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(
            "this Dask worker runs in a thread of another process, and worker processes can only be started and "
            "watched from a main thread; start it as a process (`dask worker`, LocalCluster(processes=True))"
        )
    if dask_worker not in _nodes:
        _nodes[dask_worker] = Node(dask_worker)
        dask_worker.handlers[OPERATION] = _nodes[dask_worker].serve
    no_engine = await _nodes[dask_worker].why_no_engine()
    has = found(dask_worker) if no_engine else {**found(dask_worker), ENGINE: float(dask_worker.state.nthreads)}
    published = dask_worker.state.total_resources
    missing = {name: amount for name, amount in has.items() if name not in published}
    if missing:
        await dask_worker.set_resources(**missing)
    return {"kind": PYTHON, "no_engine": no_engine}


def found(dask_worker: Any) -> dict[str, float]:
    """Return what a Dask worker has for our calls."""
    limit = dask_worker.memory_manager.memory_limit
    memory = limit if limit else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": float(dask_worker.state.nthreads),
        "memory": memory / (1 << 20),
        "gpu": float(gpus(os.environ)),
        PYTHON: PLENTY,
    }


def gpus(environ: Mapping[str, str]) -> int:
    """Return how many GPUs of NVIDIA's driver this process may use."""
    if (visible := environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([name for name in re.split(r"\s*,\s*", visible.strip()) if name and name != "-1"])
    try:
        return len(os.listdir("/proc/driver/nvidia/gpus"))
    except OSError:
        return 0


async def hold(gateway: str, lease: str) -> None:
    """Hold one place of this node for a gateway: the Dask task that is a lease."""
    worker = this_node()
    if (node := _nodes.get(worker)) is None:  # a nanny has started it anew, and no gateway has seen it yet
        await prepare(worker)
        node = _nodes[worker]
    await node.hold(gateway, lease)


class Node:
    """What one Dask worker process has for all gateways."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._leases: dict[tuple[str, str], asyncio.Event] = {}  # (gateway, lease) -> given back
        self._guests: dict[str, Guest] = {}
        self._engine: asyncio.Task[str | None] | None = None
        self._asked: asyncio.Task[None] | None = None

    async def why_no_engine(self) -> str | None:
        """Return why there are no containers here; None when an engine answers, which is asked until it does."""
        if self._engine is None or (self._engine.done() and self._engine.result() is not None):
            self._engine = asyncio.get_running_loop().create_task(self._ask_engine())
        return await asyncio.shield(self._engine)

    async def _ask_engine(self) -> str | None:
        containers = self.containers("", EngineSettings())
        try:
            why = await asyncio.wait_for(containers.why_not(), ASK_S)
        except asyncio.TimeoutError:
            why = f"the container engine at {containers.url} does not answer within {ASK_S:g} s"
        self._asked = asyncio.get_running_loop().create_task(containers.close())
        return why

    def containers(self, gateway: str, engine: EngineSettings) -> Containers:
        """Return what runs containers here for a gateway; its own, so that they end with it, and with no other."""
        state = self._worker.state
        has = {**found(self._worker), **state.total_resources}
        return Containers(replace(engine, part=gateway), state.nthreads, {name: has[name] for name in UNITS})

    async def hold(self, gateway: str, lease: str) -> None:
        """Return when the gateway gives the lease back, is gone, or was never there."""
        over = self._leases[gateway, lease] = asyncio.Event()
        try:
            self._worker.log_event(topic(gateway), {"lease": lease, "node": self._worker.address})
            loop = asyncio.get_running_loop()
            # A gateway that is there says within this time that it knows of the lease.
            timer = loop.call_later(CLAIM_S, self._unclaimed, gateway, over)
            try:
                await over.wait()
            finally:
                timer.cancel()
        except asyncio.CancelledError:
            await self._drain(gateway, over)
            raise
        finally:
            self._leases.pop((gateway, lease), None)

    def _unclaimed(self, gateway: str, over: asyncio.Event) -> None:
        if gateway not in self._guests:
            over.set()

    async def _drain(self, gateway: str, over: asyncio.Event) -> None:
        """The Dask worker closes: what runs may end before it does."""
        if (guest := self._guests.get(gateway)) is not None:
            guest.drain()
            try:
                await asyncio.wait_for(over.wait(), DRAIN_S)
            except asyncio.TimeoutError:
                log.warning("calls of a gateway run for longer than this node has time to close; they run elsewhere")

    async def serve(
        self, comm: Any, gateway: str, silence: float = SILENCE_S, engine: Mapping[str, Any] | None = None
    ) -> None:
        """Serve a gateway that has connected, until the connection is over; `engine` is what it says of containers."""
        if (old := self._guests.pop(gateway, None)) is not None:
            old.link.close("the gateway has connected anew")
        guest = self._guests[gateway] = Guest(self, gateway, comm, silence, EngineSettings.from_fields(engine or {}))
        try:
            how = await guest.link.run()
            log.info("gateway %s: %s", gateway, how)
        finally:
            if self._guests.get(gateway) is guest:
                del self._guests[gateway]
                self.release_all(gateway)
            await guest.close()

    def release(self, gateway: str, lease: str) -> None:
        """A gateway gives a lease back."""
        if (over := self._leases.get((gateway, lease))) is not None:
            over.set()

    def release_all(self, gateway: str) -> None:
        """A gateway needs nothing here any more."""
        for (other, _), over in self._leases.items():
            if other == gateway:
                over.set()


class Guest:
    """A gateway that is connected to this node, and the workers and containers that it has here."""

    def __init__(self, node: Node, gateway: str, comm: Any, silence: float, engine: EngineSettings) -> None:
        environ = without_secrets(os.environ)
        self._node = node
        self._gateway = gateway
        self._guardian = Guardian(environ)
        self.link = DaskLink(comm, self._on_message, self._on_control, silence)
        self._containers = AppsAndContainers(Apps({}), node.containers(gateway, engine), ())
        start = lambda events: Processes(events, environ, self._guardian)  # noqa: E731
        self._agent = Agent(start, self.link.send, self._containers)
        self._agent.on_leave = lambda: node.release_all(gateway)
        self._ending: asyncio.Task[None] | None = None

    def _on_message(self, message: bytes) -> None:
        self._agent.on_message(message)

    def _on_control(self, control: Control) -> None:
        for lease in control.get("release", ()):
            self._node.release(self._gateway, lease)
        if control.get("end"):
            self._end_all().add_done_callback(lambda _: self.link.send({"ended": True}))

    def _end_all(self) -> asyncio.Task[None]:
        """End all workers and containers, once."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._close_all())
        return self._ending

    async def _close_all(self) -> None:
        await self._agent.close()
        await self._containers.close()

    def drain(self) -> None:
        """Ask the gateway to let this node go."""
        self._agent.leave(drain=True)

    async def close(self) -> None:
        """End all workers and containers, and wait until they are gone."""
        await self._end_all()
        self._guardian.close()
