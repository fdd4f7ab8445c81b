"""A pseudo-terminal: both its ends, its size, and how it treats what is typed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import struct
import termios

from ..errors import KernelError

ROWS, COLUMNS = 24, 80
SIZE_MAX = 0xFFFF


class Pseudo:
    """A new one. `inner` is for the program, `outer` for whoever looks at it.

    Args:
        echo: What is typed is shown, and line ends are made ready for a screen.
    """

    def __init__(self, rows: int = ROWS, columns: int = COLUMNS, *, echo: bool = True) -> None:
        try:
            self.outer, self.inner = pty.openpty()
        except OSError as error:
            raise KernelError(f"no terminal can be had: {error.strerror}") from error
        self.resize(rows, columns)
        if not echo:
            modes = termios.tcgetattr(self.inner)
            modes[1] &= ~termios.OPOST
            modes[3] &= ~termios.ECHO
            termios.tcsetattr(self.inner, termios.TCSANOW, modes)

    def resize(self, rows: int, columns: int) -> None:
        """Set its size; the program is told by SIGWINCH.

        Raises:
            KernelError: That is no size.
        """
        if not (0 < rows <= SIZE_MAX and 0 < columns <= SIZE_MAX):
            raise KernelError(f"{rows} rows and {columns} columns are no size: each is 1 to {SIZE_MAX}")
        fcntl.ioctl(self.outer, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def let_go(self) -> None:
        """Close the program's end here: the program has it."""
        if self.inner >= 0:
            os.close(self.inner)
            self.inner = -1

    def close(self) -> None:
        """Close it; programs in it are hung up."""
        self.let_go()
        if self.outer >= 0:
            with contextlib.suppress(OSError):
                os.close(self.outer)
            self.outer = -1
