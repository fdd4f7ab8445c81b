"""The standing gateway: a process that many programs use, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import GatewayUnreachable, MecaError, UsageError
from .gateway.journal import SIZE_BYTES, Journal
from .keys import KeyFile, ensure_keys, read_keys
from .runtimes.engine_settings import EngineSettings
from .serve import Gateway
from .settings import default_key_file

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from pathlib import Path

    from .runtimes.dask_door import ClusterSettings

log = logging.getLogger("meca.gateway")

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Standing:
    """How a standing gateway is to be.

    Attributes:
        host: Address to listen on; another one than loopback needs keys, and TLS or a proxy.
        port: Port; 0 takes a free one.
        workers: Tasks that run at once; None is one a core.
        apps: Container name -> folder.
        key_file: Where the key pairs are; None is the user's own (made when missing, on loopback).
        grace: Seconds that running tasks have after the signal to end.
        journal: Where sessions are written down, so that they outlive this process; None is nowhere.
        journal_bytes: What the journal may have on disk before no more tasks are taken.
        tls_cert: PEM file with the certificate, and those between it and its root.
        tls_key: PEM file with its private key, without a password.
        behind_proxy: Something in front ends TLS, and names clients in `X-Forwarded-For`.
        trust_all_keys: Functions run although the key file has several owners.
        engine: How containers of an engine run.
        images: Those that programs on the old SDK may run, besides the apps.
        kernel_images: Language -> image of isolated kernels, where it is not the usual one.
        idle_exit: Seconds without a session or a kernel, after which it ends; None is never.
        cluster: Dask cluster on whose nodes functions run; None is this machine.
    """

    host: str
    port: int
    workers: int | None = None
    apps: dict[str, str] = field(default_factory=dict)
    key_file: Path | None = None
    grace: float = 30.0
    journal: Path | None = None
    journal_bytes: int = SIZE_BYTES
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    trust_all_keys: bool = False
    engine: EngineSettings = field(default_factory=EngineSettings)
    images: tuple[str, ...] = ()
    kernel_images: Mapping[str, str] = field(default_factory=dict)
    idle_exit: float | None = None
    cluster: ClusterSettings | None = None

    @property
    def exposed(self) -> bool:
        """Whether others than this machine's users may reach it."""
        return self.behind_proxy or self.host not in LOOPBACK


