"""A gateway's view of a host's workers and the host's agent, joined by a channel in memory."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.errors import MecaError
from meca_executor.runtimes import agent, remote
from meca_executor.runtimes.agent import LOOK_S, Agent
from meca_executor.runtimes.remote import RemoteWorkers
from meca_executor.wire import segments
from meca_executor.wire.blobs import pieces
from meca_executor.wire.hosting import pack_piece
from meca_executor.wire.lending import LENT, Lender
from meca_executor.wire.parcels import Parcel, unpack
from meca_executor.wire.payloads import check_room, dump, held_by, load
from meca_executor.wire.printed import mark
from meca_executor.wire.records import Definition, Kind, MalformedBatch, Outcomes, Status, decode, encode

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from meca_executor.runtimes.processes import Events

needs_segments = pytest.mark.skipif(not segments.available(), reason="shared memory of this kind is Linux's")
LARGE = bytes(range(256)) * 2048  # 512 KiB


class LocalWorkers:
    """The workers of a host, which do nothing by themselves."""

    def __init__(self, events: Events) -> None:
        self.events = events
        self.did: list[tuple[Any, ...]] = []
        self.running: dict[int, tuple[int, float]] = {}

    def spawn(self, worker: int) -> None:
        self.did.append(("spawn", worker))

    def send(self, worker: int, kind: Kind, batch: bytes) -> None:
        self.did.append(("send", worker, kind, decode(batch)))

    def revoke(self, worker: int, start: int, stop: int) -> None:
        self.did.append(("revoke", worker, start, stop))

    def stop(self, worker: int) -> None:
        self.did.append(("stop", worker))

    def kill(self, worker: int) -> None:
        self.did.append(("kill", worker))

    def look(self) -> None:
        for worker, (started, since) in self.running.items():
            self.events.on_look(worker, started, since)

    async def close(self) -> None: ...


class Pair:
    """Both ends, the messages on their way, and what the gateway was told."""

    def __init__(self) -> None:
        self.down: deque[bytes] = deque()
        self.up: deque[bytes] = deque()
        self.told: list[tuple[Any, ...]] = []
        self.leaving: list[bool] = []
        self.released = 0
        self.readable = {os.getpid()}
        self.remote = RemoteWorkers(self, "box", self.down.append, self.leaving.append, self.readable.__contains__)
        self.room = True
        self.agent = Agent(self._start, self.up.append, has_room=lambda: self.room)
        self.agent.on_leave = self._release

    def _start(self, events: Events) -> LocalWorkers:
        self.local = LocalWorkers(events)
        return self.local

    def _release(self) -> None:
        self.released += 1

    def on_outcomes(self, worker: int, outcomes: Outcomes) -> None:
        self.told.append(("outcomes", worker, outcomes))

    def on_setup_failed(self, worker: int, text: str) -> None:
        self.told.append(("setup failed", worker, text))

    def on_printed(self, worker: int, stream: Status, text: bytes) -> None:
        self.told.append(("printed", worker, stream, text))

    def on_look(self, worker: int, started: int, since: float) -> None:
        self.told.append(("look", worker, started, since))

    def on_end(self, worker: int, started: int, how: str) -> None:
        self.told.append(("end", worker, started, how))

    async def carry(self) -> None:
        """Let everything arrive that is on its way."""
        for _ in range(3):
            await asyncio.sleep(0)
            while self.down:
                self.agent.on_message(self.down.popleft())
            while self.up:
                self.remote.on_message(self.up.popleft())

    def looks(self) -> list[int]:
        """Return what was told of looks: the ordinal behind the one that runs."""
        return [told[2] for told in self.told if told[0] == "look"]

    async def run_calls(self, worker: int = 5, calls: int = 1) -> int:
        """Start a worker and give it calls; returns its number at the host."""
        self.remote.spawn(worker)
        self.remote.send(worker, Kind.CALLS, encode([(1, 0, 0, encode((n, 0, 0, b"call") for n in range(calls)))]))
        await self.carry()
        return int(next(did[1] for did in reversed(self.local.did) if did[0] == "spawn"))


def in_a_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test's coroutine."""

    @functools.wraps(test)
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 60.0))

    return run


@in_a_loop
async def test_orders_are_carried_out_in_their_order() -> None:
    """Each worker has a number of the host's own."""
    pair = Pair()
    pair.remote.spawn(5)
    pair.remote.send(5, Kind.SETUP, encode([(0, 0, 0, b"{}"), (0, 0, 0, b"")]))
    pair.remote.revoke(5, 3, 9)
    pair.remote.stop(5)
    pair.remote.kill(5)
    pair.remote.kill(6)  # nobody knows it
    await pair.carry()
    (_, number), *others = pair.local.did
    setup = [(0, 0, 0, b"{}"), (0, 0, 0, b"")]
    assert others == [("send", number, Kind.SETUP, setup), ("revoke", number, 3, 9), ("stop", number), ("kill", number)]


