"""The gateway that an executor starts for itself: a child process that ends with it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

from ..errors import GatewayLost

if TYPE_CHECKING:
    from collections.abc import Mapping

START_S = 60.0  #: a gateway on a very busy machine may take long, not for ever
END_S = 30.0  #: an engine may take long to remove containers
CODE = (
    "import sys; sys.path[:] = filter(None, sys.path); "  # what lies in the working directory is not for import
    "import json; config = json.loads(sys.stdin.buffer.readline()); sys.path[:] = config['path']; "
    "from meca_executor.serve import run_embedded; run_embedded(config)"
)
KEY = "embedded"  #: as serve.EMBEDDED_KEY


class EmbeddedGateway:
    """A running child; made before anything heavy is imported, so that both sides start at once.

    Args:
        ready: Start worker processes before anyone asks.
        cluster: Address of the Dask cluster that functions run on; None is this machine.
    """

    def __init__(
        self, workers: int | None, apps: Mapping[str, str], *, ready: bool = True, cluster: str | None = None
    ) -> None:
        self.token = secrets.token_urlsafe(32)
        self._errors = tempfile.TemporaryFile()
        flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # as multiprocessing
        self._popen = subprocess.Popen(
            [sys.executable, *flags, "-c", CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,  # a Ctrl-C at the terminal is for the user's program
            bufsize=0,
        )
        config = {
            "token": self.token,
            "workers": workers,
            "apps": dict(apps),
            "ready": ready,
            "path": import_path(),
            "cluster": cluster,
        }
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # told by `endpoint`, with the child's own words
            self._popen.stdin.write(json.dumps(config).encode() + b"\n")
        self._endpoint: str | None = None

    def __repr__(self) -> str:
        return f"<EmbeddedGateway pid {self._popen.pid} {self._endpoint or 'starting'}>"

    def endpoint(self) -> str:
        """Return its URL; waits until it is up.

        Raises:
            GatewayLost: It ended, or did not get ready in time; its own words are in the text.
        """
        if self._endpoint is None:
            fields = json.loads(self._first_line())
            self._endpoint = f"http://127.0.0.1:{fields['port']}"
        return self._endpoint

    def _first_line(self) -> bytes:
        assert self._popen.stdout is not None
        deadline, line = time.monotonic() + START_S, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._popen.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise GatewayLost(f"the embedded gateway was not ready within {START_S:g} s")
                chunk = self._popen.stdout.read(4096)
                if not chunk:
                    raise GatewayLost(f"the embedded gateway did not start: {self.how_it_ended()}")
                line += chunk
        return line

    @property
    def alive(self) -> bool:
        """Whether the child runs."""
        return self._popen.poll() is None

    def how_it_ended(self) -> str:
        """Its exit code and the last it wrote to stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(1.0)
        self._errors.seek(0)
        words = self._errors.read()[-2000:].decode("utf-8", "replace").strip()
        return f"exit code {self._popen.returncode}" + (f"\n{words}" if words else "")

    def close(self) -> None:
        """End the child, its workers and containers; returns when they are gone."""
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._popen.wait(END_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        self._errors.close()

    def forget(self) -> None:
        """After a fork, in the child: let go of the parent's gateway without ending it."""
        for pipe in (self._popen.stdin, self._popen.stdout, self._errors):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._popen.returncode = 0  # not our child: nothing to wait for or to warn about


def import_path() -> list[str]:
    """Return where this process finds modules, as another one in another folder can use it."""
    try:
        return [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    except FileNotFoundError:  # the working directory was removed: relative entries lead nowhere
        return [entry for entry in sys.path if isinstance(entry, str) and os.path.isabs(entry)]


def worker_environment(embedded: bool) -> dict[str, Any]:
    """Return what the session's workers should take over from this process."""
    environment: dict[str, Any] = {"path": import_path()}
    if embedded:
        import multiprocessing

        environment["authkey"] = multiprocessing.current_process().authkey.hex()
    return environment
