"""The functions that the benchmarks send: importable, so that every peer can take them by name."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

POLL_S = 0.005
DOZE_S = 0.05
RELEASE = "release"


def noop(value: int) -> int:
    """Return `value`: the least that a call can do while its answer can still be checked."""
    return value


def echo(value: Any) -> Any:
    """Return `value`, whatever it is."""
    return value


def last_item(array: Any) -> float:
    """Return the last item of an array: next to nothing, but the array must be there."""
    return float(array[-1])


def nap(seconds: float) -> float:
    """Sleep, and return how long that was: timers are late by up to 0.1 ms, which no executor can help."""
    began = time.perf_counter()
    time.sleep(seconds)
    return time.perf_counter() - began


def burn(seconds: float) -> float:
    """Use that much processor time, and return how much it was; what others take of the core does not count."""
    began = time.thread_time()
    while (used := time.thread_time() - began) < seconds:
        sum(range(1000))
    return used


def hold(folder: str, number: int) -> int:
    """Keep the worker busy until there is a file `RELEASE` in the folder; first leave a file that says so."""
    place = Path(folder)
    (place / str(number)).touch()
    while not (place / RELEASE).exists():
        time.sleep(POLL_S)
    return number


def doze(number: int) -> int:
    """Sleep for 50 ms, and give the number back."""
    time.sleep(DOZE_S)
    return number


def total(array: Any, number: int) -> tuple[int, int, int]:
    """Return the sum of an array, and which node this is; long enough that no node does it for the others."""
    time.sleep(10 * DOZE_S)
    node = os.getppid() if "distributed.worker" not in sys.modules else os.getpid()
    return int(array.sum()), node, number
