"""What the tasks of the soak test do. Each proves by its result that it ran as it should."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import zlib
from typing import Any

HANG_S = 300.0  #: longer than any test waits


class Trouble(Exception):
    """An exception with a field of its own."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(number, text)
        self.number = number


def blob(number: int, size: int) -> bytes:
    """Return the bytes that belong to a number."""
    return random.Random(number).randbytes(size)


def turn(number: int, given: bytes, size: int, nap: float = 0.0) -> tuple[int, bytes]:
    """Return what proves that the argument arrived, and a result of that size."""
    if nap:
        time.sleep(nap)
    return zlib.crc32(given), blob(number, size)


def double(array: Any) -> Any:
    """Return a new array."""
    return array * 2


def step(path: str, deaths: int = 0, by_signal: bool = False, hangs: bool = False) -> int:
    """Return which attempt this is; in the first so many end this process, or never return.

    Innocent and guilty tasks are of one function, so that they travel together.
    """
    with open(path, "a") as file:
        file.write("x")
    attempt = os.path.getsize(path)
    if attempt <= deaths:
        if by_signal:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(3)
    if hangs:
        time.sleep(HANG_S)
    return attempt


def stumble(number: int) -> None:
    """Raise."""
    raise Trouble(number, "stumbled")


def make_lock(_: int) -> threading.Lock:
    """Return what cannot travel."""
    return threading.Lock()


def say(word: str) -> str:
    """Print a word and return it."""
    print(f"<{word}>")  # noqa: T201  (that it arrives is checked)
    return word


def item(path: str, number: int, bad: int, how: str) -> tuple[int, bytes]:
    """Return what belongs to an item of a `map`; one of them is bad in a way."""
    if number == bad:
        if how == "raises":
            raise Trouble(number, path)
        if how == "hangs":
            time.sleep(HANG_S)
        if how == "dies once":
            step(path, 1, number % 2 == 0)
        if how == "is slow":
            time.sleep(0.2)
    return number, blob(number, number % 50)
