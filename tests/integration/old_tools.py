"""What the tests of the old dialect on our gateway share: a container that does as it is told, a gateway with it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from .app_tools import make_app
from .standing import EXAMPLES, Standing, standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: The first word of its input says what it does, the second is what with.
LAB = """
import os, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        word, _, rest = self.rfile.read(int(self.headers["Content-Length"])).decode().partition(" ")
        status, reply = 200, rest.encode()
        if word == "sleep":
            time.sleep(float(rest))
        elif word == "letters":
            letter, count = rest.split()
            reply = (letter * int(count)).encode()
        elif word == "bytes":
            reply = b"PNG\\xff\\xfe"
        elif word == "fail":
            status = 500
        elif word == "die":
            os._exit(3)
        elif word == "wait":
            Path(rest + ".begun").touch()
            while not Path(rest).exists():
                time.sleep(0.005)
        self.send_response(status)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args):
        pass

ThreadingHTTPServer.request_queue_size = 128
server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler)
print("meca-init-done", flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def old_gateway(folder: Path) -> Iterator[Standing]:
    """Give a gateway whose operator named `lab:latest` and the two examples of the original's programs."""
    lab = make_app(folder / "lab", LAB)
    named = {
        "lab:latest": lab,
        "sampleserver:latest": EXAMPLES / "sampleserver",
        "my_knn_app:latest": EXAMPLES / "knn",
    }
    words = [word for name, place in named.items() for word in ("--app", f"{name}={place}")]
    with standing_gateway(folder, "--workers", "1", *words) as gateway:
        yield gateway
