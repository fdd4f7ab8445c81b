"""The hub without sockets or processes: a client's messages in, its outcomes out."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from meca_executor import ContainerFailed, NoHostFits, TaskFailed, TaskTimeout, UsageError
from meca_executor.gateway.broker import Broker
from meca_executor.gateway.hosts import BrokerHost
from meca_executor.gateway.hub import Hub
from meca_executor.gateway.session import SessionRefused
from meca_executor.policy.placement import why_never
from meca_executor.wire import segments
from meca_executor.wire.blobs import LAST, mention
from meca_executor.wire.parcels import Parcel
from meca_executor.wire.records import Definition, Kind, MalformedBatch, Record, Status, decode, encode
from meca_executor.wire.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from meca_executor.wire.printed import Log

SETUP: list[Record] = [(0, 0, 0, b"{}"), (0, 0, 0, b"")]
needs_segments = pytest.mark.skipif(not segments.available(), reason="shared memory of this kind is Linux's")
PATIENCE = 200  #: turns of the loop in which what needs no time must have happened


class Containers:
    """A container runtime whose containers answer as their name says."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.running = 0
        self.most = 0
        self.folders: dict[str, str] = {}
        self.room = 2
        self.changed: Callable[[], object] = lambda: None

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
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if ref == "waits":
                await self.release.wait()
            errors = {
                "unknown": NoHostFits("no such image"),
                "refuses": TaskFailed("status 400"),
                "late": TaskTimeout(f"longer than {timeout} s"),
                "broken": ContainerFailed("not ready"),
                "crashes": ZeroDivisionError("a defect of ours"),
                "ends": ContainerFailed("ended during the call"),
            }
            if (error := errors.get(ref)) is not None:
                if ref == "ends":
                    error.lost = True  # type: ignore[attr-defined]
                raise error
            return content.upper()
        finally:
            self.running -= 1

    def why_never(self, ref: str, runtime: str | None, resource: Mapping[str, float], owner: str) -> str | None:
        return why_never(resource, {"cpu": 2, "memory": 100})

    def slots(self, owner: str) -> int:
        return self.room

    def add(self, ref: str, folder: str) -> None:
        if folder == "nowhere":
            raise UsageError("no such folder")
        self.folders[ref] = folder

    async def close(self) -> None: ...


class Workers:
    """A worker runtime that starts nothing."""

    def spawn(self, worker: int, host: int) -> None: ...
    def send(self, worker: int, kind: Kind, batch: bytes) -> None: ...
    def revoke(self, worker: int, start: int, stop: int) -> None: ...
    def stop(self, worker: int) -> None: ...
    def kill(self, worker: int) -> None: ...
    def look(self) -> None: ...
    async def close(self) -> None: ...


class Client:
    """One side of a session, with the hub of the other."""

    def __init__(self, *, trusting: bool = False, cap: int = 2) -> None:
        self.containers = Containers()
        self.hub = Hub(
            Broker(2, BrokerHost(0, "here", 2, {"cpu": 2, "memory": 100})),
            self.containers,
            trusting,
        )
        self.hub.start(Workers(), 0)
        self.stream = Stream()
        self.frames: list[bytes] = []
        self.session, _ = self.hub.attach("s", "me", cap, None)
        self.hub.connect(self.session, self.frames.append, 0)
        self.tell(Kind.SETUP, SETUP)

    def tell(self, kind: Kind, records: list[Record]) -> None:
        for frame in self.stream.send(kind, encode(records)):
            self.hub.on_frame(self.session, frame)

    def submit(self, tag: int, ids: Iterable[int], payload: bytes = b"") -> None:
        """Submit calls of one kind."""
        batch = encode((id_, 0, 0, payload) for id_ in ids)
        self.tell(Kind.TASKS, [(len(decode(batch)), tag, 0, batch)])

    def options(self, number: int, **fields: object) -> None:
        self.tell(Kind.OPTIONS, [(number, 0, 0, json.dumps(fields).encode())])

    def outcomes(self) -> dict[int, tuple[int, bytes]]:
        """Return what has come since the last time."""
        frames, self.frames[:] = list(self.frames), []
        messages = [message for frame in frames if (message := self.stream.receive(frame)) is not None]
        return {id_: (tag, payload) for message in messages for id_, tag, _, payload in decode(message.body)}

    async def until_running(self, count: int) -> None:
        """Return as soon as so many containers are called."""
        for _ in range(PATIENCE):
            if self.containers.running == count:
                return
            await asyncio.sleep(0)
        pytest.fail(f"{self.containers.running} calls run, not {count}")

    async def settled(self, count: int) -> dict[int, tuple[int, bytes]]:
        """Return outcomes as soon as there are so many."""
        found: dict[int, tuple[int, bytes]] = {}
        for _ in range(PATIENCE):
            found.update(self.outcomes())
            if len(found) >= count:
                break
            await asyncio.sleep(0)
        return found