@in_a_loop
async def test_what_happens_is_told_under_the_gateways_numbers() -> None:
    """The end names the host."""
    pair = Pair()
    number = await pair.run_calls()
    outcomes = Outcomes(encode([(7, 0, 1, b"result")]), 1, 1, plain=True)
    pair.agent.on_printed(number, Status.STDERR, b"text")
    pair.agent.on_outcomes(number, outcomes)
    pair.agent.on_setup_failed(number, "why")
    pair.agent.on_end(number, 2, "it exited")
    pair.agent.on_end(number, 2, "again")  # nobody knows it any more
    await pair.carry()
    assert pair.told == [
        ("printed", 5, Status.STDERR, b"text"),
        ("outcomes", 5, outcomes),
        ("setup failed", 5, "why"),
        ("end", 5, 2, "it exited, on host box"),
    ]


@in_a_loop
async def test_looks_are_told_when_another_call_runs_and_repeated_here() -> None:
    """The host says for how long it has run; the gateway goes on counting, but for what may be old."""
    pair = Pair()
    number = await pair.run_calls(calls=3)
    began = time.monotonic() - 5.0
    for _ in range(3):
        pair.agent.on_look(number, 2, began)
    await pair.carry()
    assert pair.looks() == [2]
    pair.remote.look()
    assert pair.looks() == [2, 2]
    assert all(4.0 < time.monotonic() - told[3] < 60.0 for told in pair.told)
    pair.agent.on_look(number, 3, time.monotonic())
    await pair.carry()
    assert pair.looks() == [2, 2, 3]


@in_a_loop
async def test_a_look_from_before_a_revocation_does_not_count() -> None:
    """Else a call that has just begun would be taken for one that has not."""
    pair = Pair()
    number = await pair.run_calls(calls=3)
    pair.agent.on_look(number, 1, time.monotonic())
    await pair.carry()
    pair.remote.revoke(5, 2, 4)
    pair.remote.look()
    pair.agent.on_look(number, 2, time.monotonic())  # crosses the order
    await pair.carry()
    assert pair.looks() == [1]
    pair.agent.on_look(number, 3, time.monotonic())  # the worker may not have read it yet
    await pair.carry()
    assert pair.looks() == [1]
    pair.agent.on_look(number, 3, time.monotonic())
    await pair.carry()
    assert pair.looks() == [1, 3]


@in_a_loop
async def test_nothing_is_judged_while_the_link_is_down() -> None:
    """When it is back the host tells anew what runs."""
    pair = Pair()
    number = await pair.run_calls()
    pair.local.running[number] = 2, time.monotonic()
    pair.agent.on_look(number, 2, time.monotonic())
    await pair.carry()
    pair.remote.away(True)
    pair.remote.look()
    assert pair.looks() == [2]
    pair.remote.away(False)
    pair.remote.look()
    assert pair.looks() == [2], "nothing is known yet"
    pair.agent.resumed()
    while len(pair.looks()) < 2:
        await asyncio.sleep(LOOK_S)
        await pair.carry()


@needs_segments
@in_a_loop
async def test_calls_in_shared_memory_are_read_out() -> None:
    """Small ones beside them stay as they are; what cannot be read says so in its place."""
    segment = segments.Segment.create(Parcel(LARGE))
    assert segment is not None
    reference = segment.reference()
    pair = Pair()
    small, large = await arrived(pair, b"small", reference)
    assert small == b"small"
    assert bytes(unpack(large)[0]) == LARGE
    segment.close()
    (gone,) = await arrived(pair, reference)
    assert b"shared memory" in gone


async def arrived(pair: Pair, *calls: bytes) -> list[bytes]:
    """Return the payloads of calls as a worker of the host gets them."""
    pair.local.did.clear()
    pair.remote.spawn(5)
    pair.remote.send(5, Kind.CALLS, encode([(1, 0, 0, encode((n, 0, 0, call) for n, call in enumerate(calls)))]))
    await pair.carry()
    ((_, _, _, batch),) = next(did[3] for did in pair.local.did if did[0] == "send")
    return [payload for _, _, _, payload in decode(batch)]


@needs_segments
@in_a_loop
async def test_memory_that_is_not_the_clients_is_not_read_out() -> None:
    """A client names any process that it likes; what lies there may be another owner's."""
    segment = segments.Segment.create(Parcel(LARGE))
    assert segment is not None
    pair = Pair()
    pair.readable.clear()
    (call,) = await arrived(pair, segment.reference())
    pair.remote.send(5, Kind.DEFINE, encode([(1, Definition.OBJECT, 0, segment.reference())]))
    await pair.carry()
    ((_, _, _, defined),) = pair.local.did[-1][3]
    for payload in (call, defined):
        with pytest.raises(MecaError, match="not its client's"):
            check_room(payload)
    segment.close()


