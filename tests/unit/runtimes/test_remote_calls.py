"""Container calls of a gateway and the host that makes them, joined by a channel in memory."""

from __future__ import annotations

import asyncio
import functools
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.errors import ContainerFailed, MecaError, NoHostFits, TaskFailed, TaskTimeout, UsageError
from meca_executor.runtimes.agent_calls import LATE_S, AgentCalls
from meca_executor.runtimes.remote_calls import RemoteCalls
from meca_executor.wire.blobs import BLOB_MIN, pieces
from meca_executor.wire.container_calls import (
    IN_BLOB,
    Call,
    CallEvent,
    CallOrder,
    pack_call,
    pack_piece,
    pack_records,
)
from meca_executor.wire.printed import LAST, Log
from meca_executor.wire.records import MalformedBatch, Status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

LIMIT = 60.0
LOST = ContainerFailed("it ended during the call")
LOST.lost = True


class Containers:
    """A host's containers; each does as its name says."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.begun = asyncio.Event()
        self.release = asyncio.Event()
        self.stopped = asyncio.Event()

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
    ) -> bytes:
        assert written is not None
        self.asked.append({"ref": ref, "timeout": timeout, "runtime": runtime, "resource": resource, "owner": owner})
        errors: dict[str, Exception] = {
            "unknown": NoHostFits("no such image"),
            "wrong": UsageError("no such image"),
            "refuses": TaskFailed("status 400"),
            "late": TaskTimeout(f"longer than {timeout} s"),
            "broken": ContainerFailed("not ready"),
            "ends": LOST,
            "crashes": ZeroDivisionError("a defect of ours"),
        }
        written.write(f"{ref} began\n".encode())
        if (error := errors.get(ref)) is not None:
            raise error
        if ref == "waits":
            self.begun.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.stopped.set()
                raise
        if ref == "app":
            written.end()
        return content.upper()


class Pair:
    """Both ends, and the messages on their way, which wait while the link is down."""

    def __init__(self, containers: Containers | None = None) -> None:
        self.down: deque[bytes] = deque()
        self.up: deque[bytes] = deque()
        self.containers = containers or Containers()
        self.away = False
        self.remote = RemoteCalls("box", self._order)
        self.agent = AgentCalls(self.containers, self._tell)

    def _order(self, message: bytes) -> None:
        self.down.append(message)
        asyncio.get_running_loop().call_soon(self.carry)

    def _tell(self, message: bytes) -> None:
        self.up.append(message)
        asyncio.get_running_loop().call_soon(self.carry)

    def carry(self) -> None:
        """Let everything arrive that is on its way."""
        while self.down and not self.away:
            self.agent.on_message(self.down.popleft())
        while self.up and not self.away:
            self.remote.on_message(self.up.popleft())

    def ask(self, ref: str, content: bytes = b"in", **more: Any) -> asyncio.Task[bytes]:
        return asyncio.get_running_loop().create_task(self.remote.call(ref, content, **more))


def in_a_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test's coroutine."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), LIMIT))

    return run


async def until(condition: Callable[[], bool]) -> None:
    """Return when it is so; the test's own limit ends what never comes."""
    for _ in range(int(LIMIT / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not happen")


@in_a_loop
async def test_a_call_is_made_as_it_was_asked_and_its_reply_comes_back() -> None:
    """Also an empty one, and one that is too large for a message."""
    pair = Pair()
    more = {"timeout": 2.5, "runtime": "microVM", "resource": {"cpu": 0.5}, "owner": "me"}
    assert await pair.ask("app", b"hello", **more) == b"HELLO"
    assert pair.containers.asked == [{"ref": "app", **more}]
    assert await pair.ask("app", b"") == b""
    for size in (BLOB_MIN - 1, BLOB_MIN, 5 * BLOB_MIN + 7):
        content = b"ab" * size
        assert await pair.ask("app", content) == content.upper()
    assert await pair.ask("app", timeout=float("inf")) == b"IN"
    assert pair.containers.asked[-1]["timeout"] is None
    assert (pair.remote.running, pair.agent.running) == (0, 0)
    assert pair.agent._arrived == {} and pair.remote._arrived == {}
    await pair.agent.close()


@pytest.mark.parametrize(
    ("ref", "error", "text", "lost"),
    [
        ("unknown", NoHostFits, "on host box: no such image", None),
        ("wrong", NoHostFits, "on host box: no such image", None),
        ("refuses", TaskFailed, "on host box: status 400", None),
        ("late", TaskTimeout, "on host box: longer than 3 s", None),
        ("broken", ContainerFailed, "on host box: not ready", False),
        ("ends", ContainerFailed, "on host box: it ended during the call", True),
        ("crashes", TaskFailed, "on host box: ZeroDivisionError: a defect of ours", None),
    ],
)
def test_what_the_host_raises_is_raised_here(ref: str, error: type[MecaError], text: str, lost: bool | None) -> None:
    """With the host's name; and what the container wrote is there before."""

    @in_a_loop
    async def raises() -> None:
        pair, written = Pair(), Log()
        with pytest.raises(error) as raised:
            await pair.ask(ref, timeout=3, written=written)
        assert (type(raised.value), str(raised.value), getattr(raised.value, "lost", None)) == (error, text, lost)
        assert written.text() == f"{ref} began\n"
        await pair.agent.close()

    raises()


@in_a_loop
async def test_what_a_container_writes_comes_while_it_runs_and_ends() -> None:
    """An app's log ends with its reply; another one's a moment later."""
    pair, written = Pair(), Log()
    app = Log()
    await pair.ask("app", written=app)
    assert app.ended and app.text() == "app began\n"
    asked = pair.ask("waits", written=written)
    await pair.containers.begun.wait()
    await until(lambda: bool(written.text()))
    assert written.text() == "waits began\n"
    assert written.awaited
    pair.containers.release.set()
    assert await asked == b"IN"
    await until(lambda: written.ended)
    await pair.agent.close()


@in_a_loop
async def test_a_call_that_is_cancelled_is_stopped_there() -> None:
    """What the host still says of it is not listened to."""
    pair, written = Pair(), Log()
    asked = pair.ask("waits", written=written)
    await pair.containers.begun.wait()
    asked.cancel()
    await pair.containers.stopped.wait()
    assert asked.cancelled() and written.ended
    assert (pair.remote.running, pair.agent.running) == (0, 0)
    pair.remote.on_message(
        pack_records([(1, CallEvent.WROTE, 0, b"late"), (1, CallEvent.REPLY, Status.REPLY, b"late")])
    )
    for piece in pieces(1, [bytes(BLOB_MIN)]):
        pair.remote.on_message(pack_piece(piece))
    assert pair.remote._arrived == {}
    await pair.agent.close()


@in_a_loop
async def test_while_the_host_is_away_its_calls_go_on_and_the_reply_comes_once() -> None:
    """The channel keeps what is told meanwhile."""
    pair = Pair()
    asked = pair.ask("waits")
    await pair.containers.begun.wait()
    pair.away = True
    pair.containers.release.set()
    await until(lambda: bool(pair.up))
    assert not asked.done()
    pair.away = False
    again = list(pair.up)
    pair.carry()
    assert await asked == b"IN"
    for message in again:
        pair.remote.on_message(message)
    await pair.agent.close()


@in_a_loop
async def test_calls_of_a_host_that_is_lost_are_lost() -> None:
    """So that they may be made again elsewhere; the next ones are not even sent there."""
    pair, written = Pair(), Log()
    asked = pair.ask("waits", written=written)
    await pair.containers.begun.wait()
    pair.remote.lost("host box left")
    for one in (asked, pair.ask("app")):
        with pytest.raises(ContainerFailed, match="lost with its host: host box left") as raised:
            await one
        assert raised.value.lost
    assert written.ended and not pair.down
    await pair.agent.close()
    assert pair.containers.stopped.is_set()


@in_a_loop
async def test_a_host_that_begins_anew_tells_nothing_of_before() -> None:
    """Its calls are stopped; a new one may have the number of an old one."""
    pair = Pair()
    old = pair.ask("waits")
    late = pair.ask("crashes")  # its log is not ended yet
    with pytest.raises(TaskFailed):
        await late
    pair.away = True
    pair.agent.reset()
    await pair.containers.stopped.wait()
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(LATE_S, later.set)  # behind the one by which the log would be told
    await later.wait()
    assert pair.agent.running == 0 and not pair.up
    pair.away = False
    pair.remote.lost("it joined anew")
    with pytest.raises(ContainerFailed):
        await old
    pair.remote = RemoteCalls("box", pair._order)
    assert await pair.ask("app") == b"IN"
    await pair.agent.close()


@in_a_loop
async def test_a_host_without_containers_says_so() -> None:
    """By an outcome, not by an end of the link."""
    pair = Pair()
    pair.agent = AgentCalls(None, pair._tell)
    with pytest.raises(NoHostFits, match="on host box: it runs no containers"):
        await pair.ask("app")
    await pair.agent.close()


@in_a_loop
async def test_what_a_host_would_not_read_is_refused_before_it_is_sent() -> None:
    """It would give up its gateway for that."""
    pair = Pair()
    for more in ({"resource": {"cpu": -1}}, {"timeout": 0}, {"resource": {"cpu": float("nan")}}):
        with pytest.raises(NoHostFits):
            await pair.ask("app", **more)
    with pytest.raises(NoHostFits, match="is not an image name"):
        await pair.ask("two words")
    assert not pair.down and pair.remote.running == 0


GOOD = pack_call(Call("app"), b"in")
ORDERS = {
    "no message": b"",
    "another message": b"Rwhat",
    "half a record": b"Cshort",
    "no piece": b"Bshort",
    "no order": pack_records([(1, 99, 0, b"")]),
    "no call": pack_records([(1, CallOrder.CALL, 0, b"ab")]),
    "a head beyond the end": pack_records([(1, CallOrder.CALL, 0, b"\xff\xff\x00\x00{}")]),
    "no JSON": pack_records([(1, CallOrder.CALL, 0, b"\x02\x00\x00\x00{]")]),
    "a list": pack_records([(1, CallOrder.CALL, 0, b"\x02\x00\x00\x00[]")]),
    "no name": pack_records([(1, CallOrder.CALL, 0, b"\x02\x00\x00\x00{}")]),
    "nested": pack_records([(1, CallOrder.CALL, 0, b"\x00\xc0\x00\x00" + b"[" * 0xC000)]),
    "no blob": pack_records([(1, CallOrder.CALL, IN_BLOB, pack_call(Call("app"), b""))]),
    "two contents": pack_records([(1, CallOrder.CALL, IN_BLOB, GOOD)]),
    "a flag": pack_records([(1, CallOrder.CALL, 1, GOOD)]),
    "twice": pack_records([(1, CallOrder.CALL, 0, GOOD)] * 2),
}


@pytest.mark.parametrize("message", ORDERS.values(), ids=ORDERS)
def test_an_order_that_cannot_be_is_refused(message: bytes) -> None:
    """By one error, at which the link is dropped."""

    @in_a_loop
    async def refused() -> None:
        pair = Pair()
        with pytest.raises(MalformedBatch):
            pair.agent.on_message(message)
        await pair.agent.close()

    refused()


EVENTS = {
    "no message": b"",
    "half a record": b"Cshort",
    "no piece": b"Bshort",
    "no event": pack_records([(1, 99, 0, b"")]),
    "a pickle": pack_records([(1, CallEvent.REPLY, Status.OK, b"")]),
    "killed": pack_records([(1, CallEvent.REPLY, Status.KILLED, b"")]),
    "no status": pack_records([(1, CallEvent.REPLY, 77, b"")]),
    "no blob": pack_records([(1, CallEvent.REPLY, Status.REPLY | IN_BLOB, b"")]),
    "a failure in a blob": pack_records([(1, CallEvent.REPLY, Status.FAILED | IN_BLOB, b"")]),
    "a flag": pack_records([(1, CallEvent.WROTE, LAST | 64, b"")]),
}


@pytest.mark.parametrize("message", EVENTS.values(), ids=EVENTS)
def test_an_event_that_cannot_be_is_refused(message: bytes) -> None:
    """The call is not settled by it."""

    @in_a_loop
    async def refused() -> None:
        pair = Pair()
        asked = pair.ask("waits")
        await pair.containers.begun.wait()
        with pytest.raises(MalformedBatch):
            pair.remote.on_message(message)
        assert not asked.done()
        pair.remote.on_message(pack_records([(77, CallEvent.REPLY, Status.REPLY, b"of a call that is none")]))
        pair.containers.release.set()
        assert await asked == b"IN"
        await pair.agent.close()

    refused()
