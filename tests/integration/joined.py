"""A host that joined a gateway, as a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.helpers.waiting import wait_until

from .standing import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

END_S = 60.0  #: a busy machine may need long to end one


class Host:
    """A running `meca host`."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self._log = log
        self.told: list[str] = []

    @property
    def log(self) -> str:
        """What it wrote to its standard error until now."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def await_log(self, text: str, times: int = 1) -> None:
        """Return when it has logged this text so often."""
        wait_until(lambda: self.log.count(text) >= times, f"the host logs {text!r}: {self.log}", END_S)

    def line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout
        return self.process.stdout.readline()

    def leave(self, number: int = signal.SIGTERM) -> int:
        """Tell it to leave, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(END_S)


@contextlib.contextmanager
def joined_host(
    folder: Path, url: str, *words: str, name: str = "host", workers: int = 2, env: dict[str, str] | None = None
) -> Iterator[Host]:
    """Give a host that has joined the gateway there; it must leave well when the test does not end it."""
    command = [sys.executable, "-m", "meca_executor.cli", "host", "--join", url, "--workers", str(workers)]
    log = folder / f"{name}.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, "--name", name, *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        host = Host(process, log)
        try:
            ready = host.line()
            assert f"{name} has joined" in ready, ready + host.log
            yield host
            if process.poll() is None:
                assert host.leave() == 0, host.log
        finally:
            process.kill()
