"""The future of a task."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class MecaFuture(Future[T]):
    """A `concurrent.futures.Future` whose task has a name.

    `cancel()` succeeds exactly as long as the task is still in this process; what was handed over
    counts as running (`MecaExecutor.kill` ends it).
    """

    __module__ = "meca_executor"

    number: int | None = None  #: the task's number in its executor
    given_id: str | None = None
    transaction_id: str = ""  #: the old dialect's own name for the task
    accepted: bool = False  #: the old dialect's app has taken it
    _on_accepted: Callable[[], object] | None = None

    @property
    def task_id(self) -> str | None:
        """The name that `offload_task` was given, or the task's number as text; None without a task."""
        return self.given_id or (None if self.number is None else str(self.number))

    def cancel(self) -> bool:
        """Cancel the task if it has not been handed over. Never blocks.

        Returns:
            Whether it is cancelled.
        """
        if not super().cancel():
            return False
        with self._condition:
            # Whoever waits is told now: nobody comes by later to do it, as a pool's thread would.
            if self._state == "CANCELLED":
                self.set_running_or_notify_cancel()
        return True

    def accept(self) -> None:
        """Note that the old dialect's app has taken the task; called by the link."""
        with self._condition:
            self.accepted, callback = True, self._on_accepted
        if callback is not None:
            callback()

    def when_accepted(self, callback: Callable[[], object]) -> None:
        """Call back, from the link's thread or at once, when the app has taken the task."""
        with self._condition:
            accepted, self._on_accepted = self.accepted, callback
        if accepted:
            callback()

    def claim(self) -> bool:
        """Set the future running, for the link that hands its task over; False when it was cancelled."""
        with self._condition:
            if self._state != "PENDING":
                return False
            self._state = "RUNNING"
            return True
