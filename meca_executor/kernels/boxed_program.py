"""A program in a container.

Nothing of it passes through the engine but a terminal. What it reads and says goes through named pipes in a folder
that both see, and so do its process number and its exit code: the end of that pipe is the end of the program, however
that came.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from typing import TYPE_CHECKING

from ..errors import KernelError
from .batch import chunks
from .process import TERM_S
from .pseudo import SIZE_MAX

if TYPE_CHECKING:
    from .box import Screen
    from .boxed import BoxedPlace
    from .place import Size

START_S = 60.0  #: a program on a busy machine may take so long until it runs
END_S = 20.0  #: a killed program may take so long to be gone; then its container is
FACTS_BYTES = 4096
#: A program: first it says its number, then it waits until its terminal is looked at; at the end its code, and whether
#: the container had no memory left. Then all that is left of its group goes, itself too.
PROGRAM = """
p=$1; way=$2; rows=$3; columns=$4; shift 4
exec 9>"$p.x"
case $way in
  reads) exec <"$p.0" >"$p.1" 2>"$p.2" ;;
  closed) exec </dev/null >"$p.1" 2>"$p.2" ;;
  quiet) exec 2>"$p.2"; stty -echo -opost rows $rows cols $columns 2>/dev/null ;;
  screen) stty rows $rows cols $columns 2>/dev/null ;;
esac
exec 8>&2 2>/dev/null # what this shell says of how a program ended is not the program's
echo $$ >&9
trap : HUP INT QUIT TERM
case $way in quiet | screen) read go <"$p.g" ;; esac
(exec "$@" 2>&8 8>&- 9>&-)
code=$?
cat /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control >&9 2>/dev/null
echo "code $code" >&9
kill -s KILL 0
"""


class BoxedProgram:
    """A program in a container."""

    pid: int | None = None

    def __init__(self, place: BoxedPlace, name: str) -> None:
        self._place = place
        self._name = name
        self._killed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._facts = place.private.pipe(f"{name}.x")
        self._keeper = place.private.writer(f"{name}.x")  # until the program has it: so long it has no end
        self._said = b""
        self._number: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._code: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._watching = asyncio.create_task(self._watch())
        self.screen: Screen | None = None
        self.typed = self.out = self.err = -1
        self.gate = -1
        self.out_of_memory = False

    async def _watch(self) -> None:
        async for data in chunks(self._facts):
            self._said = (self._said + data)[:FACTS_BYTES]
            self._let_go()
            first, ended, _ = self._said.partition(b"\n")
            if ended and not self._number.done():
                self._number.set_result(int(first) if first.isdigit() else 0)
        code = re.search(rb"^code (\d{1,3})$", self._said, re.MULTILINE)
        memory = re.search(rb"^oom_kill (\d{1,9})$", self._said, re.MULTILINE)
        if memory is not None and int(memory[1]) > self._place.oom_kills:
            self._place.oom_kills = int(memory[1])
            self.out_of_memory = True
        killed = -signal.SIGKILL  # and all its group, or its container
        if not self._code.done():
            self._code.set_result(killed if code is None else as_child(int(code[1])))

    def _let_go(self) -> None:
        if self._keeper >= 0:
            os.close(self._keeper)
            self._keeper = -1

    async def until_begun(self) -> None:
        """Wait until it runs.

        Raises:
            KernelError: It does not.
        """
        either = self._number, self._code, self._place.over
        await asyncio.wait(either, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        if not self._number.done():
            why = self._place.died or f"it does not begin within {START_S:g} s"
            raise KernelError(f"a program does not start in the container: {why}")

    @property
    def running(self) -> bool:
        """As `Program`."""
        return not self._code.done()

    async def ended(self) -> int:
        """As `Program`."""
        return await asyncio.shield(self._code)

    def signal(self, number: int) -> None:
        """As `Program`; it is on its way when this returns."""
        if self.running:
            task = asyncio.create_task(self._send(number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, number: int) -> None:
        await asyncio.wait((self._number, self._code), return_when=asyncio.FIRST_COMPLETED)
        if self.running and self._number.result() > 1:
            await self._place.kill(number, self._number.result())

    async def end(self) -> None:
        """As `Program`; where nothing helps its container is ended."""
        for number, patience in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, END_S)):
            if self.running:
                self.signal(number)
                await asyncio.wait((self._code,), timeout=patience)
        if self.running:
            await self._place.end("a program in its container could not be ended")
            await asyncio.wait((self._code,), timeout=TERM_S)
            if self.running:  # nor could its container: the engine is gone, and nobody may wait for it
                self._code.set_result(-signal.SIGKILL)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def end_input(self) -> None:
        """As `Program`."""
        if self.typed >= 0:
            os.close(self.typed)
            self.typed = -1

    def resize(self, size: Size) -> None:
        """As `Program`."""
        if not (0 < size.rows <= SIZE_MAX and 0 < size.columns <= SIZE_MAX):
            raise KernelError(f"{size.rows} rows and {size.columns} columns are no size: each is 1 to {SIZE_MAX}")
        if self.screen is not None and self.running:
            task = asyncio.create_task(self.screen.resize(*size))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """As `Program`."""
        self._watching.cancel()
        facts = self._facts
        self._watching.add_done_callback(lambda _: os.close(facts))
        for task in self._tasks:
            task.cancel()
        self._let_go()
        if self.screen is not None:
            self.screen.close()
            self.typed = self.out = -1
        for handle in (self.typed, self.out, self.err, self.gate):
            if handle >= 0:
                os.close(handle)
        self.typed = self.out = self.err = self.gate = -1
        self._place.private.drop(self._name)

    def give_up(self) -> None:
        """It did not start as it should: close it, and kill what there is of it."""
        if self.running and self._number.done():
            self._place.spawn(self._place.kill(signal.SIGKILL, self._number.result()))
        self.close()


def as_child(code: int) -> int:
    """Return an exit code of a shell as of a child: negative for a signal."""
    return 128 - code if 128 < code < 128 + signal.NSIG else code
