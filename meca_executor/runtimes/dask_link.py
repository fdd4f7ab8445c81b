"""Messages over one of Dask's connections, which a gateway and a node of a cluster have with each other.

What is sent in one turn of the loop goes out together. Both sides say something every `PING_S`; who has heard nothing
for `SILENCE_S` gives the other side up. A connection that ends is not taken up again: a node that cannot be reached is
a lost node, here as in Dask.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

PING_S = 1.0
SILENCE_S = 30.0
FINISH_S = 2.0
WRITE_BYTES = 4 << 20  #: of messages in one write

Control = dict[str, Any]


class DaskLink:
    """One side.

    Args:
        comm: A `distributed.comm.Comm`; it is the link's own from here on.
        on_message: Called with each message of bytes.
        on_control: Called with each object, what the two sides say about leases.
        silence: Seconds after which a side that says nothing is given up.
    """

    def __init__(
        self,
        comm: Any,
        on_message: Callable[[bytes], None],
        on_control: Callable[[Control], None],
        silence: float = SILENCE_S,
    ) -> None:
        self._comm = comm
        self._on_message = on_message
        self._on_control = on_control
        self._silence = silence
        self._waiting: deque[bytes | Control] = deque()
        self._ready = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._written = asyncio.Event()  # all that was to be sent
        self._written.set()
        self._over: str | None = None

    def __repr__(self) -> str:
        return f"<DaskLink {self._comm!r}{'' if self._over is None else ', over'}>"

    def send(self, message: bytes | Control) -> None:
        """Send; on a link that is over it is dropped."""
        if self._over is None:
            self._waiting.append(message)
            self._written.clear()
            self._ready.set()

    def close(self, how: str) -> None:
        """End the link now; `run` returns."""
        if self._over is None:
            self._over = how
            self._comm.abort()
            self._ready.set()
            self._written.set()

    async def finish(self) -> None:
        """End the link after what is on its way, which has `FINISH_S`."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._written.wait(), FINISH_S)
        self.close("this side ended it")

    async def run(self) -> str:
        """Carry messages until the link is over; returns how it ended."""
        parts = [asyncio.create_task(part) for part in (self._read(), self._write(), self._watch())]
        try:
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part.done() and not part.cancelled() and (error := part.exception()) is not None:
                    self.close(f"the connection ended: {error}")
            self.close("the connection ended")
        finally:
            self.close("it was given up")
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)
        assert self._over is not None
        return self._over

    async def _read(self) -> None:
        while self._over is None:
            messages = await self._comm.read()
            self._heard = self._loop.time()
            for message in messages:
                if isinstance(message, bytes):
                    self._on_message(message)
                else:
                    self._on_control(message)

    async def _write(self) -> None:
        while self._over is None:
            self._ready.clear()
            batch, size = list[bytes | Control](), 0
            while self._waiting and size < WRITE_BYTES:
                batch.append(message := self._waiting.popleft())
                size += len(message)
            await self._comm.write(batch)  # an empty one says that this side is there
            if not self._waiting:
                self._written.set()
                await self._more()

    async def _more(self) -> None:
        """Return when there is something to send, or it is time to say that this side is there."""
        timer = self._loop.call_later(PING_S, self._ready.set)
        await self._ready.wait()
        timer.cancel()

    async def _watch(self) -> None:
        left = self._silence
        while left > 0:
            await asyncio.sleep(left)
            left = self._heard + self._silence - self._loop.time()
        self.close(f"nothing was heard for {self._silence:g} s")
