"""A registry of container images on loopback, with one small image that no container can be made to run of."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
NO_PROGRAM = "/no-such-program"


class Registry(NamedTuple):
    """One that runs."""

    port: int
    digest: str  #: of its image `thing:v1`
    asked: list[str]  #: paths, as they came

    @property
    def host(self) -> str:
        """What image names begin with."""
        return f"127.0.0.1:{self.port}"


def image() -> tuple[bytes, dict[str, bytes]]:
    """Return the manifest of an image and its blobs by digest."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        entry = tarfile.TarInfo("noise")
        entry.size = 1 << 20
        tar.addfile(entry, io.BytesIO(os.urandom(entry.size)))
    layer = gzip.compress(file.getvalue())
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Cmd": [NO_PROGRAM]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(file.getvalue())]},
            "history": [{"created": "2024-01-01T00:00:00Z"}],
        }
    ).encode()
    part = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blob("application/vnd.docker.container.image.v1+json", config),
            "layers": [blob(part, layer)],
        }
    ).encode()
    return manifest, {digest_of(data): data for data in (config, layer)}


def blob(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(data), "digest": digest_of(data)}


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@contextlib.contextmanager
def registry() -> Iterator[Registry]:
    """Give a registry with the images `thing:v1` and `thing:latest`, which are one; `slow` never comes."""
    manifest, blobs = image()
    digest, asked, over = digest_of(manifest), list[str](), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            name, _, last = self.path.rpartition("/")
            if name.startswith("/v2/slow/"):
                over.wait(60)
                self.send(404, b"{}", "application/json")
            elif self.path == "/v2/":
                self.send(200, b"{}", "application/json")
            elif name == "/v2/thing/manifests" and last in ("v1", "latest", digest):
                self.send(200, manifest, MANIFEST)
            elif name == "/v2/thing/blobs" and last in blobs:
                self.send(200, blobs[last], "application/octet-stream")
            else:
                error = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown to the test"}]}
                self.send(404, json.dumps(error).encode(), "application/json")

        do_HEAD = do_GET

        def send(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", digest)
            self.end_headers()
            if self.command == "GET":
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield Registry(server.server_address[1], digest, asked)
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()
