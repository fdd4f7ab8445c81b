"""Worker processes on this machine: started fresh, killable one by one, with their children.

Each has a socket for messages, a board (see `board.py`), and pipes for what it writes past Python's
streams. All of it is watched from one asyncio loop; no thread. What is decided, is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..wire.payloads import held_by
from ..wire.records import Kind, Outcomes, Status, decode, encode
from ..wire.segments import Segment, described
from .board import Board, Look, make_file
from .code import new_folder, remove_folder
from .pipe import SUMMARY, Reader, framed
from .reaping import begin_reaping, end_reaping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .guardian import Guardian

log = logging.getLogger("meca.gateway")

STOP_GRACE_S = 2.0  #: an idle worker's exit hooks have so long
READ_FIRST_BYTES = 64 << 10  #: a larger buffer costs three calls of the system for each short message
READ_BYTES = 1 << 20
LINE_BYTES = 1 << 20  #: of a line that does not end; then it is passed on in pieces
MOST_HANDLES = 8  #: descriptors in one read; a worker sends one with a message
ROOT = str(Path(__file__).resolve().parents[2])
CODE = (
    "import sys; sys.path[:] = filter(None, sys.path); {root!r} in sys.path or sys.path.append({root!r}); "
    "from meca_executor.runtimes.worker import main; main({sock}, {board}, {owner}, {descriptors}, {folder!r})"
)


class Events(Protocol):
    """Whom this runtime tells what happens."""

    def on_outcomes(self, worker: int, outcomes: Outcomes) -> None: ...
    def on_setup_failed(self, worker: int, text: str) -> None: ...
    def on_printed(self, worker: int, stream: Status, text: bytes) -> None: ...
    def on_look(self, worker: int, started: int, since: float) -> None: ...
    def on_end(self, worker: int, started: int, how: str) -> None: ...


class Processes:
    """The worker processes of one gateway. Make and use it in the main thread's loop (it needs SIGCHLD)."""

    def __init__(self, events: Events, environ: Mapping[str, str], guardian: Guardian, descriptors: int = 1024) -> None:
        self._events = events
        self._guardian = guardian
        self._descriptors = descriptors  #: that a worker may have open
        self._environ = dict(environ)
        self._workers: dict[int, Process] = {}
        self._gone = asyncio.Event()
        self._gone.set()
        self._loop = asyncio.get_running_loop()
        begin_reaping(self._loop, self._reap)

    def spawn(self, worker: int) -> None:
        """Start a worker under this number; a failure to start is its end."""
        self._gone.clear()
        try:
            process = Process(worker, self._events, self._environ, self._descriptors, self._loop)
            self._workers[worker] = process
            self._guardian.watch(process.group)
        except OSError as error:
            self._loop.call_soon(self._events.on_end, worker, 0, f"a worker process cannot be started: {error}")

    def send(self, worker: int, kind: Kind, batch: bytes) -> None:
        """Write a message to it; a worker that is gone is ignored."""
        if process := self._workers.get(worker):
            process.write(framed(kind, batch))

    def revoke(self, worker: int, start: int, stop: int) -> None:
        """Tell it to leave ordinals start .. stop - 1 alone."""
        if process := self._workers.get(worker):
            process.board.revoke(start, stop)

    def stop(self, worker: int) -> None:
        """Let it end after what it has been sent; it is killed if it takes long."""
        if process := self._workers.get(worker):
            process.stop()

    def kill(self, worker: int) -> None:
        """End it and its children now."""
        if process := self._workers.get(worker):
            process.kill()

    def look(self) -> None:
        """Report of every worker what it is running, and results it holds back."""
        for process in list(self._workers.values()):
            process.look()

    async def close(self) -> None:
        """End all workers and wait until they are gone."""
        for process in list(self._workers.values()):
            process.stop()
        if self._workers:
            await self._gone.wait()
        end_reaping(self._loop, self._reap)

    def _reap(self) -> None:
        self._guardian.check()
        for process in list(self._workers.values()):
            if (how := process.exited()) is not None:
                del self._workers[process.number]
                self._guardian.done(process.group)
                process.finish(how)
        if not self._workers:
            self._gone.set()