@in_a_loop
async def test_what_is_no_reference_is_an_error_of_its_own_call() -> None:
    """A client may send anything; whoever's turn it is meanwhile has no part in it."""
    pair = Pair()
    pair.remote.spawn(5)
    pair.remote.send(5, Kind.CALLS, encode([(1, 0, 0, encode([(7, 0, 0, b"M, and no reference")]))]))
    for number, payload in ((1, b""), (2, b"M, and no reference")):
        pair.remote.send(5, Kind.DEFINE, encode([(number, Definition.OBJECT, 0, payload)]))
    await pair.carry()
    calls, empty, defined = (did[3] for did in pair.local.did if did[0] == "send")
    ((_, _, _, call),) = decode(calls[0][3])
    assert empty == [(1, Definition.OBJECT, 0, b"")]
    for payload in (call, defined[0][3]):
        with pytest.raises(MecaError, match="a reference to shared memory has"):
            check_room(payload)


@needs_segments
@in_a_loop
async def test_what_is_too_large_to_travel_costs_no_host() -> None:
    """Either end would take it for garbage, and drop the other with all that runs there."""
    with pytest.MonkeyPatch.context() as patch:
        for side in (remote, agent):
            patch.setattr(side, "MESSAGE_LIMIT", 100_000)
        await too_large()


async def too_large() -> None:
    pair = Pair()
    number = await pair.run_calls()
    pair.remote.send(5, Kind.DEFINE, encode([(1, Definition.OBJECT, 0, dump(LARGE, None))]))
    held = dump(LARGE, Lender())
    adopted = held_by(segments.open_segment(held))
    adopted.lent_as = bytes(held)
    batch = encode([(7, Status.OK | LENT, 3, adopted)])
    pair.agent.on_outcomes(number, Outcomes(batch, 1, 3, plain=True, shared=adopted))
    await pair.carry()
    _, freed, defined = (did[3] for did in pair.local.did if did[0] == "send")
    with pytest.raises(MecaError, match="100,000 can travel to another host"):
        check_room(defined[0][3])
    assert freed == [(0, Definition.FREED, 0, bytes(held))]
    ((_, _, outcomes),) = pair.told
    ((_, status, _, text),) = decode(outcomes.batch)
    assert (status, outcomes.shared) == (Status.TOO_LARGE, None)
    assert b"100,000 can travel from another host" in text


@in_a_loop
async def test_a_host_cannot_fill_the_gateways_memory_with_blobs() -> None:
    """Each is that of a result, which comes before the next one."""
    pair = Pair()
    await pair.run_calls()
    with pytest.raises(MalformedBatch, match="that no result mentions"):
        for number in range(1, 100):
            for piece in pieces(number, [b"content"]):
                pair.remote.on_message(pack_piece(piece))


@needs_segments
@in_a_loop
async def test_a_large_object_is_sent_once_for_all_workers_of_a_host() -> None:
    """And kept there until the last one forgets it."""
    pair = Pair()
    payload = dump(LARGE, None)
    sent = 0
    for worker in (1, 2):
        pair.remote.spawn(worker)
        pair.remote.send(worker, Kind.DEFINE, encode([(77, Definition.OBJECT, 0, payload)]))
        await asyncio.sleep(0)
        sent += sum(map(len, pair.down))
        await pair.carry()
    assert len(payload) < sent < 2 * len(payload)
    defined = [did[3][0] for did in pair.local.did if did[0] == "send"]
    assert [load(record[3]) for record in defined] == [LARGE, LARGE]
    for worker in (1, 2):
        assert len(pair.agent._blobs) == 1
        pair.remote.send(worker, Kind.DEFINE, encode([(77, Definition.FORGET, 0, b"")]))
        await pair.carry()
    assert pair.agent._blobs == {}
    pair.agent.reset()


@needs_segments
@in_a_loop
async def test_a_large_result_comes_into_the_gateways_memory() -> None:
    """The worker that lent its own has it back at once."""
    pair = Pair()
    number = await pair.run_calls()
    held = dump(LARGE, Lender())
    copy = segments.open_segment(held)
    adopted = held_by(copy)
    adopted.lent_as = bytes(held)
    batch = encode([(7, Status.OK | LENT, 3, adopted)])
    pair.agent.on_outcomes(number, Outcomes(batch, 1, 3, plain=True, shared=adopted))
    await pair.carry()
    ((_, worker, outcomes),) = pair.told
    assert (worker, outcomes.total, outcomes.micros) == (5, 1, 3)
    assert outcomes.shared is not None and outcomes.shared.lender == 0
    assert load(outcomes.shared) == LARGE
    assert decode(outcomes.batch)[0][1] == Status.OK
    assert pair.local.did[-1] == ("send", number, Kind.DEFINE, [(0, Definition.FREED, 0, bytes(held))])
    outcomes.shared.segment.close()


