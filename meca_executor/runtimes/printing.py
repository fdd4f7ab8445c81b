"""A worker's stdout and stderr: as usual, but for marks that tell whose text follows.

A mark is written when a task prints for the first time, in one piece with its text where that is short; tasks that
print nothing cost nothing. What subprocesses write has no marks, and stands in order with the rest.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any

from ..wire.printed import MARK_BYTES, mark
from ..wire.records import ITEM


class Printing:
    """Whose the text is that this process prints."""

    def __init__(self) -> None:
        self.task = 0  #: that runs now
        self._files: list[_Marked] = []

    def begin(self) -> None:
        """Take the place of `sys.stdout` and `sys.stderr`, which are pipes to this process's owner."""
        self._files = [_Marked(1, self), _Marked(2, self)]
        sys.stdout = sys.__stdout__ = _stream(self._files[0], "<stdout>")  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = _stream(self._files[1], "<stderr>")  # type: ignore[misc]

    def end(self) -> None:
        """No task runs; what is written now, by whatever they have left, is nobody's."""
        self.task = 0
        for file in self._files:
            if file.marked:
                file.unmark()


def _stream(file: _Marked, name: str) -> io.TextIOWrapper:
    """As the interpreter makes its own; whole lines at once."""
    file.name = name
    buffer: io.BufferedWriter = io.BufferedWriter(file)
    stream = io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", newline="\n", line_buffering=True)
    stream.mode = "w"  # type: ignore[misc]
    return stream


class _Marked(io.FileIO):
    """One of the two descriptors."""

    def __init__(self, descriptor: int, printing: Printing) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._printing = printing
        self._pipe = os.fstat(descriptor)
        self.marked = 0  #: whose mark was written last

    def write(self, data: Any) -> int:
        """Write, behind a mark where the text is another task's than the one before."""
        task = self._printing.task
        if task >= ITEM:
            task = 0  # it has no future, and so no log
        if task != self.marked and self._is_ours():
            self.marked = task
            if MARK_BYTES + len(data) <= select.PIPE_BUF:  # in one piece, whoever else writes
                return max(0, os.write(self.fileno(), mark(task) + bytes(data)) - MARK_BYTES)
            os.write(self.fileno(), mark(task))
        return super().write(data)

    def unmark(self) -> None:
        """What follows is nobody's."""
        self.marked = 0
        if self._is_ours():
            os.write(self.fileno(), mark(0))

    def _is_ours(self) -> bool:
        """Whether the descriptor is what it was: not a file that a task put in its place."""
        now = os.fstat(self.fileno())
        return (now.st_dev, now.st_ino) == (self._pipe.st_dev, self._pipe.st_ino)
