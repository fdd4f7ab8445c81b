"""Kernels' containers in an engine: held as long as this process lives, and programs started in them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from .engine import told

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .engine import Engine


class Held:
    """A connection of the engine's that is a plain socket.

    Attributes:
        descriptor: Of the socket.
    """

    def __init__(self, stream: Any, number: str = "") -> None:
        self._stream = stream
        self.number = number  #: the program's, in the engine's words
        self.descriptor: int = stream.fileno()

    def close(self) -> None:
        """Close it."""
        self._stream._response.close()  # and with it the socket; the other way round it would stay
        with contextlib.suppress(OSError):
            self._stream.close()


def hold(engine: Engine, name: str) -> Held:
    """Open a container's input, which ends when this is closed, or this process ends."""
    with told("attach"):
        return Held(engine._client.attach_socket(name, params={"stdin": 1, "stream": 1}))


def execute(engine: Engine, name: str, argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Start a program in a container, and wait for nothing."""
    with told("exec"):
        number = engine._client.exec_create(name, list(argv), environment=dict(environ), stdout=False, stderr=False)
        engine._client.exec_start(number["Id"], detach=True)


def execute_in_terminal(engine: Engine, name: str, argv: Sequence[str], environ: Mapping[str, str]) -> Held:
    """Start a program in a terminal; what it says is all there only when nothing is said before this returns."""
    with told("exec"):
        made = engine._client.exec_create(name, list(argv), environment=dict(environ), tty=True, stdin=True)
        return Held(engine._client.exec_start(made["Id"], tty=True, socket=True), made["Id"])


def resize(engine: Engine, number: str, rows: int, columns: int) -> None:
    """Set the size of a program's terminal."""
    with told("resize"):
        engine._client.exec_resize(number, height=rows, width=columns)
