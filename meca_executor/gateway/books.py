"""The books of a session with a journal: which entries are needed still, and what an end of the gateway left behind.

Pure. An entry with tasks is needed until the outcome of each has been fetched; one with outcomes as long as an entry
is there that has their tasks, for else a later gateway would take these for open. Task numbers are the client's: one
that is tried again has the same number in a later entry.
"""

from __future__ import annotations

import json
import struct
from collections import Counter, defaultdict
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from ..wire.records import COUNTED, Definition, Kind, Record, Status, decode, encode, starts, unpack_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .journal import Entry

#: Entries that are no messages of the client; those are their `Kind`. In sessions that have a name outcomes are kept:
#: FETCHED ones a client has had, SHELVED ones no client was told; DONE are then those that were let go of.
STARTED, OUTCOMES, DONE, LISTED, SHELVED, FETCHED, CLAIMED = range(100, 107)
KEPT = frozenset({Kind.SETUP, Kind.OPTIONS, Kind.DEFINE, Kind.PIECE, Kind.TASKS, Kind.KILL, Kind.NAMES, Kind.FETCH})


class Books:
    """The entries of one session."""

    def __init__(self) -> None:
        self._entry_of: dict[int, int] = {}  # open task -> the entry that has it
        self._open: Counter[int] = Counter()  # entry -> its tasks that are open
        self._notes_of: dict[int, list[int]] = {}  # open task -> entries that say more of it
        self._noted: Counter[int] = Counter()  # such an entry -> its tasks that are open
        self._outcomes: dict[int, list[int]] = {}  # entry that was not fetched -> its tasks
        self._beside: defaultdict[int, set[int]] = defaultdict(set)  # entry with tasks -> those that say which are done
        self._needed_by: Counter[int] = Counter()  # the other way round
        self._objects: dict[int, list[int]] = {}  # object -> its entries

    def __contains__(self, task: int) -> bool:
        return task in self._entry_of

    @property
    def rows(self) -> set[int]:
        """All entries that are needed; those with definitions and options not counted."""
        return {
            *self._open,
            *self._noted,
            *self._outcomes,
            *self._needed_by,
            *chain.from_iterable(self._objects.values()),
        }

    def tasks(self, row: int, ids: Iterable[int]) -> None:
        """An entry with tasks that are open now."""
        for id_ in ids:
            self._entry_of[id_] = row
            self._open[row] += 1

    def note(self, row: int, ids: Iterable[int]) -> None:
        """An entry that says more of open tasks."""
        for id_ in ids:
            self._notes_of.setdefault(id_, []).append(row)
            self._noted[row] += 1

    def object(self, row: int, number: int) -> None:
        """An entry with an object that calls mention, or a piece of it."""
        self._objects.setdefault(number, []).append(row)

    def forgotten(self, number: int) -> list[int]:
        """No call mentions that object any more; returns the entries that are not needed."""
        return self._objects.pop(number, [])

    def outcomes(self, row: int, ids: Iterable[int]) -> None:
        """An entry with outcomes."""
        self._outcomes[row] = [id_ for id_ in ids if id_ in self._entry_of]

    def discard(self, row: int) -> None:
        """An entry with outcomes is no more: others have them."""
        self._outcomes.pop(row, None)

    def fetched(self, row: int) -> tuple[list[int], list[int]]:
        """The client has these outcomes: returns which tasks the entry has to go on to name as done, and the entries
        that are not needed any more, itself among them when it names none."""
        ids = self._outcomes.pop(row, [])
        not_needed: list[int] = []
        entries: set[int] = set()
        named: list[int] = []
        for id_ in ids:
            if (entry := self._entry_of.pop(id_, None)) is None:
                continue
            named.append(id_)
            entries.add(entry)
            self._open[entry] -= 1
            for noted in self._notes_of.pop(id_, ()):
                self._noted[noted] -= 1
                if not self._noted[noted]:
                    del self._noted[noted]
                    not_needed.append(noted)
        for entry in entries:
            if self._open[entry]:
                self._beside[entry].add(row)
                self._needed_by[row] += 1
            else:
                not_needed += self._closed(entry)
        if not self._needed_by[row]:
            del self._needed_by[row]
            return [], [*not_needed, row]
        return named, not_needed

    def _closed(self, entry: int) -> list[int]:
        del self._open[entry]
        not_needed = [entry]
        for row in self._beside.pop(entry, ()):
            self._needed_by[row] -= 1
            if not self._needed_by[row]:
                del self._needed_by[row]
                not_needed.append(row)
        return not_needed


class Left(NamedTuple):
    """What is to be done for a session after an end of the gateway."""

    messages: list[tuple[int, int, bytes]]  #: (`Kind` or CLAIMED, number, body), in order; of tasks, only what may run
    lost: bytes  #: outcomes for tasks that may not be run again; the field for the time has the attempts so far


