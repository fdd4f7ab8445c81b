"""Where what tasks print goes."""

from __future__ import annotations

import sys
from collections.abc import Callable

Sink = Callable[[str, str], object]


def sink_for(output: bool | Sink) -> Sink | None:
    """Return the function that takes `(text, "stdout" | "stderr")`, or None for nowhere.

    Raises:
        TypeError: Neither a bool nor a callable.
    """
    if output is True:
        return write_here
    if output is False:
        return None
    if not callable(output):
        raise TypeError(f"output must be True, False or a callable (text, stream), not {output!r}")
    return output


def write_here(text: str, stream: str) -> None:
    """Write to this process's stdout or stderr, whatever they are at the moment."""
    target = sys.stdout if stream == "stdout" else sys.stderr
    if target is not None:
        target.write(text)
        target.flush()
