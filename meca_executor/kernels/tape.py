"""A tape: what a run or a terminal said, numbered, and kept for a while.

Pure. Readers go on from the last number that they have had. While a reader is behind, nothing that it has not had
is forgotten: what says more has to wait (`full`), or, where it cannot be held up, is cut with a mark. Without a
reader the oldest goes, and whoever comes later is told how much.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEPT_BYTES = 16 << 20
ENTRY_BYTES = 200  #: that an entry takes besides its body
BURST_S = 4.0  #: what a rate allows in so many seconds may come at once
STREAMS = ("stdout", "stderr", "out")  #: whose bytes may be cut anywhere


class Entry(NamedTuple):
    """One thing that was said."""

    number: int
    head: dict[str, Any]
    body: bytes


class Reader:
    """Where one reader is; `pump` is called when there is more."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def pump(self) -> None:
        """There is more to read."""


class Allowance:
    """How much output may come: in all, and a second. None is no limit.

    Args:
        total: Bytes in all.
        rate: Bytes a second, when what `BURST_S` allows is spent.
        clock: Gives the time.
    """

    def __init__(
        self, total: int | None = None, rate: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._rate = rate
        self._clock = clock
        self._left = 0.0 if rate is None else rate * BURST_S
        self._at = clock()

    def take(self, size: int, whole: bool) -> tuple[int, str]:
        """Return how many of these bytes may be said, and why no more.

        Args:
            size: Bytes that are there.
            whole: None of them may, rather than a part.
        """
        may, why = size, ""
        if self._rate is not None:
            now = self._clock()
            self._left = min(self._rate * BURST_S, self._left + (now - self._at) * self._rate)
            self._at = now
            if self._left < may:
                may, why = int(self._left), "rate"
        if self._total is not None and self._total < may:
            may, why = self._total, "total"
        if whole and may < size:
            may = 0
        self._left -= may
        if self._total is not None:
            # Once it is spent all that follows is cut, and not only what does not fit.
            self._total = 0 if why == "total" else self._total - may
        return may, why


class Tape:
    """What was said.

    Args:
        kept: Bytes that are kept for those who come back.
        allowance: How much output may come; what is more is cut, with a mark that counts it.
    """

    def __init__(self, kept: int = KEPT_BYTES, allowance: Allowance | None = None) -> None:
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._kept = kept
        self._allowance = allowance or Allowance()
        self.said = 0  #: bytes of output so far
        self._cut = 0  # bytes that the next mark counts
        self._cut_why = ""
        self._handed = 0  # the last entry that anyone has had
        self.last = 0  #: the last entry's number
        self.dropped_bytes = 0  #: of output that nobody waited for
        self.ended = False
        self.readers: list[Reader] = []
        self.copy: Callable[[dict[str, Any], bytes], object] | None = None  #: told all that is added
        self._room = asyncio.Event()
        self._room.set()

    @property
    def full(self) -> bool:
        """Whether a reader is so far behind that nothing more should be said."""
        return self._bytes > self._kept

    async def room(self) -> None:
        """Wait until there is room for more."""
        await self._room.wait()

    def say(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Add output that can be held up; whoever says it waits for `room` next."""
        may, why = self._allowance.take(len(body), head.get("t") not in STREAMS)
        if may or not body:
            self._mark_cut()
            self.said += may
            self._add(head, body[:may])
        self._cut_for(why, len(body) - may)

    def offer(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Add output that cannot be held up: without room it is cut, which is marked where it was."""
        if self.full:
            self._cut_for("behind", len(body))
        else:
            self.say(head, body)

    def tell(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Add what is never cut: a step, a question, the end."""
        self._mark_cut()
        self._add(head, body)

    def _cut_for(self, why: str, size: int) -> None:
        if size and why != self._cut_why:
            self._mark_cut()
            self._cut_why = why
        self._cut += size

    def _mark_cut(self) -> None:
        if self._cut:
            cut, self._cut = self._cut, 0
            self._add({"t": "cut", "bytes": cut, "why": self._cut_why}, b"")

    def end(self, head: dict[str, Any], body: bytes = b"") -> None:
        """Say the last thing."""
        self._mark_cut()  # a reader that is told of it must not take it for the last
        self.ended = True
        self._add(head, body)

    def _add(self, head: dict[str, Any], body: bytes) -> None:
        if self.copy is not None:
            self.copy(head, body)
        last = self._entries[-1] if self._entries else None
        if (
            last is not None
            and head == last.head
            and head.get("t") in STREAMS
            and len(last.body) + len(body) <= 4096
            and last.number > self._handed
        ):
            # Nobody has had that one yet: many short pieces travel as one.
            self._entries[-1] = Entry(last.number, head, last.body + body)
            self._bytes += len(body)
            return
        self.last += 1
        self._entries.append(Entry(self.last, head, body))
        self._bytes += len(body) + ENTRY_BYTES
        self.trim()
        for reader in list(self.readers):
            reader.pump()

    def trim(self) -> None:
        """Forget what is too much and what every reader has had."""
        had = min((reader.number for reader in self.readers), default=self.last)
        while self._bytes > self._kept and self._entries and self._entries[0].number <= had:
            if len(self._entries) == 1 and self.ended:
                break  # the end is never forgotten
            entry = self._entries.popleft()
            self._bytes -= len(entry.body) + ENTRY_BYTES
            self.dropped_bytes += len(entry.body)
        if self.full:
            self._room.clear()
        else:
            self._room.set()

    def after(self, number: int) -> Iterator[Entry]:
        """Yield what came after `number`; first of all what is missing before it, if something is."""
        if self._entries and number + 1 < self._entries[0].number:
            # What of it a reader had who comes back is not known any more.
            head = {"t": "missed", "bytes": self.dropped_bytes, "most": number > 0}
            yield Entry(self._entries[0].number - 1, head, b"")
        skip = max(0, number + 1 - self._entries[0].number) if self._entries else 0
        for index in range(skip, len(self._entries)):
            self._handed = max(self._handed, self._entries[index].number)
            yield self._entries[index]
