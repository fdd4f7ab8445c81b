"""When a task is tried again.

An attempt that was lost with its worker, host or link is tried again up to a number of attempts; a
user's exception or a timeout only when a tenacity `retry_if_*` says so. Nothing sleeps here: a decision
is a delay in seconds, or None.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import AttemptLost, ContainerFailed, GatewayLost, UsageError, WorkerDied

if TYPE_CHECKING:
    from tenacity import RetryCallState

DEFAULT_ATTEMPTS = 3


def is_lost(error: BaseException) -> bool:
    """Whether the attempt was lost through no fault of the task's own."""
    if isinstance(error, ContainerFailed):
        return error.lost
    return isinstance(error, (WorkerDied, AttemptLost, GatewayLost))


@dataclass(frozen=True)
class RetryPolicy:
    """How often, after how long, and after what a task is tried again.

    Attributes:
        attempts: Attempts in all; None when a tenacity `stop_*` decides.
        stop: A tenacity `stop_*`.
        wait: A tenacity `wait_*`; None is at once.
        retry: A tenacity `retry_*`; None is lost attempts only.
    """

    attempts: int | None = DEFAULT_ATTEMPTS
    stop: Any = None
    wait: Any = None
    retry: Any = None

    @classmethod
    def of(cls, value: object) -> RetryPolicy:
        """Read what a user gives as `retry`: None, an int, tenacity's objects, or several of them.

        Raises:
            UsageError: It is none of these.
        """
        if value is None:
            return cls()
        if isinstance(value, RetryPolicy):
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            return cls._of_tenacity(value)
        if value < 1:
            raise UsageError(f"retry is {value}; it counts all attempts, so it is 1 (never again) or more")
        return cls(attempts=value)

    @classmethod
    def _of_tenacity(cls, value: object) -> RetryPolicy:
        from tenacity import BaseRetrying
        from tenacity.retry import retry_base
        from tenacity.stop import stop_base
        from tenacity.wait import wait_base

        if isinstance(value, BaseRetrying):
            return cls(None, value.stop, value.wait, value.retry)
        found: dict[str, Any] = {}
        attempts: int | None = None
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(part, int) and not isinstance(part, bool):
                attempts = cls.of(part).attempts
                continue
            for name, base in (("stop", stop_base), ("wait", wait_base), ("retry", retry_base)):
                if isinstance(part, base):
                    found[name] = part
                    break
            else:
                raise UsageError(
                    f"retry={part!r} is not understood; give a number of attempts, or tenacity's stop_*, wait_* and "
                    "retry_if_* objects (several as a tuple)"
                )
        return cls(attempts or (None if "stop" in found else DEFAULT_ATTEMPTS), **found)

    @property
    def looks_at_results(self) -> bool:
        """Whether a success, too, may be a reason to try again."""
        return self.retry is not None

    def decide(self, attempt: int, began: float, outcome: BaseException | None, result: object = None) -> float | None:
        """Return the seconds to wait before the next attempt, or None when this outcome stands.

        Args:
            attempt: Attempts so far, this one included.
            began: When the first one was handed over, `time.monotonic()`.
            outcome: The exception of this attempt; None for a success.
            result: What a success gave.
        """
        if self.retry is None and (outcome is None or not is_lost(outcome)):
            return None
        if self.attempts is not None and attempt >= self.attempts:
            return None
        if self.stop is None and self.wait is None and self.retry is None:
            return 0.0
        state = _call_state(attempt, began, outcome, result)
        if self.retry is not None and not self.retry(state):
            return None
        delay = float(self.wait(state)) if self.wait is not None else 0.0
        state.upcoming_sleep = delay
        return None if self.stop is not None and self.stop(state) else delay


def _call_state(attempt: int, began: float, outcome: BaseException | None, result: object) -> RetryCallState:
    """Tenacity's own record of a call so far, as its stop, wait and retry objects expect it."""
    from tenacity import Future, RetryCallState, Retrying

    state = RetryCallState(retry_object=Retrying(), fn=None, args=(), kwargs={})
    state.attempt_number = attempt
    state.start_time = began
    future = Future(attempt)
    if outcome is None:
        future.set_result(result)
    else:
        future.set_exception(outcome)
    state.outcome = future
    state.outcome_timestamp = time.monotonic()
    return state