def in_a_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run an asynchronous test in a loop of its own, and see that it leaves no call behind."""

    def run() -> None:
        async def limited() -> None:
            await asyncio.wait_for(test(), 10)

        asyncio.run(limited())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@in_a_loop
async def test_a_containers_answers_and_failures_have_their_status() -> None:
    """Each kind of end is told apart, a defect of ours among them."""
    client = Client(cap=9)
    expected = {
        "echo": (Status.REPLY, b"DATA"),
        "unknown": (Status.NO_HOST, b"no such image"),
        "refuses": (Status.FAILED, b"status 400"),
        "late": (Status.TIMEOUT, b"longer than 2.5 s"),
        "broken": (Status.CONTAINER_FAILED, b"not ready"),
        "ends": (Status.CONTAINER_LOST, b"ended during the call"),
        "crashes": (Status.FAILED, b"the gateway failed: ZeroDivisionError: a defect of ours"),
    }
    for number, ref in enumerate(expected):
        client.options(number, container_ref=ref, timeout=2.5)
    groups: list[Record] = [(1, number, 0, encode([(number + 1, 0, 0, b"data")])) for number in range(len(expected))]
    client.tell(Kind.TASKS, groups)
    found = await client.settled(len(expected))
    assert {ref: found[number + 1] for number, ref in enumerate(expected)} == expected
    assert client.session.calls == {}


@in_a_loop
async def test_a_running_container_call_is_killed() -> None:
    """Its outcome says so, and the runtime is told."""
    client = Client()
    client.options(0, container_ref="waits")
    client.submit(0, [7])
    await client.until_running(1)
    client.tell(Kind.KILL, [(7, 0, 0, b"")])
    assert await client.settled(1) == {7: (Status.KILLED, b"ended by kill()")}
    assert client.containers.running == 0


@in_a_loop
async def test_a_container_call_that_is_killed_at_once_has_its_outcome_too() -> None:
    """The kill may come in the same read as the task, before the call has begun."""
    client = Client()
    client.options(0, container_ref="waits")
    client.submit(0, [7])
    client.tell(Kind.KILL, [(7, 0, 0, b"")])
    found = await client.settled(1)
    assert 7 in found, "the future would wait for ever"
    assert found[7][0] == Status.KILLED
    assert client.session.calls == {}


@in_a_loop
async def test_a_cap_holds_for_container_calls() -> None:
    """No more of a session's calls run at once; one that waits can be killed; all are answered."""
    client = Client(cap=2)
    client.options(0, container_ref="waits")
    client.submit(0, range(1, 6), b"x")
    await client.until_running(2)
    client.tell(Kind.KILL, [(5, 0, 0, b"")])
    assert await client.settled(1) == {5: (Status.KILLED, b"ended by kill()")}
    client.containers.release.set()
    assert await client.settled(4) == dict.fromkeys([1, 2, 3, 4], (Status.REPLY, b"X"))
    assert client.containers.most == 2


@in_a_loop
async def test_what_never_fits_is_refused_at_once() -> None:
    """More than the host has is told in words, for calls and containers."""
    client = Client()
    client.options(0, resource={"cpu": 3})
    client.options(1, container_ref="echo", resource={"gpu": 1})
    client.tell(Kind.TASKS, [(1, 0, 0, encode([(1, 0, 0, b"")])), (1, 1, 0, encode([(2, 0, 0, b"")]))])
    found = await client.settled(2)
    assert [found[id_][0] for id_ in (1, 2)] == [Status.NO_HOST, Status.NO_HOST]
    assert b"needs 3 cores" in found[1][1]


