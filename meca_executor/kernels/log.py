"""What a kernel ran and said, its last part, also of runs that nobody followed."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_BYTES = 4 << 20  #: that are kept
PIECE_BYTES = 4096  #: up to which what follows of the same stream is kept as one piece
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
        if stream not in STREAMS or not body:
            return
        body = body[-LOG_BYTES:]
        self._bytes += len(body)
        last = self._parts[-1] if self._parts else ("", b"")
        if stream == last[0] != "in" and len(last[1]) + len(body) <= PIECE_BYTES:
            self._parts[-1] = stream, last[1] + body
        else:
            self._parts.append((stream, body))
        while self._bytes > LOG_BYTES:
            self._bytes -= len(self._parts.popleft()[1])

    def add_entry(self, head: Mapping[str, Any], body: bytes) -> None:
        """Write down what came on a tape."""
        self.add(str(head.get("t")), body)

    @property
    def parts(self) -> list[tuple[str, bytes]]:
        """What there is: (`in`, `stdout` or `stderr`, text)."""
        return list(self._parts)
