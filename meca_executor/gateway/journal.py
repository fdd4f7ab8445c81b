"""The journal: what a gateway has to know again after its end, in one SQLite file with one writer.

Entries are written by a thread of their own, as many at a time as came while the last ones were written, and are told
when they are committed. WAL with `synchronous=NORMAL`: what is committed outlives the process however it ends
(sqlite.org/pragma.html); only a power cut may take the last commits back.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeAlias

    Work: TypeAlias = "Statement | Beside | Callable[[], object]"
    Item: TypeAlias = "Work | list[Item]"

APPLICATION_ID = 0x6D656361  #: "meca": tells our files from others
VERSION = 2
BESIDE_BYTES = 256 << 10  #: a larger body is a file beside the journal
KEEP_S = 7 * 86_400.0  #: a session that no client has come back to for so long is forgotten
SIZE_BYTES = 8 << 30  #: what a journal may have on disk
BATCH_MOST = 10_000  #: statements of one commit
CLOSE_S = 30.0  #: for the last commit

SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, cap INTEGER NOT NULL, per_worker INTEGER, birth TEXT NOT NULL,
    received INTEGER NOT NULL, sent INTEGER NOT NULL,
    name TEXT NOT NULL, holder TEXT NOT NULL, who TEXT NOT NULL, since REAL NOT NULL, seen REAL NOT NULL);
CREATE TABLE entries (
    row INTEGER PRIMARY KEY, session TEXT NOT NULL, what INTEGER NOT NULL, number INTEGER NOT NULL, body BLOB);
CREATE INDEX entries_of ON entries (session, row);
"""

Statement = tuple[str, tuple[object, ...]]


class SavedSession(NamedTuple):
    """A session as an earlier gateway left it."""

    id: str
    key: str  #: the access key with which its client came last
    cap: int
    per_worker: int | None
    birth: str
    received: int = 0  #: the last frame of its client that was written down
    sent: int = 0  #: the last frame of results that was
    name: str = ""  #: that its user gave it
    holder: str = ""  #: the client that has it, where it has a name
    who: str = ""
    since: float = 0.0


class Entry(NamedTuple):
    """One thing that happened in a session."""

    row: int  #: rises with time
    what: int
    number: int
    body: bytes


