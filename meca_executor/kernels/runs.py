"""A run: one piece of code, or one build, on its way through a kernel; and what a kernel may use."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import KernelError
from .tape import Allowance

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .place import Program
    from .tape import Tape

TIMEOUT, INTERRUPTED, NOT_FOUND, OURS = 124, 130, 127, 125  #: exit codes, as a shell's


@dataclass(frozen=True)
class Limits:
    """What a kernel may use; None is no limit."""

    memory_mib: float | None = None  #: of all its processes together; Linux only
    timeout_s: float | None = None  #: of one run
    idle_s: float | None = 3600.0  #: without a run, an open terminal or a client that is there
    lifetime_s: float | None = None
    open_files: int = 1024  #: of one process
    output_mib: float | None = 256.0  #: of one run; what is more is cut, with a mark
    output_mib_s: float | None = 64.0  #: of one run, a second, when four seconds' worth is spent; as above

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Limits:
        """Return the limits that a client asks for.

        Raises:
            KernelError: A name is unknown, or a value no positive number.
        """
        for name, value in given.items():
            if name not in cls.__dataclass_fields__:
                raise KernelError(f"no limit {name!r}; there are {', '.join(cls.__dataclass_fields__)}")
            if value is None and name != "open_files":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e12:
                raise KernelError(f"limit {name} {value!r} is not a positive number")
            if name == "open_files" and (value != int(value) or value < 32):
                raise KernelError(f"limit {name} {value!r} is not a whole number of at least 32")
        return cls(**given)

    def allowance(self) -> Allowance:
        """Return what a new run may say."""
        return Allowance(
            None if self.output_mib is None else int(self.output_mib * (1 << 20)),
            None if self.output_mib_s is None else self.output_mib_s * (1 << 20),
        )


@dataclass(eq=False)
class Run:
    """One run."""

    id: str
    mode: str  #: query or batch
    code: str
    options: dict[str, Any]
    tape: Tape
    timeout_s: float | None = None
    typed: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)  #: what is for its stdin; None: the end
    status: str = "queued"
    begun: float = 0.0  #: as time.time()
    kept: bool = False  #: it goes on when its client is gone
    abandoned: bool = False  #: nobody waits for it any more
    interrupted: bool = False
    _line: bytes = b""  # typed, and not given out

    async def line(self) -> bytes | None:
        """Return the next line that was typed, without its end; None at the end of input."""
        while b"\n" not in self._line:
            data = await self.typed.get()
            if data is None:
                self.typed.put_nowait(None)  # it stays at the end
                last, self._line = self._line, b""
                return last or None
            self._line += data
        line, _, self._line = self._line.partition(b"\n")
        return line

    @property
    def has_input(self) -> bool:
        """Whether something was typed that was not given out; the end counts, too."""
        return bool(self._line) or not self.typed.empty()

    def end(self, status: str, code: int, error: dict[str, Any] | None = None, files: list[str] | None = None) -> None:
        """It is over; later calls change nothing."""
        if self.tape.ended:
            return
        self.status = status
        seconds = time.time() - self.begun if self.begun else 0.0
        self.tape.end(
            {"t": "end", "status": status, "code": code, "error": error, "files": files or [], "seconds": seconds}
        )


@dataclass(frozen=True)
class Outcome:
    """How an engine's run ended."""

    status: str  #: finished, exec-timeout, interrupted, died
    code: int
    error: dict[str, Any] | None = None


class Engine(Protocol):
    """What runs snippets of code."""

    async def start(self) -> None:
        """Get ready.

        Raises:
            KernelError: It cannot, and why.
        """

    async def run(self, run: Run) -> Outcome:
        """Run a snippet to its end, its time limit, or the engine's death."""

    def interrupt(self) -> None:
        """Have the run that is under way interrupted."""

    async def complete(self, code: str, cursor: int) -> dict[str, Any]:
        """Return `matches`, and the part of the code that they replace."""

    async def stop(self) -> None:
        """End it, and wait until it is gone."""

    @property
    def program(self) -> Program | None:
        """Its program, if there is one all the time."""

    @property
    def died(self) -> str | None:
        """How it ended by itself; None while it has not."""
