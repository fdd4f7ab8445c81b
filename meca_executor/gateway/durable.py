"""The durable keeper: writes down in a journal what a gateway does, before it does or tells it."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ..wire.records import COUNTED, Definition, Kind, Status, decode, encode, unpack_id
from ..wire.stream import Stream, frames_of
from .books import (
    CLAIMED,
    DONE,
    FETCHED,
    KEPT,
    LISTED,
    OUTCOMES,
    SHELVED,
    STARTED,
    Books,
    ids_of,
    ids_of_tasks,
    pack_ids,
)
from .journal import Entry, SavedSession
from .keeper import MESSAGE_MOST

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.stream import Message
    from .books import History
    from .journal import Journal
    from .session import Session


@dataclass(eq=False)
class Kept:
    """What a durable keeper knows of a session."""

    books: Books = field(default_factory=Books)
    told: int = 0  #: the last frame of results that is written down
    unfetched: deque[tuple[int, int]] = field(default_factory=deque)  #: (last frame, entry) of results
    used: dict[int, int] = field(default_factory=dict)  #: task -> attempts that earlier lives of the gateway have made
    # Of a session that has a name:
    generation: int = 0
    shelved: set[int] = field(default_factory=set)  #: entries with outcomes that are kept
    asked: list[int] = field(default_factory=list)  #: entries that say what its client wants
    names: list[int] = field(default_factory=list)  #: entries with tasks' names


class Durable:
    """Keeps everything in a journal; make it inside the loop."""

    durable = True

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._loop = asyncio.get_running_loop()
        self._rows = itertools.count(journal.next_row())
        self._life = journal.begin_life()
        self._kept: dict[str, Kept] = {}
        self._closed = False
        self._waiting: list[Callable[[], object]] = []  # for what was written in this turn of the loop

    def stream(self) -> Stream:
        """Return a new session's stream."""
        return Stream(MESSAGE_MOST, hold=True)

    @property
    def full(self) -> bytes | None:
        """As `Keeper`."""
        return self._journal.full.encode() if self._journal.full else None

    def revived(self, saved: SavedSession, history: History) -> Stream:
        """Take over the books of a session that an earlier gateway left; returns its stream.

        Raises:
            ValueError: Outcomes are missing.
        """
        books, outcomes = Books(), history.outcomes
        history.fill(books)
        before = outcomes[0].number - frames_of(outcomes[0].body) if outcomes else saved.sent
        stream = Stream(MESSAGE_MOST, hold=True, received=saved.received, sent=before)
        kept = self._kept[saved.id] = Kept(books, saved.sent, used=history.used)
        if saved.name:
            kept.used = {}  # its shelf knows
            kept.shelved = {entry.row for entry in history.shelved if entry.what != DONE}
            kept.asked, kept.names = history.rows(Kind.FETCH), history.rows(Kind.NAMES)
        for entry in outcomes:
            stream.send(Kind.RESULTS if entry.what == OUTCOMES else Kind.LISTING, entry.body)
            if stream.sent != entry.number:
                raise ValueError(f"outcomes before frame {entry.number} are missing")
            kept.unfetched.append((entry.number, entry.row))
        return stream

    def opened(self, session: Session, then: Callable[[], object]) -> None:
        """As `Keeper`."""
        if session.id not in self._kept:
            self._kept[session.id] = Kept()
            self._open(session)
        self._journal.seen(session.id, session.key)
        self._after(then)

    def _open(self, session: Session) -> None:
        saved = SavedSession(session.id, session.key, session.cap, session.tasks_per_worker, session.birth)
        kept, tenure = self._kept[session.id], session.tenure
        if tenure is not None:
            saved = saved._replace(name=tenure.name, holder=tenure.holder, who=tenure.who, since=tenure.since)
            if session.now.number != kept.generation:
                kept.generation = session.now.number
                self._journal.append(session.id, Entry(next(self._rows), CLAIMED, kept.generation, b""))
        self._journal.opened(saved)

    def taken(self, session: Session, message: Message | None) -> None:
        """As `Keeper`."""
        if (kept := self._kept.get(session.id)) is None:
            return
        number = session.stream.received
        if message is not None and message.kind in KEPT and self._is_news(kept.books, message):
            row = next(self._rows)
            with self._journal.together():  # else a gateway that is killed in between would be told it twice
                self._journal.append(session.id, Entry(row, message.kind, number, message.body))
                self._journal.received(session.id, number)
            self._enter(kept, row, message)
        else:
            self._journal.received(session.id, number)
        self._after(partial(session.stream.commit, number))

    def _is_news(self, books: Books, message: Message) -> bool:
        """Whether a message has to be written down; what it ends is forgotten."""
        if message.kind is Kind.KILL:
            return any(number in books for number, _, _, _ in decode(message.body))
        if message.kind is Kind.DEFINE:
            records = decode(message.body)
            for number, what, _, _ in records:
                if what == Definition.FORGET:
                    self._journal.forget(books.forgotten(number))
            return any(what != Definition.FORGET for _, what, _, _ in records)
        return True

    def _enter(self, kept: Kept, row: int, message: Message) -> None:
        books = kept.books
        if message.kind is Kind.FETCH:
            kept.asked.append(row)
        elif message.kind is Kind.NAMES:
            kept.names.append(row)
        elif message.kind is Kind.TASKS:
            books.tasks(row, ids_of_tasks(message.body))
        elif message.kind is Kind.KILL:
            books.note(row, [number for number, _, _, _ in decode(message.body) if number in books])
        elif message.kind is Kind.DEFINE:
            for number, what, _, _ in decode(message.body):
                if what == Definition.OBJECT:
                    books.object(row, number)
        elif message.kind is Kind.PIECE:
            books.object(row, unpack_id(message.body, 0)[0])

    def started(self, session: Session, calls: bytes) -> None:
        """As `Keeper`."""
        if (kept := self._kept.get(session.id)) is None:
            return
        if ids := [number for number in ids_of(calls) if number in kept.books]:
            row = next(self._rows)
            self._journal.append(session.id, Entry(row, STARTED, self._life, pack_ids(ids)))
            kept.books.note(row, ids)

    def then(self, go: Callable[[], object]) -> None:
        """As `Keeper`."""
        self._after(go)

    def report(self, session: Session, kind: Kind, batch: bytes, transmit: Callable[[bytes], object]) -> int:
        """As `Keeper`."""
        if (kept := self._kept.get(session.id)) is None:
            return 0
        if kept.used:
            batch = with_attempts(batch, kept.used)
        frames, row = session.stream.send(kind, batch), next(self._rows)
        last = session.stream.sent
        with self._journal.together():
            self._journal.append(session.id, Entry(row, LISTED if kind is Kind.LISTING else OUTCOMES, last, batch))
            self._journal.sent(session.id, last)
        if kind is not Kind.LISTING:
            kept.books.outcomes(row, ids_of(batch))
            if session.tenure is not None and any(status != Status.BUSY for _, status, _, _ in decode(batch)):
                kept.shelved.add(row)
        kept.unfetched.append((last, row))
        self._after(partial(self._tell, session, session.stream, last, partial(hand_on, frames, transmit)))
        return row

    def _tell(self, session: Session, stream: Stream, last: int, hand_on: Callable[[], object]) -> None:
        if session.stream is not stream or (kept := self._kept.get(session.id)) is None:
            return  # another client has the session by now
        kept.told = last
        hand_on()

    def told(self, session: Session) -> int | None:
        """As `Keeper`."""
        return self._kept[session.id].told

    def acknowledged(self, session: Session) -> None:
        """As `Keeper`."""
        if (kept := self._kept.get(session.id)) is None:
            return
        while kept.unfetched and kept.unfetched[0][0] <= session.stream.delivered:
            number, row = kept.unfetched.popleft()
            named, not_needed = kept.books.fetched(row)
            if row in kept.shelved:
                self._journal.mark(row, FETCHED)
            elif named:
                self._journal.replace(Entry(row, DONE, number, pack_ids(named)))
            self._journal.forget([row for row in not_needed if row not in kept.shelved])

    def ended(self, session: Session) -> None:
        """As `Keeper`."""
        if (kept := self._kept.pop(session.id, None)) is not None:
            self._journal.ended(session.id, {*kept.books.rows, *kept.shelved, *kept.asked, *kept.names})

    # -- sessions that have a name ----------------------------------------------------------------

    @property
    def fetched_bytes(self) -> int:
        """As `Keeper`."""
        return self._journal.size // 4

    def shelve(self, session: Session, batch: bytes) -> int:
        """As `Keeper`."""
        if (kept := self._kept.get(session.id)) is None:
            return 0
        row = next(self._rows)
        self._journal.append(session.id, Entry(row, SHELVED, 0, batch))
        kept.shelved.add(row)
        kept.books.outcomes(row, ids_of(batch))
        self._have(kept, row)
        return row

    def _have(self, kept: Kept, row: int) -> None:
        """The calls of these outcomes are not needed any more."""
        _, not_needed = kept.books.fetched(row)
        self._journal.forget([row for row in not_needed if row not in kept.shelved])

    def claimed(self, session: Session) -> None:
        """As `Keeper`."""
        if (kept := self._kept.get(session.id)) is None:
            return
        for _, row in kept.unfetched:
            if row in kept.shelved:
                self._journal.mark(row, SHELVED)
            self._have(kept, row)
        kept.unfetched.clear()
        kept.told = 0
        self._journal.forget(kept.asked)
        kept.asked.clear()
        self._open(session)

    def forgotten(self, session: Session, number: int) -> None:
        """As `Keeper`."""
        if (kept := self._kept.get(session.id)) is not None:
            self._journal.forget(kept.books.forgotten(number))

    def attempted(self, session: Session, task: int, attempts: int) -> None:
        """As `Keeper`; as if another life of the gateway had begun it."""
        if (kept := self._kept.get(session.id)) is not None and task in kept.books:
            row = next(self._rows)
            self._journal.append(session.id, Entry(row, STARTED, -attempts, pack_ids([task])))
            kept.books.note(row, [task])

    def read(self, session: Session, row: int, then: Callable[[bytes], object]) -> None:
        """As `Keeper`."""
        self._after(lambda: then(self._journal.read(row)))

    def released(self, session: Session, row: int, gone: list[int]) -> None:
        """As `Keeper`."""
        if (kept := self._kept.get(session.id)) is None:
            return
        kept.shelved.discard(row)
        if any(row == other for _, other in kept.unfetched):
            return  # it is on the way still: forgotten when it has arrived
        if gone:
            self._journal.replace(Entry(row, DONE, 0, pack_ids(gone)))
        else:
            kept.books.discard(row)
            self._journal.forget([row])

    # -- what waits for the disk ------------------------------------------------------------------

    def _after(self, act: Callable[[], object]) -> None:
        """Do something when all that was written so far is on disk; in order."""
        if self._closed:
            return  # what is not written down is not done
        if not self._waiting:
            self._loop.call_soon(self._hand_on)
        self._waiting.append(act)

    def _hand_on(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._journal.then(partial(self._loop.call_soon_threadsafe, act_all, waiting))

    async def close(self) -> None:
        """Write what is left; nothing that comes later."""
        self._kept.clear()
        self._closed = True
        self._hand_on()
        await self._loop.run_in_executor(None, self._journal.close)


def hand_on(frames: list[bytes], transmit: Callable[[bytes], object]) -> None:
    """Send frames."""
    for frame in frames:
        transmit(frame)


def act_all(acts: list[Callable[[], object]]) -> None:
    """Do these things."""
    for act in acts:
        act()


def with_attempts(batch: bytes, used: dict[int, int]) -> bytes:
    """Return outcomes that tell how many attempts there have been, where earlier gateways made some of them."""
    records = decode(batch)
    if not any(number in used for number, _, _, _ in records):
        return batch
    told = []
    for number, status, micros, payload in records:
        before = used.pop(number, 0)
        if before:
            status, micros = status | COUNTED, before + 1
        told.append((number, status, micros, payload))
    return encode(told)
