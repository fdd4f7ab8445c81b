"""k nearest neighbours: `POST /` with a dataset and a point is answered by the indices of the nearest rows.

The input is {"dataset": [[1, 2], ...], "point": [2, 3], "k": 2, "num_processes": 1}, the reply [0, 1]. The port comes
from PORT (8080 when it is not set); `meca-init-done` on the standard output says that requests are welcome.
"""

from __future__ import annotations

import json
import os
import socketserver
import traceback
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import knn_core


def answer(data: object) -> str:
    """Return the row indices as JSON, nearest first; raise ValueError (status 400) for a wrong input."""
    return json.dumps(knn_core.nearest_rows(knn_core.check(data)))


class Handler(BaseHTTPRequestHandler):
    """One connection; requests run in threads of their own."""

    protocol_version = "HTTP/1.1"  # connections are kept for more requests, which more than halves the time of a call
    wbufsize = -1  # a buffer: head and body of a reply leave in one piece, and the caller wakes up once
    disable_nagle_algorithm = True  # or the end of a reply larger than that waits for the receipt of its begin

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
                self.reply(HTTPStatus.OK, answer(json.loads(body)))
            else:
                self.reply_error(HTTPStatus.NOT_FOUND, "404 not found")
        except (ValueError, RecursionError) as error:  # not JSON, nested too deep, or refused by answer()
            self.reply_error(HTTPStatus.BAD_REQUEST, f"bad input: {error}")
        except Exception as error:  # a fault of answer(): tell who asked, and leave the traceback in the log
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

    def reply(self, status: HTTPStatus, text: str, kind: str = "application/json") -> None:
        """Send a whole reply."""
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def reply_error(self, status: HTTPStatus, message: str) -> None:
        """Send an error as JSON."""
        self.reply(status, json.dumps({"error": message}))

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Keep quiet about requests; errors are still written to stderr."""


class Server(ThreadingHTTPServer):
    """Many requests at once."""

    request_queue_size = 128

    def server_bind(self) -> None:
        """Bind, without HTTPServer's look-up of the host's name, which can take seconds where there is no network."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "localhost", self.server_address[1]


def main() -> None:
    """Serve until killed."""
    # Loopback unless told otherwise: on a developer's machine no neighbour should reach it. The Dockerfile tells.
    address = os.environ.get("BIND_ADDRESS", "127.0.0.1"), int(os.environ.get("PORT", "8080"))
    with Server(address, Handler) as server:
        print("meca-init-done", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
