"""How many tasks the client hands over before it has results.

What was handed over can no longer be cancelled, so long tasks stay in the client: one more is out than
can run. Short tasks have to flow: of those, as many are out as the slots can do in a short while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .batching import updated

if TYPE_CHECKING:
    from collections.abc import Sequence

SLOT_US = 50_000  #: estimated work that may be out for each slot


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

    def grant(self, slots: int, window: int, window_bytes: int) -> None:
        """Take over what a gateway grants: its slots, and how many tasks and bytes may be out."""
        self.slots, self.window, self.window_bytes = slots, window, window_bytes

    def allows(self, kind: tuple[int, int], size: int) -> bool:
        """Whether one more task of this kind, with a payload of `size` bytes, may be handed over."""
        if self.out == 0:
            return True
        if self.out_bytes + size > self.window_bytes:
            return False
        if self.out <= self.slots:
            return True
        estimate = self._estimates.get(kind)
        return estimate is not None and self.out < self.window and self._out_us + estimate <= self.slots * SLOT_US

    def handed_over(self, kind: tuple[int, int], size: int) -> float:
        """Count a task as out; return its charge, to be given back when it is done."""
        charge = self._estimates.get(kind, SLOT_US * self.slots)
        self.out += 1
        self.out_bytes += size
        self._out_us += charge
        return charge

    def done(self, charge: float, size: int) -> None:
        """Count a task as no longer out."""
        self.out -= 1
        self.out_bytes -= size
        self._out_us = self._out_us - charge if self.out else 0.0

    def measured(self, kind: tuple[int, int], micros: Sequence[int]) -> None:
        """Learn from run times."""
        self._estimates[kind] = updated(self._estimates.get(kind), micros)
