"""What a kernel ran and said, its last part, also of runs that nobody followed."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .tape import Reader

if TYPE_CHECKING:
    from .tape import Tape

LOG_BYTES = 4 << 20  #: that are kept
STREAMS = ("in", "stdout", "stderr")


class Log:
    """The log of one kernel."""

    def __init__(self) -> None:
        self._parts: deque[tuple[str, bytes]] = deque()
        self._bytes = 0

    def say(self, stream: str, text: str) -> None:
        """Write down what belongs to no run, or (`in`) what was run."""
        self.add(stream, text.encode("utf-8", "replace"))

    def add(self, stream: str, body: bytes) -> None:
        """Write something down; the oldest goes."""
        if stream in STREAMS:
            self._parts.append((stream, body))
            self._bytes += len(body)
            while self._bytes > LOG_BYTES:
                self._bytes -= len(self._parts.popleft()[1])

    def copy(self, tape: Tape) -> None:
        """Write down all that comes on a tape."""
        tape.readers.append(_Copy(tape, self))

    @property
    def parts(self) -> list[tuple[str, bytes]]:
        """What there is: (`in`, `stdout` or `stderr`, text)."""
        return list(self._parts)


class _Copy(Reader):
    """A reader that is never behind."""

    def __init__(self, tape: Tape, log: Log) -> None:
        super().__init__()
        self._tape = tape
        self._log = log

    def pump(self) -> None:
        """There is more."""
        for entry in self._tape.after(self.number):
            self.number = entry.number
            self._log.add(str(entry.head.get("t")), entry.body)
