"""How a worker's end is told."""

from __future__ import annotations

import signal

import pytest

from meca_executor.runtimes.processes import describe_exit


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "worker process 7 exited with code 0"),
        (3, "worker process 7 exited with code 3"),
        (255, "worker process 7 exited with code 255"),
        (-signal.SIGSEGV, "worker process 7 was killed by SIGSEGV"),
        (-signal.SIGTERM, "worker process 7 was killed by SIGTERM"),
        (-200, "worker process 7 was killed by signal 200"),
    ],
)
def test_the_exit_code_in_words(code: int, text: str) -> None:
    """A code, or the signal's name."""
    assert describe_exit(7, code) == text


def test_a_kill_hints_at_memory() -> None:
    """The system's own kill, when memory is short, looks like anybody's."""
    text = describe_exit(7, -signal.SIGKILL)
    assert text.startswith("worker process 7 was killed by SIGKILL (")
    assert "out of memory" in text
