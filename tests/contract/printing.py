"""Printing tasks, and what collects their prints."""

from __future__ import annotations

import sys

from tests.helpers.waiting import becomes_true


def say(*words: object, file: str = "stdout", end: str = "\n") -> None:
    """Print to one of the two streams."""
    print(*words, file=getattr(sys, file), end=end)


class Lines:
    """What an `output` callable was given, by stream."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __call__(self, text: str, stream: str) -> None:
        self.calls.append((text, stream))

    def text(self, stream: str = "stdout") -> str:
        """Return all that came on one stream."""
        return "".join(text for text, name in self.calls if name == stream)

    def expect(self, expected: str, stream: str = "stdout") -> None:
        """Wait until this and nothing else came on one stream: output of programs may arrive after the result."""
        becomes_true(lambda: len(self.text(stream)) >= len(expected))
        assert self.text(stream) == expected
