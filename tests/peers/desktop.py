"""The desktop app of the tests as a process: started, watched, told what to do, killed and started again.

    with desktop_app() as app, MecaExecutor(app.url) as ex:
        future = ex.submit(Container("hold:latest"), "text")
        app.wait_for("held", content="text")
        app.tell("release")

What it can do is told at the top of `desktop_app/server.js`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cache import Unavailable, installed, run, skip

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HERE = Path(__file__).parent / "desktop_app"
LIMIT_S = 20.0  #: for its start, and for what it is expected to see

Event = dict[str, Any]  #: a line that it logged: `saw` is one of connect, disconnect, offload, held, lost, command


def node_modules() -> Path:
    """Return the folder with its packages, installed once.

    Raises:
        Unavailable: No Node.js, no npm, or npm failed (without a network, for one).
    """
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        raise Unavailable("the desktop app of the tests needs Node.js 18 or later with npm")
    files = {name: (HERE / name).read_text(encoding="utf-8") for name in ("package.json", "package-lock.json")}

    def install(folder: Path) -> None:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        run([npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder)

    return installed("desktop_app", "".join(files.values()), install) / "node_modules"


class DesktopApp:
    """One desktop app on a port of its own, which it keeps when it is started again.

    Args:
        registered: What clients hear after they connected; see `server.js`.
        apps: Container reference → URL of a local container; its jobs are posted there.
        port: The port to listen on; 0 is any free one.

    Raises:
        Unavailable: Node.js or its packages are missing.
    """

    def __init__(self, *, registered: str = "true", apps: Mapping[str, str] | None = None, port: int = 0) -> None:
        self.port = port
        self.registered = registered  #: what it says from its next start on
        self._apps = [flag for ref, url in (apps or {}).items() for flag in ("--app", f"{ref}={url}")]
        self._modules = node_modules()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._changed = threading.Condition()
        self._events: list[Event] = []  # guarded by _changed, as is the port that the reader finds
        self._listening = False

    @property
    def url(self) -> str:
        """Its address, the same over restarts."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and return when clients can connect.

        Raises:
            RuntimeError: It did not start; what it said went to the standard error.
        """
        self._listening = False
        process = subprocess.Popen(
            ["node", str(HERE / "server.js"), str(self.port), "--registered", self.registered, *self._apps],
            env={**os.environ, "NODE_PATH": str(self._modules)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self._process = process
        self._reader = threading.Thread(target=self._read, args=(process,), name="desktop app's log")
        self._reader.start()
        if not self._wait(lambda: self._listening or process.poll() is not None) or not self._listening:
            self.kill()
            raise RuntimeError(f"the desktop app did not start on port {self.port}")

    def kill(self) -> None:
        """Kill it at once, as a crash would; nothing that it knew remains. Its log here does."""
        if self._process and self._reader:
            self._process.kill()
            self._process.wait(LIMIT_S)
            self._reader.join(LIMIT_S)
            with contextlib.suppress(OSError):  # a command that was never read
                self._process.__exit__(None, None, None)
        self._process = self._reader = None

    def restart(self) -> None:
        """Kill it and start it again on the same port."""
        self.kill()
        self.start()

    def tell(self, command: str) -> None:
        """Give it a command (the end of the head of `server.js` lists them), and return when it has obeyed."""
        assert self._process
        assert self._process.stdin
        before = len(self.saw("command"))
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        self.wait_for("command", count=before + 1)

    def seen(self, what: str, **facts: object) -> list[Event]:
        """Return the events as `saw` does, all that it has logged until now."""
        if self._process:
            self.tell("note")  # no command, but it is logged behind all that was before
        return self.saw(what, **facts)

    def saw(self, what: str, **facts: object) -> list[Event]:
        """Return the events of this kind that have these facts, over all restarts, as far as its log is read."""
        with self._changed:
            return self._matching(what, facts)

    def wait_for(self, what: str, *, count: int = 1, **facts: object) -> list[Event]:
        """Return the events as `saw` does, as soon as there are `count` of them.

        Raises:
            AssertionError: There are not, in time; all that it saw is in the text.
        """
        if not self._wait(lambda: len(self._matching(what, facts)) >= count):
            raise AssertionError(f"the desktop app did not see {count} x {what} {facts}, but {self._events}")
        return self.saw(what, **facts)

    def jobs(self) -> list[dict[str, Any]]:
        """Return the job objects offered until now, in order; each came as one string (else AssertionError)."""
        offers = [event["given"] for event in self.seen("offload")]
        assert all(len(given) == 1 and isinstance(given[0], str) for given in offers), offers
        return [json.loads(given[0]) for given in offers]

    def _matching(self, what: str, facts: Mapping[str, object]) -> list[Event]:
        return [event for event in self._events if {**event, **facts, "saw": what} == event]

    def _wait(self, condition: Any) -> bool:
        deadline = time.monotonic() + LIMIT_S
        with self._changed:
            while not condition():
                # In short turns: a process that died without a word wakes nobody.
                self._changed.wait(0.2)
                if time.monotonic() > deadline:
                    return False
        return True

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        for line in process.stdout:
            with self._changed:
                if line.startswith("listening "):
                    self.port = int(line.split()[1])
                    self._listening = True
                else:
                    self._events.append(json.loads(line))
                self._changed.notify_all()


@contextlib.contextmanager
def desktop_app(
    *, registered: str = "true", apps: Mapping[str, str] | None = None, port: int = 0
) -> Iterator[DesktopApp]:
    """Give a running desktop app, and end it; arguments as of `DesktopApp`.

    Where Node.js is missing the test is skipped, in CI it fails.
    """
    try:
        app = DesktopApp(registered=registered, apps=apps, port=port)
    except Unavailable as error:
        skip(error)
    try:
        app.start()
        yield app
    finally:
        app.kill()
