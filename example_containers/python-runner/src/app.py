"""Calls Python functions: `POST /` with a pickled call is answered by what came of it.

The input is made by meca_executor, for one version of Python: {"python": "3.11", "runner": ..., "call": ...,
"result": "data"}. `runner` is the code that runs the call and writes its outcome; it comes with every call, so that
this image needs nothing but Python and cloudpickle. Every call runs in a fresh process, and nothing that it started
outlives it. The port comes from PORT (8080 when it is not set); `meca-init-done` on the standard output says that
requests are welcome.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socketserver
import sys
import tempfile
import traceback
import zlib
from base64 import b64decode
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import cloudpickle
import isolated

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
FIELDS = ("python", "runner", "call", "result")


def answer(body: bytes, caller: socket.socket) -> bytes:
    """Return the reply to one input.

    Raises:
        ValueError: It is no call.
        isolated.CallerGone: Nobody waits for the reply any more.
    """
    request = json.loads(body)
    if not isinstance(request, dict) or not all(isinstance(request.get(name), str) for name in FIELDS):
        raise ValueError(f"expected a JSON object with the texts {', '.join(FIELDS)}, as meca_executor makes it")
    if request["python"] != PYTHON:
        text = (
            f"this container runs Python {PYTHON}, and the call was made by Python {request['python'][:20]}, whose "
            f"functions cannot run here; use an image with that Python (or run the program with {PYTHON})"
        )
        return reply_of(outcome_of("mismatch", text))
    runner, call = (b64decode(request[name], validate=True) for name in ("runner", "call"))
    outcome, ended, printed = isolated.run(partial(run, runner, call, request["result"]), caller)
    return reply_of(outcome or outcome_of("died", f"the call ended its process in the container ({ended})"), printed)


def run(runner: bytes, call: bytes, result: str) -> bytes:
    """Return the outcome of a call as JSON; this is done in a process of its own."""
    try:
        function = pickle.loads(zlib.decompress(runner))  # nosec B301 # running what comes is what this image is for
    except Exception as error:
        versions = f"Python {sys.version.split()[0]} with cloudpickle {cloudpickle.__version__}"
        return outcome_of("failed", f"{versions} cannot read the call: {type(error).__name__}: {error}")
    return json.dumps(function(call, result)).encode()


def outcome_of(kind: str, text: str) -> bytes:
    """Return an outcome that this server has itself."""
    return json.dumps({"kind": kind, "text": text}).encode()


def reply_of(outcome: bytes, printed: Sequence[tuple[str, str]] = ()) -> bytes:
    """Return a whole reply."""
    return b'{"printed": ' + json.dumps(printed).encode() + b', "outcome": ' + outcome + b"}"


class Handler(BaseHTTPRequestHandler):
    """One connection; each has a process of its own."""

    protocol_version = "HTTP/1.1"  # connections are kept for more requests, which more than halves the time of a call
    wbufsize = -1  # a buffer: head and body of a reply leave in one piece, and the caller wakes up once
    disable_nagle_algorithm = True  # or the end of a reply larger than that waits for the receipt of its begin
    timeout = 60  #: seconds without a request, or without progress of one, after which the connection is closed

    def do_POST(self) -> None:
        """Answer one input."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True  # nobody knows where the next request would begin
            self.reply_error(HTTPStatus.LENGTH_REQUIRED, "Content-Length is missing")
            return
        body = self.rfile.read(int(length))
        try:
            if self.path == "/":
                self.reply(HTTPStatus.OK, answer(body, self.connection))
            else:
                self.reply_error(HTTPStatus.NOT_FOUND, "404 not found")
        except isolated.CallerGone:
            self.close_connection = True
        except (ValueError, RecursionError) as error:  # not JSON, nested too deep, not base64, or no call
            self.reply_error(HTTPStatus.BAD_REQUEST, f"bad input: {error}")
        except Exception as error:  # no memory or no process left: tell who asked, and leave the traceback in the log
            traceback.print_exc()
            self.reply_error(HTTPStatus.INTERNAL_SERVER_ERROR, f"{type(error).__name__}: {error}")

    def handle_expect_100(self) -> bool:
        """Let a caller with a large body go on, who waits for this line."""
        proceed = super().handle_expect_100()
        self.wfile.flush()
        return proceed

    def do_GET(self) -> None:
        """Refuse: inputs are posted."""
        self.reply_error(HTTPStatus.NOT_FOUND, "404 not found")

    def reply(self, status: HTTPStatus, body: bytes) -> None:
        """Send a whole reply."""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reply_error(self, status: HTTPStatus, message: str) -> None:
        """Send an error as JSON."""
        self.reply(status, json.dumps({"error": message}).encode())

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep quiet about requests; errors are still written to stderr."""


class Server(socketserver.ForkingMixIn, HTTPServer):
    """Many connections at once, in processes: threads would stand in the way of the calls' own forks."""

    request_queue_size = 128
    max_children = 500
    block_on_close = False

    def server_bind(self) -> None:
        """Bind, without HTTPServer's look-up of the host's name, which can take seconds where there is no network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]

    def finish_request(self, request: object, client_address: object) -> None:
        """Serve one connection, in its process, which is not to keep the port open when the server is gone."""
        self.socket.close()
        super().finish_request(request, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """Keep quiet about callers who hang up; any other error is written to stderr."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def service_actions(self) -> None:
        """Look after processes that have ended; in a container all orphans are given to this one."""
        super().service_actions()
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def main() -> None:
    """Serve until killed."""
    # The first process of a container does not end by this signal unless it says so.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    os.chdir(tempfile.gettempdir())  # where calls may leave files; this file's folder is none of theirs
    # Loopback unless told otherwise: on a developer's machine no neighbour should reach it. The Dockerfile tells.
    address = os.environ.get("BIND_ADDRESS", "127.0.0.1"), int(os.environ.get("PORT", "8080"))
    with Server(address, Handler) as server:
        print("meca-init-done", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
