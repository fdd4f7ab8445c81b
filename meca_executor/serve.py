"""A whole gateway: broker, server and runtimes put together, embedded or standing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

from .errors import UsageError
from .gateway.broker import Broker
from .gateway.desktop import with_tag
from .gateway.hub import Hub
from .gateway.server import Server
from .runtimes.apps import Apps
from .runtimes.examples import shipped
from .runtimes.processes import Processes
from .settings import default_key_file, ensure_keys, without_secrets
from .wire.memory import keep_read_buffers

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

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
        secrets: Access key -> secret of those who may connect.
        workers: Tasks that run at once; None is one a core.
        apps: Container name -> folder, besides the shipped examples.
        ready_workers: Worker processes to start before anyone asks.
        trusting: Its one client may name folders to run as containers.
    """

    def __init__(
        self,
        secrets: Mapping[str, str],
        workers: int | None,
        apps: Mapping[str, str],
        ready_workers: int = 0,
        trusting: bool = False,
    ) -> None:
        keep_read_buffers()
        slots = workers or core_count()
        environ = without_secrets(os.environ)
        self._apps = Apps({**shipped(), **apps}, environ=environ)
        self._hub = Hub(Broker(slots), self._apps, host_capacity(), trusting)
        self._hub.start(Processes(self._hub, environ, raise_descriptor_limit()), ready_workers)
        # The embedded gateway serves its one client only.
        old_dialect = None if trusting else (frozenset(map(with_tag, apps)), host_capacity())
        self._server = Server(self._hub, secrets, slots, old_dialect)
        self.slots = slots

    async def listen(self, host: str, port: int) -> int:
        """Start to serve; returns the port."""
        return await self._server.listen(host, port)

    async def close(self, grace: float = 0.0) -> bool:
        """End everything, after what is under way when it ends within `grace` seconds; whether it did."""
        done = await self._hub.drain(grace, lambda: self._server.busy) if grace > 0 else True
        await self._hub.close()
        await self._server.close()
        return done


def host_capacity() -> dict[str, float]:
    """Return what this machine has: `cpu` (cores) and `memory` (MiB). GPUs are not looked for."""
    capacity: dict[str, float] = {"cpu": os.cpu_count() or 1}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        capacity["memory"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    else:  # not known: nothing is refused for it
        capacity["memory"] = float("inf")
    return capacity


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
    ready = min(slots, core_count())
    gateway = Gateway({EMBEDDED_KEY: config["token"]}, slots, config["apps"], ready, trusting=True)
    port = await gateway.listen("127.0.0.1", 0)
    sys.stdout.write(json.dumps({"port": port, "slots": gateway.slots}) + "\n")
    sys.stdout.flush()

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


def run_standing(
    host: str, port: int, workers: int | None, apps: dict[str, str], key_file: Path | None, grace: float
) -> int:
    """Serve many clients until SIGTERM or SIGINT; prints a line when ready. Returns the exit code.

    Args:
        host: Loopback address to listen on.
        port: Port; 0 takes a free one.
        workers: Tasks that run at once; None is one a core.
        apps: Container name -> folder.
        key_file: Where the key pairs are; None is the user's own (made when missing).
        grace: Seconds that running tasks have after the signal.

    Raises:
        UsageError: The address is not loopback, or the key file cannot be used.
    """
    if host not in ("127.0.0.1", "localhost", "::1"):
        raise UsageError(
            f"cannot listen on {host}: this gateway has no TLS, so only this machine may reach it; use 127.0.0.1"
        )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    keys = key_file or default_key_file()
    secrets = dict(ensure_keys(keys))

    def say(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    try:
        return asyncio.run(_standing(host, port, Gateway, (secrets, workers, apps), keys, grace, say))
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; is another gateway running there? "
            "Choose another --port"
        ) from error


async def _standing(
    host: str,
    port: int,
    make: Callable[..., Gateway],
    arguments: tuple[Any, ...],
    keys: Path,
    grace: float,
    say: Callable[[str], None],
) -> int:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    gateway = make(*arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    try:
        bound = await gateway.listen(host, port)
    except OSError:
        await gateway.close()
        raise
    say(f"meca gateway: http://{host}:{bound} is ready, {gateway.slots} workers, keys in {keys}; Ctrl-C ends it")
    await ended.wait()
    say(f"meca gateway: ending; running tasks have {grace:g} s")
    done = await gateway.close(grace)
    say("meca gateway: ended" if done else "meca gateway: ended; tasks that took longer were stopped")
    return 0