class History:
    """A session's entries, looked at as a whole.

    Args:
        entries: All that the journal has of it, in order.

    Attributes:
        outcomes: Entries with what was told and not fetched.
        shelved: All entries with outcomes.
        used: Open task -> attempts that have been made of it, where its last one has been begun.

    Raises:
        ValueError: An entry cannot be read.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = list(entries)
        self.outcomes = [entry for entry in self._entries if entry.what in (OUTCOMES, LISTED)]
        self.shelved = [entry for entry in self._entries if entry.what in (OUTCOMES, SHELVED, FETCHED, DONE)]
        self._attempts: dict[int, int | None] = {}  # options id -> how often; None: only the client knows
        self._last: dict[int, int] = {}  # task -> its last entry with tasks
        before: dict[int, int] = {}  # attempts that its client counted
        done: dict[int, int] = {}
        lives: defaultdict[int, set[int]] = defaultdict(set)
        for row, what, number, body in self._entries:
            if what == Kind.TASKS:
                for _, _, _, batch in decode(body):
                    for id_, attempts, _, _ in decode(batch):
                        self._last[id_], before[id_] = row, attempts
                        lives.pop(id_, None)
            elif what == STARTED:
                for id_ in unpack_ids(body):
                    lives[id_].add(number)
            elif what in (OUTCOMES, SHELVED, FETCHED, DONE):
                done.update(dict.fromkeys(unpack_ids(body) if what == DONE else ids_of(body), row))
        self._open = {id_ for id_, row in self._last.items() if row > done.get(id_, 0)}
        self.used = {id_: before[id_] + len(lives[id_]) for id_ in self._open & lives.keys()}

    def rows(self, kind: Kind) -> list[int]:
        """Return the entries that are messages of this kind."""
        return [entry.row for entry in self._entries if entry.what == kind]

    def fill(self, books: Books) -> None:
        """Have empty books say what those of the last gateway said."""
        for row, what, _, body in self._entries:
            if what == Kind.TASKS:
                books.tasks(row, ids_of_tasks(body))
            elif what == Kind.KILL:
                books.note(row, [id_ for id_, _, _, _ in decode(body) if id_ in books])
            elif what == Kind.DEFINE:
                for number, kind, _, _ in decode(body):
                    if kind == Definition.OBJECT:
                        books.object(row, number)
            elif what == Kind.PIECE:
                books.object(row, unpack_id(body, 0)[0])
            elif what == STARTED:
                books.note(row, [id_ for id_ in unpack_ids(body) if id_ in books])
            elif what == OUTCOMES:
                books.outcomes(row, ids_of(body))
            elif what in (SHELVED, FETCHED, DONE):
                books.outcomes(row, unpack_ids(body) if what == DONE else ids_of(body))
                books.fetched(row)

    def left(self) -> Left:
        """Return what is to be done."""
        messages: list[tuple[int, int, bytes]] = []
        lost: list[Record] = []
        for row, what, number, body in self._entries:
            if what == Kind.TASKS:
                groups = [self._to_run(row, group, lost) for group in decode(body)]
                if some := [group for group in groups if group[0]]:
                    messages.append((what, number, encode(some)))
            elif what in KEPT or what == CLAIMED:
                messages.append((what, number, body))
            if what == Kind.OPTIONS:
                self._attempts.update((id_, json.loads(text).get("attempts")) for id_, _, _, text in decode(body))
            elif what == CLAIMED:  # another client's numbers
                self._attempts.clear()
        return Left(messages, encode(lost))

    def _to_run(self, row: int, group: Record, lost: list[Record]) -> Record:
        """Return the calls of a group that are to be run; those that may not be go to `lost`."""
        _, tag, reference, batch = group
        most, calls = self._attempts.get(tag), list[Record]()
        for record in decode(batch):
            id_ = record[0]
            if id_ not in self._open or self._last[id_] != row:
                continue
            used = self.used.get(id_, 0)
            if used and (most is None or used >= most):
                lost.append((id_, Status.LOST | COUNTED, used, LOST_TEXT))
            else:
                calls.append(record)
        return len(calls), tag, reference, encode(calls)


LOST_TEXT = b"the gateway was ended while it ran this attempt, and it may not be made again"


def ids_of(batch: bytes) -> list[int]:
    """Return the task ids of a batch of records; 0, which is no task, is left out."""
    return [id_ for at in starts(batch)[:-1] if (id_ := unpack_id(batch, at)[0])]


def ids_of_tasks(body: bytes) -> list[int]:
    """Return the task ids of a message of tasks."""
    return [id_ for _, _, _, batch in decode(body) for id_ in ids_of(batch)]


def pack_ids(ids: list[int]) -> bytes:
    """Return task ids as an entry's body."""
    return struct.pack(f"<{len(ids)}Q", *ids)


def unpack_ids(body: bytes) -> tuple[int, ...]:
    """Return what `pack_ids` packed."""
    return struct.unpack(f"<{len(body) // 8}Q", body)
