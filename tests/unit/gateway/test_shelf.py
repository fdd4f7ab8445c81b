"""Shelves: what is told, kept and let go of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meca_executor.gateway import shelf as shelf_module
from meca_executor.gateway.shelf import Calls, Shelf, Shelves
from meca_executor.wire.records import COUNTED, MalformedBatch, Record, Status, encode
from meca_executor.wire.sessions import State, first_number

if TYPE_CHECKING:
    from collections.abc import Iterable

OLD, NEW = 0, 1  #: generations
OK, DIED = int(Status.OK), int(Status.DIED)


class Kept:
    """A shelf, and the entries that it does not need any more."""

    def __init__(self) -> None:
        self.released: list[tuple[int, list[int]]] = []
        self.shelf = Shelf(lambda row, gone: self.released.append((row, gone)))

    def add(self, numbers: Iterable[int], most: int | None = 3, generation: int = OLD) -> None:
        batch = encode((number, 0, 0, b"call %d" % number) for number in numbers)
        self.shelf.add(Calls(generation, 5, 7, batch, most))

    def states(self) -> dict[int, int]:
        return {number: state for number, _, state, _ in self.shelf.listing()}


def ended(number: int, status: int = OK, payload: bytes = b"result") -> Record:
    return number, status, 9, payload


def test_who_is_told() -> None:
    """The client its own and what it asked for; lost attempts are told to nobody while there are more."""
    kept, own = Kept(), first_number(NEW)
    kept.add([1, 2, 3, 4])
    kept.add([own, own + 1], generation=NEW)
    kept.shelf.wanted.add(2)
    lost = [ended(number, DIED) for number in (3, 2, own)]
    records = [(0, int(Status.STDOUT), 0, b"printed"), ended(1), ended(2), *lost, ended(own + 1)]
    tell, aside, again = kept.shelf.sort(records, NEW, attended=True)
    assert [record[0] for record in tell] == [0, 2, own, own + 1]
    assert [record[0] for record in aside] == [1]
    assert again == [3, 2]
    assert kept.shelf.sort([ended(own, DIED)], NEW, attended=False).again == [own]  # it cannot do it itself
    assert kept.shelf.sort([(0, int(Status.STDOUT), 0, b"printed")], None, attended=False) == ([], [], [])


@pytest.mark.parametrize(("most", "made"), [(1, 1), (3, 3), (None, 1)])
def test_attempts_of_clients_that_are_gone(most: int | None, made: int) -> None:
    """As many as there may be, if a number says so; the last one tells how many there were."""
    kept = Kept()
    kept.add([1], most)
    for attempt in range(1, made):
        assert kept.shelf.sort([ended(1, DIED)], NEW, attended=True).again == [1]
        calls, record = kept.shelf.call(1)
        assert (calls.tag, calls.reference, record) == (5, 7, (1, attempt, 0, b"call 1"))
    ((number, status, count, _),) = kept.shelf.sort([ended(1, DIED)], NEW, attended=True).aside
    assert number == 1
    assert (status, count) == ((DIED, 9) if made == 1 else (DIED | COUNTED, made))


def test_what_nobody_fetched_is_never_let_go_of() -> None:
    """The oldest that was fetched is the first; what the journal has of it goes on to name it."""
    kept = Kept()
    kept.add(range(1, 7))
    kept.shelf.settle([ended(1), ended(2)], 10, 1)
    kept.shelf.settle([ended(3), ended(4)], 11, 2)
    kept.shelf.settle([ended(5)], 12, None)
    assert kept.shelf.kept == 0
    kept.shelf.acknowledged(1)
    kept.shelf.acknowledged(2)
    assert (kept.shelf.kept, kept.shelf.fetched_bytes, kept.shelf.waiting_bytes) == (4, 24, 6)
    kept.shelf.let_go()
    assert kept.released == []
    kept.shelf.let_go()
    assert kept.released == [(10, [1, 2])]
    assert kept.states() == {1: State.GONE, 2: State.GONE, 3: State.DONE, 4: State.DONE, 5: State.DONE, 6: State.OPEN}
    assert not kept.shelf.finished


def test_a_task_that_is_tried_again_is_open_again() -> None:
    """And the journal does not need the outcome of its first attempt."""
    kept = Kept()
    kept.add([1])
    kept.shelf.settle([ended(1, DIED)], 10, 1)
    kept.shelf.acknowledged(1)
    assert kept.shelf.finished
    kept.add([1])
    assert kept.released == [(10, [])]
    assert kept.states() == {1: State.OPEN}
    kept.shelf.settle([ended(1)], 11, 2)
    assert not kept.shelf.finished
    kept.shelf.acknowledged(2)
    assert kept.shelf.finished


def test_numbers_that_are_not_the_clients_own() -> None:
    with pytest.raises(MalformedBatch, match="none of the client's own"):
        Kept().add([first_number(NEW)], generation=OLD)


def test_all_shelves_share_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has the most lets go, in bytes and in number."""
    small, large = Kept(), Kept()
    shelves = Shelves(most_bytes=100)
    shelves.shelves += [small.shelf, large.shelf]
    for kept, size in ((small, 10), (large, 40)):
        kept.shelf.settle([ended(number, payload=bytes(size)) for number in range(1, 4)], 0, 1)
        kept.shelf.acknowledged(1)
    shelves.tidy()
    assert (small.shelf.kept, large.shelf.kept) == (3, 1)
    monkeypatch.setattr(shelf_module, "FETCHED_BYTES", 2 * shelf_module.ITEM_BYTES)
    fewer = Shelves(most_bytes=100)
    fewer.shelves = shelves.shelves
    fewer.tidy()
    assert (small.shelf.kept, large.shelf.kept) == (1, 1)


Act = tuple[str, int]


@given(st.lists(st.tuples(st.sampled_from(["add", "settle", "aside", "fetch", "go", "claim"]), st.integers(1, 5))))
def test_it_counts_right(acts: list[Act]) -> None:
    """Whatever happens in whatever order, sums are those of what is there, and entries are released once."""
    kept, frame, row, alive = Kept(), 0, 0, set[int]()
    shelf = kept.shelf
    for what, number in acts:
        if what == "add":
            kept.add([number])
        elif what in ("settle", "aside"):
            row += 1
            alive.add(row)
            frame += what == "settle"
            shelf.settle([ended(number, payload=bytes(number))], row, frame if what == "settle" else None)
        elif what == "fetch":
            shelf.acknowledged(frame)
        elif what == "go" and shelf.kept:
            shelf.let_go()
        elif what == "claim":
            shelf.claimed()
        for released, _ in kept.released:
            alive.remove(released)  # a KeyError when it is not the first time
        kept.released.clear()
        items = [item for number in range(1, 6) if (item := shelf.item(number)) is not None]
        done = [item for item in items if not item.open]
        assert shelf.fetched_bytes == sum(item.size for item in done if item.fetched)
        assert shelf.waiting_bytes == sum(item.size for item in done if not item.fetched)
        assert shelf.finished == all(not item.open and item.fetched for item in items)
        assert {item.row for item in done} == alive
        assert len(kept.states()) == len(shelf)
