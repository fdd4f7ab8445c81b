"""A terminal in a kernel's folder: a shell that goes on when nobody looks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from ..errors import KernelError
from .batch import chunks, code_of, write_all
from .tape import Tape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .place import Place, Program, Size

KEPT_BYTES = 1 << 20  #: of what it showed, for those who come back
DRAIN_S = 1.0  #: for what its program has shown before it ended
LOOK_S = 0.1
TYPED_BYTES = 16 << 20  #: that may wait until the program reads it


class Terminal:
    """One shell; `begin` starts it.

    Args:
        place: Where it runs.
        command: What runs; nothing is the place's shell.
    """

    def __init__(self, place: Place, size: Size, command: Sequence[str]) -> None:
        self.tape = Tape(KEPT_BYTES)
        self._place = place
        self._size = size
        self._command = list(command)
        self._typed: asyncio.Queue[bytes] = asyncio.Queue()
        self._typed_bytes = 0
        self._program: Program | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._restarting = asyncio.Lock()

    async def begin(self) -> None:
        """Start its program.

        Raises:
            KernelError: It cannot be started.
        """
        program = await self._place.start(self._command or self._place.shell, {}, size=self._size)
        os.set_blocking(program.out, False)
        self._program = program
        self._task = asyncio.create_task(self._live(program))

    async def _live(self, program: Program) -> None:
        reader = asyncio.create_task(self._show(program.out))
        writer = asyncio.create_task(self._type(program.typed))
        code = await program.ended()
        program.signal(signal.SIGHUP)
        await self._drained(reader)
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)
        program.close()
        if program is self._program:
            self.tape.end({"t": "exit", "code": code_of(code)})

    async def _drained(self, reader: asyncio.Task[None]) -> None:
        """Wait until what was shown before the end is on the tape, also when those who look are behind."""
        latest = asyncio.get_running_loop().time() + DRAIN_S
        while not reader.done() and asyncio.get_running_loop().time() < latest:
            await asyncio.wait((reader,), timeout=LOOK_S)
            if self.tape.full and not self._closing:
                latest = asyncio.get_running_loop().time() + DRAIN_S

    async def _show(self, descriptor: int) -> None:
        async for data in chunks(descriptor):
            await self.tape.room()
            self.tape.say({"t": "out"}, data)

    async def _type(self, descriptor: int) -> None:
        while True:
            data = await self._typed.get()
            await write_all(descriptor, data)
            self._typed_bytes -= len(data)

    @property
    def program(self) -> Program | None:
        """What runs in it, or ran last."""
        return self._program

    def type(self, data: bytes) -> None:
        """Give the program input.

        Raises:
            KernelError: It has ended, or does not read what it has been given.
        """
        if self.tape.ended:
            raise KernelError("the terminal's program has ended; restart() begins another one")
        if self._typed_bytes + len(data) > TYPED_BYTES:
            raise KernelError(f"{TYPED_BYTES:,} bytes of input wait already; the program does not read them")
        self._typed_bytes += len(data)
        self._typed.put_nowait(data)

    def resize(self, size: Size) -> None:
        """Set its size.

        Raises:
            KernelError: That is none.
        """
        if self._program is not None:
            self._program.resize(size)
        self._size = size

    async def restart(self) -> None:
        """End the program and begin another one, which goes on where the output stopped."""
        async with self._restarting:
            await self._restart()

    async def _restart(self) -> None:
        old, old_task = self._program, self._task
        readers, self.tape.readers = self.tape.readers, []
        try:
            await self.begin()
        except KernelError:
            self.tape.readers = readers
            raise
        if old is not None and old_task is not None:
            await old.end()
            with contextlib.suppress(asyncio.CancelledError):
                await old_task
        self.tape.readers = readers
        self.tape.ended = False
        self.tape.tell({"t": "restarted"})

    async def close(self) -> None:
        """End it, and wait until it is gone."""
        self._closing = True
        if self._program is not None and self._task is not None:
            self._program.signal(signal.SIGHUP)
            await self._program.end()
            await self._task
