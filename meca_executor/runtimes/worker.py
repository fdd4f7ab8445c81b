"""A worker process: runs calls one after the other and sends what came of them.

Started as a fresh interpreter, never as a fork: it does not run the user's main file and has none of
the parent's threads or locks. It imports little, has no thread of its own, and ends when its owner does.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sys
import time
import traceback
import weakref
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from ..errors import MecaError
from ..wire import objects
from ..wire.calls import NO_DEFINITION, dump_exception
from ..wire.code import number_of
from ..wire.lending import FREED, IDLE_BYTES, IDLE_MOST, LENT, Lender, forks
from ..wire.parcels import FAILED, SHARED
from ..wire.payloads import Held, check_room, dump
from ..wire.records import HEADER_BYTES, MICROS_MAX, Definition, Kind, Status, decode, pack_header
from ..wire.segments import Segment, map_segment
from .board import FILLED, GENERATION, OUTBOX_AT, OUTBOX_BYTES, REVOKED_FROM, REVOKED_TO, Board
from .code import Code
from .initializer import load
from .initializer import run as run_initializer
from .lifeline import die_with_parent
from .pipe import PREFIX, SUMMARY, framed
from .printing import Printing

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.records import Record

FLUSH_S = 0.003  #: results wait no longer than this for company, before the next call starts

_ELSEWHERE = frozenset((bytes([SHARED]), bytes([FAILED])))  #: first bytes of calls that are not in the message

Outcome = tuple[int, bytes]  #: a status, with flags; and the payload


class Outbox:
    """Results on their way out; what is not sent yet stands on the board."""

    def __init__(self, sock: socket.socket, board: Board) -> None:
        self._sock = sock
        self._lent: dict[bytes, Segment] = {}
        self.lender = Lender()
        self._board = board
        self._filled = self._count = self._micros = 0
        self._plain = True
        self._generation = 0
        self.flushed_at = time.monotonic()

    def put(self, task: int, status: int, micros: int, payload: bytes) -> None:
        """Add a record; one that is larger than the outbox goes out at once, behind what is there."""
        size = HEADER_BYTES + len(payload)
        if type(payload) is Held:
            self._put_shared(task, status, micros, payload)
            return
        if self._filled + size > OUTBOX_BYTES:
            self.flush()
        header = pack_header(task, status, micros, len(payload))
        if size > OUTBOX_BYTES:
            self._sock.sendall(PREFIX.pack(SUMMARY.size + size, Kind.LARGE) + SUMMARY.pack(micros, 1, 1) + header)
            self._sock.sendall(payload)
            return
        at = OUTBOX_AT + self._filled
        self._board.bytes[at : at + size] = header + payload
        self._filled += size
        self._count += 1
        self._micros += micros
        self._board.words[FILLED] = self._filled

    def _put_shared(self, task: int, status: int, micros: int, payload: Held) -> None:
        """Send an outcome whose payload is in shared memory, and the memory's descriptor with it."""
        segment = payload.segment
        assert segment is not None
        self.flush()
        batch = SUMMARY.pack(micros, 1, 1) + pack_header(task, status | LENT, micros, len(payload)) + payload
        message = framed(Kind.SHARED, batch)
        sent = socket.send_fds(self._sock, [message], [segment.fileno()])
        self._sock.sendall(message[sent:])
        self._lent[bytes(payload)] = segment
        while len(self._lent) > IDLE_MOST or sum(lent.capacity for lent in self._lent.values()) > IDLE_BYTES:
            self._lent.pop(next(iter(self._lent))).close()

    def freed(self, reference: bytes) -> None:
        """The reader of a result in shared memory is done with it; or, with no reference, nobody needs any."""
        if not reference:
            self.lender.trim()
            self._lent.clear()  # what the client still has it keeps; it will not be used again
        elif (segment := self._lent.pop(reference, None)) is not None:
            self.lender.give_back(segment)

    def skip(self, task: int) -> None:
        """Say that a call was left alone."""
        self.put(task, Status.SKIPPED, 0, b"")
        self._plain = False

    def flush(self) -> None:
        """Send what is there."""
        self.flushed_at = time.monotonic()
        if self._filled:
            batch = self._board.bytes[OUTBOX_AT : OUTBOX_AT + self._filled]
            summary = SUMMARY.pack(self._micros, self._count, self._plain)
            self._sock.sendall(PREFIX.pack(SUMMARY.size + len(batch), Kind.RESULTS) + summary + batch)
            self._filled = self._count = self._micros = 0
            self._plain = True
            self._generation += 1
            # Emptied first: a look in between sees an empty outbox, never an old one as new.
            self._board.words[FILLED] = 0
            self._board.words[GENERATION] = self._generation

    def fail_setup(self, text: str) -> None:
        """Say that nothing can run here."""
        self._sock.sendall(framed(Kind.SETUP_FAILED, text.encode("utf-8", "backslashreplace")))


