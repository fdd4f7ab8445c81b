"""Rooms: how a test and its tasks, in whatever process they run, wait for each other."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.helpers.waiting import LIMIT, POLL_S, wait_until

if TYPE_CHECKING:
    import os

HOLD_LIMIT = 100.0  #: seconds after which a held task gives up, so that a failing test ends


class Room:
    """A folder that tasks enter, and in which they stay until the door is opened.

    It travels to a task by its path; every method can be called on both sides.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)

    def beside(self, name: str) -> Room:
        """Return another room, next to this one."""
        return Room(self.folder.parent / name)

    def enter(self, name: object) -> None:
        """Write down that `name` is here (once more, if it was)."""
        with open(self.folder / "entered", "a", encoding="utf-8") as file:
            # One write of a short line in append mode: lines of several processes do not mix.
            file.write(f"{name}\n")

    def entered(self) -> list[str]:
        """Return the names of all that came, in their order."""
        try:
            return (self.folder / "entered").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def stay(self, name: object) -> None:
        """Enter, and return when the door is open.

        Raises:
            TimeoutError: Nobody opened it; a test failed or forgot.
        """
        self.enter(name)
        deadline = time.monotonic() + HOLD_LIMIT
        while not self.is_open():
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody opened the door of {self.folder} for {name}")
            time.sleep(POLL_S)

    def await_count(self, count: int, timeout: float = LIMIT) -> list[str]:
        """Wait until `count` have come; return the names of all that came."""
        wait_until(lambda: len(self.entered()) >= count, f"{count} tasks in {self.folder.name}", timeout)
        return self.entered()

    def open(self) -> None:
        """Let everyone leave, also those who come later."""
        (self.folder / "open").touch()

    def is_open(self) -> bool:
        """Return whether the door is open."""
        return (self.folder / "open").exists()
