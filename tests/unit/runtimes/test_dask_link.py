"""Messages between a gateway and a node of a Dask cluster, over a pair of queues in place of Dask's connection."""

from __future__ import annotations

import asyncio
from typing import Any

from meca_executor.runtimes.dask_link import WRITE_BYTES, DaskLink

LIMIT = 20.0


class Comm:
    """One end of a connection, as `distributed.comm.Comm` has it."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.other: Comm
        self.writes: list[Any] = []
        self.written: asyncio.Queue[Any] = asyncio.Queue()

    async def read(self) -> Any:
        if isinstance(message := await self.incoming.get(), OSError):
            raise message
        return message

    async def write(self, message: Any) -> None:
        self.writes.append(message)
        self.written.put_nowait(message)
        self.other.incoming.put_nowait(message)

    def abort(self) -> None:
        self.other.incoming.put_nowait(OSError("closed by the other side"))


def pair() -> tuple[Comm, Comm]:
    """Return both ends of a connection."""
    one, two = Comm(), Comm()
    one.other, two.other = two, one
    return one, two


class End:
    """A link, and what it was told."""

    def __init__(self, comm: Comm, silence: float = LIMIT) -> None:
        self.came: list[Any] = []
        self.link = DaskLink(comm, self.came.append, self.came.append, silence)
        self.over = asyncio.create_task(self.link.run())


def test_messages_come_in_order_and_few_writes() -> None:
    async def live() -> None:
        one, two = pair()
        left, right = End(one), End(two)
        sent: list[Any] = [b"first", {"release": ["1"]}, b"", bytes(WRITE_BYTES), b"last"]
        for message in sent:
            left.link.send(message)
        await left.link.finish()
        assert "this side" in await asyncio.wait_for(left.over, LIMIT)
        assert "closed by the other side" in await asyncio.wait_for(right.over, LIMIT)
        assert right.came == sent
        assert len([write for write in one.writes if write]) == 2

    asyncio.run(live())


def test_a_side_that_says_nothing_is_given_up() -> None:
    """Not one that has nothing to say: that says so."""

    async def live() -> None:
        one, _ = pair()
        alone = End(one, silence=0.2)
        assert await asyncio.wait_for(alone.over, LIMIT) == "nothing was heard for 0.2 s"
        alone.link.send(b"dropped")

        one, two = pair()
        left, right = End(one, silence=LIMIT), End(two, silence=LIMIT)
        for _ in range(2):  # it says again and again that it is there
            assert await asyncio.wait_for(one.written.get(), LIMIT) == []
        right.link.close("the end")
        assert await asyncio.wait_for(right.over, LIMIT) == "the end"
        await asyncio.wait_for(left.over, LIMIT)

    asyncio.run(live())


def test_what_cannot_be_read_ends_the_link() -> None:
    async def live() -> None:
        one, two = pair()
        left, right = End(one), End(two)

        def refuse(_: object) -> None:
            raise ValueError("garbage")

        right.link._on_message = refuse
        left.link.send(b"?")
        assert await asyncio.wait_for(right.over, LIMIT) == "the connection ended: garbage"
        await asyncio.wait_for(left.over, LIMIT)

    asyncio.run(live())
