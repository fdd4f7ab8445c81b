"""What clients may ask of the kernels of a gateway, verb by verb.

A visitor is a client's session. Its requests are answered in tasks of their own, so that none waits for another;
what a run or a terminal says goes to it as fast as it takes it in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import KernelBusy, KernelEnded, KernelError, MecaError
from ..settings import without_secrets
from ..wire.kernels import CODE_BYTES, FILE_BYTES, FILES, Say, checked_token
from .house import House
from .languages import every
from .place import Size
from .runs import Run
from .tape import Reader, Tape

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ..wire.kernels import Note
    from .box import Boxes
    from .hosted import Groups, HostedKernel

MODES = ("query", "batch")
RUNS_CODE = frozenset({"create", "execute", "restart", "complete", "input", "pty", "type"})  #: not listing, nor ending

log = logging.getLogger("meca.gateway")


class Visitor(Protocol):
    """A client's session, as long as the gateway keeps it."""

    owner: str

    def tell(self, number: int, say: Say, head: Mapping[str, Any], body: bytes = b"") -> None:
        """Send it something; it arrives once, and in order."""

    @property
    def behind(self) -> bool:
        """Whether it has so much to fetch that nothing more should be sent."""


class Forward(Reader):
    """Gives a tape to a visitor, entry by entry, as events of one request."""

    def __init__(self, visitor: Visitor, number: int, tape: Tape, after: int, done: Callable[[Forward], None]) -> None:
        super().__init__(after)
        self._visitor = visitor
        self._request = number
        self._tape = tape
        self._done = done
        tape.readers.append(self)
        self.pump()

    def pump(self) -> None:
        """There is more to send, or room for it."""
        if self._visitor.behind:
            return
        for entry in list(self._tape.after(self.number)):
            if self._visitor.behind:
                return
            self.number = entry.number
            self._visitor.tell(self._request, Say.EVENT, {**entry.head, "n": entry.number}, entry.body)
        if self._tape.ended and self.number >= self._tape.last:
            self._visitor.tell(self._request, Say.REPLY, {"last": self.number})
            self.close()
        else:
            self._tape.trim()

    def close(self) -> None:
        """Let go of the tape."""
        if self in self._tape.readers:
            self._tape.readers.remove(self)
            self._tape.trim()
            self._done(self)


class Guest:
    """What one visitor has here."""

    def __init__(self) -> None:
        self.forwards: list[Forward] = []
        self.temporary: list[HostedKernel] = []  #: kernels that end with the session
        self.used: dict[str, HostedKernel] = {}
        self.holds: Counter[str] = Counter()  #: how often it has got each, and not left it
        self.runs: list[tuple[HostedKernel, Run]] = []  #: that it follows
        self.tasks: set[asyncio.Task[None]] = set()


