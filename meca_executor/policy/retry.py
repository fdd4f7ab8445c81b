"""When a task is tried again.

An attempt that was lost with its worker, host or link is tried again up to a number of attempts; a
user's exception, a timeout or a result only when a tenacity `retry_*` object says so. Nothing sleeps here: a
decision is a delay in seconds, or None.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import (
    AttemptLost,
    ContainerFailed,
    GatewayLost,
    InitializerFailed,
    TaskKilled,
    UsageError,
    WorkerDied,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
        attempts: Attempts in all, at most; None when only a tenacity `stop_*` decides. 1 is never again.
        stop: A tenacity `stop_*`, which may end it before.
        wait: A tenacity `wait_*`; None is at once.
        retry: A tenacity `retry_*`: what is tried again besides lost attempts.
    """

    attempts: int | None = DEFAULT_ATTEMPTS
    stop: Any = None
    wait: Any = None
    retry: Any = None

    @classmethod
    def of(cls, value: object) -> RetryPolicy:
        """Read what a user gives as `retry`: None, an int, tenacity's objects, or several of them.

        Of several numbers and stops the first that is reached ends it; of several `retry_*` each can say
        that it goes on.

        Raises:
            UsageError: It is none of these, or two of them cannot be combined.
        """
        if value is None:
            return cls()
        if isinstance(value, RetryPolicy):
            return value
        if isinstance(value, bool) or not isinstance(value, int):
            return cls._of_tenacity(value)
        return cls(attempts=checked_attempts(value))

    @classmethod
    def _of_tenacity(cls, value: object) -> RetryPolicy:
        from tenacity import BaseRetrying, retry_any, retry_never, stop_any

        if isinstance(value, BaseRetrying):
            parts = Parts(stops=[value.stop], waits=[value.wait], retries=[value.retry])
        else:
            parts = Parts.of(value if isinstance(value, (list, tuple)) else (value,))
        for part in (*parts.stops, *parts.waits, *parts.retries):
            _refuse_async(part)
        if len(parts.waits) > 1:
            raise UsageError(f"retry={value!r} has {len(parts.waits)} waits; add them up with +, or use wait_chain")
        numbers, stops = parts.numbers, list[Any]()
        for stop in _each(parts.stops):
            if (most := _attempts_of(stop)) is not None:
                numbers.append(most)
            else:
                stops.append(stop)
        if any(type(part) is type(retry_never) for part in parts.retries):
            numbers.append(1)
        attempts = min(numbers) if numbers else None if stops else DEFAULT_ATTEMPTS
        if attempts == 1:
            return cls(1)
        return cls(
            attempts,
            stops[0] if len(stops) == 1 else stop_any(*stops) if stops else None,
            parts.waits[0] if parts.waits else None,
            parts.retries[0] if len(parts.retries) == 1 else retry_any(*parts.retries) if parts.retries else None,
        )

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
        lost = outcome is not None and is_lost(outcome)
        if not lost and (self.retry is None or isinstance(outcome, (TaskKilled, InitializerFailed))):
            return None
        if self.attempts is not None and attempt >= self.attempts:
            return None
        if lost and self.stop is None and self.wait is None:
            return 0.0
        state = _call_state(attempt, began, outcome, result)
        if not lost and not self.retry(state):
            return None
        delay = max(0.0, float(self.wait(state))) if self.wait is not None else 0.0
        state.upcoming_sleep = delay
        return None if self.stop is not None and self.stop(state) else delay

    def ends(self, attempt: int, began: float, outcome: BaseException) -> bool:
        """Whether a tenacity `stop_*` ends it; the arguments are those of `decide`."""
        return self.stop is not None and bool(self.stop(_call_state(attempt, began, outcome, None)))


@dataclass(frozen=True)
class Parts:
    """What a user gave as `retry`, by kind."""

    numbers: list[int] = field(default_factory=list)
    stops: list[Any] = field(default_factory=list)
    waits: list[Any] = field(default_factory=list)
    retries: list[Any] = field(default_factory=list)

    @classmethod
    def of(cls, given: Iterable[object]) -> Parts:
        """Sort them.

        Raises:
            UsageError: One is not understood.
        """
        from tenacity.retry import retry_base
        from tenacity.stop import stop_base
        from tenacity.wait import wait_base

        parts = cls()
        for part in given:
            if isinstance(part, int) and not isinstance(part, bool):
                parts.numbers.append(checked_attempts(part))
            elif isinstance(part, stop_base):
                parts.stops.append(part)
            elif isinstance(part, wait_base):
                parts.waits.append(part)
            elif isinstance(part, retry_base):
                parts.retries.append(part)
            else:
                raise UsageError(
                    f"retry={part!r} is not understood; give a number of attempts, or tenacity's stop_*, wait_* and "
                    "retry_if_* objects (several as a tuple)"
                )
        return parts


def checked_attempts(number: int) -> int:
    """Return a number of attempts.

    Raises:
        UsageError: It is less than 1.
    """
    if number < 1:
        raise UsageError(f"retry is {number}; it counts all attempts, so it is 1 (never again) or more")
    return number


def _each(stops: Iterable[Any]) -> Iterator[Any]:
    """Yield the stops of which any ends it, those within tenacity's own `stop_any` too."""
    from tenacity import stop_any

    for stop in stops:
        if type(stop) is stop_any:
            yield from _each(stop.stops)
        else:
            yield stop


def _attempts_of(stop: Any) -> int | None:
    """Return the number of attempts that a stop is, as a gateway can be told; None when it is more than that."""
    from tenacity import stop_after_attempt

    if type(stop) is stop_after_attempt and isinstance(stop.max_attempt_number, int):
        return max(1, stop.max_attempt_number)
    return None


def _refuse_async(part: Any) -> None:
    from inspect import iscoroutinefunction

    if iscoroutinefunction(part) or iscoroutinefunction(type(part).__call__):
        raise UsageError(f"retry={part!r} is asynchronous, and nobody awaits it here; give tenacity's plain objects")


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
