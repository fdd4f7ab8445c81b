"""A terminal in a kernel's folder: a shell that goes on when nobody looks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from ..errors import KernelError
from .batch import chunks, code_of, write_all
from .process import end_group, ended, launched, signal_group
from .pseudo import Pseudo
from .tape import Tape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

KEPT_BYTES = 1 << 20  #: of what it showed, for those who come back
DRAIN_S = 1.0
TYPED_BYTES = 16 << 20  #: that may wait until the program reads it


class Terminal:
    """One shell.

    Args:
        command: What runs; nothing is the user's shell.
    """

    def __init__(
        self, folder: Path, environ: Mapping[str, str], open_files: int, rows: int, columns: int, command: Sequence[str]
    ) -> None:
        self.tape = Tape(KEPT_BYTES)
        self._folder = folder
        self._environ = {**environ, "TERM": environ.get("TERM") or "xterm-256color"}
        for name in ("LINES", "COLUMNS"):  # they would hide the terminal's own size
            self._environ.pop(name, None)
        self._open_files = open_files
        self._size = rows, columns
        self._command = list(command) or [shell(environ)]
        self._typed: asyncio.Queue[bytes] = asyncio.Queue()
        self._typed_bytes = 0
        self._pseudo: Pseudo
        self._process: subprocess.Popen[bytes]
        self._task: asyncio.Task[None]
        self._begin()

    def _begin(self) -> None:
        self._pseudo = Pseudo(*self._size)
        inner = self._pseudo.inner
        try:
            self._process = subprocess.Popen(
                launched(self._command, self._open_files, terminal=True),
                cwd=self._folder,
                env=self._environ,
                stdin=inner,
                stdout=inner,
                stderr=inner,
                start_new_session=True,
            )
        except OSError as error:
            self._pseudo.close()
            raise KernelError(f"no shell can be started: {error}") from error
        self._pseudo.let_go()
        self._task = asyncio.create_task(self._live(self._process, self._pseudo))

    async def _live(self, process: subprocess.Popen[bytes], pseudo: Pseudo) -> None:
        reader = asyncio.create_task(self._show(pseudo.outer))
        writer = asyncio.create_task(self._type(pseudo.outer))
        code = await ended(process)
        signal_group(process.pid, signal.SIGHUP)
        await asyncio.wait((reader,), timeout=DRAIN_S)
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)
        pseudo.close()
        if process is self._process:
            self.tape.end({"t": "exit", "code": code_of(code)})

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
    def pid(self) -> int:
        """Its program's process."""
        return self._process.pid

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

    def resize(self, rows: int, columns: int) -> None:
        """Set its size."""
        if self._pseudo.outer >= 0:
            self._pseudo.resize(rows, columns)
        self._size = rows, columns

    async def restart(self) -> None:
        """End the program and begin another one, which goes on where the output stopped."""
        old_process, old_task = self._process, self._task
        readers, self.tape.readers = self.tape.readers, []
        self._begin()
        await end_group(old_process)
        with contextlib.suppress(asyncio.CancelledError):
            await old_task
        self.tape.readers = readers
        self.tape.ended = False
        self.tape.tell({"t": "restarted"})

    async def close(self) -> None:
        """End it, and wait until it is gone."""
        signal_group(self._process.pid, signal.SIGHUP)
        await end_group(self._process)
        await self._task


def shell(environ: Mapping[str, str]) -> str:
    """Return the shell to run."""
    wanted = environ.get("SHELL")
    if wanted and os.access(wanted, os.X_OK):
        return wanted
    return shutil.which("bash") or shutil.which("sh") or "/bin/sh"