class Journal:
    """One open journal file.

    Args:
        path: The file; made when missing. Large bodies are in the folder `PATH.d` beside it.
        size: Bytes that all of it may have.
        keep: Seconds after which a session that nobody came back to is forgotten.

    Raises:
        UsageError: Another gateway has it, it is damaged or no journal, or the place cannot be written to.
    """

    def __init__(self, path: Path, *, size: int = SIZE_BYTES, keep: float = KEEP_S) -> None:
        self.path = path
        self._size = size
        self._keep = keep
        self._folder = Path(f"{path}.d")
        self.failure: str | None = None  #: why nothing is written any more
        self._reader: sqlite3.Connection | None = None  # beside the writer's
        self._lock = _locked(path)
        try:
            self._base = self._open()
        except BaseException:
            os.close(self._lock)
            raise
        self._work: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._files = {int(file.name) for file in self._folder.iterdir() if file.name.isdecimal()}
        self._group: list[Item] | None = None  # what is being put together
        self._thread: threading.Thread | None = None
        self.bytes = self._measure()  #: on disk, as of the last commits

    # -- opening ----------------------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        try:
            # Made here, for nobody else to read; SQLite gives the files beside it the same mode.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            base = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=1.0)
            try:
                self._prepare(base)
            except BaseException:
                base.close()
                raise
            return base
        except (OSError, sqlite3.OperationalError) as error:
            raise UsageError(f"the journal {self.path} cannot be used: {error}; choose another --journal") from error
        except sqlite3.DatabaseError as error:
            raise UsageError(
                f"{self.path} is damaged or no journal ({error}); move it away, or choose another --journal"
            ) from error

    def _prepare(self, base: sqlite3.Connection) -> None:
        (application,) = base.execute("PRAGMA application_id").fetchone()
        (tables,) = base.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if tables and application != APPLICATION_ID:
            raise UsageError(f"{self.path} is another program's database; choose another --journal")
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=NORMAL")
        if not tables:
            marks = f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={VERSION};"
            base.executescript(f"BEGIN; {marks} {SCHEMA} COMMIT;")
        (version,) = base.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise UsageError(
                f"the journal {self.path} is of version {version}, this gateway writes version {VERSION}; "
                "use the meca-executor that wrote it, or choose another --journal"
            )
        (state,) = base.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise UsageError(f"the journal {self.path} is damaged ({state}); move it away, or choose another --journal")
        self._folder.mkdir(mode=0o700, exist_ok=True)

    def load(self) -> list[SavedSession]:
        """Return the sessions that may still be asked for; forget the others, and files that nothing mentions."""
        base = self._base
        old = time.time() - self._keep
        base.execute("DELETE FROM entries WHERE session IN (SELECT id FROM sessions WHERE seen < ?)", (old,))
        base.execute("DELETE FROM sessions WHERE seen < ?", (old,))
        base.execute("DELETE FROM entries WHERE session NOT IN (SELECT id FROM sessions)")
        mentioned = {str(row) for (row,) in base.execute("SELECT row FROM entries WHERE body IS NULL")}
        for file in self._folder.iterdir():
            if file.name not in mentioned:
                file.unlink()
        columns = "id, owner, cap, per_worker, birth, received, sent, name, holder, who, since"
        rows = base.execute(f"SELECT {columns} FROM sessions").fetchall()  # nosec B608 # our own words
        self._files &= set(map(int, mentioned))
        return [SavedSession(*row) for row in rows]

    def entries(self, session: str) -> Iterator[Entry]:
        """Yield what happened in a session, in order.

        Raises:
            UsageError: A file beside the journal is missing.
        """
        found = self._base.execute(
            "SELECT row, what, number, body FROM entries WHERE session=? ORDER BY row", (session,)
        )
        for row, what, number, body in found:
            yield Entry(row, what, number, self._beside(row) if body is None else body)

    def _beside(self, row: int) -> bytes:
        try:
            return (self._folder / str(row)).read_bytes()
        except OSError as error:
            raise UsageError(
                f"the journal {self.path} is damaged: {error.filename} is missing ({error.strerror}); "
                "move both away, or choose another --journal"
            ) from error

    def next_row(self) -> int:
        """Return the first row that is free."""
        (last,) = self._base.execute("SELECT coalesce(max(row), 0) FROM entries").fetchone()
        return int(last) + 1

    def begin_life(self) -> int:
        """Count a gateway's start; return how many there have been."""
        self._base.execute("INSERT INTO meta VALUES ('life', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1")
        (life,) = self._base.execute("SELECT value FROM meta WHERE name='life'").fetchone()
        return int(life)

    # -- writing ----------------------------------------------------------------------------------

    def start(self, on_failure: Callable[[str], object]) -> None:
        """Begin to write; `on_failure` is told, in the writer's thread, why that ended before its time."""
        self._thread = threading.Thread(target=self._write, args=(on_failure,), name="meca-journal", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What is written within is on disk at once, or not at all."""
        outer, self._group = self._group, []
        try:
            yield
        finally:
            group, self._group = self._group, outer
            self._put(group)

    def _put(self, item: Item) -> None:
        if self._group is None:
            self._work.put(item)
        else:
            self._group.append(item)

    def do(self, statement: str, *values: object) -> None:
        """Write; not at once."""
        self._put((statement, values))

    def then(self, told: Callable[[], object]) -> None:
        """Call `told` in the writer's thread when all that was written before is committed."""
        self._put(told)

    def opened(self, session: SavedSession) -> None:
        """A session begins."""
        marks = ", ".join("?" * (len(session) + 1))
        self.do(f"INSERT OR REPLACE INTO sessions VALUES ({marks})", *session, time.time())

    def seen(self, session: str, key: str) -> None:
        """Its client is there, with this access key."""
        self.do("UPDATE sessions SET seen=?, owner=? WHERE id=?", time.time(), key, session)

    def received(self, session: str, number: int) -> None:
        """Its client is there, and its frames up to this one need not come again."""
        self.do("UPDATE sessions SET received=?, seen=? WHERE id=?", number, time.time(), session)

    def sent(self, session: str, number: int) -> None:
        """Frames of results up to this one are written down."""
        self.do("UPDATE sessions SET sent=? WHERE id=?", number, session)

    def append(self, session: str, entry: Entry) -> None:
        """Something happened."""
        row, what, number, body = entry
        beside = len(body) > BESIDE_BYTES
        if beside:
            self._files.add(row)
            self._put(Beside(row, body))
        self.do("INSERT INTO entries VALUES (?, ?, ?, ?, ?)", row, session, what, number, None if beside else body)

    def replace(self, entry: Entry) -> None:
        """An entry says less from now on."""
        row, what, number, body = entry
        self.do("UPDATE entries SET what=?, number=?, body=? WHERE row=?", what, number, body, row)
        self._drop(row)

    def mark(self, row: int, what: int) -> None:
        """An entry is of another kind from now on."""
        self.do("UPDATE entries SET what=?, number=0 WHERE row=?", what, row)

    def read(self, row: int) -> bytes:
        """Return an entry's body, if that is committed; nothing when it is not there.

        Raises:
            UsageError: Its file is missing.
        """
        if self._reader is None:
            self._reader = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=1.0)
        found = self._reader.execute("SELECT body FROM entries WHERE row=?", (row,)).fetchone()
        if found is None:
            return b""
        return self._beside(row) if found[0] is None else bytes(found[0])

    def forget(self, rows: Iterable[int]) -> None:
        """Entries are needed no more."""
        for row in rows:
            self.do("DELETE FROM entries WHERE row=?", row)
            self._drop(row)

    def ended(self, session: str, rows: Iterable[int]) -> None:
        """A session with these entries is over."""
        self.do("DELETE FROM entries WHERE session=?", session)
        self.do("DELETE FROM sessions WHERE id=?", session)
        for row in rows:
            self._drop(row)

    def _drop(self, row: int) -> None:
        if row in self._files:
            self._files.discard(row)
            self.then(partial((self._folder / str(row)).unlink, missing_ok=True))

    @property
    def size(self) -> int:
        """Bytes that all of it may have."""
        return self._size

    @property
    def full(self) -> str | None:
        """Why no more tasks should be taken; None as long as they may be."""
        if self.bytes <= self._size:
            return None
        return (
            f"the gateway's journal has its limit of {self._size >> 20:,} MiB; fetch results, or raise --journal-size"
        )

    def _write(self, on_failure: Callable[[str], object]) -> None:
        """The writer's thread."""
        try:
            while self._commit(self._next_batch()):
                pass
        except (sqlite3.Error, OSError) as error:
            self.failure = f"the journal {self.path} cannot be written: {error}"
            on_failure(self.failure)

    def _next_batch(self) -> list[Item | None]:
        batch = [self._work.get()]
        with contextlib.suppress(queue.Empty):
            while len(batch) < BATCH_MOST and batch[-1] is not None:
                batch.append(self._work.get_nowait())
        return batch

    def _commit(self, batch: list[Item | None]) -> bool:
        """Write a batch; False when it was the last one."""
        base = self._base
        told: list[Callable[[], object]] = []
        base.execute("BEGIN IMMEDIATE")
        for item in flat(batch):
            if isinstance(item, Beside):
                (self._folder / str(item.row)).write_bytes(item.body)
            elif isinstance(item, tuple):
                base.execute(*item)
            else:
                told.append(item)
        base.execute("COMMIT")
        self.bytes = self._measure()
        for tell in told:
            tell()
        return batch[-1] is not None

    def _measure(self) -> int:
        (pages,), (free,), (size,) = (
            self._base.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "freelist_count", "page_size")
        )
        beside = len(self._files) and sum(file.stat().st_size for file in self._folder.iterdir())
        return int((pages - free) * size + beside)

    def close(self) -> None:
        """Write what is left, and let the file go."""
        if self._lock < 0:
            return
        if self._thread is not None:
            self._work.put(None)
            self._thread.join(CLOSE_S)
        with contextlib.suppress(sqlite3.Error):
            self._base.close()
            if self._reader is not None:
                self._reader.close()
        os.close(self._lock)
        self._lock = -1


class Beside(NamedTuple):
    """A body that is to be a file."""

    row: int
    body: bytes


def flat(items: Iterable[Item | None]) -> Iterator[Work]:
    """Yield what is to be done, one thing after the other."""
    for item in items:
        if isinstance(item, list):
            yield from flat(item)
        elif item is not None:
            yield item


def _locked(path: Path) -> int:
    """Return a descriptor that holds the journal for this process, as long as it is open."""
    try:
        handle = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write a journal at {path}: {error.strerror}; choose another --journal") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise UsageError(
            f"another gateway is using the journal {path}; end that one, or choose another --journal"
        ) from None
    return handle
