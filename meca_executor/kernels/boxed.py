"""A place in a container: one container for a kernel, its programs started in it by the engine.

The container's first process ends with its input, which the gateway holds open: a gateway that is killed leaves no
container.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import signal
from typing import TYPE_CHECKING, Any

from ..errors import KernelError
from .batch import chunks
from .boxed_program import FACTS_BYTES, PROGRAM, START_S, BoxedProgram
from .languages import Found, ipython_spec
from .own_folder import OwnFolder
from .place import Size
from .process import TERM_S

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
    from pathlib import Path

    from .box import Box, Boxes
    from .place import Program

WORK, PRIVATE = "/work", "/meca"  #: where a container has the kernel's folder, and what it shares with the gateway
HOME = "/tmp"  # nosec B108 # the container's own
READY_S = 30.0  #: a container that the engine has started may take so long
SH = ["sh", "-c"]
#: The container's first process: it waits for its orphans, and for the end of its input.
FIRST = 'exec 3<&0 9>"$0"; cat <&3 >/dev/null & echo ready >&9; wait'
#: What of a language there is.
LOOK = """
for t in "$@"; do TOOL=$(command -v "$t") && break; done
[ -n "$TOOL" ] && echo "tool $TOOL"
case $TOOL in *python*) "$TOOL" -c 'import ipykernel' 2>/dev/null && echo ipykernel ;; esac
"""


class BoxedPlace:
    """A container for a kernel; made when it is prepared.

    Args:
        boxes: Make it.
        image: What it is made from.
        folder: The kernel's.
        environ: What its programs begin with, besides the image's.
        memory_mib: What it may have; None is no limit.
        open_files: That a process may have.
    """

    here = False
    private_inside = PRIVATE

    def __init__(
        self,
        boxes: Boxes,
        image: str,
        folder: Path,
        environ: Mapping[str, str],
        memory_mib: float | None,
        open_files: int,
    ) -> None:
        self.private = OwnFolder("meca-k-")
        self.died: str | None = None
        self.oom_kills = 0
        self._boxes = boxes
        self._image = image
        self._folder = folder
        self._environ = {"HOME": HOME, **environ}
        self._memory_mib, self._open_files = memory_mib, open_files
        self._box: Box | None = None
        self._life = self._keeper = -1
        self._tasks: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()

    async def prepare(self, found: Found) -> Found:
        """As `Place`."""
        if self._box is None:
            await self._begin()
        row = found.language
        if row is None:
            raise KernelError(f"{found.name!r} is no language for a container")
        names = [name for name in row.programs if not name.startswith("/")]
        said = await self._asked([*SH, LOOK, "sh", *names])
        tool = re.search(r"^tool (/.*)$", said, re.MULTILINE)
        if tool is None:
            raise KernelError(
                f"the image {self._image} has no {' or '.join(names)}, so {found.name} cannot run in it; its operator "
                f"names another one: meca gateway --kernel-image {found.name}=IMAGE"
            )
        spec = ipython_spec(tool[1]) if row.name == "python" and "ipykernel" in said.split() else None
        how = f"{tool[1]} in a container of {self._image}"
        return Found(row.name, row, tool[1], spec, how + ("" if spec else "; each snippet is its own program"))

    async def _begin(self) -> None:
        life = f"life-{secrets.token_hex(6)}"
        self._life = self.private.pipe(life)
        self._keeper = self.private.writer(life)
        self._watching = asyncio.create_task(self._watch())
        folders = {str(self._folder): WORK, str(self.private.path): PRIVATE}
        first = [*SH, FIRST, f"{PRIVATE}/{life}"]
        limits = self._memory_mib, self._open_files
        self._box = await self._boxes.make(self._image, first, folders, self._environ, *limits)
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait((ready, self._watching), timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not self._ready.is_set():
            await self.end(
                f"the container of {self._image} does not get ready: it has no sh and no cat, or cannot write into "
                "the gateway's folders"
            )
            raise KernelError(self.died or "")

    async def _watch(self) -> None:
        """Learn of the container's end, whatever it comes from."""
        async for _ in chunks(self._life):
            self._let_go()
            self._ready.set()
        if self._ready.is_set() and self.died is None:
            self.died = "its container ended; someone removed it, or it had no memory left"

    def _let_go(self) -> None:
        if self._keeper >= 0:
            os.close(self._keeper)
            self._keeper = -1

    async def _asked(self, argv: Sequence[str]) -> str:
        """Return what a command says."""
        program = await self.start(argv, {})
        said = b""

        async def listen() -> None:
            nonlocal said
            async for data in chunks(program.out):
                said = (said + data)[:FACTS_BYTES]

        listening = asyncio.create_task(listen())
        try:
            await asyncio.wait((listening,), timeout=START_S)
            await asyncio.wait((asyncio.ensure_future(program.ended()),), timeout=TERM_S)
            await program.end()
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            program.close()
        return said.decode("utf-8", "replace")

    async def start(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        reads: bool = False,
        size: Size | None = None,
        echo: bool = True,
    ) -> Program:
        """As `Place`."""
        box = self._box
        if box is None or self.died is not None:
            raise KernelError(f"the kernel's container is gone: {self.died or 'it was ended'}")
        name = f"p-{secrets.token_hex(6)}"
        program = BoxedProgram(self, name)
        pipe = self.private.pipe
        way = ("screen" if echo else "quiet") if size is not None else "reads" if reads else "closed"
        rows, columns = size or Size()
        command = [*SH, PROGRAM, "sh", f"{PRIVATE}/{name}", way, str(rows), str(columns), *argv]
        try:
            if way != "screen":
                program.err = pipe(f"{name}.2")
            if size is None:
                program.out = pipe(f"{name}.1")
                program.typed = pipe(f"{name}.0", writes=True) if reads else -1
                await box.begin(command, environ)
            else:
                program.gate = pipe(f"{name}.g", writes=True)
                screen = program.screen = await box.begin_screen(command, {"TERM": "xterm-256color", **environ})
                program.typed = program.out = screen.descriptor
                os.write(program.gate, b"go\n")
            await program.until_begun()
            if reads and size is None:  # the program has its end: now the close of ours is the end of its input
                both, program.typed = program.typed, self.private.writer(f"{name}.0")
                os.close(both)
        except BaseException:
            program.give_up()
            raise
        return program

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def kill(self, number: int, group: int) -> None:
        """Send a signal to a process group in the container."""
        if self._box is not None and self.died is None:
            name = signal.Signals(number).name.removeprefix("SIG")
            with contextlib.suppress(KernelError):  # it has ended meanwhile
                await self._box.begin([*SH, f"kill -s {name} -- -{group} 2>/dev/null || kill -s {name} {group}"], {})

    @property
    def over(self) -> asyncio.Future[Any]:
        """Done when the container has ended."""
        return self._watching or asyncio.get_running_loop().create_future()

    @property
    def shell(self) -> list[str]:
        """As `Place`."""
        return [*SH, "command -v bash >/dev/null && exec bash; exec sh"]

    async def end(self, why: str) -> None:
        """End the container; its programs have ended then."""
        self.died = self.died or why
        box, self._box = self._box, None
        if box is not None:
            await box.close()

    async def close(self) -> None:
        """As `Place`."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.end("it was ended")
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        self._let_go()
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        self.private.remove()
