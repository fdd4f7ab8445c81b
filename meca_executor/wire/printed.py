"""What tasks print: whose it is, on its way to the client; and the last of it, which is kept.

In a worker's own output a mark goes before the text of a task, and another one behind. On the link text travels in
records of task 0, whose `ref` says what the payload begins with.
"""

from __future__ import annotations

import re
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .records import Record, Status

KEPT = 64 << 10  #: bytes of one task's text that are kept: the last ones

OWNED = 1  #: flag in `ref`: the payload begins with the id of the task whose text it is
MIXED = 2  #: flag: of a container that had other calls at the same time, too
LAST = 4  #: flag: no more comes of this task

_TASK = struct.Struct("<Q")
#: No UTF-8 text has such bytes, and no newline is in it, so that output which is cut at newlines does not cut it.
_MARK = re.compile(rb"\x00\xff([0-9a-f]{16})\x00")
MARK_BYTES = 19


def mark(task: int) -> bytes:
    """Return what goes before the text of a task; 0 is nobody in particular."""
    return b"\x00\xff%016x\x00" % task


def parts(text: bytes, task: int) -> Iterator[tuple[int, bytes]]:
    """Cut text at its marks.

    Args:
        text: What a worker wrote.
        task: Whose text it was until then.

    Yields:
        A task and its text, in order; the last one may be without text, and says whose what comes next is.
    """
    start = 0
    for found in _MARK.finditer(text):
        if found.start() > start:
            yield task, text[start : found.start()]
        task, start = int(found[1], 16), found.end()
    yield task, text[start:]


def record(task: int, status: Status, text: bytes, flags: int = 0) -> Record:
    """Return the record that tells what a task printed; task 0 is nobody in particular."""
    return (0, int(status), flags | OWNED, _TASK.pack(task) + text) if task else (0, int(status), flags, text)


def owner(flags: int, payload: bytes) -> tuple[int, bytes]:
    """Return whose text a record has, 0 for nobody's in particular, and the text."""
    if not flags & OWNED or len(payload) < _TASK.size:
        return 0, payload
    return _TASK.unpack_from(payload)[0], payload[_TASK.size :]


class LeftOut:
    """What was left out of a worker's text, and what stands in its place."""

    def __init__(self) -> None:
        self._bytes = 0
        self._mark = b""

    def add(self, text: bytes) -> None:
        """Leave text out."""
        marks = [found[0] for found in _MARK.finditer(text)]
        self._bytes += len(text) - sum(map(len, marks))
        self._mark = marks[-1] if marks else self._mark

    def take(self) -> bytes:
        """Return what says how much it was, and whose text comes next; nothing when nothing was left out."""
        left, then, self._bytes, self._mark = self._bytes, self._mark, 0, b""
        return (b"[%d bytes were left out: they could not be sent]\n" % left if left else b"") + then


class Log:
    """The last of what a task printed. One thread may write while another reads."""

    def __init__(self) -> None:
        self.mixed = False  #: there is text of other calls in it
        self.ended = False  #: nothing more is written
        self.awaited = False  #: who writes it ends it, soon after what it is about
        self._lock = threading.Lock()
        self._kept = bytearray()
        self._cut = 0

    def write(self, text: bytes) -> None:
        """Add text; what is older than the last `KEPT` bytes goes."""
        with self._lock:
            if not self.ended:
                self._kept += text
                over = len(self._kept) - KEPT
                if over > 0:
                    del self._kept[:over]
                    self._cut += over

    def end(self) -> None:
        """Take no more."""
        with self._lock:
            self.ended = True

    def take(self) -> bytes:
        """Return what came since this was asked last, and keep it no longer."""
        with self._lock:
            text = self._told()
            self._kept.clear()
            self._cut = 0
            return text

    def text(self) -> str:
        """Return what is kept, with a first line that says so where it is not all."""
        with self._lock:
            return self._told().decode("utf-8", "replace")

    def _told(self) -> bytes:
        if not self._cut:
            return bytes(self._kept)
        start = 0
        while start < min(3, len(self._kept)) and self._kept[start] & 0xC0 == 0x80:
            start += 1  # the rest of a letter
        return b"[%d bytes before this are cut]\n" % (self._cut + start) + self._kept[start:]
