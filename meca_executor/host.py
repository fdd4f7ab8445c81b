"""A host: a machine that offers workers and containers to a gateway elsewhere, over one outgoing connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
import signal
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from .client.container import checked_resource
from .client.host_link import HostLink
from .errors import UsageError
from .keys import read_keys
from .runtimes.agent import Agent
from .runtimes.apps import Apps
from .runtimes.choice import AppsAndContainers
from .runtimes.containers import Containers
from .runtimes.engine_settings import EngineSettings, full_name
from .runtimes.examples import shipped
from .runtimes.guardian import Guardian
from .runtimes.processes import Processes
from .serve import core_count, host_capacity, machine_name, raise_descriptor_limit
from .settings import default_key_file, given_ca_file, given_keys, without_secrets
from .wire.hosting import APPS_MOST, GRACE_MOST_S, WORKERS_MOST, Introduction, why_no_host_name
from .wire.memory import keep_read_buffers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .settings import KeyPair
    from .wire.hosting import Offer

GRACE_S = 120.0  #: seconds that a host may be away before its calls are made elsewhere
JOIN_S = 10.0  #: for the first connection
LEFT_S = 5.0  #: for workers to end

log = logging.getLogger("meca.host")


@dataclass(frozen=True)
class Hosting:
    """How a host is to be.

    Attributes:
        url: The gateway that it joins.
        workers: Worker processes, and container calls besides them, each at once; None is one a core.
        resource: What it has of `cpu`, `memory` (MiB) or `gpu`, in place of what is found here. For functions
            the gateway counts what is in use of it; for containers, apart from that, this machine and its engine do.
        name: What it is called; None is the machine's name.
        grace: Seconds that it may be away before its calls are made elsewhere.
        key_file: Where its key pair is, when the environment has none; None is the user's own.
        apps: Container name -> folder of local apps.
        engine: How containers run; None: neither those nor local apps do.
    """

    url: str
    workers: int | None = None
    resource: Mapping[str, float] = field(default_factory=dict)
    name: str | None = None
    grace: float = GRACE_S
    key_file: Path | None = None
    apps: Mapping[str, str] = field(default_factory=dict)
    engine: EngineSettings | None = field(default_factory=EngineSettings)


def introduction(wanted: Hosting) -> Introduction:
    """Return what the host says of itself.

    Raises:
        UsageError: A value is wrong.
    """
    name = machine_name() if wanted.name is None else wanted.name
    if (why := why_no_host_name(name)) is not None:
        raise UsageError(f"a host's name {name[:40]!r} {why}")
    if wanted.workers is not None and wanted.workers > WORKERS_MOST:
        raise UsageError(f"a host has {WORKERS_MOST} workers at most, not {wanted.workers}")
    if wanted.grace > GRACE_MOST_S:
        raise UsageError(f"a grace time of {wanted.grace:g} s is longer than {GRACE_MOST_S:g} s (a week)")
    if len(wanted.apps) + len(wanted.engine.runtimes if wanted.engine else ()) > APPS_MOST:
        raise UsageError(f"a host has {APPS_MOST} apps and runtimes at most, not {len(wanted.apps)} apps")
    found = {key: value for key, value in host_capacity().items() if value != float("inf")}
    capacity = {**found, **checked_resource(wanted.resource)}
    return Introduction(name, wanted.workers or core_count(), capacity, wanted.grace, platform.python_version())


def key_pair(wanted: Hosting) -> KeyPair:
    """Return the pair that the host joins with.

    Raises:
        UsageError: There is none, or it cannot be read.
    """
    if wanted.key_file is None and (given := given_keys()) is not None:
        return given
    path = wanted.key_file or default_key_file()
    if not (pairs := read_keys(path)):
        raise UsageError(
            f"there is no key pair in {path}; set MECA_ACCESS_KEY and MECA_SECRET_KEY, or name a file with --key-file"
        )
    return pairs[0]


def run_host(wanted: Hosting) -> int:
    """Offer this machine's workers and containers until told to end; prints a line when it has joined.

    Returns:
        The exit code: 0 when it left in order, 130 when it was ended at once.

    Raises:
        UsageError: An argument is wrong.
        GatewayError: The gateway cannot be reached or does not take this host; or it refuses it later on.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("meca.containers").setLevel(logging.INFO)  # how far a pull is
    told, keys = introduction(wanted), key_pair(wanted)
    keep_read_buffers()
    return asyncio.run(_live(wanted, told, keys))


