"""Shelves: the tasks of sessions that have a name, and what became of them, for who claims the session later.

Pure. A shelf has each task of its session: open ones with their calls, which may have to be made again while no client
is there to do it, and the outcomes of the others, also when a client has fetched them. What nobody has fetched is
always kept; of what was fetched all shelves together keep so much; the one that has the most lets go of its oldest.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ..wire.records import COUNTED, HEADER_BYTES, MalformedBatch, Record, Status, starts, unpack_header
from ..wire.sessions import Reading, State, generation_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

FETCHED_BYTES = 256 << 20  #: of outcomes that were fetched before, in memory; with a journal, on disk, a quarter of it
ITEM_BYTES = 256  #: that a task takes here besides
LOST = frozenset({Status.DIED, Status.LOST, Status.CONTAINER_LOST})  #: through no fault of the task's own
STATUS = 0xFF  #: the rest are flags


class Calls(NamedTuple):
    """Calls of one kind, as they came."""

    generation: int
    tag: int  #: options id
    reference: int  #: definition id
    batch: bytes
    most: int | None  #: attempts that each may have; None: only its client knows


class Item:
    """One task."""

    __slots__ = ("at", "calls", "fetched", "micros", "payload", "row", "size", "status", "told", "used")

    def __init__(self, calls: Calls | None, at: int, used: int) -> None:
        self.calls = calls  #: where its call is; None: it is done
        self.at = at
        self.used = used  #: attempts, the present one included
        self.told = used  #: of them, those that its client knows of
        self.status = 0
        self.micros = 0
        self.size = 0  #: of its outcome
        self.payload: bytes | None = None  #: None: open, or in the journal
        self.row = 0  #: the journal's entry with its outcome
        self.fetched = False

    @property
    def open(self) -> bool:
        """Whether it has no outcome."""
        return self.calls is not None

    @property
    def may_go_on(self) -> bool:
        """Whether a lost attempt may be made again by the gateway."""
        return self.calls is not None and self.calls.most is not None and self.used < self.calls.most


class Row:
    """An entry of the journal with outcomes."""

    __slots__ = ("gone", "live")

    def __init__(self) -> None:
        self.live = 0  #: tasks whose outcome is there
        self.gone: list[int] = []  #: tasks whose outcome was there, and is not kept


class Sorted(NamedTuple):
    """Where outcomes go."""

    tell: list[Record]  #: to the client that is here
    aside: list[Record]  #: only to the shelf
    again: list[int]  #: nowhere: these tasks are begun once more


class Shelf:
    """The tasks of one session.

    Args:
        released: Told of a journal's entry that is not needed any more, and which tasks it has to go on to name.
    """

    def __init__(self, released: Callable[[int, list[int]], object]) -> None:
        self.wanted: set[int] = set()  #: tasks of earlier clients that the present one asked for
        self.fetched_bytes = 0
        self.waiting_bytes = 0  #: of outcomes that nobody has fetched
        self._released = released
        self._items: dict[int, Item] = {}
        self._names: dict[int, tuple[int, bytes]] = {}
        self._gone: set[int] = set()
        self._open = 0
        self._unfetched = 0
        self._old: dict[int, None] = {}  # outcomes that were fetched, oldest first
        self._rows: dict[int, Row] = {}
        self._told: deque[tuple[int, list[int]]] = deque()  # (last frame, tasks) on the way to the client

    def __len__(self) -> int:
        return len(self._items) + len(self._gone)

    @property
    def finished(self) -> bool:
        """Whether all is done and fetched."""
        return not self._open and not self._unfetched

    @property
    def kept(self) -> int:
        """How many outcomes that were fetched are kept."""
        return len(self._old)

    def item(self, number: int) -> Item | None:
        """Return a task."""
        return self._items.get(number)

    def open_in(self, generation: int) -> bool:
        """Whether a client's tasks are not all done."""
        return any(item.open and generation_of(number) == generation for number, item in self._items.items())

    # -- what comes from clients --------------------------------------------------------------------

    def name(self, number: int, codec: int, name: bytes) -> None:
        """Learn what a task is called, and how its outcome is read."""
        self._names[number] = codec, name

    def add(self, calls: Calls) -> None:
        """Take in tasks, or take them in again.

        Raises:
            MalformedBatch: Their batch cannot be read.
        """
        for at in starts(calls.batch)[:-1]:
            number, before, _, _ = unpack_header(calls.batch, at)
            if generation_of(number) != calls.generation:
                raise MalformedBatch(f"task {number} is none of the client's own")
            if (old := self._items.get(number)) is not None:
                self._forget(number, old)
            self._gone.discard(number)
            self._items[number] = Item(calls, at, before + 1)
            self._open += 1

    def used(self, attempts: Mapping[int, int]) -> None:
        """Open tasks have had so many attempts by earlier gateways."""
        for number, count in attempts.items():
            if (item := self._items.get(number)) is not None and item.open:
                item.used = count + 1

    def call(self, number: int) -> tuple[Calls, Record]:
        """Return the call of an open task that is to be made once more, and count it."""
        item = self._items[number]
        assert item.calls is not None
        batch = item.calls.batch
        _, _, _, size = unpack_header(batch, item.at)
        start = item.at + HEADER_BYTES
        record = number, item.used, 0, batch[start : start + size]
        item.used += 1
        return item.calls, record

    # -- outcomes -----------------------------------------------------------------------------------

    def sort(self, records: Iterable[Record], generation: int | None, attended: bool) -> Sorted:
        """Decide where outcomes go.

        Args:
            records: Outcomes, and text that was printed.
            generation: Of the client that has the session; None when none has.
            attended: That client is connected.
        """
        tell, aside, again = list[Record](), list[Record](), list[int]()
        for record in records:
            number, status, _, payload = record
            item, mine = self._items.get(number), generation_of(number) == generation
            if number and item is not None and status & STATUS in LOST:
                if item.may_go_on and not (mine and attended):
                    again.append(number)
                    continue
            if number and item is not None and item.used > item.told:
                record = number, status | COUNTED, item.used, payload
            if mine or number in self.wanted or (number == 0 and generation is not None):
                tell.append(record)
            elif number:
                aside.append(record)
        return Sorted(tell, aside, again)

    def settle(self, records: Iterable[Record], row: int, frame: int | None) -> None:
        """Keep outcomes.

        Args:
            records: They.
            row: The journal's entry that has them; 0 without a journal.
            frame: The last frame in which they are told; None when they are not.
        """
        numbers = []
        for number, status, micros, payload in records:
            if number and status != Status.BUSY:  # that was not taken at all
                self._settle(number, status, micros, payload if not row else None, len(payload), row)
                numbers.append(number)
        if frame is not None and numbers:
            self.on_the_way(frame, numbers)

    def restore(self, records: Iterable[Record], row: int, fetched: bool) -> None:
        """Take in what an earlier gateway left in its journal."""
        for number, status, micros, payload in records:
            if number and status != Status.BUSY:
                self._settle(number, status, micros, None, len(payload), row)
                if fetched:
                    self._fetched(number)

    def on_the_way(self, frame: int, numbers: list[int]) -> None:
        """Outcomes of these are told in frames up to that one."""
        self._told.append((frame, numbers))

    def restore_gone(self, numbers: Iterable[int]) -> None:
        """These were let go of."""
        for number in numbers:
            if (old := self._items.pop(number, None)) is not None:
                self._forget(number, old)
            self._gone.add(number)

    def _settle(self, number: int, status: int, micros: int, payload: bytes | None, size: int, row: int) -> None:
        old = self._items.get(number)
        item = Item(None, 0, old.used if old is not None else 1)
        if old is not None:
            self._forget(number, old)
        item.status, item.micros, item.payload, item.size, item.row = status, micros, payload, size, row
        self._gone.discard(number)
        self._items[number] = item
        if row:
            self._rows.setdefault(row, Row()).live += 1
        self._unfetched += 1
        self.waiting_bytes += size
        self.wanted.discard(number)

    def _forget(self, number: int, item: Item, gone: bool = False) -> None:
        """An item is replaced by another one, or let go of."""
        if item.open:
            self._open -= 1
            return
        if item.fetched:
            self.fetched_bytes -= item.size
            self._old.pop(number, None)
        else:
            self._unfetched -= 1
            self.waiting_bytes -= item.size
        if item.row:
            row = self._rows[item.row]
            row.live -= 1
            if gone:
                row.gone.append(number)
            if not row.live:
                del self._rows[item.row]
                self._released(item.row, row.gone)

    def acknowledged(self, delivered: int) -> None:
        """The client has had all frames up to this one."""
        while self._told and self._told[0][0] <= delivered:
            for number in self._told.popleft()[1]:
                self._fetched(number)

    def _fetched(self, number: int) -> None:
        item = self._items.get(number)
        if item is None or item.open or item.fetched:
            return
        item.fetched = True
        self._unfetched -= 1
        self.waiting_bytes -= item.size
        self.fetched_bytes += item.size
        self._old[number] = None

    def let_go(self) -> None:
        """Keep the oldest outcome that was fetched no longer."""
        number = next(iter(self._old))
        self._forget(number, self._items.pop(number), gone=True)
        self._gone.add(number)

    def claimed(self) -> None:
        """Another client has the session, or none: nothing is on the way any more."""
        self._told.clear()
        self.wanted.clear()

    # -- what is told of it -------------------------------------------------------------------------

    def listing(self) -> Iterator[Record]:
        """Yield `(number, Reading, State, name)` of all tasks, in the order of their numbers."""
        for number in sorted((*self._items, *self._gone)):
            item = self._items.get(number)
            state = State.GONE if item is None else State.OPEN if item.open else State.DONE
            codec, name = self._names.get(number, (Reading.CALL, b""))
            yield number, int(codec), int(state), name


class Shelves:
    """All shelves of a gateway.

    Args:
        most_bytes: Of outcomes that were fetched before, which all of them may keep.
    """

    def __init__(self, most_bytes: int = FETCHED_BYTES) -> None:
        self._most_bytes = most_bytes
        self._most_items = FETCHED_BYTES // ITEM_BYTES
        self.shelves: list[Shelf] = []

    def tidy(self) -> None:
        """Have those that keep the most let go of their oldest, until all is within the limit."""
        bytes_ = sum(shelf.fetched_bytes for shelf in self.shelves)
        items = sum(shelf.kept for shelf in self.shelves)
        while bytes_ > self._most_bytes or items > self._most_items:
            by_bytes = bytes_ > self._most_bytes
            most = max(self.shelves, key=lambda shelf: shelf.fetched_bytes if by_bytes else shelf.kept)
            bytes_ -= most.fetched_bytes
            most.let_go()
            bytes_ += most.fetched_bytes
            items -= 1
