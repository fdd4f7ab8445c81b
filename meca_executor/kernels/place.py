"""Where a kernel's programs run, and the programs there; and the usual place: processes of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..errors import KernelError
from .own_folder import OwnFolder
from .process import end_group, ended, launched, signal_group
from .pseudo import Pseudo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .languages import Found


class Size(NamedTuple):
    """Of a terminal."""

    rows: int = 24
    columns: int = 80


class Program(Protocol):
    """One program, which leads a process group of its own. Its descriptors are closed by `close` alone."""

    #: its process on this machine; None where that is not known
    pid: int | None
    #: descriptors of what it reads and says, -1 where it has none; in a terminal the first two are one
    typed: int
    out: int
    err: int
    #: one of its processes was ended for that, as far as its place knows
    out_of_memory: bool

    @property
    def running(self) -> bool:
        """Whether it has not ended."""

    async def ended(self) -> int:
        """Wait for its end; returns its exit code, negative for a signal."""

    def signal(self, number: int) -> None:
        """Send a signal to all in its group, if there is anybody."""

    async def end(self) -> None:
        """End it and all in its group: asked first, then killed."""

    def end_input(self) -> None:
        """There is no more for it to read; not for a terminal, where that is typed."""

    def resize(self, size: Size) -> None:
        """Set its terminal's size.

        Raises:
            KernelError: That is no size.
        """

    def close(self) -> None:
        """Close its descriptors; what is still in its terminal is hung up."""


class Place(Protocol):
    """Where the programs of one kernel run."""

    #: a folder that is the gateway's and the kernel's program's
    private: OwnFolder
    #: its path for programs
    private_inside: str
    #: they are children of this process, and find what it finds
    here: bool

    async def prepare(self, found: Found) -> Found:
        """Get it ready; returns how the language is there.

        Raises:
            KernelError: It cannot be had, and why.
        """

    async def start(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        reads: bool = False,
        size: Size | None = None,
        echo: bool = True,
    ) -> Program:
        """Start a program.

        Args:
            argv: Its command line.
            environ: Added to the place's environment.
            reads: It gets input.
            size: It is in a terminal.
            echo: The terminal shows what is typed, and stderr is there, too; else stderr stays apart.

        Raises:
            KernelError: It cannot be started.
        """

    @property
    def shell(self) -> list[str]:
        """What runs in a terminal."""

    @property
    def died(self) -> str | None:
        """Why no more can be started; None as long as it can."""

    async def close(self) -> None:
        """End all that is there."""


class LocalProgram:
    """A process of this machine."""

    out_of_memory = False

    def __init__(self, process: subprocess.Popen[bytes], pseudo: Pseudo | None) -> None:
        self._process = process
        self._pseudo = pseudo
        self.pid: int | None = process.pid
        self.typed = _fd(process.stdin) if pseudo is None else pseudo.outer
        self.out = _fd(process.stdout) if pseudo is None else pseudo.outer
        self.err = _fd(process.stderr)

    @property
    def running(self) -> bool:
        """As `Program`."""
        return self._process.poll() is None

    async def ended(self) -> int:
        """As `Program`."""
        return await ended(self._process)

    def signal(self, number: int) -> None:
        """As `Program`."""
        signal_group(self._process.pid, number)

    async def end(self) -> None:
        """As `Program`."""
        await end_group(self._process)

    def end_input(self) -> None:
        """As `Program`."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self.typed = -1

    def resize(self, size: Size) -> None:
        """As `Program`."""
        if self._pseudo is not None and self._pseudo.outer >= 0:
            self._pseudo.resize(*size)

    def close(self) -> None:
        """As `Program`."""
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self._pseudo is not None:
            self._pseudo.close()


class LocalPlace:
    """Processes of this machine, in the kernel's folder.

    Args:
        folder: Where they run.
        environ: What they begin with.
        open_files: That one of them may have.
    """

    died: str | None = None
    here = True

    def __init__(self, folder: Path, environ: Mapping[str, str], open_files: int) -> None:
        self._folder = folder
        self._environ = dict(environ)
        self._open_files = open_files
        self.private = OwnFolder("meca-k-")
        self.private_inside = str(self.private.path)

    async def prepare(self, found: Found) -> Found:
        """As `Place`; it is known already."""
        return found

    async def start(
        self,
        argv: Sequence[str],
        environ: Mapping[str, str],
        *,
        reads: bool = False,
        size: Size | None = None,
        echo: bool = True,
    ) -> LocalProgram:
        """As `Place`."""
        return self._spawn(argv, environ, reads, size, echo)

    def _spawn(
        self, argv: Sequence[str], environ: Mapping[str, str], reads: bool, size: Size | None, echo: bool
    ) -> LocalProgram:
        pseudo = None if size is None else Pseudo(*size, echo=echo)
        inner: Any = subprocess.PIPE if pseudo is None else pseudo.inner
        environ = {**self._environ, **environ}
        if pseudo is not None and echo:
            environ["TERM"] = environ.get("TERM") or "xterm-256color"
            for name in ("LINES", "COLUMNS"):  # they would hide the terminal's own size
                environ.pop(name, None)
        try:
            process = subprocess.Popen(
                launched(argv, self._open_files, terminal=pseudo is not None),
                cwd=self._folder,
                env=environ,
                stdin=inner if reads or pseudo is not None else subprocess.DEVNULL,
                stdout=inner,
                stderr=inner if pseudo is not None and echo else subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            if pseudo is not None:
                pseudo.close()
            raise KernelError(f"no program can be started: {error}") from error
        if pseudo is not None:
            pseudo.let_go()
        return LocalProgram(process, pseudo)

    @property
    def shell(self) -> list[str]:
        """As `Place`; the user's own."""
        wanted = self._environ.get("SHELL")
        if wanted and os.access(wanted, os.X_OK):
            return [wanted]
        return [shutil.which("bash") or shutil.which("sh") or "/bin/sh"]

    async def close(self) -> None:
        """As `Place`; its programs have been ended one by one."""
        self.private.remove()


def _fd(pipe: Any) -> int:
    return -1 if pipe is None else int(pipe.fileno())
