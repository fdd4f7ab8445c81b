"""A TCP proxy that does to connections what networks do: cuts, delays, black holes, single bytes.

It never changes, drops or reorders a byte of a connection that lives: TCP does not either. A black hole holds the bytes
back; what a fault ends loses all that was on its way.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Coroutine, Iterator

CHUNK = 1 << 16
UP, DOWN = "up", "down"  #: from the client, to the client
LINGER_NONE = struct.pack("ii", 1, 0)  #: closing sends RST, and what was not sent yet is thrown away

#: what `Fault.kind` may be
RESET, FINISH, HALF_OPEN, TRUNCATE, DELAY, SPLIT, HOLE, SILENCE, REFUSE = KINDS = (
    "reset",  # RST to both sides
    "finish",  # FIN to both sides
    "half-open",  # RST to the gateway, silence for the client: it learns of it by its own ping timeout
    "truncate",  # so many more bytes go one way, then both sides get RST or FIN
    "delay",  # each chunk waits, for a while
    "split",  # so many bytes go one by one
    "hole",  # nothing goes on for a while, one way or both, then all does
    "silence",  # nothing ever goes on again on this connection, one way or both
    "refuse",  # RST now, and to every new connection for a while
)
#: last until a ping timeout ends the connection
LONG = frozenset({HALF_OPEN, SILENCE})


@dataclass(frozen=True)
class Fault:
    """What is done to the connections that are open, or to the next one."""

    kind: str
    ways: tuple[str, ...] = (UP, DOWN)
    seconds: float = 0.0  #: how long a hole, delay or refusal lasts
    bytes: int = 0  #: how many still pass before a cut; how many go one by one
    abrupt: bool = True  #: RST, else FIN
    next: bool = False  #: the open connections are cut and it happens to the one that follows: during its handshake

    def __str__(self) -> str:
        facts = [self.kind, "/".join(self.ways)]
        facts += [f"{self.seconds:.2f} s"] if self.seconds else []
        facts += [f"after {self.bytes} bytes"] if self.kind == TRUNCATE else []
        facts += [f"{self.bytes} bytes"] if self.kind == SPLIT else []
        facts += ["RST" if self.abrupt else "FIN"] if self.kind == TRUNCATE else []
        return " ".join([*facts, *(["on the next connection"] if self.next else [])])


def draw(rng: random.Random, kind: str) -> Fault:
    """Return a fault of a kind, the rest by chance."""
    one_way = rng.choice([(UP,), (DOWN,)])
    if kind == TRUNCATE:
        # Within a header, a frame, or a batch of frames.
        count = int(rng.choice([40, 4_000, 400_000]) * rng.random())
        return Fault(kind, one_way, bytes=count, abrupt=rng.random() < 0.5, next=rng.random() < 0.4)
    if kind == DELAY:
        return Fault(kind, seconds=rng.uniform(0.2, 1.5))
    if kind == SPLIT:
        return Fault(kind, bytes=rng.randint(50, 3_000), next=rng.random() < 0.5)
    if kind in (HOLE, SILENCE):
        ways = rng.choice([(UP, DOWN), (UP,), (DOWN,)])
        return Fault(kind, ways, seconds=rng.uniform(0.1, 3.0) if kind == HOLE else 0.0)
    if kind == REFUSE:
        return Fault(kind, seconds=rng.uniform(0.1, 2.0))
    return Fault(kind)


class Way:
    """One direction of a connection."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.open = asyncio.Event()
        self.open.set()
        self.lag = 0.0  #: seconds that each chunk waits
        self.single = 0  #: bytes that go one by one
        self.left: int | None = None  #: bytes that still pass before the connection is cut


class Connection:
    """Two sockets and what goes between them."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ways = {UP: Way(client, server), DOWN: Way(server, client)}
        self.abrupt = True
        self.silent = False  #: for good
        self._client = client
        self._server = server
        self._half = asyncio.Event()
        self._over = asyncio.Event()

    async def run(self) -> None:
        """Carry bytes until one side ends, or a fault does it; nothing is left open then."""
        pumps = [asyncio.create_task(self._pump(way)) for way in self.ways.values()]
        try:
            await first_of(self._over.wait(), self._half.wait(), *pumps)
            if self._half.is_set():
                await cancelled(*pumps)
                close(self._server, abrupt=True)
                await first_of(self._over.wait(), self._swallow())
        finally:
            await cancelled(*pumps)
            for one in (self._client, self._server):
                close(one, self._over.is_set() and self.abrupt)

    async def _pump(self, way: Way) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await loop.sock_recv(way.source, CHUNK):
                if way.lag:
                    await asyncio.sleep(way.lag)
                while data:
                    await way.open.wait()
                    piece = data[:1] if way.single > 0 else data
                    if way.left is not None:
                        piece = piece[: way.left]
                        way.left -= len(piece)
                    await loop.sock_sendall(way.sink, piece)
                    way.single -= len(piece)
                    if way.left == 0:
                        self._over.set()
                        await asyncio.sleep(3600)  # until it is cancelled
                    data = data[len(piece) :]
        await way.open.wait()  # nor does an end go through a black hole

    async def _swallow(self) -> None:
        """Nobody is there any more and the client does not know."""
        with contextlib.suppress(OSError):
            while await asyncio.get_running_loop().sock_recv(self._client, CHUNK):
                pass

    def cut(self, abrupt: bool) -> None:
        """End it, by RST or FIN."""
        self.abrupt = abrupt
        self._over.set()

    def shut(self, ways: tuple[str, ...]) -> None:
        """Let nothing through, these ways."""
        for name in ways:
            self.ways[name].open.clear()

    def half_open(self) -> None:
        """Tell the gateway that it is over, and the client nothing."""
        self.silent = True
        self._half.set()

    def heal(self) -> None:
        """Let all through, unless it is over already for one side at least."""
        for way in () if self.silent else self.ways.values():
            way.lag, way.single, way.left = 0.0, 0, None
            way.open.set()


async def first_of(*work: Coroutine[Any, Any, Any] | asyncio.Task[None]) -> None:
    """Wait until one of these is done; the coroutines among the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancelled(*(task for task, one in zip(tasks, work, strict=True) if task is not one))


