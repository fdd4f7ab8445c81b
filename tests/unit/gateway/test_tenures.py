"""Sessions with a name in the hub, without sockets or processes: who has them, and what is told to whom."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from meca_executor.gateway import tenures
from meca_executor.gateway.broker import Broker
from meca_executor.gateway.hub import Hub
from meca_executor.gateway.session import SessionInUse
from meca_executor.gateway.tenures import Claim, claim_of
from meca_executor.wire.records import Kind, Record, Status, decode, encode
from meca_executor.wire.sessions import WHO_LIMIT, State, first_number
from meca_executor.wire.stream import Stream

from .test_hub import PATIENCE, SETUP, Containers, Workers, in_a_loop

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meca_executor.gateway.session import Session

CONTAINER = 1  #: options id


class Gateway:
    """A hub whose containers answer at once, but those that wait."""

    def __init__(self, keep_s: float = 1000.0) -> None:
        self.containers = Containers()
        self.hub = Hub(Broker(2), self.containers, keep_s=keep_s)
        self.hub.start(Workers(), 0)


class Client:
    """One program."""

    def __init__(self, gateway: Gateway, holder: str, *, takeover: bool = False, name: str = "n", owner: str = "me"):
        self.gateway = gateway
        self.holder, self.name, self.owner = holder, name, owner
        self.frames: list[bytes] = []
        self.listing: dict[int, int] = {}
        self.session, self.resumed = self.attach(takeover=takeover)
        self.generation = self.session.now.number
        self.birth = self.session.birth
        self.begin()

    def attach(self, *, takeover: bool = False, birth: str = "") -> tuple[Session, bool]:
        claim = Claim(self.name, self.holder, f"program {self.holder}", takeover)
        return self.gateway.hub.attach(self.holder, self.owner, 2, None, birth, claim)

    def begin(self) -> None:
        self.stream = Stream()
        self.gateway.hub.connect(self.session, self.send, 0)
        self.tell(Kind.SETUP, SETUP)
        for number, fields in ((CONTAINER, {"container_ref": "echo"}), (2, {"container_ref": "waits"})):
            self.tell(Kind.OPTIONS, [(number, 0, 0, json.dumps(fields).encode())])

    def send(self, frame: bytes) -> None:
        self.frames.append(frame)

    def tell(self, kind: Kind, records: list[Record]) -> None:
        for frame in self.stream.send(kind, encode(records)):
            self.gateway.hub.on_frame(self.session, frame)

    def control(self, what: str, **fields: object) -> None:
        self.tell(Kind.CONTROL, [(0, 0, 0, json.dumps({"type": what, **fields}).encode())])

    def submit(self, count: int, tag: int = CONTAINER, start: int = 0) -> list[int]:
        first = first_number(self.generation) + start
        batch = encode((first + place, 0, 0, b"x%d" % place) for place in range(count))
        self.tell(Kind.TASKS, [(count, tag, 0, batch)])
        return list(range(first, first + count))

    def fetch(self, numbers: Iterable[int]) -> None:
        self.tell(Kind.FETCH, [(number, 0, 0, b"") for number in numbers])

    def take(self) -> dict[int, bytes]:
        """Take in what has come, and acknowledge it; returns outcomes."""
        found: dict[int, bytes] = {}
        frames, self.frames = self.frames, []
        for frame in frames:
            message = self.stream.receive(frame)
            if message is not None and message.kind is Kind.LISTING:
                self.listing.update({number: state for number, _, state, _ in decode(message.body) if number})
            elif message is not None:
                found.update({number: payload for number, _, _, payload in decode(message.body)})
        self.gateway.hub.on_frame(self.session, self.stream.acknowledge())
        return found

    async def outcomes(self, count: int) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        for _ in range(PATIENCE):
            found.update(self.take())
            if len(found) >= count:
                break
            await asyncio.sleep(0)
        assert len(found) == count
        return found

    async def recover(self) -> dict[int, int]:
        """Return the states of all tasks."""
        self.listing.clear()
        self.control("recover")
        await asyncio.sleep(0)
        self.take()
        return self.listing

    def drop(self) -> None:
        """The connection is gone."""
        self.gateway.hub.detach(self.session, self.send)


@in_a_loop
async def test_one_has_it_and_another_asks() -> None:
    """While the first is there, or has not been greeted yet, the second is refused; a key of another owner is not."""
    gateway = Gateway()
    first = Client(gateway, "a")
    with pytest.raises(SessionInUse, match=r"session 'n' is in use by program a since \d{4}-.*takeover=True"):
        Client(gateway, "b")
    first.drop()
    gateway.hub.attach("c", "me", 2, None, "", Claim("n", "c", "program c"))
    with pytest.raises(SessionInUse, match="program c"):
        Client(gateway, "b")
    other = Client(gateway, "b", owner="you")
    assert other.session is not first.session
    assert other.generation == 0


@in_a_loop
async def test_the_same_client_comes_back() -> None:
    """With what it knows it resumes; without, for its welcome was lost, it begins anew."""
    gateway = Gateway()
    client = Client(gateway, "a")
    assert client.attach(birth=client.birth) == (client.session, True)
    session, resumed = client.attach()
    assert (session, resumed) == (client.session, False)
    assert session.now.number == 1


@in_a_loop
async def test_a_client_that_was_superseded_stays_so() -> None:
    """Also when the session has been claimed while its link was down, and when it is over."""
    gateway = Gateway()
    first = Client(gateway, "a")
    first.drop()
    second = Client(gateway, "b")
    for _ in range(2):
        with pytest.raises(SessionInUse, match="was taken over by program b at "):
            first.attach(birth=first.birth)
        with pytest.raises(SessionInUse, match="was taken over by program b at "):
            first.attach(birth=first.birth, takeover=True)
        second.control("bye", all=False)
    assert not gateway.hub.sessions


@in_a_loop
async def test_a_client_that_the_gateway_does_not_know() -> None:
    """One that had the session of another life of the gateway does not take it from who has it now, or had it."""
    gateway = Gateway()
    client = Client(gateway, "a")
    stranger = Claim("n", "b", "program b", generation=5)
    with pytest.raises(SessionInUse):
        gateway.hub.attach("b", "me", 2, None, "other", stranger)
    client.control("leave")
    with pytest.raises(SessionInUse):
        gateway.hub.attach("b", "me", 2, None, "other", stranger)
    client.gateway.hub.end(client.session)
    session, resumed = gateway.hub.attach("b", "me", 2, None, "other", stranger)
    assert (session.now.number, resumed) == (5, False)


@in_a_loop
async def test_what_is_told_to_whom() -> None:
    """Open tasks go on; their outcomes are told to the new client when it asks, and its own in any case."""
    gateway = Gateway()
    first = Client(gateway, "a")
    done = first.submit(2)
    assert await first.outcomes(2) == dict(zip(done, (b"X0", b"X1"), strict=True))
    held = first.submit(3, tag=2, start=2)
    unfetched = first.submit(1, start=5)
    first.drop()
    second = Client(gateway, "b")
    gateway.containers.release.set()
    own = second.submit(1)
    assert await second.outcomes(1) == {own[0]: b"X0"}
    states = await second.recover()
    assert set(states) == {*done, *held, *unfetched, *own}
    assert set(states.values()) == {int(State.DONE)}
    second.fetch([*done, *held])
    assert set(await second.outcomes(5)) == {*done, *held}
    second.control("bye", all=False)
    assert gateway.hub.sessions  # one was never fetched
    third = Client(gateway, "c")
    third.fetch(unfetched)
    assert await third.outcomes(1) == {unfetched[0]: b"X0"}
    third.control("bye", all=False)
    assert not gateway.hub.sessions


@in_a_loop
async def test_open_tasks_are_told_when_they_are_done() -> None:
    """To who asked for them."""
    gateway = Gateway()
    first = Client(gateway, "a")
    held = first.submit(2, tag=2)
    first.control("leave")
    second = Client(gateway, "b")
    assert set((await second.recover()).values()) == {int(State.OPEN)}
    second.fetch(held[:1])
    gateway.containers.release.set()
    assert await second.outcomes(1) == {held[0]: b"X0"}
    assert await second.recover() == {held[0]: State.DONE, held[1]: State.DONE}


@in_a_loop
async def test_what_a_client_says_after_it_left() -> None:
    """Is not heard, and does no harm."""
    gateway = Gateway()
    client = Client(gateway, "a")
    client.control("leave")
    client.submit(1)
    gateway.hub.on_frame(client.session, b"garbage")
    second = Client(gateway, "b")
    assert await second.recover() == {}
    assert second.generation == 1


@in_a_loop
async def test_an_outcome_that_is_let_go_of_between_list_and_fetch() -> None:
    """The client hears of it."""
    gateway = Gateway()
    client = Client(gateway, "a")
    numbers = client.submit(2)
    await client.outcomes(2)
    assert await client.recover() == dict.fromkeys(numbers, State.DONE)
    assert client.session.tenure is not None
    client.session.tenure.shelf.let_go()
    client.fetch(numbers)
    assert await client.outcomes(1) == {numbers[1]: b"X1"}
    assert client.listing[numbers[0]] == State.GONE


@in_a_loop
async def test_much_is_told_bit_by_bit() -> None:
    """No more than a limit is on the way, and all of it arrives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tenures, "FEED_BYTES", 200)
        patch.setattr(tenures, "FEED_TASKS", 2)
        gateway = Gateway()
        first = Client(gateway, "a")
        numbers = first.submit(20)
        await first.outcomes(20)
        first.control("leave")
        second = Client(gateway, "b")
        second.take()
        second.fetch(numbers)
        assert 0 < second.session.stream.unacked_bytes < 600
        assert set(await second.outcomes(20)) == set(numbers)


