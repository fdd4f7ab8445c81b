"""What tasks print appears where the client prints: in order, whole lines, or where `output` says."""

# ruff: noqa: T201  (printing is what is tested)
from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
import warnings
from typing import TYPE_CHECKING

from tests.helpers.waiting import LIMIT, wait_until

from . import tasks
from .kinds import only_ours
from .printing import Lines, say
from .rooms import Room

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from meca_executor import MecaExecutor

pytestmark = only_ours


def test_prints_appear(pool: MecaExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    """What a task prints is there when its future is done, on the stream to which it was printed."""
    pool.submit(say, "hello", 1).result(LIMIT)
    pool.submit(say, "trouble", file="stderr").result(LIMIT)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("hello 1\n", "trouble\n")


def test_prints_of_a_failing_task_appear(pool: MecaExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    """What was printed before an exception is there, and the exception itself is not printed."""

    def stumble() -> None:
        say("before")
        raise LookupError

    assert isinstance(pool.submit(stumble).exception(LIMIT), LookupError)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("before\n", "")


def test_prints_of_a_dying_worker_appear(make: Callable[..., MecaExecutor], lines: Lines) -> None:
    """What a task printed before its worker died is not lost."""

    def die() -> None:
        print("last words")
        sys.stdout.flush()
        os._exit(3)

    pool = make(max_workers=1, output=lines, retry=1)
    assert pool.submit(die).exception(LIMIT) is not None
    lines.expect("last words\n")


def test_order_within_a_task(pool: MecaExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints of one task appear in their order; those of one task after another too."""

    def count(begin: int) -> None:
        for n in range(begin, begin + 200):
            print(n)

    for begin in (0, 200):
        pool.submit(count, begin).result(LIMIT)
    assert capsys.readouterr().out.split() == [str(n) for n in range(400)]


def test_lines_are_not_mixed(talker: tuple[MecaExecutor, Lines], room: Room) -> None:
    """Lines that tasks write in pieces, at the same time, come out whole."""

    def write(name: str, folder: str) -> None:
        tasks.enter(folder, name)
        Room(folder).await_count(2)
        for n in range(100):
            for piece in (f"<{name}", f"{n}", f"{name}>", "\n"):
                sys.stdout.write(piece)
                sys.stdout.flush()

    pool, lines = talker
    list(pool.map(write, "ab", [str(room.folder)] * 2, timeout=LIMIT))
    whole = lines.text().splitlines()
    assert sorted(whole) == sorted(f"<{name}{n}{name}>" for name in "ab" for n in range(100))
    for name in "ab":
        mine = [line for line in whole if line.startswith(f"<{name}")]
        assert mine == [f"<{name}{n}{name}>" for n in range(100)]


def test_a_line_that_does_not_end(talker: tuple[MecaExecutor, Lines], room: Room) -> None:
    """Is passed on in pieces when it is long, and nowhere kept until it ends."""

    def write(folder: str) -> None:
        for _ in range(40):
            sys.stdout.write("x" * 100_000)
        sys.stdout.flush()
        Room(folder).stay("written")

    pool, lines = talker
    future = pool.submit(write, str(room.folder))
    wait_until(lambda: len(lines.text()) > 2_000_000, "most of the line is here")
    assert not future.done()
    room.open()
    future.result(LIMIT)
    assert lines.text() == "x" * 4_000_000


def test_lines_reach_the_stream_whole(pool: MecaExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the client's own stdout a line is one write, so that nothing else comes in between."""

    writes: list[str] = []

    class Recorder(io.StringIO):
        def write(self, text: str) -> int:
            writes.append(text)
            return len(text)

    monkeypatch.setattr(sys, "stdout", Recorder())
    pool.submit(say, "one", "two", "three").result(LIMIT)
    assert "one two three\n" in "".join(writes)
    assert any(text.startswith("one two three") for text in writes)


def test_a_last_line_without_an_end(make: Callable[..., MecaExecutor], lines: Lines) -> None:
    """Text that does not end its line appears, at the latest when its task is over; nothing is added between."""
    with make(max_workers=1, output=lines) as pool:
        pool.submit(say, "50 %", end="").result(LIMIT)
        pool.submit(say, "\r100 %").result(LIMIT)
    assert lines.text() in ("50 %\r100 %\n", "50 %\n\r100 %\n")


def test_text_of_all_sorts(talker: tuple[MecaExecutor, Lines]) -> None:
    """Letters of all scripts, long lines and empty ones arrive as they were printed."""
    texts = ["é ☃ 漢 🙂", "", "x" * 200_000, "tab\there"]
    pool, lines = talker
    for text in texts:
        pool.submit(say, text).result(LIMIT)
    assert lines.text() == "".join(text + "\n" for text in texts)


def test_text_that_is_none(talker: tuple[MecaExecutor, Lines]) -> None:
    """Bytes that are no UTF-8, and lone surrogates, harm neither task nor executor."""

    def odd() -> str:
        sys.stdout.buffer.write(b"\xff\xfe raw\n")
        sys.stdout.flush()
        try:
            print("\udc80 lone")
        except UnicodeEncodeError:
            return "refused"
        return "printed"

    pool, lines = talker
    assert pool.submit(odd).result(LIMIT) in ("refused", "printed")
    pool.submit(say, "after").result(LIMIT)
    assert "raw" in lines.text() and lines.text().endswith("after\n")


def test_much_output(talker: tuple[MecaExecutor, Lines]) -> None:
    """Megabytes of output arrive whole, and hold up no task."""

    def chatter(name: int) -> int:
        for n in range(20_000):
            print(name, n, "." * 40)
        return name

    pool, lines = talker
    assert list(pool.map(chatter, range(4), timeout=LIMIT * 2)) == list(range(4))
    assert lines.text().count("\n") == 80_000


def test_output_of_programs_and_of_c(talker: tuple[MecaExecutor, Lines]) -> None:
    """What a task's child processes and C code write to descriptors 1 and 2 appears too."""

    def run_programs() -> None:
        os.system("echo from the shell")
        subprocess.run([sys.executable, "-c", "import sys; print('oops', file=sys.stderr)"], check=True, timeout=20)
        os.write(1, b"from descriptor 1\n")

    pool, lines = talker
    pool.submit(run_programs).result(LIMIT)
    lines.expect("from the shell\nfrom descriptor 1\n")
    lines.expect("oops\n", "stderr")


def test_order_of_prints_and_programs(talker: tuple[MecaExecutor, Lines]) -> None:
    """Prints and what programs print in between keep their order."""

    def both() -> None:
        for n in range(3):
            print("print", n, flush=True)
            os.system(f"echo shell {n}")

    pool, lines = talker
    pool.submit(both).result(LIMIT)
    lines.expect("".join(f"print {n}\nshell {n}\n" for n in range(3)))


def test_logging_and_warnings(talker: tuple[MecaExecutor, Lines]) -> None:
    """Log lines and warnings of a task go to its stderr."""

    def grumble() -> None:
        logging.getLogger("task").warning("be careful")
        warnings.warn("be very careful", UserWarning, stacklevel=1)

    pool, lines = talker
    pool.submit(grumble).result(LIMIT)
    assert "be careful\n" in lines.text("stderr") and "UserWarning: be very careful" in lines.text("stderr")


def test_prints_of_threads(talker: tuple[MecaExecutor, Lines]) -> None:
    """What threads of a task print appears, also after the task's end."""

    def start() -> None:
        threading.Timer(0.1, say, ["late"]).start()

    pool, lines = talker
    pool.submit(start).result(LIMIT)
    lines.expect("late\n")


def test_a_task_that_replaces_stdout(pool: MecaExecutor, capsys: pytest.CaptureFixture[str]) -> None:
    """`redirect_stdout` in a task works, and ends with it."""

    def redirected() -> str:
        import contextlib

        with contextlib.redirect_stdout(io.StringIO()) as buffer:
            say("inside")
        return buffer.getvalue()

    assert pool.submit(redirected).result(LIMIT) == "inside\n"
    pool.submit(say, "outside").result(LIMIT)
    assert capsys.readouterr().out == "outside\n"
