"""How long to wait before a connection that dropped is tried again."""

from __future__ import annotations

STEADY_S = 1.0  #: what lasts shorter was dropped at once
FIRST_S = 0.1  #: the longest first pause; each may be twice as long as the one before
LONGEST_S = 5.0


class Reconnecting:
    """Pauses for a server that takes connections and drops them at once: they grow until one lasts."""

    def __init__(self) -> None:
        self._dropped_at_once = 0

    def dropped(self, lasted: float) -> None:
        """A connection dropped that had been there for so many seconds."""
        self._dropped_at_once = 0 if lasted >= STEADY_S else self._dropped_at_once + 1

    def pause(self, luck: float) -> float:
        """Return the seconds to wait; `luck` is from 0 to 1, so that many clients do not come back together."""
        if not self._dropped_at_once:
            return 0.0
        longest = min(FIRST_S * 2.0 ** min(self._dropped_at_once - 1, 10), LONGEST_S)
        return longest * (1 + luck) / 2
