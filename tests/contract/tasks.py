"""Functions that tests submit. This module can be imported wherever the tests run."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import Any

from .rooms import Room

installed: object = None  #: what `install` left in this process


def multiply(x: int, y: int = 1) -> int:
    """Return the product."""
    return x * y


def capture(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return what the call was given."""
    return args, kwargs


def echo(value: Any) -> Any:
    """Return the argument."""
    return value


def pid(*_: object) -> int:
    """Return the id of the process that runs this."""
    return os.getpid()


def thread_name() -> str:
    """Return the name of the thread that runs this."""
    return threading.current_thread().name


def fail(error: BaseException | type[BaseException]) -> None:
    """Raise the argument."""
    raise error


def divide(x: int, y: int) -> float:
    """Return the quotient; raises where `y` is 0."""
    return x / y


def enter(folder: str, name: object = "") -> object:
    """Write `name` into the room and return it."""
    Room(folder).enter(name)
    return name


def stay(folder: str, name: object = "") -> object:
    """Write `name` into the room and return it when the door is open."""
    Room(folder).stay(name)
    return name


def stay_as_pid(folder: str) -> int:
    """Stay in the room under the process id, and return it."""
    Room(folder).stay(os.getpid())
    return os.getpid()


def nap(seconds: float, value: Any = None) -> Any:
    """Work for so long, and return `value`."""
    time.sleep(seconds)
    return value


def crowd(folder: str, name: int) -> int:
    """Return how many tasks are in here at the same time, this one included."""
    here = Room(folder).folder / f"inside-{name}"
    here.touch()
    time.sleep(0.02)
    count = sum(entry.startswith("inside-") for entry in os.listdir(here.parent))
    here.unlink()
    return count


def install(value: object) -> None:
    """Leave `value` in this process; an initializer."""
    global installed
    installed = value


def get_installed() -> object:
    """Return what the initializer left in this process."""
    return installed


def install_in(folder: str) -> None:
    """Write this process's id into the room; an initializer."""
    Room(folder).enter(os.getpid())


class Thing:
    """An object with a state and a method."""

    def __init__(self, value: int = 0) -> None:
        self.value = value

    def plus(self, other: int) -> int:
        """Return the sum."""
        return self.value + other


def make_thing(value: int) -> Thing:
    """Return a new `Thing`."""
    return Thing(value)


@dataclass(frozen=True)
class Point:
    """A value that compares by its fields."""

    x: int
    y: int
