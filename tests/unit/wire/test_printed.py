"""Whose text it is, in a worker's output and on the link; and how much of it is kept."""

from __future__ import annotations

import pytest

from meca_executor.wire.printed import KEPT, LAST, OWNED, Log, mark, owner, parts, record
from meca_executor.wire.records import Status

TASK = (1 << 63) - 1


def test_text_is_cut_at_its_marks() -> None:
    """Each piece has an owner, and the last one says whose what comes next is."""
    text = b"before\n" + mark(7) + b"seven\n" + mark(TASK) + mark(0) + b"nobody\n" + mark(8)
    assert list(parts(text, 3)) == [(3, b"before\n"), (7, b"seven\n"), (0, b"nobody\n"), (8, b"")]
    assert list(parts(b"plain", 3)) == [(3, b"plain")]


def test_what_only_looks_like_a_mark_is_text() -> None:
    """Binary output may have anything in it."""
    for odd in (b"\x00\xff", b"\x00\xff%016x" % 1, b"\x00\xff" + b"g" * 16 + b"\x00", mark(5)[1:]):
        assert list(parts(odd, 1)) == [(1, odd)]


def test_a_mark_has_no_newline() -> None:
    """Output is cut at newlines on its way."""
    assert all(b"\n" not in mark(task) for task in range(0, 5000))


def test_records_say_whose_text_they_have() -> None:
    """Of a task, or of nobody in particular."""
    id_, status, flags, payload = record(TASK, Status.STDERR, b"text", LAST)
    assert (id_, status) == (0, Status.STDERR)
    assert flags & LAST
    assert owner(flags, payload) == (TASK, b"text")
    assert record(0, Status.STDOUT, b"text") == (0, Status.STDOUT, 0, b"text")
    assert owner(0, b"text") == (0, b"text")
    assert owner(OWNED, b"short") == (0, b"short")  # from a gateway that sends nonsense: no error


def test_the_last_of_a_log_is_kept() -> None:
    """And a first line says how much there was before; no letter is cut in two."""
    log = Log()
    log.write(b"a" * KEPT)
    assert log.text() == "a" * KEPT
    log.write(b"end")
    assert log.text() == "[3 bytes before this are cut]\n" + "a" * (KEPT - 3) + "end"
    log.write("é".encode() * KEPT)
    log.write(b"!")
    first, rest = log.text().split("\n")
    assert first == f"[{3 * KEPT + 4 - (KEPT - 1)} bytes before this are cut]"
    assert rest == "é" * (KEPT // 2 - 1) + "!"


def test_a_log_can_be_taken_piece_by_piece() -> None:
    """What was taken is not there any more; one that has ended takes nothing."""
    log = Log()
    assert log.take() == b""
    log.write(b"one")
    assert (log.take(), log.take()) == (b"one", b"")
    log.write(b"x" * (KEPT + 1))
    assert log.take() == b"[1 bytes before this are cut]\n" + b"x" * KEPT
    log.write(b"two")
    log.end()
    log.write(b"three")
    assert log.take() == b"two"


@pytest.mark.parametrize("text", [b"\xff\xfe", b"\x80\x80\x80\x80", b""])
def test_bytes_that_are_no_text(text: bytes) -> None:
    """They are shown somehow, and nothing is raised."""
    log = Log()
    log.write(text)
    assert isinstance(log.text(), str)