@in_a_loop
async def test_a_session_that_nobody_claims_is_over_in_the_end() -> None:
    """After its own time, which is longer than that of others."""
    gateway = Gateway(keep_s=0.0)
    client = Client(gateway, "a")
    client.submit(1, tag=2)
    await gateway_turns()
    assert gateway.hub.sessions
    client.drop()
    await asyncio.sleep(0.001)
    await gateway_turns()
    assert not gateway.hub.sessions
    assert gateway.containers.running == 0


async def gateway_turns() -> None:
    for _ in range(PATIENCE):
        await asyncio.sleep(0)


@in_a_loop
async def test_results_that_nobody_fetches_have_a_limit() -> None:
    """Tasks of clients that are gone are not started then, until it is fetched; the present one's are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tenures, "WAITING_BYTES", 10)
        gateway = Gateway()
        first = Client(gateway, "a")
        first.tell(Kind.OPTIONS, [(3, 0, 0, b"{}")])
        first.submit(1, tag=3, start=9)  # for a worker
        numbers = first.submit(9)
        await gateway_turns()
        first.control("leave")
        second = Client(gateway, "b")
        await gateway_turns()
        broker = gateway.hub._broker
        old, new = broker.sessions[second.session.id], broker.sessions[second.session.now.id]
        own = second.submit(1)
        await second.outcomes(1)
        assert (old.paused, new.paused) == (True, False)
        second.fetch(numbers)
        await second.outcomes(9)
        assert (old.paused, new.paused) == (False, False)
        assert own


@in_a_loop
async def test_what_is_in_a_past_of_no_use_is_closed() -> None:
    """The broker keeps the sessions of clients that have tasks, and of the present one."""
    gateway = Gateway()
    client = Client(gateway, "a")
    client.submit(1, tag=2)
    for number in range(5):
        client.control("leave")
        client = Client(gateway, f"b{number}")
    assert len(gateway.hub._broker.sessions) == 2
    gateway.containers.release.set()
    await gateway_turns()
    client.control("leave")
    client = Client(gateway, "c")
    assert len(gateway.hub._broker.sessions) == 1
    client.control("bye", all=True)
    assert not gateway.hub._broker.sessions
    assert not gateway.hub._homes


def test_what_a_hello_claims() -> None:
    """Lines and escapes in what a client says of itself do not reach another's terminal."""
    assert claim_of({}, "a") is None
    claim = claim_of({"name": "n", "who": "x\x1b[31m\ny" + "z" * 1000, "takeover": 1, "generation": -1}, "a")
    assert claim is not None
    assert claim.who.startswith("x?[31m y")
    assert len(claim.who) <= WHO_LIMIT
    assert (claim.takeover, claim.generation) == (False, 0)
    with pytest.raises(ValueError, match="is no name"):
        claim_of({"name": "a/b"}, "a")


def test_statuses() -> None:
    """What a shelf takes for lost is what a client would try again."""
    from meca_executor.client.outcomes import TEXT_ERRORS
    from meca_executor.errors import ContainerFailed
    from meca_executor.gateway.shelf import LOST
    from meca_executor.policy.retry import is_lost

    for status, kind in TEXT_ERRORS.items():
        error = kind("why")
        if isinstance(error, ContainerFailed):
            error.lost = status == Status.CONTAINER_LOST
        assert is_lost(error) == (status in LOST), status
