"""How many tasks the client hands over before it has results.

What was handed over can no longer be cancelled, so long tasks stay in the client: one more is out than
can run. Short tasks have to flow: of those, as many are out as the slots can do in a short while.
"""

from __future__ import annotations

from .batching import updated

SLOT_US = 50_000  #: estimated work that may be out for each slot
REFILL = 0.75  #: of it; more is handed over when no more than this is out: one frame for many tasks


class Credit:
    """What is out, and how long each kind of task takes; a kind is an (options, definition) pair."""

    def __init__(self, slots: int, window: int, window_bytes: int) -> None:
        self.slots = slots
        self.window = window
        self.window_bytes = window_bytes
        self.out = 0
        self.out_bytes = 0
        self._out_us = 0.0
        self._estimates: dict[tuple[int, int], float] = {}
        self._lifted = False

    def grant(self, slots: int, window: int, window_bytes: int) -> None:
        """Take over what a gateway grants: its slots, and how many tasks and bytes may be out."""
        self.slots, self.window, self.window_bytes = slots, window, window_bytes

    def lift(self) -> None:
        """Have as many tasks out as the gateway takes, however long they take."""
        self._lifted = True

    def room(self, kind: tuple[int, int]) -> int:
        """Return how many more tasks of this kind may be handed over, as far as their bytes allow."""
        if self._lifted:
            return max(self.window - self.out, 0)
        unmeasured = self.slots + 1 - self.out
        estimate = self._estimates.get(kind)
        if estimate is None:
            return max(unmeasured, 0)
        most = self.slots * SLOT_US
        if self._out_us > REFILL * most:
            return max(unmeasured, 0)
        return max(unmeasured, min(self.window - self.out, int((most - self._out_us) / estimate)), 0)

    def fits(self, size: int) -> bool:
        """Whether a payload of `size` bytes may go; one always may."""
        return self.out == 0 or self.out_bytes + size <= self.window_bytes

    def charge(self, kind: tuple[int, int]) -> float:
        """Return what a task of this kind counts for, in microseconds."""
        return self._estimates.get(kind, SLOT_US * self.slots)

    def handed_over(self, charge: float, size: int) -> None:
        """Count a task as out; its charge and size are to be given back when it is done."""
        self.out += 1
        self.out_bytes += size
        self._out_us += charge

    def done(self, charge: float, size: int, count: int = 1) -> None:
        """Count tasks as no longer out; `charge` and `size` are those of all."""
        self.out -= count
        self.out_bytes -= size
        self._out_us = self._out_us - charge if self.out else 0.0

    def measured(self, kind: tuple[int, int], micros: float, count: int) -> None:
        """Learn that `count` tasks took `micros` together."""
        self._estimates[kind] = updated(self._estimates.get(kind), micros, count)