@in_a_loop
async def test_only_a_trusting_gateway_takes_folders() -> None:
    """An embedded one learns apps from its client; a standing one does not; a wrong folder fails its tasks."""
    for trusting in (True, False):
        client = Client(trusting=trusting)
        for ref, folder in (("echo", "somewhere"), ("lost", "nowhere")):
            fields = json.dumps({"type": "app", "ref": ref, "folder": folder}).encode()
            client.tell(Kind.CONTROL, [(0, 0, 0, fields)])
        assert client.containers.folders == ({"echo": "somewhere"} if trusting else {})
        client.options(0, container_ref="lost")
        client.submit(0, [1], b"x")
        expected = (Status.NO_HOST, b"no such folder") if trusting else (Status.REPLY, b"X")
        assert await client.settled(1) == {1: expected}


@in_a_loop
async def test_what_cannot_be_understood_is_a_value_error() -> None:
    """The server drops who sends it: whatever it is, it is this exception and no other."""
    wrong = []
    for kind, payload in [
        (Kind.RESULTS, b""),
        (Kind.TASKS, b"torn"),
        (Kind.TASKS, encode([(1, 0, 0, b"")])),  # one call, and it says none
        (Kind.OPTIONS, b"[]"),
        (Kind.OPTIONS, b"{"),
        (Kind.OPTIONS, b"\xff"),
        (Kind.OPTIONS, b'{"timeout": "soon"}'),
        (Kind.OPTIONS, b"[" * 100_000),
        (Kind.CONTROL, b"[]"),
        (Kind.CONTROL, b"7"),
        (Kind.CONTROL, b'{"type": "app"}'),
    ]:
        client = Client(trusting=True)
        try:
            client.tell(kind, [(0, 0, 0, payload)])
        except ValueError:
            continue
        except Exception as error:
            wrong.append(f"{kind.name} {payload[:20]!r} is a {error!r:.60}")
        else:
            wrong.append(f"{kind.name} {payload[:20]!r} is taken in")
    assert not wrong, "\n".join(wrong)


@needs_segments
@in_a_loop
async def test_what_the_gateway_has_in_its_memory_is_no_clients_to_name() -> None:
    """It may be another owner's; a container's input may begin with the same bytes, and a call may contain them."""
    segment = segments.Segment.create(Parcel(b"of another owner"))
    assert segment is not None
    reference = segment.reference()
    for kind, records in [
        (Kind.TASKS, [(2, 1, 0, encode([(1, 0, 0, b"call"), (2, 0, 0, reference)]))]),
        (Kind.DEFINE, [(1, int(Definition.OBJECT), 0, reference)]),
    ]:
        client = Client()
        client.options(1)
        with pytest.raises(MalformedBatch, match="memory of the gateway's own"):
            client.tell(kind, records)
    client = Client()
    client.options(1)
    client.submit(1, [1], b"call " + reference)
    client.options(2, container_ref="knn:latest")
    client.submit(2, [2], reference)
    assert (await client.settled(1))[2][0] == Status.REPLY
    assert client.hub.broker.sessions["s"].under_way == 1
    segment.close()


@in_a_loop
async def test_nothing_comes_before_the_setup_and_that_comes_once() -> None:
    """Who begins with something else, or begins twice, is dropped."""
    for kind, records in [(Kind.TASKS, [(1, 0, 0, b"")]), (Kind.SETUP, [(0, 0, 0, b"{}")]), (Kind.KILL, [])]:
        client = Client()
        client.session, _ = client.hub.attach("another", "me", 1, None)
        client.stream = Stream()
        with pytest.raises(MalformedBatch):
            client.tell(kind, list(records))
    client = Client()
    with pytest.raises(MalformedBatch):
        client.tell(Kind.SETUP, SETUP)