class Process:
    """One worker process, seen from its owner."""

    def __init__(
        self, number: int, events: Events, environ: dict[str, str], descriptors: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.number = number
        self._events = events
        self._loop = loop
        self._unsent: deque[memoryview] = deque()
        self._stopping: asyncio.TimerHandle | None = None
        self._ending = False
        self._flushes = 0  # outboxes received
        self._taken = 0  # bytes of the present outbox that a look took
        self._last_look = Look(0, 0.0, 0, 0)
        self._read_bytes = READ_FIRST_BYTES
        self._handles: deque[int] = deque()  # descriptors that came, for the messages that tell of them
        self._reader = Reader(self._on_message)
        self._folder = new_folder()  # for code that is sent to it
        handle = make_file()
        try:
            self.board = Board.of(handle)
            self._sock, theirs = socket.socketpair()
            with theirs:
                self._popen = start_interpreter(theirs.fileno(), handle, environ, descriptors, self._folder)
        finally:
            os.close(handle)
        self._sock.setblocking(False)
        loop.add_reader(self._sock, self._readable)
        self._streams = {Status.STDOUT: self._popen.stdout, Status.STDERR: self._popen.stderr}
        self._raw = {Status.STDOUT: b"", Status.STDERR: b""}
        self._printed = select.poll()
        self._stream_of: dict[int, Status] = {}
        for stream, pipe in self._streams.items():
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            loop.add_reader(pipe, self._drain, stream)
            self._printed.register(pipe, select.POLLIN)
            self._stream_of[pipe.fileno()] = stream

    def __repr__(self) -> str:
        return f"<Process {self.number} pid {self._popen.pid}>"

    @property
    def group(self) -> int:
        """The process group that it and its children are in."""
        return self._popen.pid

    # -- out --------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send; what the socket does not take now goes out when it can."""
        if self._ending:
            return
        view = memoryview(data)
        if not self._unsent:
            try:
                view = view[self._sock.send(view) :]
            except BlockingIOError:
                pass
            except OSError:
                return  # it is ending; its exit tells
        if view:
            if not self._unsent:
                self._loop.add_writer(self._sock, self._writable)
            self._unsent.append(view)

    def _writable(self) -> None:
        try:
            while self._unsent:
                sent = self._sock.send(self._unsent[0])
                if sent < len(self._unsent[0]):
                    self._unsent[0] = self._unsent[0][sent:]
                    return
                self._unsent.popleft()
        except BlockingIOError:
            return
        except OSError:
            self._unsent.clear()
        self._loop.remove_writer(self._sock)
        if self._ending:
            self._shut()

    # -- in ---------------------------------------------------------------------------------------

    def _readable(self) -> None:
        try:
            data = self._receive()
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or not self._fed(data):
            self._loop.remove_reader(self._sock)

    def _receive(self) -> bytes:
        data, handles, _, _ = socket.recv_fds(self._sock, self._read_bytes, MOST_HANDLES)
        self._handles.extend(handles)
        self._read_bytes = READ_BYTES if len(data) == self._read_bytes else READ_FIRST_BYTES
        return data

    def _fed(self, data: bytes) -> bool:
        """Take in what a worker sent; one that sends garbage is ended."""
        try:
            self._reader.feed(data)
        except ValueError as error:
            log.error("%r sent what cannot be read: %s", self, error)
            self.kill()
            return False
        return True

    def _on_message(self, kind: Kind, batch: bytes) -> None:
        self._drain_printed()
        if kind is Kind.SETUP_FAILED:
            self._events.on_setup_failed(self.number, batch.decode("utf-8", "replace"))
            return
        micros, count, plain = SUMMARY.unpack_from(batch)
        outcomes = Outcomes(batch[SUMMARY.size :], count, micros, bool(plain))
        if kind is Kind.SHARED:
            outcomes = self._adopted(outcomes)
        elif kind is Kind.RESULTS:
            self._flushes += 1
            if self._taken:  # some of them stood in the outbox when it was looked at
                outcomes = Outcomes.of(outcomes.batch[self._taken :])
                self._taken = 0
        if outcomes.total:
            self._events.on_outcomes(self.number, outcomes)

    def _adopted(self, outcomes: Outcomes) -> Outcomes:
        """Return an outcome in shared memory as one that this process has, so that it outlives its worker."""
        ((task, status, micros, reference),) = decode(outcomes.batch)
        try:
            held = held_by(Segment.adopt(self._handles.popleft(), described(reference)[1]))
        except (IndexError, OSError) as error:  # it was dropped on its way: no descriptor is left
            told = f"the gateway could not take a large result: {error}; it has too many of them, or open files"
            return Outcomes(encode([(task, int(Status.LOST), micros, told.encode())]), 1, micros, plain=True)
        held.lender, held.lent_as = self.number, reference
        return Outcomes(encode([(task, status, micros, held)]), 1, micros, plain=True, shared=held)

    def _drain_printed(self) -> None:
        """Report what was printed so far, so that it goes before the results that come next."""
        waiting = {self._stream_of[handle] for handle, _ in self._printed.poll(0)}
        for stream, text in self._raw.items():
            if text or stream in waiting:
                self._drain(stream, to_end=True)

    def _drain(self, stream: Status, to_end: bool = False) -> None:
        """Take what the process wrote to its own stdout or stderr; whole lines unless `to_end`."""
        pipe = self._streams[stream]
        if pipe is None:
            return
        data = self._raw[stream]
        try:
            while chunk := os.read(pipe.fileno(), READ_BYTES):
                data += chunk
                if len(chunk) < READ_BYTES:
                    break
            else:
                self._close_stream(stream)
                to_end = True
        except BlockingIOError:
            pass
        cut = len(data) if to_end or len(data) > LINE_BYTES else data.rfind(b"\n") + 1
        self._raw[stream] = data[cut:]
        if cut:
            self._events.on_printed(self.number, stream, data[:cut])

    def _close_stream(self, stream: Status) -> None:
        if (pipe := self._streams[stream]) is not None:
            self._loop.remove_reader(pipe)
            self._printed.unregister(pipe)
            pipe.close()
            self._streams[stream] = None

    def look(self) -> None:
        """Report what runs; take results that have stood in the outbox since the last look."""
        seen, last = self.board.look(), self._last_look
        self._last_look = seen
        if seen.filled and (seen.generation, seen.filled) == (last.generation, last.filled):
            self._take(seen)
        self._events.on_look(self.number, seen.started, seen.since)

    def _take(self, seen: Look) -> None:
        # A flush that is on its way brings this outbox anyway; then nothing is taken here.
        if seen.generation == self._flushes and seen.filled > self._taken:
            if (records := self.board.outbox(seen)) is None:
                return
            batch = records[self._taken :]
            self._taken = seen.filled
            self._drain_printed()
            self._events.on_outcomes(self.number, Outcomes.of(batch))

    # -- end --------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Let it end after what it has been sent; kill it after a grace time."""
        if not self._ending:
            self._ending = True
            self._stopping = self._loop.call_later(STOP_GRACE_S, self.kill)
            if not self._unsent:
                self._shut()

    def _shut(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def kill(self) -> None:
        """End it and its children now."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL)

    def exited(self) -> str | None:
        """How the process ended, its group killed; None while it runs."""
        if hasattr(os, "waitid"):
            # Look without reaping: until then nobody else can get the number of its group.
            if os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            self.kill()
        code = self._popen.poll()
        return None if code is None else describe_exit(self._popen.pid, code)

    def finish(self, how: str) -> None:
        """Report what was still on its way, then the end; release everything."""
        if self._stopping is not None:
            self._stopping.cancel()
        with contextlib.suppress(OSError):
            while (data := self._receive()) and self._fed(data):
                pass
        seen = self.board.look()
        self._take(seen)
        for stream in self._streams:
            self._drain(stream, to_end=True)
            self._close_stream(stream)
        self._loop.remove_reader(self._sock)
        self._loop.remove_writer(self._sock)
        self._sock.close()
        while self._handles:
            os.close(self._handles.popleft())
        self.board.close()
        remove_folder(self._folder)
        self._events.on_end(self.number, seen.started, how)


def start_interpreter(
    sock: int, board: int, environ: dict[str, str], descriptors: int, folder: str
) -> subprocess.Popen[bytes]:
    """Start a fresh interpreter that runs `worker.main`, in a process group of its own."""
    owner = os.getpid()
    code = CODE.format(root=ROOT, sock=sock, board=board, owner=owner, descriptors=descriptors, folder=folder)
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing
    kwargs: dict[str, Any] = {"start_new_session": True, "pass_fds": (sock, board), "env": environ, "bufsize": 0}
    return subprocess.Popen(
        [sys.executable, *flags, "-c", code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **kwargs,
    )


def describe_exit(pid: int, code: int) -> str:
    """Return in words how a worker process ended."""
    if code >= 0:
        return f"worker process {pid} exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (if nobody sent it: the system was probably out of memory)" if name == "SIGKILL" else ""
    return f"worker process {pid} was killed by {name}{hint}"