class KernelService:
    """Answers notes; make it inside the loop.

    Args:
        environ: The environment that kernels begin with, less our keys.
        groups: Ends their processes if this one is killed; None is nobody.
        why_not: Says why no code may be run here, but in containers; None as long as it may.
        boxes: Makes containers for kernels that are to be isolated; None is none.
        images: Language -> the image of its containers, where it is not the usual one.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        groups: Groups | None = None,
        why_not: Callable[[], str | None] = lambda: None,
        boxes: Boxes | None = None,
        images: Mapping[str, str] | None = None,
    ) -> None:
        self.house = House(without_secrets(environ), groups, boxes, images)
        self._why_not = why_not
        self._guests: dict[Visitor, Guest] = {}
        self._verbs: dict[str, Callable[[Visitor, Guest, Note], Awaitable[None]]] = {
            name.removeprefix("_do_"): getattr(self, name) for name in dir(self) if name.startswith("_do_")
        }

    def ask(self, visitor: Visitor, note: Note) -> None:
        """Take a request in; it is answered in time."""
        guest = self._guests.setdefault(visitor, Guest())
        task = asyncio.create_task(self._answer(visitor, guest, note))
        guest.tasks.add(task)
        task.add_done_callback(guest.tasks.discard)

    async def _answer(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        try:
            verb = self._verbs.get(str(note.head.get("do")))
            if verb is None:
                raise KernelError(f"a gateway of this version cannot {str(note.head.get('do'))[:40]!r}")
            self._check(visitor, note.head)
            await verb(visitor, guest, note)
        except (MecaError, OSError) as error:
            visitor.tell(note.number, Say.FAILED, {"error": kind_of(error), "text": str(error)})
        except (KeyError, TypeError, ValueError) as error:
            visitor.tell(note.number, Say.FAILED, {"error": "usage", "text": f"the request cannot be read: {error!r}"})
        except Exception as error:
            log.exception("a request about a kernel failed")
            visitor.tell(note.number, Say.FAILED, {"error": "kernel", "text": f"a fault of the gateway: {error!r}"})

    def _check(self, visitor: Visitor, head: Mapping[str, Any]) -> None:
        """Check that code may be run, if that is what is asked for."""
        if (why := self._why_not()) is None or head["do"] not in RUNS_CODE:
            return
        if not (head.get("isolate") if head["do"] == "create" else self._find(visitor, head).isolated):
            raise KernelError(why)

    def _find(self, visitor: Visitor, head: Mapping[str, Any]) -> HostedKernel:
        return self.house.find(visitor.owner, str(head["kernel"]))

    def room(self, visitor: Visitor) -> None:
        """A visitor has fetched some of what waited for it."""
        if (guest := self._guests.get(visitor)) is not None:
            for forward in list(guest.forwards):
                forward.pump()

    def gone(self, visitor: Visitor) -> None:
        """A visitor's session is over: its temporary kernels end, and what only it waited for is interrupted."""
        if (guest := self._guests.pop(visitor, None)) is None:
            return
        for task in list(guest.tasks):
            task.cancel()
        for forward in list(guest.forwards):
            forward.close()
        for kernel, run in guest.runs:
            if not (run.kept or run.tape.readers):
                kernel.abandon(run)
        for kernel in guest.used.values():
            kernel.users -= 1
        for kernel in guest.temporary:
            kernel.end("its client is gone")

    def keep_owners(self, known: set[str]) -> None:
        """End the kernels of everybody else: their keys were revoked."""
        self.house.keep_owners(known)

    async def close(self) -> None:
        """End everything, and wait until it is gone."""
        for visitor in list(self._guests):
            self.gone(visitor)
        await self.house.close()

    @property
    def count(self) -> int:
        """How many kernels there are."""
        return self.house.count

    # -- kernels ------------------------------------------------------------------------------------

    def _kernel(self, visitor: Visitor, guest: Guest, note: Note) -> HostedKernel:
        kernel = self._find(visitor, note.head)
        self._use(guest, kernel)
        return kernel

    def _use(self, guest: Guest, kernel: HostedKernel) -> None:
        if kernel.id not in guest.used:
            guest.used[kernel.id] = kernel
            kernel.users += 1

    async def _do_create(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        head = note.head
        token = None if head.get("token") is None else checked_token(head["token"])
        env = {str(name): str(value) for name, value in dict(head.get("env") or {}).items()}
        limits = dict(head.get("limits") or {})
        wanted = visitor.owner, token, str(head["lang"]), env, limits, bool(head.get("isolate"))
        kernel, created = await self.house.get_or_create(*wanted)
        if self._guests.get(visitor) is not guest:
            if created and token is None:
                kernel.end("its client is gone")
            return
        if created and not head.get("keep", token is not None):
            guest.temporary.append(kernel)
        self._use(guest, kernel)
        guest.holds[kernel.id] += 1
        visitor.tell(note.number, Say.REPLY, {**kernel.info(), "created": created})

    async def _do_destroy(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        kernel = self._find(visitor, note.head)
        info = kernel.info()
        kernel.end("it was destroyed")
        await kernel.ended()
        if kernel in guest.temporary:
            guest.temporary.remove(kernel)
        guest.used.pop(kernel.id, None)
        guest.holds.pop(kernel.id, None)
        visitor.tell(note.number, Say.REPLY, {"stats": info})

    async def _do_leave(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        name = str(note.head["kernel"])
        guest.holds[name] -= 1
        if guest.holds[name] <= 0:
            del guest.holds[name]
            if (kernel := guest.used.pop(name, None)) is not None:
                kernel.users -= 1
        visitor.tell(note.number, Say.REPLY, {})

    async def _do_restart(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        await self._kernel(visitor, guest, note).restart()
        visitor.tell(note.number, Say.REPLY, {})

    async def _do_info(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        visitor.tell(note.number, Say.REPLY, self._kernel(visitor, guest, note).info())

    async def _do_list(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        visitor.tell(note.number, Say.REPLY, {"kernels": [one.info() for one in self.house.of(visitor.owner)]})

    async def _do_languages(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        visitor.tell(note.number, Say.REPLY, {"languages": every()})

    async def _do_logs(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        logs = self._kernel(visitor, guest, note).log
        parts = [[stream, text.decode("utf-8", "replace")] for stream, text in logs.parts]
        visitor.tell(note.number, Say.REPLY, {"logs": parts})

    async def _do_complete(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        code = note.body.decode()
        answer = await self._kernel(visitor, guest, note).complete(code, int(note.head.get("cursor", len(code))))
        visitor.tell(note.number, Say.REPLY, answer)

    # -- runs ---------------------------------------------------------------------------------------

    async def _do_execute(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        head, kernel = note.head, self._kernel(visitor, guest, note)
        if head["mode"] not in MODES:
            raise KernelError(f"mode {head['mode']!r} is not {' or '.join(MODES)}")
        size = len(note.body) - int(head.get("stdin", 0))
        if not 0 <= size <= CODE_BYTES:
            raise KernelError(f"the code has {size:,} bytes, and {CODE_BYTES:,} are allowed")
        run = Run(
            str(head.get("run") or secrets.token_hex(8))[:64],
            str(head["mode"]),
            note.body[:size].decode(),
            dict(head.get("opts") or {}),
            Tape(allowance=kernel.limits.allowance()),
            None if head.get("timeout") is None else float(head["timeout"]),
            kept=bool(head.get("keep")),
        )
        if "stdin" in head:
            run.typed.put_nowait(note.body[size:])
            run.typed.put_nowait(None)
        kernel.submit(run)
        guest.runs.append((kernel, run))
        if run.kept:
            visitor.tell(note.number, Say.EVENT, {"t": "run", "run": run.id})
        self._forward(visitor, guest, note.number, run.tape, 0)

    async def _do_attach(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        """Have the output of a run, from some entry on: of one that is named, that goes on, or that was the last."""
        kernel = self._kernel(visitor, guest, note)
        run = self._run(kernel, note) if note.head.get("run") else kernel.current or kernel.latest
        if run is None:
            raise KernelError(f"kernel {kernel.token or kernel.id} has run nothing yet")
        guest.runs.append((kernel, run))
        visitor.tell(note.number, Say.EVENT, {"t": "run", "run": run.id})
        self._forward(visitor, guest, note.number, run.tape, int(note.head.get("after", 0)))

    def _forward(self, visitor: Visitor, guest: Guest, number: int, tape: Tape, after: int) -> None:
        forward = Forward(visitor, number, tape, after, partial(self._forwarded, guest))
        if forward in tape.readers:
            guest.forwards.append(forward)
        guest.runs = [(kernel, run) for kernel, run in guest.runs if not run.tape.ended]

    def _forwarded(self, guest: Guest, forward: Forward) -> None:
        with contextlib.suppress(ValueError):  # it ended before it was written down
            guest.forwards.remove(forward)

    def _run(self, kernel: HostedKernel, note: Note) -> Run:
        run = kernel.runs.get(str(note.head["run"]))
        if run is None:
            raise KernelError(f"the kernel has no run {str(note.head['run'])[:64]!r} any more")
        return run

    async def _do_input(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        run = self._run(self._kernel(visitor, guest, note), note)
        if note.body:
            run.typed.put_nowait(note.body)
        if note.head.get("eof"):
            run.typed.put_nowait(None)
        visitor.tell(note.number, Say.REPLY, {})

    async def _do_interrupt(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        kernel = self._kernel(visitor, guest, note)
        run = self._run(kernel, note) if note.head.get("run") else kernel.current
        if run is not None and not run.tape.ended:
            kernel.interrupt(run)
        visitor.tell(note.number, Say.REPLY, {"run": None if run is None else run.id})

    # -- files --------------------------------------------------------------------------------------

    async def _do_upload(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        if len(note.body) > FILE_BYTES:
            raise KernelError(f"a file has {len(note.body):,} bytes, and {FILE_BYTES:,} are allowed")
        folder = self._kernel(visitor, guest, note).folder
        path, mode = str(note.head["path"]), note.head.get("mode")
        await self._aside(partial(folder.write, path, note.body, mode))
        visitor.tell(note.number, Say.REPLY, {})

    async def _do_files(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        folder = self._kernel(visitor, guest, note).folder
        found = await self._aside(partial(folder.listing, str(note.head.get("path", "."))))
        visitor.tell(note.number, Say.REPLY, {"files": found})

    async def _do_match(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        patterns = [str(pattern) for pattern in note.head["patterns"]][:FILES]
        folder = self._kernel(visitor, guest, note).folder
        visitor.tell(note.number, Say.REPLY, {"paths": await self._aside(partial(folder.matching, patterns))})

    async def _do_download(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        path, folder = str(note.head["path"]), self._kernel(visitor, guest, note).folder
        content = await self._aside(partial(folder.read, path))
        visitor.tell(note.number, Say.REPLY, {"path": path}, content)

    async def _aside(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, work)

    # -- terminals ----------------------------------------------------------------------------------

    async def _do_pty(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        head = note.head
        command = [str(word) for word in head.get("command") or []]
        kernel = self._kernel(visitor, guest, note)
        size = Size(int(head["rows"]), int(head["cols"]))
        terminal = await kernel.terminal(str(head["name"])[:64], size, command)
        visitor.tell(note.number, Say.EVENT, {"t": "open"})
        self._forward(visitor, guest, note.number, terminal.tape, int(head.get("after", 0)))

    async def _do_type(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        kernel = self._kernel(visitor, guest, note)
        terminal = kernel.terminals.get(str(note.head["name"]))
        if terminal is None:
            raise KernelEnded("the terminal is closed")
        if "rows" in note.head:
            terminal.resize(Size(int(note.head["rows"]), int(note.head["cols"])))
        if note.head.get("restart"):
            await terminal.restart()
        if note.body:
            terminal.type(note.body)
        visitor.tell(note.number, Say.REPLY, {})

    async def _do_close_pty(self, visitor: Visitor, guest: Guest, note: Note) -> None:
        await self._kernel(visitor, guest, note).close_terminal(str(note.head["name"]))
        visitor.tell(note.number, Say.REPLY, {})


def kind_of(error: BaseException) -> str:
    """Return the word by which a client knows the error's class."""
    if isinstance(error, KernelEnded):
        return "ended"
    return "busy" if isinstance(error, KernelBusy) else "usage" if isinstance(error, ValueError) else "kernel"