@in_a_loop
async def test_a_number_of_any_size_is_an_amount() -> None:
    """JSON has integers of any length, and Python's reads infinity: such a task is refused in words."""
    client = Client()
    for number, amount in enumerate([b"1" + b"0" * 400, b"1e999", b"1e300"]):
        client.tell(Kind.OPTIONS, [(number, 0, 0, b'{"resource": {"memory": ' + amount + b"}}")])
    for number in range(3):
        client.submit(number, [number + 1])
    found = await client.settled(3)
    assert [found[id_][0] for id_ in (1, 2, 3)] == [Status.NO_HOST] * 3


@in_a_loop
async def test_a_torn_batch_is_refused() -> None:
    """A message whose records do not fit together."""
    client = Client()
    (frame,) = client.stream.send(Kind.KILL, encode([(1, 0, 0, b"abc")])[:-1])
    with pytest.raises(MalformedBatch):
        client.hub.on_frame(client.session, frame)


@in_a_loop
async def test_a_session_belongs_to_its_key() -> None:
    """Another key cannot have it; the same one gets it back, with what is in it."""
    client = Client()
    with pytest.raises(SessionRefused, match="belongs to another access key"):
        client.hub.attach("s", "you", 1, None)
    again, resumed = client.hub.attach("s", "me", 1, None, client.session.birth)
    assert again is client.session
    assert resumed


@in_a_loop
async def test_a_blob_belongs_to_its_session() -> None:
    """Another one cannot mention it, not even one of the same owner."""
    client = Client()
    client.tell(Kind.PIECE, [(7, LAST, 0, b"Ksecret")])
    client.tell(Kind.DEFINE, [(7, Definition.OBJECT, 0, mention(7))])
    assert client.session.arrived
    client.session, _ = client.hub.attach("another", "me", 1, None)
    client.stream = Stream()
    client.tell(Kind.SETUP, SETUP)
    with pytest.raises(MalformedBatch, match="blob 7 was never sent"):
        client.tell(Kind.DEFINE, [(7, Definition.OBJECT, 0, mention(7))])


@in_a_loop
async def test_outcomes_wait_while_the_link_is_down() -> None:
    """What ends meanwhile is sent again after the reconnect, once."""
    client = Client()
    client.options(0, container_ref="waits")
    client.submit(0, [1], b"x")
    send = client.session.send
    assert send is not None
    client.hub.detach(client.session, send)
    client.containers.release.set()
    for _ in range(PATIENCE):
        await asyncio.sleep(0)
    assert client.outcomes() == {}
    session, resumed = client.hub.attach("s", "me", 2, None, client.session.birth)
    assert resumed
    client.hub.connect(session, client.frames.append, client.stream.received)
    assert client.outcomes() == {1: (Status.REPLY, b"X")}
    client.hub.connect(session, client.frames.append, client.stream.received)
    assert client.outcomes() == {}


@in_a_loop
async def test_goodbye_ends_a_session() -> None:
    """Its calls are cancelled, and its name is free."""
    client = Client()
    client.options(0, container_ref="waits")
    client.submit(0, [1], b"x")
    await client.until_running(1)
    client.tell(Kind.CONTROL, [(0, 0, 0, b'{"type": "bye"}')])
    for _ in range(PATIENCE):
        await asyncio.sleep(0)
    assert client.hub.sessions == {}
    assert client.containers.running == 0
    _, resumed = client.hub.attach("s", "you", 1, None)
    assert not resumed


@in_a_loop
async def test_a_session_of_another_birth_is_a_new_one() -> None:
    """Its client never had the welcome to the one that is there, so nothing in it is the client's."""
    client = Client()
    first = client.session
    session, resumed = client.hub.attach("s", "me", 2, None, "another")
    assert (session is first, resumed) == (False, False)
    assert session.birth != first.birth
    # What is late of the first one's connection touches nothing.
    client.hub.detach(first, client.frames.append)
    client.hub.end(first)
    client.hub.on_frame(first, b"garbage")
    assert client.hub.sessions == {"s": session}
    again, resumed = client.hub.attach("s", "me", 2, None, session.birth)
    assert (again, resumed) == (session, True)
