"""One local app: a container folder's `src/app.py`, running as a process group of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ..settings import without_secrets
from . import lifeline
from .output import READY_MARK, Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from ..wire.printed import Log
    from .guardian import Guardian

LOOPBACK = "127.0.0.1"
POLL_S = 0.05  #: how soon an end is noticed when an app's child keeps connection and pipes open; else they tell
CONNECT_GRACE_S = 5.0  #: apps may print the mark before they listen, as the first MECAnywhere examples did
TERM_GRACE_S = 1.0  #: between SIGTERM and SIGKILL when an app is no longer needed
DRAIN_S = 0.5  #: for the last output of an app that ended
REAP_S = 5.0  #: for a killed process to be gone
PIPE_BYTES = 64 << 10  #: that a pipe holds
PORT_TRIES = 3  #: the port is free when it is chosen; somebody may take it before the app does

_ENDED = "ended before it was ready"


class _Stream(asyncio.Protocol):
    """Reads one output of the app for as long as it lasts, so that its pipe never fills."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._take = take

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self.closed.set_result(None)


class AppProcess:
    """An app from its start to its end; made in a running event loop, and started by that.

    Attributes:
        port: Where it listens, on loopback.
        ready: Resolves to None once the app takes requests, else to the text that says why it never will.
        ended: Resolves when process, process group and pipes are gone.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        environ: Mapping[str, str],
        ready_timeout: float,
        guardian: Guardian | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.name = name
        self.port = 0
        self.ready: asyncio.Future[str | None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._script = folder / "src" / "app.py"
        self._environ = environ
        self._ready_timeout = ready_timeout
        self._guardian = guardian
        self._popen: subprocess.Popen[bytes] | None = None
        self._pipes: list[tuple[asyncio.BaseTransport, _Stream]] = []
        self._output = Output()
        self._logs: list[Log] = []  #: of the calls that it has
        self._marked = asyncio.Event()
        self._stopping = False
        self._task = loop.create_task(self._run())

    @property
    def usable(self) -> bool:
        """True while the app takes requests, or is about to."""
        return not (self._stopping or self.ended.done()) and (not self.ready.done() or self._alive())

    def kill(self) -> None:
        """End the app and all that it started, at once."""
        self._stopping = True
        self._signal_group(signal.SIGKILL)

    def stop(self) -> None:
        """Ask the app to end (SIGTERM); what is still there after a second is killed."""
        if self._stopping:
            return
        self._stopping = True
        self._signal_group(signal.SIGTERM)
        timer = asyncio.get_running_loop().call_later(TERM_GRACE_S, self.kill)
        self.ended.add_done_callback(lambda _: timer.cancel())

    def exit_reason(self) -> str:
        """Return how the process ended, as in `exit code 3` or `killed by SIGSEGV`."""
        code = self._popen.returncode if self._popen else None
        if code is None:
            return "still running"
        if code >= 0:
            return f"exit code {code}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:  # real-time signals have no names
            return f"killed by signal {-code}"

    def last_lines(self) -> str:
        """Return the last lines of stdout and stderr, in the order in which they came, and what they are."""
        return self._output.told()

    @contextmanager
    def writing_to(self, log: Log, shared: bool = True) -> Iterator[None]:
        """Have a log get what the app writes while the block runs.

        Args:
            log: Is marked as mixed if others get the same.
            shared: False while the app is started for all of them.
        """
        self._take_written()
        self._logs.append(log)
        if shared and len(self._logs) > 1:
            for other in self._logs:
                other.mixed = True
        try:
            yield
        finally:
            self._take_written()
            self._logs.remove(log)

    def _take_written(self) -> None:
        """Read what stands in the pipes now: it was written before what comes next."""
        for transport, stream in self._pipes:
            if not transport.is_closing():
                with suppress(OSError):  # nothing is there
                    if data := os.read(transport.get_extra_info("pipe").fileno(), PIPE_BYTES):
                        stream.data_received(data)

    async def _run(self) -> None:
        failure: str | None = "was stopped before it was ready"
        try:
            for _ in range(PORT_TRIES):
                if self._stopping:
                    break
                failure = await self._serve()
                if failure is None or "address already in use" not in failure.lower():
                    break
        finally:
            if not self.ready.done():
                self.ready.set_result(f"{self.name} {failure}")
            self.ended.set_result(None)

    async def _serve(self) -> str | None:
        """Run one process to its end; None, or why it was never ready."""
        try:
            self._spawn()
            await self._connect_pipes()
            reason = await self._until_ready()
            if reason is None:
                self.ready.set_result(None)
                while self._alive():  # noqa: ASYNC110  (no event tells of it on every platform without a thread)
                    await asyncio.sleep(POLL_S)
        except OSError as error:
            reason = f"could not be started ({error})"
        finally:
            await self._clean_up()
        if reason == _ENDED:
            reason = f"{reason} ({self.exit_reason()})"
        return reason and f"{reason}; {self.last_lines()}"

    def _spawn(self) -> None:
        self._output = Output()
        self._marked.clear()
        self.port = _free_port()
        own = {"PORT": str(self.port), "BIND_ADDRESS": LOOPBACK, "PYTHONUNBUFFERED": "1"}
        # Not asyncio's subprocesses: before Python 3.12 they need a thread for each child.
        self._popen = subprocess.Popen(
            [sys.executable, "-u", lifeline.__file__, str(os.getpid()), str(self._script)],
            cwd=self._script.parent,
            env={**without_secrets(self._environ), **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        if self._guardian is not None:
            self._guardian.watch(self._popen.pid)

    async def _connect_pipes(self) -> None:
        assert self._popen is not None
        loop = asyncio.get_running_loop()
        for number, pipe in enumerate((self._popen.stdout, self._popen.stderr)):
            take = partial(self._take, number)
            self._pipes.append(await loop.connect_read_pipe(partial(_Stream, take), pipe))

    def _take(self, stream: int, data: bytes) -> None:
        for log in self._logs:
            log.write(data)
        self._output.feed(stream, data)
        if self._output.marked:
            self._marked.set()

    async def _until_ready(self) -> str | None:
        """Wait until the app listens; None, or why it does not."""
        loop = asyncio.get_running_loop()
        limit = loop.time() + self._ready_timeout
        while not self._marked.is_set():
            if not self._alive():
                return _ENDED
            if loop.time() >= limit:
                return f"was not ready within {self._ready_timeout:g} s (no {READY_MARK.decode()} on its stdout)"
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._marked.wait(), POLL_S)
        limit = loop.time() + CONNECT_GRACE_S
        while not await accepts(self.port):
            if not self._alive():
                return _ENDED
            if loop.time() >= limit:
                return f"says that it is ready, but nothing listens on the port in PORT ({self.port})"
            await asyncio.sleep(POLL_S / 5)
        return None

    def _alive(self) -> bool:
        if self._popen is None or self._popen.returncode is not None:
            return False
        if self._popen.poll() is None:
            return True
        # What it started goes with it; now, while its group's number cannot have gone to somebody else.
        _kill_group(self._popen.pid, signal.SIGKILL)
        if self._guardian is not None:
            self._guardian.done(self._popen.pid)
        return False

    def _signal_group(self, number: signal.Signals) -> None:
        if self._popen is not None and self._alive():
            _kill_group(self._popen.pid, number)

    async def _clean_up(self) -> None:
        self._signal_group(signal.SIGKILL)
        loop = asyncio.get_running_loop()
        limit = loop.time() + REAP_S
        while self._alive() and loop.time() < limit:  # noqa: ASYNC110  (as in _serve)
            await asyncio.sleep(0.001)
        streams: set[asyncio.Future[Any]] = {stream.closed for _, stream in self._pipes}
        if streams:
            await asyncio.wait(streams, timeout=DRAIN_S)
            for transport, _ in self._pipes:
                transport.close()  # a process that left the group may still hold the other end
            await asyncio.wait(streams, timeout=DRAIN_S)
        self._pipes.clear()
        for pipe in (self._popen.stdout, self._popen.stderr) if self._popen else ():
            if pipe is not None:
                pipe.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


async def accepts(port: int, address: str = LOOPBACK) -> bool:
    """Return whether something takes connections there."""
    with socket.socket() as probe:
        probe.setblocking(False)
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(probe, (address, port)), 1.0)
        except (OSError, asyncio.TimeoutError):
            return False
        # TCP lets a socket connect to itself when the kernel picks the same port for both ends.
        return bool(probe.getsockname() != (address, port))


def _kill_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # the latter: macOS, for a group of zombies
        os.killpg(pid, number)
