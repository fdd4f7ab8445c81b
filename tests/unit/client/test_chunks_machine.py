"""Chunks and tasks together, in whatever order things happen: each has exactly one outcome, and all is counted."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor import GatewayLost, MecaError
from meca_executor.client.chunks import results
from meca_executor.wire.calls import dumps
from meca_executor.wire.records import Status

from .clients import Client

if TYPE_CHECKING:
    from meca_executor.client.chunks import Chunk
    from meca_executor.client.future import MecaFuture
    from meca_executor.client.tasks import Again
    from meca_executor.wire.records import Record

thoroughly = settings(database=None, deadline=None, derandomize=True, max_examples=200)

OFTEN = ["task", "chunk", "hand over", "records"]
RARELY = ["again", "cancel", "abandon", "kill", "lost", "cancel queued"]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(OFTEN * 2 + RARELY),
        st.integers(0, 10**6),
        st.integers(0, 3),
    ),
    max_size=40,
)
OUTCOMES = (Status.OK, Status.OK, Status.OK, Status.DIED, Status.FAILED, Status.KILLED)


class World:
    """A client whose numbers, once handed over, have an outcome as told; what is handed over carries its origin."""

    def __init__(self, slots: int) -> None:
        self.client = Client(slots=slots)
        self.ledger = self.client.ledger
        self.tasks: list[MecaFuture[Any]] = []
        self.resolved: list[int | None] = []
        self.chunks: list[Chunk] = []
        self.abandoned: set[int] = set()  #: numbers of chunks
        self.seen: list[int] = []  #: numbers handed over, in order
        self.accepted: dict[int, int] = {}  #: numbers -> successes that the ledger took in
        self.delayed: list[Again] = []

    def task(self, number: int) -> None:
        future = self.client.add(retry=number % 3 + 1, payload=bytes(number % 50), kind=(0, number % 2))
        future.add_done_callback(lambda _, number=future.number: self.resolved.append(number))  # type: ignore[misc]
        self.tasks.append(future)

    def chunk(self, number: int) -> None:
        self.chunks.append(self.client.add_chunk(number % 7 + 1, retry=number % 3 + 1, kind=(0, number % 2)))

    def hand_over(self) -> None:
        before = self.out
        handed = self.client.hand_over()
        assert not set(handed) & before, "what is out is not handed over again"
        self.seen += handed

    @property
    def out(self) -> set[int]:
        """Numbers that are out."""
        found = set(self.ledger._out)
        for chunk in self.ledger._chunks.values():
            found |= {chunk.number + index for index in range(chunk.handed) if chunk.is_open(index)}
        return found

    def records(self, number: int, turn: int) -> None:
        """Some outcomes arrive, of what is out, was, or never was, in an order of their own."""
        known = [*self.seen, *(chunk.number + 5 for chunk in self.chunks)]
        if not known:
            return
        chosen = [known[(number + 7 * step * (turn + 1)) % len(known)] for step in range(number % 9 + 1)]
        open_ = self.out
        records: list[Record] = []
        for place, id_ in enumerate([*chosen, *chosen[:turn]]):
            status = OUTCOMES[(number + place) % len(OUTCOMES)]
            if status is Status.OK and id_ in open_:
                self.accepted[id_] = self.accepted.get(id_, 0) + 1
            open_.discard(id_)
            records.append((id_, int(status), number % 1000, dumps(id_) if status is Status.OK else b"words"))
        self.delayed += self.ledger.settle(records)

    def step(self, step: str, number: int, turn: int) -> None:
        if step in ("task", "chunk"):
            getattr(self, step)(number)
        elif step == "hand over":
            self.hand_over()
        elif step == "records":
            self.records(number, turn)
        elif step == "again" and self.delayed:
            self.ledger.again(self.delayed.pop(number % len(self.delayed)).task)
        elif step == "cancel" and self.tasks:
            self.tasks[number % len(self.tasks)].cancel()
        elif step == "abandon" and self.chunks:
            chunk = self.chunks[number % len(self.chunks)]
            chunk.cancel()
            self.abandoned.add(chunk.number)
        elif step == "kill" and self.seen:
            self.ledger.kill(self.seen[number % len(self.seen)])
        elif step == "lost" and not number % 3:
            self.delayed += self.ledger.lost(lambda: GatewayLost("it ended"))
        elif step == "cancel queued" and not number % 5:
            self.ledger.cancel_queued()
        self.check()

    def check(self) -> None:
        """What is out is what the credit counts, to the byte."""
        out = self.out
        assert self.ledger.credit.out == len(out)
        sizes = sum(len(task.payload) for task in self.ledger._out.values())
        for chunk in self.ledger._chunks.values():
            sizes += sum(len(chunk.payloads[index]) for index in range(chunk.handed) if chunk.is_open(index))
        assert self.ledger.credit.out_bytes == sizes
        assert self.ledger.counts[1] == len(out) + len(self.ledger._waiting)

    def run_out(self) -> None:
        """All that is here comes to its end."""
        for _ in range(1000):
            while self.delayed:
                self.ledger.again(self.delayed.pop().task)
            self.hand_over()
            if self.ledger.idle:
                return
            for id_ in sorted(self.out, reverse=True):
                self.accepted[id_] = self.accepted.get(id_, 0) + 1
                self.delayed += self.client.settle_numbers([id_], id_)
        raise AssertionError("the ledger does not come to rest")

    def outcome(self, chunk: Chunk, index: int) -> object:
        """What the map's iterator would give or raise for an item."""
        value = chunk.values[index]
        if not hasattr(value, "future"):
            return value
        try:
            return value.future.result(0)
        except (MecaError, CancelledError) as error:
            return error


