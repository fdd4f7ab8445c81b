"""The user's background gateway: kept kernels live there. Started when one is needed, ended when it has been idle.

Its lock file, in the state folder, is locked as long as it lives, and holds its URL. So there is one of a user at
most, and a file that is left over means nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from .client.embedded import import_path
from .errors import GatewayUnreachable
from .settings import state_dir, without_secrets

if TYPE_CHECKING:
    from pathlib import Path

START_S = 60.0
STOP_S = 30.0
IDLE_S = 600.0  #: without a session or a kernel, after which it ends
POLL_S = 0.05
#: Forks first, so that it is nobody's child, and whoever started it has nothing to wait for.
CODE = """
import json, os, sys
if os.fork():
    os._exit(0)
sys.path[:] = json.loads(sys.argv.pop(1))
print(os.getpid(), flush=True)
from meca_executor.cli import main
sys.exit(main())
"""


class Background(NamedTuple):
    """The one that runs."""

    url: str
    pid: int


def running() -> Background | None:
    """Return the user's background gateway, or None when there is none."""
    lock = _lock_file()
    if not lock.exists():
        return None
    handle = os.open(lock, os.O_RDWR)
    try:
        if _take(handle):
            return None
        return _read(handle)
    finally:
        os.close(handle)


def ensure(idle_s: float = IDLE_S) -> Background:
    """Return the user's background gateway, first starting it when there is none.

    Args:
        idle_s: Seconds after which a new one ends when nobody uses it.

    Raises:
        GatewayUnreachable: It does not start; its own words are in the text.
    """
    lock = _lock_file()
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + START_S
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not _take(handle):
            if (there := _read(handle)) is not None:
                return there
            if time.monotonic() > deadline:
                raise GatewayUnreachable(f"the background gateway did not get ready within {START_S:g} s")
            time.sleep(POLL_S)
        os.ftruncate(handle, 0)
        return _start(handle, idle_s)
    finally:
        os.close(handle)


def stop() -> Background | None:
    """End the background gateway and its kernels; returns what was ended, or None when there is none.

    Raises:
        GatewayUnreachable: It does not end.
    """
    there = running()
    if there is None:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(there.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    while running() == there:
        if time.monotonic() > deadline:
            raise GatewayUnreachable(f"the background gateway (process {there.pid}) does not end within {STOP_S:g} s")
        time.sleep(POLL_S)
    return there


def _start(handle: int, idle_s: float) -> Background:
    log = state_dir() / "background.log"
    words = ["gateway", "--port", "0", "--grace", "0", "--idle-exit", f"{idle_s:g}"]
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, json.dumps(import_path()), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=state_dir(),
            env={name: value for name, value in without_secrets(os.environ).items() if not name.endswith("_ENDPOINT")},
            start_new_session=True,
            pass_fds=[handle],
        )
    assert process.stdout is not None
    process.wait()
    with process.stdout:
        said = _ready_lines(process.stdout.fileno())
    pid, _, ready = said.partition("\n")
    url = next((word for word in ready.split() if word.startswith("http://")), None)
    if url is None:
        if pid.isdigit():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        told = log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
        raise GatewayUnreachable(f"the background gateway did not start: {told or 'it said nothing'}")
    there = Background(url, int(pid))
    os.pwrite(handle, json.dumps(there._asdict()).encode(), 0)
    return there


def _ready_lines(descriptor: int) -> str:
    """Return its process number, and its ready line; less when it ends before."""
    deadline, said = time.monotonic() + START_S, b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while said.count(b"\n") < 2 and selector.select(max(0.0, deadline - time.monotonic())):
            if not (data := os.read(descriptor, 4096)):
                break
            said += data
    return said.decode("utf-8", "replace")


def _take(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(handle: int) -> Background | None:
    try:
        fields = json.loads(os.pread(handle, 4096, 0))
        return Background(str(fields["url"]), int(fields["pid"]))
    except (ValueError, KeyError):
        return None  # it is not ready yet


def _lock_file() -> Path:
    return state_dir() / "background.lock"
