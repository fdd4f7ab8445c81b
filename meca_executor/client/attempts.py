"""What is known of each attempt of a task."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import AttemptLost

KEPT = 100  #: records that a future keeps; of more attempts than that, the last ones


class Attempt(NamedTuple):
    """One attempt of a task, as seen from here.

    Attributes:
        host: To whom it was handed over: the endpoint's URL, or `"embedded"`.
        start: When, as `time.time()`; it may have waited there for its turn. None: the gateway made this attempt by
            itself.
        end: When its outcome came, as `time.time()`. None: it has none yet, or nobody knows.
        error: Why it failed; None when it did not, or has no outcome yet.
    """

    host: str
    start: float | None
    end: float | None
    error: BaseException | None


Attempt.__module__ = "meca_executor"

#: Of the present attempt: when it was handed over and to whom. One object for all that are handed over together.
Handed = tuple[float | None, str]


def followed(before: tuple[Attempt, ...], *over: Attempt) -> tuple[Attempt, ...]:
    """Return the records with those of attempts that are over, and are followed by another one."""
    return (*before, *over)[-KEPT:]


def made_elsewhere(count: int, handed: Handed, task_id: str | None) -> list[Attempt]:
    """Return the records of attempts that were lost with a gateway and followed by others when it was back."""
    start, host = handed
    text = f"task {task_id}: the gateway was ended while it had this attempt"
    return [Attempt(host, None if index else start, None, AttemptLost(text)) for index in range(min(count, KEPT))]
