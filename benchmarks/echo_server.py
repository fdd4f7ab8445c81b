"""The least that a Socket.IO server can be: `echo` is acknowledged with what came.

`python -m benchmarks.echo_server` prints its port, and serves until it is ended.
"""

from __future__ import annotations

from aiohttp import web
from socketio import AsyncServer

from .servers import free_port


async def echo(_sid: str, data: object) -> object:
    """Return what came; python-socketio sends it as the acknowledgement."""
    return data


def main() -> None:
    """Serve on a free port of loopback."""
    server = AsyncServer(async_mode="aiohttp", transports=["websocket"])
    server.on("echo", echo)
    app = web.Application()
    server.attach(app)
    port = free_port()
    web.run_app(app, host="127.0.0.1", port=port, print=lambda _: print(f"port {port}", flush=True))


if __name__ == "__main__":
    main()
