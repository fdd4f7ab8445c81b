"""A whole gateway: broker, server and runtimes put together; and the embedded one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import socket
import struct
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .errors import MecaError, UsageError
from .gateway.annex import Annex
from .gateway.books import History
from .gateway.broker import Broker
from .gateway.desk import Desk
from .gateway.desktop import Offer, with_tag
from .gateway.durable import Durable
from .gateway.hosts import HERE, BrokerHost
from .gateway.hub import Hub
from .gateway.joined import Joining
from .gateway.owners import Owners
from .gateway.server import Server
from .gateway.waits import Waits
from .kernels.service import KernelService
from .runtimes.apps import Apps
from .runtimes.boxes import Boxes
from .runtimes.choice import AppsAndContainers
from .runtimes.containers import Containers
from .runtimes.engine_settings import EngineSettings
from .runtimes.examples import RUNNERS, shipped
from .runtimes.fleet import Fleet
from .runtimes.guardian import Guardian
from .runtimes.places import Places
from .runtimes.processes import Processes
from .settings import without_secrets
from .wire.desktop import NAMESPACE as OLD_DIALECT
from .wire.hosting import why_no_host_name
from .wire.memory import keep_read_buffers

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping

    from .gateway.journal import Journal
    from .keys import KeyFile
    from .runtimes.cluster import Cluster
    from .runtimes.dask_door import ClusterSettings

EMBEDDED_KEY = "embedded"  #: the one access key of an embedded gateway; its secret is the one-time token
PARENT_POLL_S = 1.0
DESCRIPTORS = 65_536

log = logging.getLogger("meca.gateway")


def raise_descriptor_limit() -> int:
    """Let this process have many descriptors open, and return the old limit.

    Large results are one each until they are fetched.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # some systems have a limit that they do not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft


