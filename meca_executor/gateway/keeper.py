"""Keepers: what a gateway writes down before it does or tells something.

Without a journal that is nothing. With one, a client's message is acknowledged, a result told, and a call begun when
that is on disk, and not before; so no end of the gateway loses a call, or has it made more often than it may be.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from ..settings import MESSAGE_LIMIT
from ..wire.records import COUNTED, Definition, Kind, decode, encode, unpack_id
from ..wire.stream import Stream, frames_of
from .books import DONE, KEPT, OUTCOMES, STARTED, Books, ids_of, ids_of_tasks, pack_ids
from .journal import Entry, SavedSession

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.stream import Message
    from .books import History
    from .journal import Journal
    from .session import Session

MESSAGE_MOST = MESSAGE_LIMIT + (16 << 20)  #: with small ones that travel beside a large one


class Keeper(Protocol):
    """What the hub tells of."""

    @property
    def durable(self) -> bool:
        """Whether sessions outlive the gateway."""

    @property
    def full(self) -> bytes | None:
        """Why no more tasks are taken; None as long as they are."""

    def stream(self) -> Stream:
        """Return a new session's stream."""

    def opened(self, session: Session, then: Callable[[], object]) -> None:
        """A session begins; its client may be told so by `then`."""

    def taken(self, session: Session, message: Message | None) -> None:
        """A message of the client has come, and is acted on next; None: it was refused."""

    def started(self, session: Session, calls: bytes) -> None:
        """Calls are to begin."""

    def then(self, go: Callable[[], object]) -> None:
        """Do something that must not come before what was told until now is kept; in order."""

    def report(self, session: Session, kind: Kind, batch: bytes, transmit: Callable[[bytes], object]) -> None:
        """Outcomes are to be told, by `transmit` frame by frame."""

    def told(self, session: Session) -> int | None:
        """The last frame that may be told; None when all may."""

    def acknowledged(self, session: Session) -> None:
        """The client has had frames."""

    def ended(self, session: Session) -> None:
        """A session is over."""

    async def close(self) -> None:
        """Write what is left; nothing that comes later."""


class Volatile:
    """Keeps nothing: what the gateway knows ends with it."""

    durable = False
    full = None

    def stream(self) -> Stream:
        """Return a new session's stream."""
        return Stream(MESSAGE_MOST)

    def opened(self, session: Session, then: Callable[[], object]) -> None:
        """As `Keeper`."""
        then()

    def taken(self, session: Session, message: Message | None) -> None:
        """As `Keeper`."""

    def started(self, session: Session, calls: bytes) -> None:
        """As `Keeper`."""

    def then(self, go: Callable[[], object]) -> None:
        """As `Keeper`."""
        go()

    def report(self, session: Session, kind: Kind, batch: bytes, transmit: Callable[[bytes], object]) -> None:
        """As `Keeper`."""
        for frame in session.stream.send(kind, batch):
            transmit(frame)

    def told(self, session: Session) -> int | None:
        """As `Keeper`."""
        return None

    def acknowledged(self, session: Session) -> None:
        """As `Keeper`."""

    def ended(self, session: Session) -> None:
        """As `Keeper`."""

    async def close(self) -> None:
        """As `Keeper`."""


@dataclass(eq=False)
class Kept:
    """What a durable keeper knows of a session."""

    books: Books = field(default_factory=Books)
    told: int = 0  #: the last frame of results that is written down
    unfetched: deque[tuple[int, int]] = field(default_factory=deque)  #: (last frame, entry) of results
    used: dict[int, int] = field(default_factory=dict)  #: task -> attempts that earlier lives of the gateway have made


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
        for entry in outcomes:
            stream.send(Kind.RESULTS, entry.body)
            if stream.sent != entry.number:
                raise ValueError(f"outcomes before frame {entry.number} are missing")
            kept.unfetched.append((entry.number, entry.row))
        return stream

    def opened(self, session: Session, then: Callable[[], object]) -> None:
        """As `Keeper`."""
        if session.id not in self._kept:
            self._kept[session.id] = Kept()
            saved = SavedSession(session.id, session.key, session.cap, session.tasks_per_worker, session.birth)
            self._journal.opened(saved)
        self._journal.seen(session.id, session.key)
        self._after(then)

    def taken(self, session: Session, message: Message | None) -> None:
        """As `Keeper`."""
        if (kept := self._kept.get(session.id)) is None:
            return
        number = session.stream.received
        if message is not None and message.kind in KEPT and self._is_news(kept.books, message):
            row = next(self._rows)
            self._journal.append(session.id, Entry(row, message.kind, number, message.body))
            self._enter(kept.books, row, message)
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

    def _enter(self, books: Books, row: int, message: Message) -> None:
        if message.kind is Kind.TASKS:
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

    def report(self, session: Session, kind: Kind, batch: bytes, transmit: Callable[[bytes], object]) -> None:
        """As `Keeper`."""
        if (kept := self._kept.get(session.id)) is None:
            return
        if kept.used:
            batch = with_attempts(batch, kept.used)
        frames, row = session.stream.send(kind, batch), next(self._rows)
        last = session.stream.sent
        self._journal.append(session.id, Entry(row, OUTCOMES, last, batch))
        self._journal.sent(session.id, last)
        kept.books.outcomes(row, ids_of(batch))
        kept.unfetched.append((last, row))
        self._after(partial(self._tell, kept, last, frames, transmit))

    def _tell(self, kept: Kept, last: int, frames: list[bytes], transmit: Callable[[bytes], object]) -> None:
        kept.told = last
        for frame in frames:
            transmit(frame)

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
            if named:
                self._journal.replace(Entry(row, DONE, number, pack_ids(named)))
            self._journal.forget(not_needed)

    def ended(self, session: Session) -> None:
        """As `Keeper`."""
        if (kept := self._kept.pop(session.id, None)) is not None:
            self._journal.ended(session.id, kept.books.rows)

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


def limits() -> dict[str, int]:
    """Return what a client may send and have out."""
    return {"message": MESSAGE_LIMIT, "window": 16_384, "window_bytes": 256 << 20}


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
