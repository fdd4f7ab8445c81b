"""What client and gateway share of sessions that have a name: what may be one, and what their tasks are called."""

from __future__ import annotations

import re
from enum import IntEnum

from ..errors import UsageError

NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
GENERATION_BITS = 40  #: of a task's number; those above count the clients that the session has had before
GENERATIONS = 1 << 23  #: of one session at most
WHO_LIMIT = 200  #: characters of what a client says of itself


class Reading(IntEnum):
    """How an outcome is read."""

    CALL = 0  # a function's, of a worker process
    TEXT = 1  # a container's reply as text
    JSON = 2
    BYTES = 3
    FUNCTION = 4  # of a function in a container
    OWN = 5  # by functions of the program that submitted the task


class State(IntEnum):
    """What a gateway says of a task when it lists them."""

    OPEN = 0
    DONE = 1  # its outcome can be had
    GONE = 2  # its outcome was fetched before, and is no longer kept


def checked_session(name: object) -> str:
    """Return a session's name.

    Raises:
        UsageError: It is none.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(f"session {str(name)[:80]!r} is no name: it has 1 to 64 characters of A-Z a-z 0-9 _ . -")
    return name


def first_number(generation: int) -> int:
    """Return the number of a client's first task; `generation` clients had the session before."""
    return generation << GENERATION_BITS | 1


def generation_of(number: int) -> int:
    """Return which client's a task is."""
    return number >> GENERATION_BITS


def task_text(number: int) -> str:
    """Return a task's name where its user gave none: its number; from the second client on behind the client's."""
    generation = number >> GENERATION_BITS
    return f"{generation + 1}-{number & ((1 << GENERATION_BITS) - 1)}" if generation else str(number)
