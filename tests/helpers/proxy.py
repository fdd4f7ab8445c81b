"""A TCP proxy that cuts connections, lets nothing through, or gathers what goes by."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1 << 16
LOOK_S = 0.05  #: how soon a connection notices that it is to fall silent, or may go on


class Proxy:
    """Stands before a port of this machine.

    Args:
        port: Where connections go on to.
        gather: Seconds of silence after which what came from the server is given on, in one piece; 0 is at once.
    """

    def __init__(self, port: int, gather: float = 0.0) -> None:
        self._target = port
        self._gather = gather
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._down = False
        self._silent_to_server = self._silent_to_client = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.connections = 0
        self.refused = 0  #: connections that were ended at once, because the link was down

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._down:
                client.close()
                self.refused += 1
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self.connections += 1
                self._sockets += [client, server]
                both = threading.Thread(target=self._carry, args=(client, server))
                self._threads.append(both)
            both.start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with client, server, contextlib.suppress(OSError, ValueError):
            while self._carry_once(client, server):
                pass

    def _carry_once(self, client: socket.socket, server: socket.socket) -> bool:
        heard = [*(() if self._silent_to_server else (client,)), *(() if self._silent_to_client else (server,))]
        ready, _, ended = select.select(heard, [], [client, server] if not heard else [], LOOK_S)
        if ended or client.fileno() < 0:
            return False
        for source in ready:
            data = source.recv(CHUNK)
            if source is server and self._gather:
                while select.select([server], [], [], self._gather)[0] and (more := server.recv(CHUNK)):
                    data += more
            if not data:
                return False
            (client if source is server else server).sendall(data)
        return True

    def silence(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """From now on nothing goes through, on old connections and new ones, and nobody is told."""
        self._silent_to_server, self._silent_to_client = to_server, to_client

    def down(self) -> None:
        """Drop every connection, and each new one at once, until `up`."""
        self._down = True
        self.cut()

    def up(self) -> None:
        """Let everything through again."""
        self._down = self._silent_to_server = self._silent_to_client = False

    def cut(self) -> None:
        """Drop every connection, at whatever byte it is; new ones are taken."""
        with self._lock:
            sockets, self._sockets = self._sockets, []
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        self.up()  # a silent connection does not hear that it is cut
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10.0)
        with self._lock:
            for one in self._sockets:
                one.close()


@contextlib.contextmanager
def proxy(port: int, gather: float = 0.0) -> Iterator[Proxy]:
    """Give a proxy before this port."""
    one = Proxy(port, gather)
    try:
        yield one
    finally:
        one.close()
