"""The lines in which `meca run` says how far it is: on stderr, so that stdout is the program's alone."""

from __future__ import annotations

import os
import sys
from typing import TextIO

INFO, WAIT, DONE, FAIL = ("∙", 96), ("⋯", 93), ("✔", 92), ("✘", 91)  #: symbol, colour


class Status:
    """Prints them.

    Args:
        quiet: Only failures.
    """

    def __init__(self, quiet: bool = False, out: TextIO | None = None) -> None:
        self._quiet = quiet
        self._out = out or sys.stderr
        self._terminal = self._out.isatty()
        self._colour = self._terminal and not os.environ.get("NO_COLOR")
        self._waiting = False

    def info(self, text: str) -> None:
        """Something to know."""
        self._line(INFO, text, show=not self._quiet)

    def wait(self, text: str) -> None:
        """Something that takes a while; the next line takes its place. Only on a terminal."""
        if self._terminal and not self._quiet:
            self._out.write(self._mark(WAIT) + f" {text}\r")
            self._out.flush()
            self._waiting = True

    def done(self, text: str) -> None:
        """Something that went well."""
        self._line(DONE, text, show=not self._quiet)

    def fail(self, text: str) -> None:
        """Something that did not; also when quiet."""
        self._line(FAIL, " ".join(text.split()), show=True)

    def clear(self) -> None:
        """Take back a line that says to wait."""
        if self._waiting:
            self._out.write("\r\x1b[2K")
            self._out.flush()
            self._waiting = False

    def _line(self, mark: tuple[str, int], text: str, *, show: bool) -> None:
        self.clear()
        if show:
            # It may name what a program has named: nothing in it may steer the terminal.
            line = "".join(letter if letter.isprintable() else "?" for letter in text)
            self._out.write(f"{self._mark(mark)} {line}\n")
            self._out.flush()

    def _mark(self, mark: tuple[str, int]) -> str:
        symbol, colour = mark
        return f"\x1b[{colour}m{symbol}\x1b[0m" if self._colour else symbol
