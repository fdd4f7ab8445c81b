"""What the tests of local apps share: an app that does as it is told, and how to call it."""

from __future__ import annotations

import asyncio
import json
import time
from textwrap import dedent
from typing import TYPE_CHECKING, Any

from meca_executor.runtimes.apps import Apps

from ..helpers.processes import is_running
from ..helpers.waiting import LIMIT, POLL_S

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

#: An app that does as it is told: {"do": name, ...}.
OBEDIENT = """
import json, os, signal, socket, subprocess, sys, threading, time, uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

born = str(uuid.uuid4())
gate = threading.Barrier(2)
busy = peak = 0
lock = threading.Lock()

def until_exists(path):
    while not Path(path).exists():
        time.sleep(0.005)

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        global busy, peak
        body = self.rfile.read(int(self.headers["Content-Length"]))
        order = json.loads(body)
        do = order["do"]
        reply, status = {"born": born, "pid": os.getpid()}, 200
        if do == "tell":
            reply = {"argv": sys.argv, "path": sys.path[0], "cwd": os.getcwd(), "name": __name__, "file": __file__,
                     "type": self.headers["Content-Type"], "env": dict(os.environ), "url": self.path}
        elif do == "wait":
            Path(order["begun"]).touch()
            until_exists(order["file"])
        elif do == "sleep":
            print("asleep", flush=True)
            time.sleep(100)
        elif do == "exit":
            os._exit(order["code"])
        elif do == "signal":
            print("last words", flush=True)
            os.kill(os.getpid(), order["number"])
            time.sleep(100)  # the signal may reach another thread than this one
        elif do == "leave a child and exit":
            if os.fork() == 0:
                time.sleep(100)
            os._exit(7)
        elif do == "start a child":
            reply["child"] = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(100)"]).pid
        elif do == "pair":
            with lock:
                busy += 1
                peak = max(peak, busy)
            gate.wait(20)
            with lock:
                busy -= 1
            reply["peak"] = peak
        elif do == "refuse":
            reply, status = "no " * 1000, 418
        elif do == "hang up":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        elif do == "chat":
            for number in range(order["lines"]):
                print("out", number, "x" * 90)
                print("err", number, "x" * 90, file=sys.stderr)
        elif do == "measure":
            reply = {"length": len(body), "back": "x" * order["back"]}
        elif do == "deaf":
            address = self.server.server_address
            self.server.socket.close()
            # The thread that waits for connections keeps the socket alive until it looks up the next time.
            while socket.socket().connect_ex(address) == 0:
                time.sleep(0.005)
        text = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *args):
        pass

if __name__ == "__main__":
    ThreadingHTTPServer.request_queue_size = 128
    server = ThreadingHTTPServer((os.environ["BIND_ADDRESS"], int(os.environ["PORT"])), Handler)
    print("meca-init-done", flush=True)
    server.serve_forever()
"""


def make_app(folder: Path, source: str = OBEDIENT) -> Path:
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "app.py").write_text(dedent(source))
    return folder


def run(test: Callable[[Apps], Awaitable[None]], folders: Mapping[str, Path], **options: Any) -> None:
    """Run a test on an `Apps` that is closed after it."""

    async def main() -> None:
        apps = Apps(folders, **options)
        try:
            await asyncio.wait_for(test(apps), 2 * LIMIT)
        finally:
            await apps.close()

    asyncio.run(main())


async def ask(apps: Apps, do: str, *, timeout: float | None = None, **more: Any) -> dict[str, Any]:
    reply = await apps.call("app", json.dumps({"do": do, **more}).encode(), timeout=timeout)
    answer = json.loads(reply)
    assert isinstance(answer, dict)
    return answer


async def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        await asyncio.sleep(POLL_S)


async def until_gone(*pids: int) -> None:
    await until(lambda: not any(map(is_running, pids)))
