"""Tasks that the gateway would not take, on their way back to the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import GatewayRefused
from ..policy.refusals import Refusals
from ..wire.records import Status

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Container

    from ..wire.records import Record
    from .chunks import Chunk
    from .tasks import Task


class Refused:
    """What a ledger knows of refusals."""

    def __init__(self) -> None:
        self.policy = Refusals()
        self._tasks: list[Task] = []

    def take(self, task: Task, told: bytes, killed: Container[int]) -> bytes:
        """Have a task offered again, which counts as no attempt: nothing; or return why that is not done.

        Args:
            task: The task.
            told: Why the gateway would not take it.
            killed: Numbers of tasks that are to be ended anyway.
        """
        why = "and it was to be ended" if task.number in killed else self.policy.refused()
        if why is None and task.options.retry.ends(task.attempts, task.began, GatewayRefused(told.decode())):
            why = "and retry= says that it is enough"
        if why is not None:
            return told + f" ({why})".encode()
        task.attempts -= 1
        task.future.handed = None
        self._tasks.append(task)
        return b""

    def put_back(self, queue: deque[Task | Chunk], records: list[Record]) -> None:
        """Queue them before all others, after these outcomes have been looked at."""
        if self.policy.active and any(number and status & 0xFF != Status.BUSY for number, status, _, _ in records):
            self.policy.progress()
        if self._tasks:
            queue.extendleft(reversed(self._tasks))
            self._tasks.clear()