@in_a_loop
async def test_a_host_that_begins_anew_tells_nothing_of_before() -> None:
    """Its old workers are killed; a new one may have the number of an old one."""
    pair = Pair()
    old = await pair.run_calls()
    pair.agent.reset()
    assert ("kill", old) in pair.local.did
    new = await pair.run_calls()
    assert new != old
    pair.agent.on_end(old, 1, "killed")
    pair.agent.on_outcomes(old, Outcomes(encode([(7, 0, 1, b"late")]), 1, 1, plain=True))
    await pair.carry()
    assert pair.told == []


@in_a_loop
async def test_leaving_is_asked_for_granted_and_announced() -> None:
    """A host asks; the gateway lets it go; or it goes at once."""
    pair = Pair()
    pair.agent.leave(drain=True)
    await pair.carry()
    pair.remote.let_leave()
    await pair.carry()
    assert (pair.leaving, pair.released) == ([True], 1)
    pair.agent.leave(drain=False)
    await pair.carry()
    assert pair.leaving == [True, False]


@in_a_loop
async def test_garbage_is_refused_on_both_sides() -> None:
    """By one error, at which the link is dropped."""
    pair = Pair()
    await pair.run_calls()
    for end in (pair.remote, pair.agent):
        for garbage in (b"", b"what", b"Rshort"):
            with pytest.raises(MalformedBatch):
                end.on_message(garbage)
    with pytest.raises(ValueError, match="99"):
        pair.agent.on_message(b"R" + encode([(5, 99, 0, b"")]))


@pytest.mark.parametrize(
    "outcomes",
    [
        Outcomes(encode([(7, 0, 1, b"")] * 3), 3, 1, plain=True),
        Outcomes(encode([(7, 0, 1, b"")]), 2, 1, plain=True),
        Outcomes(b"half a record", 1, 1, plain=True),
    ],
    ids=["more than calls", "fewer than told", "garbage"],
)
def test_outcomes_that_cannot_be_are_refused_before_they_count(outcomes: Outcomes) -> None:
    """The gateway loses no call by them: it gives up the host, and its calls are made again."""

    @in_a_loop
    async def refused() -> None:
        pair = Pair()
        number = await pair.run_calls(calls=2)
        pair.agent.on_outcomes(number, outcomes)
        with pytest.raises(MalformedBatch):
            await pair.carry()
        assert pair.told == []

    refused()


@in_a_loop
async def test_what_is_printed_while_there_is_no_room_is_counted() -> None:
    """What comes next is its own task's, as marked in what was left out."""
    pair = Pair()
    number = await pair.run_calls()
    pair.agent.on_printed(number, Status.STDOUT, mark(1) + b"one\n")
    pair.room = False
    pair.agent.on_printed(number, Status.STDOUT, b"lost\n" + mark(2) + b"too\n")
    pair.agent.on_printed(number, Status.STDOUT, b"more\n")
    pair.room = True
    pair.agent.on_printed(number, Status.STDERR, b"err\n")
    pair.agent.on_printed(number, Status.STDOUT, b"of 2\n")
    pair.agent.on_printed(number, Status.STDOUT, b"again\n")
    await pair.carry()
    left = b"[14 bytes were left out: they could not be sent]\n" + mark(2)
    told = [(stream, text) for what, _, stream, text in pair.told if what == "printed"]
    assert told == [
        (Status.STDOUT, mark(1) + b"one\n"),
        (Status.STDERR, b"err\n"),
        (Status.STDOUT, left + b"of 2\n"),
        (Status.STDOUT, b"again\n"),
    ]


@pytest.mark.parametrize("end", [True, False], ids=["the worker ends", "the link is back"])
def test_that_text_was_left_out_is_told_although_nothing_follows(end: bool) -> None:
    async def test() -> None:
        pair = Pair()
        number = await pair.run_calls()
        pair.room = False
        pair.agent.on_printed(number, Status.STDERR, b"lost\n")
        if end:
            pair.agent.on_end(number, 1, "it exited")
        else:
            pair.agent.resumed()
        await pair.carry()
        text = b"[5 bytes were left out: they could not be sent]\n"
        assert pair.told[0] == ("printed", 5, Status.STDERR, text)

    in_a_loop(test)()


@in_a_loop
async def test_text_of_no_stream_is_refused() -> None:
    """A host cannot say of a session that it is broken by calling that a stream."""
    pair = Pair()
    number = await pair.run_calls()
    pair.agent.on_printed(number, Status.BROKEN, b"text")
    with pytest.raises(MalformedBatch):
        await pair.carry()
    assert pair.told == []
