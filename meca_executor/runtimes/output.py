"""What a container or a local app wrote: whether its mark was in it, and the last lines, for whoever needs a reason."""

from __future__ import annotations

from collections import deque

from ..wire.data import printable

READY_MARK = b"meca-init-done"  #: the container contract: anywhere on stdout
LINES = 20  #: that are kept
ERROR_LINES = 10  #: of them that stdout never pushes out: the two streams come by different ways, in any order
LINE_BYTES = 500  #: of each line that is kept, its end


class Output:
    """The last lines of stdout (0) and stderr (1), in the order in which they came."""

    def __init__(self) -> None:
        self.marked = False
        self._came = 0
        self._lines: tuple[deque[tuple[int, bytes]], ...] = (deque(maxlen=LINES), deque(maxlen=LINES))
        self._rests = [b"", b""]  #: begin of a line whose end has not come

    def feed(self, stream: int, data: bytes) -> None:
        """Take in what was read of a stream."""
        if stream == 0 and READY_MARK in self._rests[0] + data:
            self.marked = True
        *lines, rest = (self._rests[stream] + data).split(b"\n")
        for line in lines[-LINES:]:
            self._came += 1
            self._lines[stream].append((self._came, line[-LINE_BYTES:]))
        self._rests[stream] = rest[-LINE_BYTES:]

    def told(self) -> str:
        """Return the last lines, and what they are."""
        out, err = (
            [*lines, *((self._came + 1, rest) for rest in [rest] if rest)]
            for lines, rest in zip(self._lines, self._rests, strict=True)
        )
        errors = err[-ERROR_LINES:]
        others = sorted(out + err[:-ERROR_LINES])[len(errors) - LINES :]
        if not (errors or others):
            return "it printed nothing"
        lines = (line for _, line in sorted(errors + others))
        return "its last lines:\n  " + "\n  ".join(printable(line.decode("utf-8", "replace")) for line in lines)
