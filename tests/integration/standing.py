"""A standing gateway as a process of its own, with what it logs."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import meca_executor
from tests.helpers.waiting import LIMIT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(meca_executor.__file__).parent.parent
EXAMPLES = ROOT / "example_containers"


class Standing:
    """A running gateway."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path, scheme: str = "http") -> None:
        self.process = process
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"
        self._log = log

    @property
    def log(self) -> str:
        """What it wrote to its standard error until now."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def await_log(self, text: str) -> None:
        """Return when it has logged this text."""
        wait_until(lambda: text in self.log, f"the gateway logs {text!r}")


@contextlib.contextmanager
def standing_gateway(folder: Path, *words: str, port: int = 0, killed: bool = False) -> Iterator[Standing]:
    """Give a gateway started with these words of `meca gateway`; it must end well when it is told to, or is killed."""
    command = [sys.executable, "-m", "meca_executor.cli", "gateway", "--port", str(port), "--grace", "2", *words]
    log = folder / "gateway.log"
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout
        try:
            ready = process.stdout.readline()
            found = re.search(r"(https?)://[\d.]+:(\d+)", ready)
            assert found, ready + log.read_text()
            yield Standing(process, int(found[2]), log, found[1])
            if not killed:
                process.send_signal(signal.SIGTERM)
                assert process.wait(LIMIT) == 0
        finally:
            process.kill()
