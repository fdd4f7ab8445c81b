"""Server processes beside a measurement: started, used when they say that they are ready, ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

from .harness import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

READY_APP = "meca-init-done"  #: what an app prints when it takes requests


@contextlib.contextmanager
def python_server(
    words: Sequence[str], mark: str, environ: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
) -> Iterator[str]:
    """Run `python WORDS...` and give the line of its standard output that has `mark` in it; ended by SIGTERM.

    `prefix` is put before the command.

    Raises:
        RuntimeError: It ended before it was ready; what it wrote to stderr has gone to ours.
    """
    command = [*prefix, sys.executable, "-u", *words]
    env = {**os.environ, **(environ or {})}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield next(line for line in process.stdout if mark in line)
        except StopIteration:
            raise RuntimeError(f"{' '.join(words)} ended before it was ready") from None
        finally:
            process.terminate()


@contextlib.contextmanager
def standing_gateway(workers: int, prefix: Sequence[str] = ()) -> Iterator[str]:
    """Give the URL of a `meca gateway` with keys of its own; its clients find them by this process's environment.

    `prefix` is put before its command.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MECA_STATE_DIR"] = folder
        words = ["-m", "meca_executor.cli", "gateway", "--port", "0", "--grace", "1", "--workers", str(workers)]
        try:
            with python_server(words, "is ready", prefix=prefix) as line:
                yield next(word for word in line.split() if word.startswith("http://"))
        finally:
            del os.environ["MECA_STATE_DIR"]


@contextlib.contextmanager
def bare_app(folder: Path) -> Iterator[int]:
    """Run an app folder's `src/app.py` as its container would, and give its port."""
    port = free_port()
    with python_server([str(folder / "src" / "app.py")], READY_APP, {"PORT": str(port)}):
        yield port


def free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