async def cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they are gone."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def close(one: socket.socket, abrupt: bool) -> None:
    """Close a socket; `abrupt` sends RST."""
    with contextlib.suppress(OSError):
        if abrupt:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        else:
            one.shutdown(socket.SHUT_RDWR)
    one.close()


class Proxy:
    """Stands before a port of this machine, in a thread of its own; its methods may be called from any thread."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.connections = 0  #: that there have been
        self._open: set[Connection] = set()
        self._next: list[Fault] = []
        self._refusing = 0
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"proxy {self.port}")
        self._thread.start()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._live())

    async def _live(self) -> None:
        serving: set[asyncio.Task[None]] = set()
        accepting = asyncio.create_task(self._accept(serving))
        await self._end.wait()
        for task in (accepting, *serving):
            task.cancel()
        await asyncio.gather(accepting, *serving, return_exceptions=True)
        self._listener.close()

    async def _accept(self, serving: set[asyncio.Task[None]]) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            task = asyncio.create_task(self._serve(client))
            serving.add(task)
            task.add_done_callback(serving.discard)

    async def _serve(self, client: socket.socket) -> None:
        self.connections += 1
        server = socket.socket()
        try:
            server.setblocking(False)
            if self._refusing:
                raise ConnectionRefusedError
            await self._loop.sock_connect(server, ("127.0.0.1", self._target))
        except BaseException as error:
            close(client, abrupt=True)
            server.close()
            if isinstance(error, OSError):
                return
            raise
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else single bytes are gathered again
        connection = Connection(client, server)
        for fault in self._next:
            self._apply(connection, fault)
        self._next.clear()
        self._open.add(connection)
        try:
            await connection.run()
        finally:
            self._open.discard(connection)

    def inject(self, fault: Fault) -> bool:
        """Do it to all open connections (or the next); whether there was one that it could be done to."""
        return bool(self._call(self._inject(fault)))

    async def _inject(self, fault: Fault) -> bool:
        if fault.next:
            self._next.append(fault)
            for connection in self._open:
                connection.cut(abrupt=True)
            return True
        if fault.kind == REFUSE:
            self._refusing += 1
            self._loop.call_later(fault.seconds, self._stop_refusing)
            fault = Fault(RESET)
        for connection in self._open:
            self._apply(connection, fault)
        return bool(self._open)

    def _stop_refusing(self) -> None:
        self._refusing -= 1

    def _apply(self, connection: Connection, fault: Fault) -> None:
        if fault.kind in (RESET, FINISH):
            connection.cut(fault.kind == RESET)
        elif fault.kind == HALF_OPEN:
            connection.half_open()
        elif fault.kind in (HOLE, SILENCE):
            connection.shut(fault.ways)
            connection.silent = connection.silent or fault.kind == SILENCE
            if fault.kind == HOLE:
                self._loop.call_later(fault.seconds, connection.heal)
        elif fault.kind == DELAY:
            for way in connection.ways.values():
                way.lag = fault.seconds / 10
            self._loop.call_later(fault.seconds, connection.heal)
        else:
            connection.abrupt = fault.abrupt
            for name in fault.ways:
                way = connection.ways[name]
                if fault.kind == SPLIT:
                    way.single = fault.bytes
                else:
                    way.left = fault.bytes

    def heal(self) -> None:
        """No more faults: what is black-holed for good is cut, all else goes on; the next connection is a good one."""
        self._call(self._heal())

    async def _heal(self) -> None:
        self._next.clear()
        for connection in self._open:
            if connection.silent:
                connection.cut(abrupt=True)
            else:
                connection.heal()

    def close(self) -> None:
        """End it and every connection."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30.0)


@contextlib.contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """Give a proxy before this port."""
    one = Proxy(target)
    try:
        yield one
    finally:
        one.close()
