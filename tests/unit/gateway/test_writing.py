"""What containers write during a call, as the hub tells it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from meca_executor.gateway import calls
from meca_executor.wire.printed import LAST, MIXED, owner
from meca_executor.wire.records import Kind, Status, decode

from .test_hub import Client, Containers, in_a_loop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meca_executor.wire.printed import Log


class Talkers(Containers):
    """Containers that write before, and after, they reply."""

    def __init__(self) -> None:
        super().__init__()
        self.logs: list[Log] = []

    async def call(
        self,
        ref: str,
        content: bytes,
        *,
        timeout: float | None = None,
        runtime: str | None = None,
        resource: Mapping[str, float] | None = None,
        owner: str = "",
        written: Log | None = None,
        task: int = 0,
    ) -> bytes:
        assert written is not None
        self.logs.append(written)
        if ref != "silent":
            written.write(b"first\n")
        written.mixed = ref == "shared"
        try:
            return await super().call(ref, content, timeout=timeout)
        finally:
            if ref in ("app", "shared"):
                written.write(b"last\n")
                written.end()


class Asker(Client):
    """A client that sees all records."""

    def __init__(self) -> None:
        super().__init__()
        self.containers = self.talkers = Talkers()
        self.hub.calls._containers = self.talkers
        self.seen: list[tuple[int, int, int, bytes]] = []

    async def until(self, count: int) -> list[tuple[int, int, int, bytes]]:
        """Return the records that came, once there are so many: id, status, flags, text."""
        for _ in range(6000):
            frames, self.frames[:] = list(self.frames), []
            for frame in frames:
                if (message := self.stream.receive(frame)) is not None and message.kind is Kind.RESULTS:
                    for id_, status, flags, payload in decode(message.body):
                        if status == Status.LOGGED:
                            task, text = owner(flags, payload)
                            self.seen.append((task, status, flags & (LAST | MIXED), text))
                        else:
                            self.seen.append((id_, status, 0, payload))
            if len(self.seen) >= count:
                return self.seen
            await asyncio.sleep(0.01)
        pytest.fail(f"only {self.seen}")


def asks(ref: str) -> Asker:
    client = Asker()
    client.options(0, container_ref=ref)
    client.submit(0, [7], b"x")
    return client


@in_a_loop
async def test_an_app_is_told_with_its_reply() -> None:
    """All of it goes before the outcome, and it is said that it is all."""
    found = await asks("app").until(2)
    assert found == [(7, Status.LOGGED, LAST, b"first\nlast\n"), (7, Status.REPLY, 0, b"X")]


@in_a_loop
async def test_a_container_is_told_at_its_end_and_after() -> None:
    """The outcome does not wait for what may still come; that is told a moment later."""
    client = asks("engine")
    assert await client.until(2) == [(7, Status.LOGGED, 0, b"first\n"), (7, Status.REPLY, 0, b"X")]
    (log,) = client.talkers.logs
    log.write(b"late\n")
    assert (await client.until(3))[2:] == [(7, Status.LOGGED, LAST, b"late\n")]
    assert log.ended, "what comes now is another call's"


@in_a_loop
async def test_nothing_is_told_of_a_silent_one() -> None:
    """Its outcome is all that travels."""
    client = asks("silent")
    assert await client.until(1) == [(7, Status.REPLY, 0, b"X")]
    for _ in range(100):
        if client.talkers.logs[0].ended:
            break
        await asyncio.sleep(calls.LATE_S / 10)
    assert client.talkers.logs[0].ended
    assert await client.until(1) == [(7, Status.REPLY, 0, b"X")]


@in_a_loop
async def test_a_running_one_is_told_now_and_then() -> None:
    """Before its end; and a killed one keeps what it had written."""
    client = asks("waits")
    assert await client.until(1) == [(7, Status.LOGGED, 0, b"first\n")]
    client.talkers.logs[0].write(b"more\n")
    assert (await client.until(2))[1:] == [(7, Status.LOGGED, 0, b"more\n")]
    client.talkers.logs[0].write(b"end\n")
    client.tell(Kind.KILL, [(7, 0, 0, b"")])
    found = (await client.until(4))[2:4]
    assert found == [(7, Status.LOGGED, 0, b"end\n"), (7, Status.KILLED, 0, b"ended by kill()")]


@in_a_loop
async def test_a_shared_one_says_so() -> None:
    """Its calls cannot be told apart."""
    found = await asks("shared").until(2)
    assert found[0] == (7, Status.LOGGED, LAST | MIXED, b"first\nlast\n")