class Gateway:
    """One running gateway; make it inside the loop that it is to live in.

    Args:
        keys: Access key -> secret of those who may connect, or where that is written.
        workers: Tasks that run at once on this machine; None is one a core, 0 leaves functions to hosts that join.
        apps: Container name -> folder, besides the shipped examples.
        ready_workers: Worker processes to start before anyone asks.
        trusting: Its one client may name folders to run as containers.
        journal: Where sessions are written down; None keeps them in memory only.
        exposed: Others than this machine's users may reach it, so the old dialect, which has no keys, is not served.
        behind_proxy: Something in front ends TLS and names clients' addresses.
        trust_all_keys: Functions of several owners may run side by side, all as this process's user.
        engine: How containers run; None is the usual way, where an engine is.
        images: Images that programs on the old SDK may run, besides the apps.
        kernel_images: Language -> image of isolated kernels, where it is not the usual one.
        cluster: Where functions run in place of this machine, and images; `workers` is then the most places there.

    Raises:
        UsageError: The journal is damaged.
    """

    def __init__(
        self,
        keys: Mapping[str, str] | KeyFile,
        workers: int | None,
        apps: Mapping[str, str],
        ready_workers: int = 0,
        trusting: bool = False,
        journal: Journal | None = None,
        exposed: bool = False,
        behind_proxy: bool = False,
        trust_all_keys: bool = False,
        engine: EngineSettings | None = None,
        images: Iterable[str] = (),
        kernel_images: Mapping[str, str] | None = None,
        cluster: str | ClusterSettings | None = None,
    ) -> None:
        keep_read_buffers()
        slots = 0 if cluster is not None else core_count() if workers is None else workers
        environ = without_secrets(os.environ)
        capacity = host_capacity()
        examples = shipped()
        self._guardian = Guardian(environ)
        local = Apps({**examples, **apps}, environ=environ, guardian=self._guardian)
        engine = engine or EngineSettings()
        containers = Containers(engine, slots or core_count(), capacity)
        keeper = None if journal is None else Durable(journal)
        named = set(map(with_tag, apps))
        owners = self._owners = Owners(keys, trust_all_keys, RUNNERS - named)
        at_home = AppsAndContainers(local, containers, examples.keys() - named, owners.why_not)
        # Without workers of its own a gateway is there for hosts, but those serve no clients of the old dialect.
        patient = lambda owner: slots == 0 and cluster is None and owner != OLD_DIALECT  # noqa: E731
        places = Places(at_home, slots or core_count(), capacity, patient)
        # Of containers only those that are processes of this user's are refused, and that is known where they are run.
        why_not = lambda ref: owners.why_not() if ref is None else None  # noqa: E731
        here = BrokerHost(HERE, machine_name(), slots, capacity, lambda _: owners.why_not() is None)
        broker = Broker(slots, here)
        self._hub = Hub(broker, places, trusting, keeper=keeper, why_not=why_not)
        fleet = Fleet(self._hub)
        fleet.begin_here(Processes(fleet, environ, self._guardian, raise_descriptor_limit()))
        self._hub.start(fleet, ready_workers)
        if journal is not None and keeper is not None:
            revive(self._hub, self._owners, journal, keeper, places)
        # The embedded gateway serves its one client only.
        offer = Offer(frozenset(map(with_tag, [*apps, *images])), frozenset(engine.runtimes), capacity)
        old_dialect = None if trusting or exposed else offer
        boxes = Boxes(containers)
        kernels = KernelService(os.environ, self._guardian, owners.why_no_kernels, boxes, kernel_images)
        self._desk = Desk(kernels)
        joining = Joining(self._hub, broker, fleet, places)
        self._server = Server(self._hub, self._owners, joining, old_dialect, behind_proxy, self._desk)
        self._slots, self._cluster = slots, None
        if cluster is not None:
            annex = Annex(self._hub, broker, fleet, joining.changed, here.serves, partial(callers, self._hub))
            self._cluster = cluster_of(cluster, workers, annex, engine, places)
            self._hub.on_done = self._cluster.wake
        elif not trusting:  # an embedded one has workers, and nobody joins it
            Waits(self._hub, places.stuck)
        if not trusting:  # an embedded one is started often, and asks for an engine when it needs one
            containers.sweep_soon()
            kernels.house.sweep()

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Start to serve, over TLS if there is something to do it with; returns the port.

        Raises:
            UsageError: A cluster needs packages that are not there.
            GatewayUnreachable: It does not answer.
        """
        if self._cluster is not None:
            await self._cluster.start()
        return await self._server.listen(host, port, tls)

    @property
    def slots(self) -> int:
        """How many calls can run at once here, or in the cluster as it is now."""
        return self._slots if self._cluster is None else self._cluster.places

    @property
    def quiet(self) -> bool:
        """Whether nobody is connected, or will be back, and no kernel is kept."""
        return not self._hub.sessions and self._desk.quiet

    def refuse(self, text: str) -> None:
        """Tell every client why there is no gateway any more."""
        self._server.refuse_all(text)

    async def close(self, grace: float = 0.0) -> bool:
        """End everything, after what is under way when it ends within `grace` seconds; whether it did."""
        done = await self._hub.drain(grace, lambda: self._server.busy) if grace > 0 else True
        await self._desk.close()  # its kernels' containers are the hub's
        await self._hub.close()
        if self._cluster is not None:
            await self._cluster.close()
        await self._server.close()
        self._guardian.close()
        return done


def cluster_of(
    cluster: str | ClusterSettings, most: int | None, annex: Annex, engine: EngineSettings, places: Places
) -> Cluster:
    """Return the runtime of a cluster, which containers run on, too; only now is anything of it imported."""
    from .runtimes.cluster import Cluster
    from .runtimes.dask_door import ClusterSettings

    settings = ClusterSettings(cluster) if isinstance(cluster, str) else cluster
    made = Cluster(replace(settings, leases=most or None), annex, engine)
    places.cluster, made.containers.changed = made.containers, places.look
    return made


def callers(hub: Hub) -> list[str]:
    """Return the ids of the sessions that have calls of containers."""
    return [session.id for session in hub.sessions.values() if session.calls]


def revive(hub: Hub, owners: Owners, journal: Journal, keeper: Durable, places: Places) -> None:
    """Go on with all sessions of a journal; not with those whose access key may not connect any more.

    Raises:
        UsageError: It is damaged.
    """
    saved, known = None, owners.secrets()
    try:
        for saved in journal.load():
            if saved.key not in known:
                log.warning("session %s of the journal ends: its access key %s is unknown here", saved.id, saved.key)
                journal.ended(saved.id, [entry.row for entry in journal.entries(saved.id)])
                continue
            if not hub.sessions:
                places.expect()
            hub.revive(saved, owners.owner(saved.key), History(journal.entries(saved.id)), keeper)
    except (ValueError, KeyError, struct.error) as error:
        raise UsageError(
            f"the journal {journal.path} is damaged ({saved}: {error!r}); move it away, or choose another --journal"
        ) from error


def host_capacity() -> dict[str, float]:
    """Return what this machine has: `cpu` (cores), `memory` (MiB) and `gpu` (those of NVIDIA's driver)."""
    capacity: dict[str, float] = {"cpu": os.cpu_count() or 1}
    with contextlib.suppress(OSError):
        capacity["gpu"] = len(os.listdir("/proc/driver/nvidia/gpus"))
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        capacity["memory"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    else:  # not known: nothing is refused for it
        capacity["memory"] = float("inf")
    return capacity


def machine_name() -> str:
    """Return what this machine is called."""
    name = socket.gethostname() or "localhost"
    return name if why_no_host_name(name) is None else "localhost"


def core_count() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_embedded(config: dict[str, Any]) -> None:
    """Serve one parent process until its end of our stdin closes; prints one JSON line with the port."""
    # Nobody reads our logs here; what goes wrong reaches the client as text.
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    asyncio.run(_embedded(config))


async def _embedded(config: dict[str, Any]) -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    parent = os.getppid()
    slots = config["workers"] or core_count()
    ready = min(slots, core_count()) if config.get("ready", True) else 0
    cluster = config.get("cluster")
    workers = slots if cluster is None else config["workers"]
    gateway = Gateway({EMBEDDED_KEY: config["token"]}, workers, config["apps"], ready, trusting=True, cluster=cluster)
    try:
        port = await gateway.listen("127.0.0.1", 0)
    except MecaError as error:
        sys.stderr.write(f"{error}\n")
        await gateway.close()
        sys.exit(1)
    try:
        os.write(sys.stdout.fileno(), json.dumps({"port": port, "slots": gateway.slots}).encode() + b"\n")
    except BrokenPipeError:  # nobody waits for it any more: the executor was shut down unused
        ended.set()

    def on_stdin() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            ended.set()

    def poll_parent() -> None:
        # A fork of the parent may hold our stdin open after the parent is gone.
        if os.getppid() != parent:
            ended.set()
        else:
            loop.call_later(PARENT_POLL_S, poll_parent)

    loop.add_reader(0, on_stdin)
    poll_parent()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
    await gateway.close()
