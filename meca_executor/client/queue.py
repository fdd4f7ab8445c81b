"""The queue of an executor: what was submitted and not handed over. Threads that submit only add to it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from .chunks import Chunk


class Queue:
    """Tasks and items of maps, in their order; and whether more are taken."""

    def __init__(self) -> None:
        self._queue: deque[Task | Chunk] = deque()
        self._refusal: Callable[[], BaseException] | None = None

    @property
    def queued(self) -> int:
        """Tasks that are here."""
        return sum(entry.queued for entry in list(self._queue))

    def add(self, task: Task | Chunk) -> None:
        """Queue a new task, or items of a map.

        Raises:
            BaseException: What `refuse` was told, once it was.
        """
        # First this, then that look: who refuses says so before it looks at the queue for the last time.
        self._queue.append(task)
        if self._refusal is not None and self._take_back(task):
            raise self._refusal()

    def _take_back(self, task: Task | Chunk) -> bool:
        try:
            self._queue.remove(task)
        except ValueError:
            return False  # it has been taken, to be run or to be failed
        return True

    def check(self) -> None:
        """Raise what `refuse` was told, if it was."""
        if self._refusal is not None:
            raise self._refusal()

    def refuse(self, error: Callable[[], BaseException]) -> None:
        """Take no more tasks; what is here goes on. The first reason stands."""
        if self._refusal is None:
            self._refusal = error

    def cancel_queued(self) -> None:
        """Cancel what has not been handed over."""
        for entry in list(self._queue):
            entry.cancel_queued()

    def drop_cancelled(self) -> None:
        """Forget queued tasks that were cancelled; else that happens when their turn comes."""
        for _ in range(len(self._queue)):
            if (entry := self._next()) is not None and entry.queued:
                self._queue.append(entry)

    def _next(self) -> Task | Chunk | None:
        """Take the queue's head out; None when the queue is empty."""
        try:
            return self._queue.popleft()
        except IndexError:
            return None

    def _take_begun(self, number: int) -> Task | None:
        """Take out a task that has had an attempt, if it is here."""
        for entry in list(self._queue):
            if isinstance(entry, Task) and entry.number == number and entry.began:
                self._queue.remove(entry)
                return entry
        return None

    def _tasks(self) -> list[Task]:
        return [entry for entry in list(self._queue) if isinstance(entry, Task)]
