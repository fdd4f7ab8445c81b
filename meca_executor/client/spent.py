"""What tasks that are done give back to the credit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..policy.credit import Credit


class Spent:
    """Adds up what tasks of one kind that follow each other give back, and tells the credit once."""

    __slots__ = ("_charge", "_count", "_credit", "_kind", "_size", "measured", "micros")

    def __init__(self, credit: Credit) -> None:
        self._credit = credit
        self._kind: tuple[int, int] | None = None
        self._charge, self._size, self._count = 0.0, 0, 0
        self.micros = 0  #: run time of those of the present kind that have one
        self.measured = 0  #: how many those are

    def returned(self, kind: tuple[int, int], charge: float, size: int) -> None:
        """A task is no longer out; its run time may follow."""
        if kind != self._kind:
            self.tell()
            self._kind = kind
        self._charge += charge
        self._size += size
        self._count += 1

    def tell(self) -> None:
        """Tell the credit of the present kind; begin anew."""
        if self._kind is not None:
            self._credit.done(self._charge, self._size, self._count)
            if self.measured:
                self._credit.measured(self._kind, self.micros, self.measured)
        self._kind, self._charge, self._size, self._count = None, 0.0, 0, 0
        self.micros = self.measured = 0
