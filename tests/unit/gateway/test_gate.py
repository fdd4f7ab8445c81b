"""How many container calls a session has at once."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from meca_executor.gateway.gate import Gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def in_a_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test's coroutine."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 60.0))

    return run


class Calls:
    """Calls that stay inside until they are told to go."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.gate = Gate(lambda: self.most)
        self.inside: list[int] = []
        self.go: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def begin(self, *numbers: int) -> None:
        for number in numbers:
            self.go[number] = asyncio.Event()
            self.tasks[number] = asyncio.get_running_loop().create_task(self._call(number))

    async def _call(self, number: int) -> None:
        async with self.gate:
            self.inside.append(number)
            try:
                await self.go[number].wait()
            finally:
                self.inside.remove(number)

    async def settle(self) -> list[int]:
        for _ in range(10):
            await asyncio.sleep(0)
        return self.inside


@in_a_loop
async def test_it_lets_so_many_through_in_order_and_follows_the_number() -> None:
    """Who waits is let in when there are more; who is inside stays when there are fewer."""
    calls = Calls(2)
    calls.begin(1, 2, 3, 4, 5)
    assert await calls.settle() == [1, 2]
    calls.most = 4
    calls.gate.look()
    assert await calls.settle() == [1, 2, 3, 4]
    calls.most = 1
    calls.gate.look()
    for number in (1, 2, 3):
        calls.go[number].set()
    assert await calls.settle() == [4]
    calls.go[4].set()
    assert await calls.settle() == [5]
    calls.go[5].set()
    assert await calls.settle() == []


@in_a_loop
async def test_who_gives_up_takes_no_room() -> None:
    """Waiting, inside, or at the moment at which its turn comes."""
    calls = Calls(1)
    calls.begin(1, 2, 3, 4, 5)
    await calls.settle()
    calls.tasks[2].cancel()
    await calls.settle()
    calls.tasks[1].cancel()
    assert await calls.settle() == [3]
    calls.go[3].set()
    calls.most = 2
    calls.gate.look()  # 4 may enter, and does not know it yet
    calls.tasks[4].cancel()
    assert await calls.settle() == [5]
    calls.begin(6)
    assert await calls.settle() == [5, 6]
    for number in (5, 6):
        calls.go[number].set()
    assert await calls.settle() == []
