"""Books: what is needed still, and what a later gateway makes of it, whenever the one before ends."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meca_executor.gateway.books import (
    DONE,
    OUTCOMES,
    STARTED,
    Books,
    History,
    ids_of_tasks,
    pack_ids,
)
from meca_executor.gateway.journal import Entry
from meca_executor.wire.records import COUNTED, Definition, Kind, Status, decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

MANY, ONCE, UNKNOWN = 0, 1, 2  #: options ids: three attempts, one, and as many as only the client knows
OPTIONS = encode([(MANY, 0, 0, b'{"attempts": 3}'), (ONCE, 0, 0, b'{"attempts": 1}'), (UNKNOWN, 0, 0, b"{}")])


def tasks(tag: int, ids: Iterable[int], before: dict[int, int]) -> bytes:
    """The body of a message with one group of tasks, which had so many attempts before."""
    calls = [(id_, before.get(id_, 0), 0, b"call") for id_ in ids]
    return encode([(len(calls), tag, 0, encode(calls))])


def results(ids: Iterable[int], status: int = Status.OK) -> bytes:
    return encode((id_, status, 5, b"result") for id_ in ids)


class Gateway:
    """Books and the entries that a journal would have."""

    def __init__(self, entries: dict[int, Entry] | None = None, life: int = 1) -> None:
        self.entries = entries if entries is not None else {}
        self.life = life
        self.books = Books()
        self.rows = itertools.count(max(self.entries, default=0) + 1)

    def add(self, what: int, body: bytes, number: int = 0) -> int:
        row = next(self.rows)
        self.entries[row] = Entry(row, what, number, body)
        return row

    def submit(self, tag: int, ids: list[int], **before: int) -> None:
        row = self.add(Kind.TASKS, tasks(tag, ids, {int(id_): count for id_, count in before.items()}))
        self.books.tasks(row, ids)

    def start(self, ids: list[int]) -> None:
        self.books.note(self.add(STARTED, pack_ids(ids), self.life), ids)

    def end(self, ids: list[int], status: int = Status.OK) -> int:
        row = self.add(OUTCOMES, results(ids, status))
        self.books.outcomes(row, ids)
        return row

    def fetch(self, row: int) -> None:
        named, not_needed = self.books.fetched(row)
        if named:
            self.entries[row] = Entry(row, DONE, 0, pack_ids(named))
        for old in not_needed:
            del self.entries[old]

    def history(self) -> History:
        return History(self.entries[row] for row in sorted(self.entries))

    def next(self) -> Gateway:
        """The gateway that is started after this one was killed."""
        later = Gateway(dict(self.entries), self.life + 1)
        self.history().fill(later.books)
        return later


def to_run(history: History) -> list[int]:
    return [id_ for kind, _, body in history.left().messages if kind == Kind.TASKS for id_ in ids_of_tasks(body)]


def lost(history: History) -> dict[int, int]:
    """Tasks that are not run again, with the attempts so far."""
    records = decode(history.left().lost)
    assert all(status == Status.LOST | COUNTED for _, status, _, _ in records)
    return {id_: used for id_, _, used, _ in records}


def test_what_was_queued_goes_on_and_what_was_done_does_not() -> None:
    """Of five tasks one is done and fetched, one done, one runs: the others and that one are run."""
    gateway = Gateway()
    gateway.add(Kind.OPTIONS, OPTIONS)
    gateway.submit(MANY, [1, 2, 3, 4, 5])
    gateway.start([1, 2, 3])
    gateway.fetch(gateway.end([1]))
    row = gateway.end([2])
    history = gateway.history()
    assert to_run(history) == [3, 4, 5]
    assert [entry.row for entry in history.outcomes] == [row]
    assert history.used == {3: 1}
    assert lost(history) == {}


def test_what_ran_is_run_again_within_its_attempts() -> None:
    """Three for the first kind, one for the second; where only the client knows, it is asked."""
    gateway = Gateway()
    gateway.add(Kind.OPTIONS, OPTIONS)
    for tag, id_ in ((MANY, 1), (ONCE, 2), (UNKNOWN, 3)):
        gateway.submit(tag, [id_, id_ + 10])
        gateway.start([id_])
    assert to_run(gateway.history()) == [1, 11, 12, 13]
    assert lost(gateway.history()) == {2: 1, 3: 1}
    for used in (2, 3):
        gateway = gateway.next()
        gateway.start([1])
        assert gateway.history().used[1] == used
    assert 1 not in to_run(gateway.history())
    assert lost(gateway.history())[1] == 3


def test_twice_started_by_one_gateway_is_one_attempt() -> None:
    """A call that a worker gave back is started again by another one."""
    gateway = Gateway()
    gateway.add(Kind.OPTIONS, OPTIONS)
    gateway.submit(MANY, [1])
    gateway.start([1])
    gateway.start([1])
    assert gateway.history().used == {1: 1}


def test_an_attempt_of_the_clients_counts() -> None:
    """It was told that the first one was lost, and sent the task again."""
    gateway = Gateway()
    gateway.add(Kind.OPTIONS, OPTIONS)
    gateway.submit(MANY, [1, 2])
    gateway.start([1])
    gateway.fetch(gateway.end([1], Status.DIED))
    gateway.submit(MANY, [1], **{"1": 1})
    assert sorted(to_run(gateway.history())) == [1, 2]
    gateway.start([1])
    assert gateway.history().used == {1: 2}
    gateway = gateway.next()
    gateway.start([1])
    assert lost(gateway.history()) == {1: 3}


def test_a_killed_task_is_killed_again() -> None:
    """The client's word is kept until the outcome is fetched."""
    gateway = Gateway()
    gateway.submit(MANY, [1])
    gateway.books.note(gateway.add(Kind.KILL, encode([(1, 0, 0, b"")])), [1])
    assert [kind for kind, _, _ in gateway.history().left().messages] == [Kind.TASKS, Kind.KILL]
    later = gateway.next()
    later.fetch(later.end([1], Status.KILLED))
    assert later.entries == {}