@thoroughly
@given(STEPS, st.integers(1, 4), st.booleans())
def test_each_item_and_task_has_exactly_one_outcome(
    steps: list[tuple[str, int, int]], slots: int, broken: bool
) -> None:
    """Duplicates, losses, kills and cancellations in any order; in the end nothing is out and nothing is open."""
    world = World(slots)
    for step in steps:
        world.step(*step)
    if broken:
        world.ledger.fail_all(lambda: GatewayLost("no more"))
        assert world.ledger.idle
    else:
        world.run_out()
        credit = world.ledger.credit
        assert (credit.out, credit.out_bytes, credit._out_us) == (0, 0, 0.0)
    assert world.ledger.counts == (0, 0)
    assert sorted(number or 0 for number in world.resolved) == [future.number for future in world.tasks]
    assert max(world.accepted.values(), default=1) == 1, "a number has one success"
    for chunk in world.chunks:
        for index in range(len(chunk.values)):
            if chunk.number in world.abandoned and index >= chunk.handed:
                continue  # nobody waits for it
            outcome = world.outcome(chunk, index)
            if type(outcome) is int:
                assert outcome in world.accepted, "a result is what was sent under its number"
            else:
                assert isinstance(outcome, (MecaError, CancelledError)), "an item without an outcome"
            if isinstance(outcome, int) and not hasattr(chunk.values[index], "future"):
                assert outcome == chunk.number + index


@thoroughly
@given(st.lists(st.integers(0, 29), min_size=30, max_size=80), st.integers(1, 5), st.data())
def test_results_are_in_their_places_in_whatever_order_they_come(
    order: list[int], message: int, data: st.DataObject
) -> None:
    """Records of one map, shuffled and doubled, in messages of any size."""
    client = Client(slots=100)
    client.short()
    chunks = [client.add_chunk(10) for _ in range(3)]
    numbers = client.hand_over()
    arriving = [numbers[at] for at in [*order, *data.draw(st.permutations(range(30)))]]
    for at in range(0, len(arriving), message):
        records: list[Record] = [(id_, int(Status.OK), 1, dumps(id_)) for id_ in arriving[at : at + message]]
        assert client.ledger.settle(records) == []
    assert list(results(chunks, 0.0)) == numbers
    assert client.ledger.idle
    assert client.ledger.credit.out == 0