class Worker:
    """The loop and what it needs."""

    def __init__(self, sock: socket.socket, board: Board, folder: str, printing: Printing) -> None:
        self._code = Code(folder)
        self._printing = printing
        self._lender: Lender | None = None  #: of memory for results, where this machine is the client's, too
        self._pipe = sock.makefile("rb", buffering=1 << 18)
        self._board = board
        self._definitions: dict[int, Callable[..., Any]] = {}
        self._references: dict[int, bytes] = {}
        self._forked = False
        os.register_at_fork(after_in_child=self._note_fork)
        self.outbox = Outbox(sock, board)

    def run(self) -> None:
        """Serve until the owner closes the pipe."""
        while (message := self._read()) is not None:
            kind, batch = message
            if kind is Kind.CALLS:
                for ordinal, _, reference, calls in decode(batch):
                    self._run_group(ordinal, reference, decode(calls))
            elif kind is Kind.DEFINE:
                self._define(batch)
            elif kind is Kind.SETUP and not self._set_up(batch):
                return

    def _note_fork(self) -> None:
        self._forked = True

    def _read(self) -> tuple[Kind, bytes] | None:
        prefix = self._pipe.read(PREFIX.size)
        if len(prefix) < PREFIX.size:
            return None
        length, kind = PREFIX.unpack(prefix)
        batch = self._pipe.read(length)
        return (Kind(kind), batch) if len(batch) == length else None

    def _define(self, batch: bytes) -> None:
        for number, what, _, definition in decode(batch):
            if what == Definition.PATH:
                apply_environment({"path": json.loads(definition)})
                self._code.to_front()
            elif what == Definition.OBJECT:
                objects.hold(number, definition)
            elif what == Definition.FORGET:
                objects.drop(number)
            elif what == Definition.CODE:
                self._code.take(number, definition)
                self._definitions.clear()  # what a unit of this name had is found anew
            elif what == Definition.FREED:
                self.outbox.freed(definition)
            else:
                self._references[number] = definition

    def _set_up(self, batch: bytes) -> bool:
        environment, initializer = (payload for _, _, _, payload in decode(batch))
        fields = json.loads(environment)
        apply_environment(fields)
        for archive in map(b64decode, fields.get("code", ())):
            self._code.take(number_of(archive), archive)
        self._lender = self.outbox.lender if fields.get("lend") else None
        if initializer:
            try:
                run_initializer(initializer)
            except BaseException as error:
                self._tell_where(error)
                text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
                self.outbox.fail_setup(text)
                return False
        return True

    def _run_group(self, ordinal: int, reference: int, calls: list[Record]) -> None:
        outbox, start, words, monotonic = self.outbox, self._board.start, self._board.words, time.monotonic
        printing = self._printing
        for task, _, _, call in calls:
            now = monotonic()
            if now - outbox.flushed_at > FLUSH_S:
                printing.end()
                outbox.flush()
            printing.task = task
            ordinal += 1
            # First this, then that look: an owner that revokes sees either a start or a skip, never neither.
            start(ordinal, now)
            if words[REVOKED_FROM] < ordinal <= words[REVOKED_TO]:
                outbox.skip(task)
                continue
            status, payload = (self._run if call[:1] not in _ELSEWHERE else self._run_large)(reference, call)
            if self._forked:
                os._exit(0)  # the call forked, and this is the child: it has no results to send
            flush_printed()
            outbox.put(task, status, min(int((monotonic() - now) * 1e6), MICROS_MAX), payload)
        printing.end()
        outbox.flush()

    def _run(self, reference: int, call: bytes) -> Outcome:
        try:
            if reference == NO_DEFINITION:
                fn, args, kwargs = load(call)
            else:
                fn = self._definitions.get(reference) or self._definition(reference)
                args, kwargs = load(call)
            value = fn(*args, **kwargs)
        except BaseException as error:
            self._tell_where(error)
            return raised(error)
        try:
            return Status.OK, dump(value, self._lender)
        except BaseException as error:
            return raised(error)

    def _tell_where(self, error: BaseException) -> None:
        if isinstance(error, ModuleNotFoundError):
            from .missing import tell_where

            tell_where(error, self._code.problem)

    def _run_large(self, reference: int, call: bytes) -> tuple[int, bytes]:
        """Run a call that is in shared memory, and say whether anything of that is left."""
        held = Held(call)
        try:
            check_room(call)
            held.view = map_segment(call)
        except MecaError as error:  # it is not there
            return raised(error)
        mapping, forked = weakref.ref(held.view.obj), forks()
        status, payload = self._run(reference, held)
        over = mapping() is None and forks() == forked
        return (status | FREED if over else status), payload

    def _definition(self, number: int) -> Callable[..., Any]:
        fn = self._definitions.get(number)
        if fn is None:
            # Loaded at first use: a module that cannot be imported is then the task's error.
            fn = self._definitions[number] = load(self._references[number])
        return fn


def flush_printed() -> None:
    """Send on what a task printed without ending the line."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except Exception:  # closed, or replaced by something odd: the task's own doing
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()


def raised(error: BaseException) -> Outcome:
    """Return the outcome of a call that raised."""
    travels, payload = dump_exception(error)
    BaseException.with_traceback(error, None)  # its frames hold the call's arguments
    return (Status.RAISED if travels else Status.FAILED), payload


def apply_environment(environment: dict[str, Any]) -> None:
    """Make this process import as the client does (`path`), and have its `env` and `authkey`."""
    os.environ.update(environment.get("env", {}))
    if path := environment.get("path"):
        own = [entry for entry in sys.path if entry not in path]
        sys.path[:] = [*path, *own]
    if authkey := environment.get("authkey"):
        import multiprocessing

        multiprocessing.current_process().authkey = bytes.fromhex(authkey)


def main(sock_fd: int, board_fd: int, owner: int, descriptors: int, folder: str) -> None:
    """Serve on an inherited socket and board until the owner (a process id) is gone.

    Args:
        sock_fd: Messages.
        board_fd: The shared page.
        owner: Process id.
        descriptors: That this process may have open; its owner has a limit of its own.
        folder: Where code that is sent may be kept; the owner removes it.
    """
    die_with_parent(owner)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
    printing = Printing()
    printing.begin()
    board = Board.of(board_fd)
    os.close(board_fd)
    with socket.socket(fileno=sock_fd) as sock:
        os.set_inheritable(sock_fd, False)
        try:
            Worker(sock, board, folder, printing).run()
        except (BrokenPipeError, ConnectionResetError):
            return  # the owner is gone