def test_an_object_is_there_until_it_is_forgotten() -> None:
    """Also for a later gateway."""
    gateway = Gateway()
    row = gateway.add(Kind.DEFINE, encode([(77, Definition.OBJECT, 0, b"large")]))
    gateway.books.object(row, 77)
    later = gateway.next()
    assert later.books.rows == {row}
    assert later.books.forgotten(77) == [row]
    assert later.books.forgotten(77) == []


class Life(RuleBasedStateMachine):
    """A client and its gateways: whatever happens, no open task is missing and no finished one comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.gateway = Gateway()
        self.gateway.add(Kind.OPTIONS, OPTIONS)
        self.numbers = itertools.count(1)
        self.open: dict[int, int] = {}  # task -> options id; without an outcome
        self.lost: dict[int, int] = {}  # the client knows that its attempt was lost, and may send it again
        self.ended: list[tuple[int, list[int], int]] = []  # outcomes on their way: entry, tasks, status
        self.tags: dict[int, int] = {}
        self.before: Counter[int] = Counter()  # attempts before the present one, as the client counts
        self.begun: defaultdict[int, set[int]] = defaultdict(set)  # lives in which the present one was begun

    @rule(tag=st.sampled_from([MANY, ONCE, UNKNOWN]), count=st.integers(1, 4))
    def submit(self, tag: int, count: int) -> None:
        ids = [next(self.numbers) for _ in range(count)]
        self.gateway.submit(tag, ids)
        self.open.update(dict.fromkeys(ids, tag))

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def submit_again(self, data: st.DataObject) -> None:
        id_ = data.draw(st.sampled_from(sorted(self.lost)))
        tag = self.lost.pop(id_)
        others = [next(self.numbers)]
        self.gateway.submit(tag, [id_, *others], **{str(id_): self.before[id_]})
        self.open.update(dict.fromkeys([id_, *others], tag))

    def some_open(self, data: st.DataObject) -> list[int]:
        return data.draw(st.lists(st.sampled_from(sorted(self.open)), min_size=1, unique=True))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        ids = self.some_open(data)
        self.gateway.start(ids)
        for id_ in ids:
            self.begun[id_].add(self.gateway.life)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), status=st.sampled_from([Status.OK, Status.DIED]))
    def end(self, data: st.DataObject, status: int) -> None:
        ids = self.some_open(data)
        self.ended.append((self.gateway.end(ids, status), ids, status))
        for id_ in ids:
            self.tags[id_] = self.open.pop(id_)
            self.before[id_] += len(self.begun.pop(id_, {0}))  # as the client will count

    @precondition(lambda self: self.ended)
    @rule()
    def fetch(self) -> None:
        row, ids, status = self.ended.pop(0)
        self.gateway.fetch(row)
        if status != Status.OK:
            self.lost.update((id_, self.tags[id_]) for id_ in ids)

    @rule()
    def kill(self) -> None:
        """The gateway is killed, and another one started; the client waits with what it could send again."""
        history = self.gateway.history()
        again, over = to_run(history), lost(history)
        assert Counter(again + list(over)) == Counter(self.open.keys())
        made = {id_: self.before[id_] + len(self.begun[id_]) for id_ in self.open if self.begun.get(id_)}
        assert history.used == made
        assert all(self.open[id_] != MANY or used >= 3 for id_, used in over.items())
        assert all(self.open[id_] == MANY and made[id_] < 3 for id_ in again if id_ in made)
        assert not {id_ for id_ in again if self.open[id_] != MANY} & history.used.keys()
        self.gateway = self.gateway.next()
        if over:
            row = self.gateway.end(list(over), Status.LOST)
            self.ended.append((row, list(over), Status.LOST))
            for id_ in over:
                self.tags[id_] = self.open.pop(id_)
                self.before[id_] = over[id_]
                del self.begun[id_]

    @invariant()
    def what_is_not_fetched_is_there(self) -> None:
        found = {entry.row for entry in self.gateway.history().outcomes}
        assert found == {row for row, _, _ in self.ended}

    @invariant()
    def nothing_is_kept_in_vain(self) -> None:
        if not self.open and not self.ended:
            assert self.gateway.books.rows == set()
            assert [entry.what for entry in self.gateway.entries.values()] == [Kind.OPTIONS]


Life.TestCase.settings = settings(
    database=None, deadline=None, derandomize=True, max_examples=200, stateful_step_count=30
)
TestLife = Life.TestCase
