"""Work in a process of its own, what it prints, and the end of all that it started."""

from __future__ import annotations

import codecs
import errno
import os
import selectors
import signal
import socket
import struct
import sys
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import ctypes
except ImportError:  # a Python built without it
    ctypes = None

POLL_S = 0.05  #: how soon the end of a process is noticed when it left a child that keeps its pipes open
END_S = 5.0  #: for killed processes to be gone
PRINTED_MOST = 1 << 20  #: bytes of output that are kept of one call
CHUNK = 1 << 16
LENGTH = struct.Struct("<Q")
_SUBREAPER = 36  #: PR_SET_CHILD_SUBREAPER, from <linux/prctl.h>

Printed = list[tuple[str, str]]


class CallerGone(Exception):
    """Who asked has hung up; nobody waits for the answer."""


def run(work: Callable[[], bytes], caller: socket.socket) -> tuple[bytes | None, str, Printed]:
    """Run `work` in a process of its own and return its answer.

    It starts as a copy of this process, which must have no other thread. When it ends, whatever it started is
    killed: children, and their children, also those in sessions of their own (these on Linux only).

    Args:
        work: Its return value is the answer.
        caller: When the other side closes this connection, the work is killed.

    Returns:
        The answer, or None if the process ended without one; how it ended; what it printed, in order as far as
        two pipes keep it.

    Raises:
        CallerGone: The connection was closed.
    """
    if ctypes is not None and sys.platform == "linux":
        # Orphans among its descendants become our children, so that they can be found at the end.
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    pipes = {name: os.pipe() for name in ("answer", "stdout", "stderr")}
    pid = os.fork()
    if pid == 0:
        _become(work, *(write for _, write in pipes.values()))
    for _, write in pipes.values():
        os.close(write)
    watch = _Watch(pid, {read: name for name, (read, _) in pipes.items()}, caller)
    try:
        watch.until_ended()
    finally:
        ended = _end(pid, watch)
        watch.close()
    return watch.answer(), ended, watch.printed.pieces()


def _become(work: Callable[[], bytes], answer: int, stdout: int, stderr: int) -> None:
    """Be the new process; this does not return."""
    code = 1
    own = os.getpid()
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        # Whole lines at once, so that they stand in order with what other processes write there. New ones, because
        # the old may be files: they would seek.
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = _lines_to(1), _lines_to(2)
        content = work()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):  # closed or replaced by the work
                stream.flush()
        if os.getpid() != own:
            return  # the work forked, and this is the child: the answer is its parent's
        _write_all(answer, LENGTH.pack(len(content)))
        _write_all(answer, content)
        code = 0
    except BaseException:
        traceback.print_exc()  # part of what the work printed
    finally:
        os._exit(code)  # no handlers of ours or of the server, which this process is a copy of


def _lines_to(fd: int) -> TextIO:
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


class _Output:
    """What was printed, as text."""

    def __init__(self) -> None:
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = {name: make("backslashreplace") for name in ("stdout", "stderr")}
        self._pieces: list[tuple[str, list[str]]] = []
        self._left = PRINTED_MOST
        self._dropped = 0

    def add(self, stream: str, chunk: bytes) -> None:
        kept = chunk[: self._left]
        self._left -= len(kept)
        self._dropped += len(chunk) - len(kept)
        self._put(stream, self._decoders[stream].decode(kept))

    def _put(self, stream: str, text: str) -> None:
        if self._pieces and self._pieces[-1][0] == stream:
            self._pieces[-1][1].append(text)
        elif text:
            self._pieces.append((stream, [text]))

    def pieces(self) -> Printed:
        for stream, decoder in self._decoders.items():
            self._put(stream, decoder.decode(b"", final=True))
        if self._dropped:
            self._put("stderr", f"\n({self._dropped} more bytes of output are not shown)\n")
        return [(stream, "".join(texts)) for stream, texts in self._pieces]


class _Watch:
    """Reads what the process sends until its answer is complete, it has ended, or the caller has gone."""

    def __init__(self, pid: int, pipes: dict[int, str], caller: socket.socket) -> None:
        self.printed = _Output()
        self.status: int | None = None  #: of the process, once it was looked at; `os.waitpid` gives it only once
        self._pid = pid
        self._caller = caller
        self._received = bytearray()
        self._selector = selectors.DefaultSelector()
        for fd, name in pipes.items():
            os.set_blocking(fd, False)
            self._selector.register(fd, selectors.EVENT_READ, name)
        self._selector.register(caller, selectors.EVENT_READ, "caller")

    def until_ended(self) -> None:
        while not self._complete():
            events = self._selector.select(POLL_S)
            if not events and self.look_at_process():
                return
            for key, _ in events:
                if key.data == "caller":
                    self._look_at_caller()
                elif not self._read(key.fd, key.data) and self.look_at_process():
                    return

    def look_at_process(self) -> bool:
        """Return whether the process has ended."""
        if self.status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None

    def drain(self) -> None:
        """Read what is in the pipes, without waiting for more."""
        for key in list(self._selector.get_map().values()):
            while key.data != "caller" and self._read(key.fd, key.data):
                pass

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            if key.data != "caller":
                os.close(key.fd)
        self._selector.close()

    def answer(self) -> bytes | None:
        return bytes(self._received[LENGTH.size :]) if self._complete() else None

    def _complete(self) -> bool:
        have = len(self._received)
        return have >= LENGTH.size and have >= LENGTH.size + LENGTH.unpack_from(self._received)[0]

    def _read(self, fd: int, name: str) -> bool:
        """Take what is there; False at the end of the pipe, or when there is nothing."""
        try:
            chunk = os.read(fd, CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._selector.unregister(fd)
            os.close(fd)
        elif name == "answer":
            self._received += chunk
        else:
            self.printed.add(name, chunk)
        return bool(chunk)

    def _look_at_caller(self) -> None:
        try:
            gone = not self._caller.recv(1, socket.MSG_PEEK)
        except OSError as error:
            gone = error.errno not in (errno.EAGAIN, errno.EINTR)
        if gone:
            raise CallerGone
        self._selector.unregister(self._caller)  # its next request came early, and waits


def _end(pid: int, watch: _Watch) -> str:
    """Kill the process and what it left, and return how it ended."""
    if not watch.look_at_process():
        os.kill(pid, signal.SIGKILL)
        _, watch.status = os.waitpid(pid, 0)
    limit = time.monotonic() + END_S
    with suppress(ChildProcessError):  # none is left
        while time.monotonic() < limit:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
            for orphan in _children():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(orphan, signal.SIGKILL)
            time.sleep(0.001)
    watch.drain()
    assert watch.status is not None
    code = os.waitstatus_to_exitcode(watch.status)
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):  # real-time signals have no names
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def _children() -> list[int]:
    """Return this process's children; none where there is no /proc."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The name of the program, in parentheses, may hold anything; then state and parent.
                if int(file.read().rpartition(b")")[2].split()[1]) == os.getpid():
                    found.append(int(name))
    return found
