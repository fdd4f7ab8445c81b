"""The standing gateway: a process that many programs use, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .errors import UsageError
from .gateway.journal import SIZE_BYTES, Journal
from .serve import Gateway
from .settings import default_key_file, ensure_keys

if TYPE_CHECKING:
    from pathlib import Path

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Standing:
    """How a standing gateway is to be.

    Attributes:
        host: Loopback address to listen on.
        port: Port; 0 takes a free one.
        workers: Tasks that run at once; None is one a core.
        apps: Container name -> folder.
        key_file: Where the key pairs are; None is the user's own (made when missing).
        grace: Seconds that running tasks have after the signal to end.
        journal: Where sessions are written down, so that they outlive this process; None is nowhere.
        journal_bytes: What the journal may have on disk before no more tasks are taken.
    """

    host: str
    port: int
    workers: int | None = None
    apps: dict[str, str] = field(default_factory=dict)
    key_file: Path | None = None
    grace: float = 30.0
    journal: Path | None = None
    journal_bytes: int = SIZE_BYTES


def run_standing(wanted: Standing) -> int:
    """Serve until SIGTERM or SIGINT; prints a line when ready.

    Returns:
        The exit code: 0, or 1 when the journal could not be written any more.

    Raises:
        UsageError: The address is not loopback, or the key file or the journal cannot be used.
    """
    if wanted.host not in LOOPBACK:
        raise UsageError(
            f"cannot listen on {wanted.host}: this gateway has no TLS, so only this machine may reach it; use 127.0.0.1"
        )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    keys = wanted.key_file or default_key_file()
    secrets = dict(ensure_keys(keys))
    journal = Journal(wanted.journal, size=wanted.journal_bytes) if wanted.journal is not None else None
    try:
        return asyncio.run(_serve(wanted, secrets, keys, journal))
    except OSError as error:
        raise UsageError(
            f"cannot listen on {wanted.host}:{wanted.port}: {error.strerror or error}; is another gateway running "
            "there? Choose another --port"
        ) from error
    finally:
        if journal is not None:
            journal.close()


async def _serve(wanted: Standing, secrets: dict[str, str], keys: Path, journal: Journal | None) -> int:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    gateway = Gateway(secrets, wanted.workers, wanted.apps, journal=journal)
    broken: list[str] = []

    def on_failure(text: str) -> None:
        broken.append(text)
        gateway.refuse(text)
        ended.set()

    try:
        if journal is not None:
            journal.start(lambda text: loop.call_soon_threadsafe(on_failure, text))
        bound = await gateway.listen(wanted.host, wanted.port)
    except OSError:
        await gateway.close()
        raise
    where = "" if wanted.journal is None else f", journal in {wanted.journal}"
    say(
        f"meca gateway: http://{wanted.host}:{bound} is ready, {gateway.slots} workers, keys in {keys}{where}; "
        "Ctrl-C ends it"
    )
    await ended.wait()
    if broken:
        say(f"meca gateway: ending: {broken[0]}")
        await gateway.close()
        return 1
    say(f"meca gateway: ending; running tasks have {wanted.grace:g} s")
    done = await gateway.close(wanted.grace)
    say("meca gateway: ended" if done else "meca gateway: ended; tasks that took longer were stopped")
    return 0


def say(text: str) -> None:
    """Print a line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
