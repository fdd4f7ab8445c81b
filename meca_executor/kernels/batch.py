"""Batch mode: build, run and clean steps, each a shell command in the kernel's folder with an exit code of its own.

A failed build skips the run (127). A step's process group is killed when its time is up, and when it is over: what it
started in the background ends with it. Snippets of languages that keep no state are batches, too.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
from typing import TYPE_CHECKING, Any

from ..errors import KernelBusy, KernelError
from .languages import snippet_name
from .place import Size
from .process import how_it_ended
from .runs import INTERRUPTED, NOT_FOUND, TIMEOUT, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .languages import Found
    from .place import Place, Program
    from .runs import Run
    from .workfolder import WorkFolder

CHUNK = 64 << 10
DRAIN_S = 1.0  #: for what was printed before the end; a child that lives on may hold the pipe
DRAIN_MOST_S = 5.0  #: also when that one goes on printing
GRACE_S = 5.0  #: an interrupted step may take this long to end


class Steps:
    """Runs the steps of batches, one after the other, in one folder.

    Args:
        place: Where.
        watch: Told each program that begins, and None when it is over; says why one was killed.
    """

    def __init__(self, place: Place, watch: Callable[[Program | None], str | None]) -> None:
        self.place = place
        self._watch = watch
        self._program: Program | None = None

    async def batch(self, run: Run, found: Found) -> Outcome:
        """Build, run, clean; what `*` means the language's table says."""
        row, options = found.language, run.options
        environ = {"TOOL": found.tool or "", "MAIN": str(options.get("main") or ""), "PYTHONUNBUFFERED": "1"}
        deadline = None if run.timeout_s is None else asyncio.get_running_loop().time() + run.timeout_s
        outcome = Outcome("finished", 0)
        for step, default in (
            ("build", row.build if row else ""),
            ("exec", row.run if row else ""),
            ("clean", ""),
        ):
            wanted = options.get(step, "*" if step != "clean" else None)
            command = default if wanted == "*" else wanted
            if step == "exec" and outcome.code:
                run.tape.tell({"t": "step", "name": step, "code": NOT_FOUND})
                outcome = Outcome("finished", NOT_FOUND)
                continue
            if not command:
                if step == "exec" and wanted == "*":
                    raise KernelError(
                        f"no command to run {found.name!r} files is known; give opts={{'exec': 'COMMAND'}}"
                    )
                continue
            run.tape.tell({"t": "begin", "name": step})
            reads = step == "exec"  # what is typed is for the program, not for its compiler
            tty = reads and bool(options.get("tty"))
            ended_as = await self.step(run, str(command), environ, deadline, reads=reads, tty=tty)
            run.tape.tell({"t": "step", "name": step, "code": ended_as.code})
            if ended_as.status != "finished":
                return ended_as
            if step != "clean":
                outcome = ended_as
        return outcome

    async def step(
        self,
        run: Run,
        command: str,
        environ: Mapping[str, str],
        deadline: float | None,
        *,
        reads: bool = False,
        tty: bool = False,
    ) -> Outcome:
        """Run one command to its end; its group is gone then."""
        if run.interrupted:
            return Outcome("interrupted", INTERRUPTED)
        size = Size() if tty else None
        argv = ["sh", "-c", command]
        program = self._program = await self.place.start(argv, environ, reads=reads, size=size, echo=False)
        self._watch(program)
        tasks = [
            asyncio.create_task(_reading(run, "stdout", program.out)),
            asyncio.create_task(_reading(run, "stderr", program.err)),
        ]
        if reads:
            tasks.append(asyncio.create_task(_typing(run, program, tty)))
        code = TIMEOUT
        try:
            left = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
            code = await asyncio.wait_for(program.ended(), left)
        except (asyncio.TimeoutError, TimeoutError):
            return Outcome("exec-timeout", TIMEOUT)
        finally:
            await asyncio.shield(self._finish(run, program, tasks))
            why = self._watch(None)
        if why is not None:
            return Outcome("died", code_of(code), {"name": "OutOfMemory", "value": why, "traceback": ""})
        if run.interrupted:
            return Outcome("interrupted", INTERRUPTED)
        if code < 0:
            run.tape.tell({"t": "stderr"}, f"[the program was ended by {how_it_ended(code)}]\n".encode())
        return Outcome("finished", code_of(code))

    async def _finish(self, run: Run, program: Program, tasks: list[asyncio.Task[None]]) -> None:
        await program.end()
        readers, said, loop = tasks[:2], -1, asyncio.get_running_loop()
        latest = loop.time() + DRAIN_MOST_S
        while run.tape.full or (said != run.tape.said and loop.time() < latest):
            if run.tape.full:  # a reader that is behind is waited for
                latest = loop.time() + DRAIN_MOST_S
            said = run.tape.said
            if not (await asyncio.wait(readers, timeout=DRAIN_S))[1]:
                break
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        program.close()
        self._program = None

    def interrupt(self) -> None:
        """Ctrl-C for the step that runs; killed when it does not listen."""
        if (program := self._program) is not None and program.running:
            program.signal(signal.SIGINT)
            asyncio.get_running_loop().call_later(GRACE_S, self._kill, program)

    def _kill(self, program: Program) -> None:
        if program is self._program and program.running:
            program.signal(signal.SIGKILL)


