"""What the tasks do. Each leaves a line for each run, and its result proves that it was this task's."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import zlib
from typing import NamedTuple

#: A local app: it leaves a line for each call, and ends during or after one when it is told to.
APP = """
import json, os, threading, zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

def note(folder, line):
    handle = os.open(f"{folder}/app-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(handle, line.encode())
    os.close(handle)

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        note(order["folder"], order["line"])
        if order["ends"] == "during":
            os._exit(3)
        text = f"{order['line']} {zlib.crc32(order['data'].encode())}".encode()
        if order["ends"] == "half":
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text[: len(text) // 2])
            self.wfile.flush()
            os._exit(4)
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
        if order["ends"] == "after":
            self.wfile.flush()
            threading.Timer(0.005, os._exit, (5,)).start()

    def log_message(self, *args):
        pass

server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
print("meca-init-done", flush=True)
server.serve_forever()
"""


class Name(NamedTuple):
    """Which task it is: a client's place and generation, its number there; and how often it may run."""

    client: int
    generation: int
    number: int
    retry: int

    @property
    def line(self) -> str:
        """What each run of it leaves."""
        return " ".join(map(str, self)) + "\n"


def blob(name: Name, size: int) -> bytes:
    """Return the bytes that belong to a task."""
    return random.Random(name.line).randbytes(size)


def note(folder: str, name: Name) -> None:
    """Leave a line; one write in append mode, to a file that only this process writes to."""
    handle = os.open(f"{folder}/ran-{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(handle, name.line.encode())
    os.close(handle)


def answer(folder: str, name: Name, given: bytes, size: int, nap: float = 0.0) -> tuple[Name, int, bytes]:
    """Return what proves that the argument arrived, and a result of that size."""
    note(folder, name)
    if nap:
        time.sleep(nap)
    return name, zlib.crc32(given), blob(name, size)


def fail(folder: str, name: Name) -> None:
    """Raise."""
    note(folder, name)
    raise LookupError(*name)


def die(folder: str, name: Name, deaths: int, by_signal: bool) -> Name:
    """End this process in the first so many runs."""
    note(folder, name)
    path = f"{folder}/dies-{name.client}-{name.generation}-{name.number}"
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) <= deaths:
        if by_signal:
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(3)
    return name


def leave_children(folder: str, name: Name, dies: bool) -> Name:
    """Leave a fork and another program behind; `dies`: and end this process in the first run."""
    gateway = os.getppid()
    forked = os.fork()
    if forked == 0:
        time.sleep(3600)
        os._exit(0)
    other = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)"], stdin=subprocess.DEVNULL)
    other.returncode = 0  # nobody waits for it
    with open(f"{folder}/children-{os.getpid()}", "a") as file:
        file.write(f"{gateway} {forked}\n{gateway} {other.pid}\n")
    return die(folder, name, int(dies), by_signal=True)
