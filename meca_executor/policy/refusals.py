"""When tasks are offered again that a gateway has refused for now, because it is full."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_S = 0.1  #: the first pause; each is twice as long as the one before
LONGEST_S = 5.0
LIMIT_S = 60.0  #: for so long refusals are only a reason to wait
QUIET_S = 2.0  #: without a refusal for so long after a pause, the gateway takes tasks again


class Refusals:
    """The refusals of one gateway.

    After a refusal nothing is offered for a while, then one batch at a time. When refusals have gone on for a minute,
    and no outcome came meanwhile, they count as errors and nothing waits any more.

    Args:
        clock: Seconds, as `time.monotonic()`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause = 0.0  # 0: there were none lately
        self._until = 0.0  # nothing is offered before
        self._since = 0.0  # of the present ones, or of the last outcome
        self._last = 0.0
        self._offered = False  # since the last pause began
        self._given_up = False

    @property
    def active(self) -> bool:
        """Whether there were refusals lately."""
        return self._pause > 0

    def wait(self) -> float:
        """Return the seconds in which nothing is to be offered."""
        return max(0.0, self._until - self._clock()) if self._pause else 0.0

    def offered(self) -> None:
        """A batch was offered; while there are refusals, the next one waits for what becomes of it."""
        if not self._pause:
            return
        if (now := self._clock()) - self._last > self._pause + QUIET_S:
            self._pause = 0.0
        else:
            self._offered, self._until = True, now + self._pause

    def refused(self) -> str | None:
        """A task was refused: why it is not offered again; None when it is."""
        now = self._clock()
        if not self._pause or now - self._last > self._pause + QUIET_S:
            self._pause, self._since, self._until = FIRST_S, now, now + FIRST_S
        elif self._offered:  # the others of a batch are refused with it
            self._pause = min(2 * self._pause, LONGEST_S)
            self._until = now + self._pause
        self._last, self._offered = now, False
        if now - self._since <= LIMIT_S and not self._given_up:
            return None
        self._until = now  # so that a long queue does not take a pause for each batch to fail
        return "and the executor is shut down" if self._given_up else f"it has taken nothing for {LIMIT_S:g} s"

    def progress(self) -> None:
        """Another task has its outcome: it is worth to wait."""
        self._since = self._clock()

    def give_up(self) -> None:
        """From now on a refusal is an error at once."""
        self._given_up = True
