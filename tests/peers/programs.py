"""Programs on the old SDK as processes, with today's packages or those of its time, and containers for them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..helpers.scripts import SCRIPT_LIMIT, Finished, finish
from .old_environment import old_python

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
OLD_PROGRAMS = Path(__file__).parent / "old_programs"
PYTHONS = ("current", "original")  #: this interpreter; one with the packages that the original was pinned to


def interpreter(which: str) -> str:
    """Return the path of one of `PYTHONS`; skips the test where it cannot be had."""
    return sys.executable if which == "current" else str(old_python())


def run_program(
    which: str, program: Path | str, *arguments: str, port: int, env: Mapping[str, str] | None = None
) -> Finished:
    """Run a program to its end; `from tests.peers import old_sdk` works in it, and goes to `port`.

    Args:
        which: One of `PYTHONS`.
        program: A file, or the text of a program.
        arguments: Its command line.
        port: Where the old SDK connects to, on localhost.
        env: Added to the environment.

    Raises:
        AssertionError: It did not end within `SCRIPT_LIMIT` seconds; what it wrote until then is in the text.
    """
    with started_program(which, program, *arguments, port=port, env=env) as process:
        return finish(process, SCRIPT_LIMIT)


@contextlib.contextmanager
def started_program(
    which: str, program: Path | str, *arguments: str, port: int, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start a program as `run_program` does, and kill it at the end of the body; its input and outputs are pipes."""
    command = [str(program)] if isinstance(program, Path) else ["-c", program]
    process = subprocess.Popen(
        [interpreter(which), "-u", *command, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OLD_SDK_PORT": str(port), **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def container(name: str) -> Iterator[str]:
    """Run an example container's app as a process, and give its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-u", str(ROOT / "example_containers" / name / "src" / "app.py")],
        env={**os.environ, "PORT": str(port)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout
            assert "meca-init-done" in process.stdout.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
