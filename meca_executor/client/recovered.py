"""Tasks that other programs left in a session, as the one has them that claimed it. No I/O."""

from __future__ import annotations

import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ResultGone, TaskKilled
from ..policy.retry import RetryPolicy, is_lost
from ..wire.records import COUNTED
from ..wire.sessions import Reading, State
from .container import decode_reply
from .future import MecaFuture
from .options import TaskOptions
from .outcomes import named, read_outcome, resolve
from .tasks import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..wire.records import Record

OPTIONS = TaskOptions(retry=RetryPolicy(1))  #: the gateway tries them again, not this process
SHOWN = "the container"


class Recovered:
    """The tasks that this process did not submit, or whose outcome it asked for once more.

    Args:
        host: Who has them, as `MecaFuture.attempts` tells it.
        read_function: Reads the reply of a function in a container.
    """

    def __init__(self, host: str, read_function: Callable[..., Any]) -> None:
        self._host = host
        self._readers: dict[int, Callable[..., Any]] = {
            Reading.TEXT: lambda reply: decode_reply("text", reply, SHOWN),
            Reading.JSON: lambda reply: decode_reply("json", reply, SHOWN),
            Reading.BYTES: lambda reply: decode_reply("bytes", reply, SHOWN),
            Reading.OWN: lambda reply: decode_reply("text", reply, SHOWN),
            Reading.FUNCTION: read_function,
        }
        self._open: dict[int, Task] = {}
        self._killed: set[int] = set()
        self._known: weakref.WeakValueDictionary[int, MecaFuture[Any]] = weakref.WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._open)

    def take(
        self, listing: Iterable[Record], own: dict[int, MecaFuture[Any]], now: float
    ) -> tuple[dict[str, MecaFuture[Any]], list[int]]:
        """Take in what the gateway says that there is.

        Args:
            listing: Of the session's tasks.
            own: Futures of tasks that this process has, by their numbers.
            now: As `time.time()`.

        Returns:
            All futures, by their tasks' names, and which outcomes are to be asked for.
        """
        found: dict[str, MecaFuture[Any]] = {}
        wanted: list[int] = []
        futures = dict(own)
        for number, codec, state, name in listing:
            if number == 0:
                continue
            if number not in futures:
                futures[number] = self._future(number, codec, state, name.decode("utf-8", "replace"), now)
                if number in self._open:
                    wanted.append(number)
        for number in sorted(futures):
            future = futures[number]
            text = str(future.task_id)
            found[text if text not in found else f"{text}#{number}"] = future
        return found, wanted

    def _future(self, number: int, codec: int, state: int, name: str, now: float) -> MecaFuture[Any]:
        if (task := self._open.get(number)) is not None:
            return task.future
        if (known := self._known.get(number)) is not None:
            return known
        future: MecaFuture[Any] = MecaFuture()
        future.number, future.given_id = number, name or None
        future.claim()
        future.handed = (None, self._host)
        self._known[number] = future
        decode = self._readers.get(codec)
        if decode is not None and codec == Reading.FUNCTION:
            decode = partial(decode, log=future.printed)
        task = Task(number, future, b"", (0, 0), OPTIONS, decode)
        task.attempts = 1
        self._open[number] = task
        if state == State.GONE:
            self.gone(number, now)
        return future

    def gone(self, number: int, now: float) -> None:
        """The gateway does not have an outcome any more."""
        if (task := self._open.pop(number, None)) is not None:
            told = "it is done and its result was fetched, and the gateway keeps it no longer; submit it again"
            resolve(task, None, ResultGone(f"task {task.future.task_id}: {told}"), now)

    def settle(self, record: Record, freed: Callable[[bytes], object], now: float) -> None:
        """Take in an outcome; one of a task that is not open here is ignored."""
        number, status, micros, payload = record
        if (task := self._open.pop(number, None)) is None:
            return
        if status & COUNTED:
            task.count(micros)
        value, error = read_outcome(task, status & 0xFF, payload, freed)
        if task.decode is not None:
            task.future.expect_more()
        if number in self._killed and error is not None and is_lost(error):
            error = TaskKilled(f"task {task.future.task_id}: ended by kill()")
        self._killed.discard(number)
        resolve(task, value, error, now)

    def future(self, number: int) -> MecaFuture[Any] | None:
        """Return a task's future, as long as somebody has it."""
        return self._known.get(number)

    def kill(self, number: int) -> bool:
        """Whether a task is open, and so the gateway has to end it."""
        if number in self._open:
            self._killed.add(number)
        return number in self._open

    def fail_all(self, error: Callable[[], BaseException], now: float) -> None:
        """Nothing more will come."""
        tasks = list(self._open.values())
        self._open.clear()
        for task in tasks:
            resolve(task, None, named(error(), task.future), now)