class SnippetEngine:
    """Runs each snippet as its own program; nothing is kept between them but files."""

    def __init__(self, found: Found, folder: WorkFolder, steps: Steps) -> None:
        self._found = found
        self._folder = folder
        self._steps = steps

    program: Program | None = None

    @property
    def died(self) -> str | None:
        """As `Engine`."""
        return self._steps.place.died

    async def start(self) -> None:
        """As `Engine`; nothing has to be started."""

    async def run(self, run: Run) -> Outcome:
        """As `Engine`."""
        row = self._found.language
        if row is None:
            raise KernelError(f"{self._found.name!r} has no program for a snippet")
        place = f".meca-{secrets.token_hex(6)}"
        try:
            snippet = f"{place}/{snippet_name(self._found, run.code)}"
            self._folder.write(snippet, run.code.encode("utf-8", "surrogateescape"))
            environ = {"TOOL": self._found.tool or "", "SNIPPET": f"./{snippet}"}
            deadline = None if run.timeout_s is None else asyncio.get_running_loop().time() + run.timeout_s
            if row.snippet_build:
                built = await self._steps.step(run, row.snippet_build, environ, deadline)
                run.tape.tell({"t": "step", "name": "build", "code": built.code})
                if built.status != "finished":
                    return built
                if built.code:
                    return Outcome("finished", NOT_FOUND)
            tty = bool(run.options.get("tty"))
            return await self._steps.step(run, row.snippet, environ, deadline, reads=True, tty=tty)
        finally:
            shutil.rmtree(self._folder.root / place, ignore_errors=True)

    def interrupt(self) -> None:
        """As `Engine`."""
        self._steps.interrupt()

    async def complete(self, code: str, cursor: int) -> dict[str, Any]:
        """As `Engine`; programs without a state complete nothing."""
        raise KernelBusy(f"{self._found.name} has no kernel that completes: each snippet is its own program")

    async def stop(self) -> None:
        """As `Engine`."""


async def _reading(run: Run, stream: str, descriptor: int) -> None:
    """Give on what a pipe or terminal says, as fast as it is read at the other end."""
    head = {"t": stream}
    async for data in chunks(descriptor):
        await run.tape.room()
        run.tape.say(head, data)


async def chunks(descriptor: int) -> Any:
    """Yield what comes through a descriptor until its end."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    os.set_blocking(descriptor, False)
    loop.add_reader(descriptor, ready.set)
    listening = True
    try:
        while True:
            try:
                data = os.read(descriptor, CHUNK)
            except BlockingIOError:
                if not listening:
                    loop.add_reader(descriptor, ready.set)
                    listening = True
                ready.clear()
                await ready.wait()
                continue
            except OSError:  # a terminal whose last program is gone
                return
            if not data:
                return
            if listening:  # not while the reader is held up: the loop would turn in vain
                loop.remove_reader(descriptor)
                listening = False
            yield data
            await asyncio.sleep(0)
    finally:
        if listening:
            loop.remove_reader(descriptor)


async def _typing(run: Run, program: Program, tty: bool) -> None:
    """Give a program what is typed for it."""
    os.set_blocking(program.typed, False)
    while True:
        typed = await run.typed.get()
        if typed is None:
            run.typed.put_nowait(None)
            if tty:
                await write_all(program.typed, b"\x04")
            else:
                program.end_input()
            return
        await write_all(program.typed, typed)


async def write_all(descriptor: int, data: bytes) -> None:
    """Write, as fast as it is read; what nobody reads any more is dropped."""
    view = memoryview(data)
    while view:
        written = _write(descriptor, view)
        if written is None:
            return
        view = view[written:]
        if view:
            await _writable(descriptor)


def _write(descriptor: int, view: memoryview) -> int | None:
    """Write what fits; None when nobody reads any more."""
    try:
        return os.write(descriptor, view)
    except BlockingIOError:
        return 0
    except OSError:
        return None


async def _writable(descriptor: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(descriptor)


def code_of(code: int) -> int:
    """Return an exit code as shells have it: a signal's number and 128."""
    return 128 - code if code < 0 else code
