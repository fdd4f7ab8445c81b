"""The journal's file: what is written is there again, and what cannot be used is refused in words."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meca_executor import UsageError
from meca_executor.gateway import journal as journal_module
from meca_executor.gateway.journal import BESIDE_BYTES, Entry, Journal, SavedSession
from tests.helpers.waiting import LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

SESSION = SavedSession("s", "AKIA", 2, None, "b1")
LARGE = b"x" * (BESIDE_BYTES + 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """An open one, which is written to."""
    opened = Journal(path)
    opened.start(lambda why: pytest.fail(why))
    yield opened
    opened.close()


def committed(journal: Journal) -> None:
    """Return when all that was written is."""
    told: queue.SimpleQueue[None] = queue.SimpleQueue()
    journal.then(lambda: told.put(None))
    told.get(timeout=LIMIT)


def again(journal: Journal) -> contextlib.closing[Journal]:
    """The file after its gateway has ended."""
    journal.close()
    return contextlib.closing(Journal(journal.path))


def test_what_was_written_is_there_again(journal: Journal) -> None:
    """Sessions, entries in order, the frames and the number of lives."""
    assert (journal.next_row(), journal.begin_life()) == (1, 1)
    journal.opened(SESSION)
    journal.append("s", Entry(1, 4, 10, b"tasks"))
    journal.append("s", Entry(2, 5, 11, LARGE))
    journal.received("s", 7)
    journal.sent("s", 3)
    with again(journal) as later:
        assert later.load() == [SavedSession("s", "AKIA", 2, None, "b1", 7, 3)]
        assert list(later.entries("s")) == [Entry(1, 4, 10, b"tasks"), Entry(2, 5, 11, LARGE)]
        assert (later.next_row(), later.begin_life()) == (3, 2)


def test_it_tells_when_all_before_is_committed(journal: Journal) -> None:
    """Seen by another connection to the file."""
    journal.opened(SESSION)
    journal.append("s", Entry(1, 4, 10, b"tasks"))
    committed(journal)
    with sqlite3.connect(journal.path) as other:
        assert other.execute("SELECT body FROM entries").fetchall() == [(b"tasks",)]


def test_large_bodies_are_beside_it_and_go_with_their_entries(journal: Journal) -> None:
    """One forgotten, one replaced, one whose session ended: no file is left."""
    folder = Path(f"{journal.path}.d")
    journal.opened(SESSION)
    for row in (1, 2, 3):
        journal.append("s", Entry(row, 5, row, LARGE))
    committed(journal)
    assert sorted(file.name for file in folder.iterdir()) == ["1", "2", "3"]
    assert journal.bytes > 3 * BESIDE_BYTES
    journal.forget([1])
    journal.replace(Entry(2, 102, 0, b"ids"))
    committed(journal)
    assert [file.name for file in folder.iterdir()] == ["3"]
    with again(journal) as later:
        assert list(later.entries("s")) == [Entry(2, 102, 0, b"ids"), Entry(3, 5, 3, LARGE)]


def test_a_session_that_ended_is_forgotten_with_all_of_it(journal: Journal) -> None:
    """Its entries, and their files."""
    journal.opened(SESSION)
    journal.append("s", Entry(1, 5, 1, LARGE))
    journal.ended("s", [1])
    with again(journal) as later:
        assert later.load() == []
        assert list(later.entries("s")) == []
        assert list(Path(f"{later.path}.d").iterdir()) == []


def test_files_that_nothing_mentions_are_swept(journal: Journal) -> None:
    """Left by a gateway that was killed between a file and its commit."""
    stray = Path(f"{journal.path}.d") / "99"
    stray.write_bytes(b"half")
    with again(journal) as later:
        later.load()
        assert not stray.exists()


def test_old_sessions_expire(journal: Journal) -> None:
    """Nobody came back to them for `keep` seconds."""
    journal.opened(SESSION)
    journal.append("s", Entry(1, 4, 1, b"tasks"))
    journal.close()
    with contextlib.closing(Journal(journal.path, keep=0.0)) as later:
        assert later.load() == []
        assert list(later.entries("s")) == []


def test_a_session_that_is_in_use_does_not_expire(journal: Journal) -> None:
    """Each message of its client says that it is: it may be connected for longer than `keep`."""
    journal.opened(SESSION)
    journal.opened(SESSION._replace(id="idle"))
    committed(journal)
    with contextlib.closing(sqlite3.connect(journal.path)) as other, other:
        other.execute("UPDATE sessions SET seen = seen - 7200")
    journal.received("s", 7)
    journal.close()
    with contextlib.closing(Journal(journal.path, keep=3600.0)) as later:
        assert [session.id for session in later.load()] == ["s"]


def test_a_file_that_somebody_removed_does_not_end_it(journal: Journal) -> None:
    """It was to go anyway."""
    journal.opened(SESSION)
    for row in (1, 2, 3):
        journal.append("s", Entry(row, 5, row, LARGE))
    committed(journal)
    for file in Path(f"{journal.path}.d").iterdir():
        file.unlink()
    journal.forget([1])
    journal.replace(Entry(2, 102, 0, b"ids"))
    journal.ended("s", [3])
    committed(journal)
    assert journal.failure is None


def test_a_drain_before_a_client_has_said_what_its_workers_are_for(journal: Journal) -> None:
    """Its session is known, and has nothing to pause."""

    async def drain() -> bool:
        from meca_executor.gateway.broker import Broker
        from meca_executor.gateway.durable import Durable
        from meca_executor.gateway.hub import Hub
        from meca_executor.runtimes.apps import Apps
        from meca_executor.runtimes.choice import AppsAndContainers
        from meca_executor.runtimes.containers import Containers
        from meca_executor.runtimes.engine_settings import EngineSettings
        from meca_executor.runtimes.places import Places

        nothing = AppsAndContainers(Apps({}), Containers(EngineSettings(url="none"), 1, {}), ())
        hub = Hub(Broker(1), Places(nothing, 1, {"cpu": 1}), keeper=Durable(journal))
        session, resumed = hub.attach("s", "me", 1, None)
        assert not (resumed or session.opened)
        return await hub.drain(LIMIT)

    assert asyncio.run(drain())


def test_a_missing_file_is_damage(journal: Journal) -> None:
    """The journal says that there is one beside it."""
    journal.opened(SESSION)
    journal.append("s", Entry(1, 5, 1, LARGE))
    with again(journal) as later:
        (Path(f"{later.path}.d") / "1").unlink()
        with pytest.raises(UsageError, match=r"is damaged: .* is missing"):
            list(later.entries("s"))


@pytest.mark.parametrize("content", [b"no database at all " * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_is_no_journal_is_refused_and_left_as_it_is(path: Path, content: bytes) -> None:
    """A text, and a torn database."""
    path.write_bytes(content)
    with pytest.raises(UsageError, match="damaged or no journal"):
        Journal(path)
    assert path.read_bytes() == content
    path.unlink()
    Journal(path).close()  # it is not locked


def test_a_damaged_journal_is_refused(journal: Journal) -> None:
    """Pages in its middle are overwritten."""
    journal.opened(SESSION)
    for row in range(1, 200):
        journal.append("s", Entry(row, 4, row, os.urandom(1000)))
    journal.close()
    with open(journal.path, "r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 20 * 4096)
    with pytest.raises(UsageError, match="damaged"):
        Journal(journal.path)


def test_anothers_database_is_refused(path: Path) -> None:
    """It has tables, and not our mark."""
    with sqlite3.connect(path) as base:
        base.execute("CREATE TABLE theirs (x)")
    with pytest.raises(UsageError, match="another program's database"):
        Journal(path)


def test_another_version_is_refused(journal: Journal) -> None:
    """A newer gateway has written it."""
    journal.close()
    with sqlite3.connect(journal.path) as base:
        base.execute("PRAGMA user_version=99")
    with pytest.raises(UsageError, match="version 99, this gateway writes version 2"):
        Journal(journal.path)


def test_one_gateway_at_a_time(journal: Journal) -> None:
    """The second is refused, and disturbs nothing."""
    with pytest.raises(UsageError, match="another gateway is using the journal"):
        Journal(journal.path)
    journal.opened(SESSION)
    committed(journal)
    Journal.close(journal)
    Journal(journal.path).close()


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    """A folder that is not there, and a folder in the file's place."""
    with pytest.raises(UsageError, match=r"cannot write a journal at .*: No such file"):
        Journal(tmp_path / "nowhere" / "journal.db")
    with pytest.raises(UsageError, match="cannot be used"):
        Journal(tmp_path)


