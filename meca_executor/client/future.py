"""The future of a task."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import UsageError
from ..wire.printed import Log
from ..wire.sessions import task_text
from .attempts import Attempt, Handed, followed, made_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MIXED_TEXT = "[other calls were in it at the same time, or just before or after: some of this may be theirs]\n"
LATE_S = 0.25  #: the last of what a container wrote is here so long after its outcome

_DONE = frozenset({CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED})
#: Held while a future gets its condition, and while one without a condition changes its state: so that nobody
#: begins to wait, the standard library's own functions included, between a look at the state and its change. Reentrant,
#: because a finalizer may cancel a future at any moment (tests/unit/client/test_future_races.py).
_lock = threading.RLock()


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # the old one may have been held by a thread that is not here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _MadeLater:
    """An attribute that most futures never need: made when somebody asks, and from then on the instance's own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, future: Any, owner: type) -> Any:
        if future is None:
            return self
        with _lock:
            return future.__dict__.setdefault(self._name, self._make())


class MecaFuture(Future[T]):
    """A `concurrent.futures.Future` whose task has a name.

    `cancel()` succeeds exactly as long as the task is still in this process; what was handed over
    counts as running (`MecaExecutor.kill` ends it).
    """

    __module__ = "meca_executor"

    # What `Future.__init__` makes for each future costs more time and memory than all else of a short task.
    _state = PENDING
    _result: T | None = None
    _exception: BaseException | None = None
    _condition = _MadeLater(threading.Condition)
    _waiters = _MadeLater(list)
    _done_callbacks = _MadeLater(list)

    number: int | None = None  #: the task's number in its executor
    given_id: str | None = None
    transaction_id: str = ""  #: the old dialect's own name for the task
    accepted: bool = False  #: the old dialect's app has taken it
    _on_accepted: Callable[[], object] | None = None
    handed: Handed | None = None  #: the present attempt, for the ledger; None before the first one and between two
    ended: float | None = None  #: when the outcome came, for the ledger; set before the outcome
    _over: tuple[Attempt, ...] = ()  # attempts that were followed by another, or will be
    log: Log | None = None  #: what the task printed, for the link; None: nothing
    log_whole: bool = False  #: nothing more of it comes
    _log_due: tuple[float, int] | None = None  # until when more of it may come, and on which thread

    def __init__(self) -> None:
        pass

    @property
    def task_id(self) -> str | None:
        """The name that `offload_task` was given, or the task's number as text; None without a task."""
        return self.given_id or (None if self.number is None else task_text(self.number))

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """What is known of each attempt so far, oldest first; the one under way is the last, without an end.

        Empty for a task that was not handed over. Only the last hundred are kept.
        """
        with _lock:
            done, handed, over = self._state in _DONE, self.handed, self._over
        if handed is None:
            return over
        start, host = handed
        return followed(over, Attempt(host, start, *((self.ended, self._exception) if done else (None, None))))

    def logs(self) -> str:
        """Return what the task has printed so far, stdout and stderr together; at once, and at any time.

        Of a function that is what Python code printed in its process, and what subprocesses and C libraries wrote
        while it was clear that it was running (always, where it takes more than some milliseconds). What threads
        print that outlive their call counts as the call's that is running then; nothing comes after the outcome. It
        is there however `output` is set. Of a container, all that it wrote to stdout and stderr during the call,
        told four times a second; of one that was started for the call, also what it wrote before. Its last lines
        may come a moment after its reply: then, and only then, this waits for them, 0.25 s at most. An app that
        has several calls at a time cannot tell them apart: it is all that it wrote meanwhile. Neither is it certain
        whose the lines are between two calls that follow each other at once in one container. A first line says so.
        Attempts follow each other.

        The last 64 KiB are kept; a first line says how much more there was. What is printed while no program has
        the task's session, or while a gateway is ended and started again, may be missing.

        Raises:
            UsageError: The task ran on a MECAnywhere desktop app, which does not tell.
        """
        if (due := self._log_due) is not None and due[1] != threading.get_ident():
            with self._condition:
                self._condition.wait_for(lambda: self.log_whole, max(0.0, due[0] - time.monotonic()))
        if (log := self.log) is None:
            if self.transaction_id:
                raise UsageError(
                    f"no logs of task {self.task_id}: the MECAnywhere desktop app does not tell what containers print; "
                    "run it on a gateway of meca-executor, or have the container reply with what matters"
                )
            return ""
        return (MIXED_TEXT if log.mixed else "") + log.text()

    # -- what it printed, for the link ----------------------------------------------------------------

    def printed(self, text: bytes, *, mixed: bool = False, last: bool = False) -> None:
        """Keep what the task printed."""
        if self.log is None:
            self.log = Log()
        self.log.mixed |= mixed
        self.log.write(text)
        self.log_whole |= last
        if self._log_due is not None:
            with self._condition:
                self._condition.notify_all()

    def expect_more(self) -> None:
        """Its container may have written more than is here, though its outcome is."""
        if not self.log_whole:
            self._log_due = time.monotonic() + LATE_S, threading.get_ident()

    # -- as of the base class, without a condition where none is needed -----------------------------

    def cancelled(self) -> bool:
        """Whether the task was cancelled."""
        return self._state in (CANCELLED, CANCELLED_AND_NOTIFIED)

    def running(self) -> bool:
        """Whether the task was handed over and has no outcome yet."""
        return self._state == RUNNING

    def done(self) -> bool:
        """Whether the task has its outcome, or was cancelled."""
        return self._state in _DONE

    def result(self, timeout: float | None = None) -> T:
        """Return what the call returned; waits for it.

        Raises:
            concurrent.futures.CancelledError: The task was cancelled.
            TimeoutError: It has no outcome after `timeout` seconds.
            Exception: What the call raised, or why it has no result.
        """
        if self._state == FINISHED and self._exception is None:
            return self._result  # type: ignore[return-value]
        return super().result(timeout)

    def set_result(self, result: T) -> None:
        """Set what the call returned; for the link."""
        with _lock:
            if "_condition" not in self.__dict__ and self._state not in _DONE:
                self._result = result
                self._state = FINISHED
                return
        super().set_result(result)

    def cancel(self) -> bool:
        """Cancel the task if it has not been handed over. Never blocks.

        Returns:
            Whether it is cancelled.
        """
        if not super().cancel():
            return False
        with self._condition:
            # Whoever waits is told now: nobody comes by later to do it, as a pool's thread would.
            if self._state == CANCELLED:
                self.set_running_or_notify_cancel()
        return True

    def claim(self) -> bool:
        """Set the future running, for the link that hands its task over; False when it was cancelled."""
        with _lock:
            if "_condition" not in self.__dict__:
                if self._state != PENDING:
                    return False
                self._state = RUNNING
                return True
        with self._condition:
            if self._state != PENDING:
                return False
            self._state = RUNNING
            return True

    # -- attempts, for the ledger -------------------------------------------------------------------

    def follow(self, now: float, error: BaseException | None) -> None:
        """The present attempt is over, and there will be another one."""
        with _lock:
            if self.handed is not None:
                start, host = self.handed
                self._over, self.handed = followed(self._over, Attempt(host, start, now, error)), None
            self.log_whole = False

    def count_elsewhere(self, count: int) -> None:
        """So many attempts more than those handed over were made by the gateway, which was ended in between."""
        with _lock:
            if self.handed is not None and count > 0:
                self._over = followed(self._over, *made_elsewhere(count, self.handed, self.task_id))
                self.handed = (None, self.handed[1])

    # -- the old dialect ----------------------------------------------------------------------------

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