def run_standing(wanted: Standing) -> int:
    """Serve until SIGTERM or SIGINT; prints a line when ready.

    Returns:
        The exit code: 0, or 1 when the journal could not be written any more.

    Raises:
        UsageError: The address may not be listened on, or the certificate, the key file or the journal cannot be used.
        GatewayUnreachable: The cluster cannot be reached.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("meca.containers").setLevel(logging.INFO)  # how far a pull is
    logging.getLogger("meca.hosts").setLevel(logging.INFO)  # who comes and goes
    tls = checked_tls(wanted)
    keys = checked_keys(wanted)
    journal = Journal(wanted.journal, size=wanted.journal_bytes) if wanted.journal is not None else None
    try:
        return asyncio.run(_serve(wanted, keys, tls, journal))
    except GatewayUnreachable:  # the cluster
        raise
    except OSError as error:
        raise UsageError(
            f"cannot listen on {wanted.host}:{wanted.port}: {error.strerror or error}; is another gateway running "
            "there, or is it no address of this machine? Choose another --port or --host"
        ) from error
    finally:
        if journal is not None:
            journal.close()


async def _serve(wanted: Standing, keys: KeyFile, tls: ssl.SSLContext | None, journal: Journal | None) -> int:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    gateway = Gateway(
        keys,
        wanted.workers,
        wanted.apps,
        journal=journal,
        exposed=wanted.exposed,
        behind_proxy=wanted.behind_proxy,
        trust_all_keys=wanted.trust_all_keys,
        engine=wanted.engine,
        images=wanted.images,
        kernel_images=wanted.kernel_images,
        cluster=wanted.cluster,
    )
    broken: list[str] = []

    def on_failure(text: str) -> None:
        broken.append(text)
        gateway.refuse(text)
        ended.set()

    try:
        if journal is not None:
            journal.start(lambda text: loop.call_soon_threadsafe(on_failure, text))
        bound = await gateway.listen(wanted.host, wanted.port, tls)
    except (OSError, MecaError):
        await gateway.close()
        raise
    where = "" if wanted.journal is None else f", journal in {wanted.journal}"
    host = f"[{wanted.host}]" if ":" in wanted.host else wanted.host
    url = f"{'http' if tls is None else 'https'}://{host}:{bound}"
    say(f"meca gateway: {url} is ready, {gateway.slots} workers, keys in {keys.path}{where}; Ctrl-C ends it")
    watching = loop.create_task(_end_when_idle(gateway, wanted.idle_exit, ended))
    await ended.wait()
    watching.cancel()
    if broken:
        log.error("ending: %s", broken[0])
        await gateway.close()
        return 1
    say(f"meca gateway: ending; running tasks have {wanted.grace:g} s")
    done = await gateway.close(wanted.grace)
    say("meca gateway: ended" if done else "meca gateway: ended; tasks that took longer were stopped")
    return 0


async def _end_when_idle(gateway: Gateway, idle: float | None, ended: asyncio.Event) -> None:
    """Set `ended` when nobody has used the gateway for long."""
    loop = asyncio.get_running_loop()
    used = loop.time()
    while idle is not None and loop.time() - used < idle:
        await asyncio.sleep(min(1.0, idle / 4))
        if not gateway.quiet:
            used = loop.time()
    if idle is not None:
        ended.set()


def checked_tls(wanted: Standing) -> ssl.SSLContext | None:
    """Return what TLS is done with, or None for plain HTTP where that may be.

    Raises:
        UsageError: The address needs TLS and there is none, or a file cannot be used.
    """
    cert, key = wanted.tls_cert, wanted.tls_key
    if cert is not None and key is not None:
        return server_context(cert, key)
    if cert is not None or key is not None:
        missing = "--tls-key" if key is None else "--tls-cert"
        raise UsageError(f"{missing} is missing: TLS needs both --tls-cert FILE and --tls-key FILE")
    if wanted.host not in LOOPBACK and not wanted.behind_proxy:
        raise UsageError(
            f"--host {wanted.host} is reached by other machines, and needs --tls-cert FILE and --tls-key FILE, or "
            "--behind-proxy where something in front ends TLS"
        )
    return None


def server_context(cert: Path, key: Path) -> ssl.SSLContext:
    """Return the TLS of a server, 1.2 or later.

    Raises:
        UsageError: A file cannot be read, is not PEM, needs a password, or the two do not belong together.
    """
    import ssl

    check_readable("--tls-cert", cert)
    check_readable("--tls-key", key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2

    def no_password() -> str:
        raise UsageError(f"--tls-key {key} needs a password; give a key without one (mode 600)")

    try:
        context.load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        why = f"they do not belong together, or one is no PEM file ({error.reason or error})"
        raise UsageError(f"--tls-cert {cert} and --tls-key {key} cannot be used: {why}") from error
    return context


def check_readable(option: str, path: Path) -> None:
    """Check that a file can be read: OpenSSL does not say which one it could not."""
    try:
        path.read_bytes()
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be read: {error.strerror}") from error


def checked_keys(wanted: Standing) -> KeyFile:
    """Return the pairs of those who may connect; those in the user's own file are one owner.

    Raises:
        UsageError: There are none where others may reach the gateway, or the file cannot be used.
    """
    own = default_key_file()
    path = wanted.key_file or own
    if not wanted.exposed:
        ensure_keys(path)
    elif not read_keys(path):
        option = "" if wanted.key_file is None else f" --file {path}"
        raise UsageError(
            f"there are no keys in {path}, and others may reach this gateway; run: meca keys create{option}"
        )
    return KeyFile(path, one_owner=os.path.realpath(path) == os.path.realpath(own))


def say(text: str) -> None:
    """Print a line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