async def _live(wanted: Hosting, told: Introduction, keys: KeyPair) -> int:
    environ = without_secrets(os.environ)
    guardian, limit = Guardian(environ), raise_descriptor_limit()
    try:
        house = None if wanted.engine is None else House(wanted.apps, wanted.engine, told, environ, guardian)
    except UsageError:
        guardian.close()
        raise
    if house is not None:
        told = replace(told, containers=await house.offer())
    stay = Stay(wanted.url, told, keys)
    containers = None if house is None else house.containers
    start = lambda events: Processes(events, environ, guardian, limit)  # noqa: E731
    stay.agent = Agent(start, stay.link.send, containers, stay.link.has_room)
    stay.agent.on_leave = stay.left.set
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stay.on_signal)
    try:
        await stay.link.join(JOIN_S)
        has = "runs no containers" if house is None else house.told
        say(f"meca host: {told.name} has joined {wanted.url} with {told.workers} workers, {has}; Ctrl-C lets it leave")
        return await stay.until_left()
    finally:
        await stay.link.close()
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(stay.agent.close(), LEFT_S)
        if house is not None:
            await house.containers.close()
        guardian.close()


class House:
    """The containers and local apps of a host.

    Args:
        apps: Container name -> folder, besides the shipped examples.
        engine: How containers of an engine run.
        told: What the host says of itself.
        environ: What local apps get.
        guardian: Ends them if this process is killed.

    Raises:
        UsageError: A folder is none of an app.
    """

    def __init__(
        self,
        apps: Mapping[str, str],
        engine: EngineSettings,
        told: Introduction,
        environ: Mapping[str, str],
        guardian: Guardian,
    ) -> None:
        examples = shipped()
        local = Apps({**examples, **apps}, environ=environ, guardian=guardian)
        self._engine = Containers(engine, told.workers, told.capacity)
        named = set(map(full_name, apps))
        self.containers = AppsAndContainers(local, self._engine, examples.keys() - named)
        self.told = "runs containers"  #: what there is, for people

    async def offer(self) -> Offer:
        """Return what there is; an engine only if it answers."""
        if (why := await self._engine.why_not()) is not None:
            self._engine.url = None
            self.told = f"runs local apps only ({why})"
        return self.containers.offer()


class Stay:
    """A host's time with a gateway, from joining it to leaving it."""

    agent: Agent

    def __init__(self, url: str, told: Introduction, keys: KeyPair) -> None:
        self.left = asyncio.Event()
        self._at_once = False
        self._leaving = False
        self.link = HostLink(url, keys, told, self._on_message, self._on_state, given_ca_file())

    def _on_message(self, message: bytes) -> None:
        self.agent.on_message(message)

    def _on_state(self, resumed: bool) -> None:
        if resumed:
            self.agent.resumed()
            return
        self.agent.reset()
        if self._leaving:  # nothing runs here that anybody waits for
            self.left.set()

    def on_signal(self) -> None:
        """Leave when what runs is done; at the second time, at once."""
        if not self._leaving:
            self._leaving = True
            if self.link.idle and not self.agent.running:  # nobody is there to ask, and nobody misses anything
                self.left.set()
                return
            say(f"meca host: leaving when {self.agent.running} running calls are done; Ctrl-C again ends at once")
            self.agent.leave(drain=True)
        else:
            self._at_once = True
            self.agent.leave(drain=False)
            self.left.set()

    async def until_left(self) -> int:
        """Return the exit code when the host has left.

        Raises:
            MecaError: The gateway would not have it any more, and why.
        """
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(self.left.wait()), loop.create_task(self.link.ended.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self.left.is_set():
            say("meca host: left" if not self._at_once else "meca host: ended")
            return 130 if self._at_once else 0
        assert self.link.failure is not None
        raise self.link.failure


def say(text: str) -> None:
    """Print a line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