def test_nobody_else_can_read_it(journal: Journal) -> None:
    """Tasks and results are in it."""
    journal.opened(SESSION)
    journal.append("s", Entry(1, 5, 1, LARGE))
    committed(journal)
    for file in journal.path.parent.glob(journal.path.name + "*"):
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_a_full_disk_is_told_once_and_nothing_is_called_committed(path: Path) -> None:
    """The writer ends; what it was to tell after the commit is not told."""
    failures: queue.SimpleQueue[str] = queue.SimpleQueue()
    journal = Journal(path)
    journal._base.execute("PRAGMA max_page_count=30")  # as a disk that is full then
    told: list[str] = []
    journal.start(failures.put)
    journal.opened(SESSION)
    journal.append("s", Entry(1, 4, 1, os.urandom(200_000)))
    journal.then(lambda: told.append("committed"))
    assert "cannot be written: database or disk is full" in failures.get(timeout=LIMIT)
    assert journal.failure is not None
    journal.close()
    assert told == []
    with contextlib.closing(Journal(path)) as later:
        assert list(later.entries("s")) == []


def test_it_says_when_it_has_its_size(path: Path) -> None:
    """And takes that back when results are fetched."""
    journal = Journal(path, size=2 * BESIDE_BYTES)
    journal.start(lambda why: pytest.fail(why))
    try:
        journal.opened(SESSION)
        committed(journal)
        assert journal.full is None
        for row in (1, 2, 3):
            journal.append("s", Entry(row, 5, 1, LARGE))
        committed(journal)
        assert "--journal-size" in str(journal.full)
        journal.forget([1, 2, 3])
        committed(journal)
        committed(journal)  # measured when the files are gone
        assert journal.full is None
    finally:
        journal.close()


def test_what_is_written_together_is_there_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when a commit has one piece of work, and writing ends in the middle."""
    monkeypatch.setattr(journal_module, "BATCH_MOST", 1)
    ended: queue.SimpleQueue[str] = queue.SimpleQueue()
    journal = Journal(path)
    journal.start(ended.put)
    journal.opened(SESSION)
    with journal.together():
        journal.append("s", Entry(1, 4, 10, b"tasks"))
        journal.received("s", 7)
    with journal.together():
        journal.append("s", Entry(2, 4, 11, b"more"))
        journal.do("no SQL")
    assert "cannot be written" in ended.get(timeout=LIMIT)
    with again(journal) as later:
        assert [session.received for session in later.load()] == [7]
        assert list(later.entries("s")) == [Entry(1, 4, 10, b"tasks")]
