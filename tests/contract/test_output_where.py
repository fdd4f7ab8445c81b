"""Where the output of tasks goes: `output=`, and streams of the client that are closed."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from tests.helpers import scripts
from tests.helpers.waiting import LIMIT

from .kinds import Kind, only_ours
from .printing import Lines, say

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from meca_executor import MecaExecutor

pytestmark = only_ours


def test_switched_off(make: Callable[..., MecaExecutor], capfd: pytest.CaptureFixture[str]) -> None:
    """With `output=False` nothing appears anywhere."""
    with make(max_workers=1, output=False) as pool:
        pool.submit(say, "hello").result(LIMIT)
        pool.submit(say, "trouble", file="stderr").result(LIMIT)
        pool.submit(os.system, "echo shell").result(LIMIT)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_handed_to_a_callable(talker: tuple[MecaExecutor, Lines], capfd: pytest.CaptureFixture[str]) -> None:
    """With `output=callable` it is called with text and stream name, and nothing is printed."""
    pool, lines = talker
    pool.submit(say, "hello").result(LIMIT)
    pool.submit(say, "trouble", file="stderr").result(LIMIT)
    assert (lines.text("stdout"), lines.text("stderr")) == ("hello\n", "trouble\n")
    assert {stream for _, stream in lines.calls} == {"stdout", "stderr"}
    assert all(isinstance(text, str) for text, _ in lines.calls)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_callable_that_raises(make: Callable[..., MecaExecutor], caplog: pytest.LogCaptureFixture) -> None:
    """An `output` that raises harms no task."""

    def refuse(text: str, stream: str) -> None:
        raise RuntimeError("no output wanted")

    with make(max_workers=1, output=refuse) as pool:
        pool.submit(say, "hello").result(LIMIT)
        assert pool.submit(abs, -1).result(LIMIT) == 1


def test_a_closed_stdout(pool: MecaExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose own stdout is closed, or is None, still gets its results."""
    for stream in (None, closed()):
        monkeypatch.setattr(sys, "stdout", stream)
        pool.submit(say, "hello").result(LIMIT)
        assert pool.submit(abs, -1).result(LIMIT) == 1


def closed() -> io.StringIO:
    """Return a stream that was closed."""
    stream = io.StringIO()
    stream.close()
    return stream


def test_standard_input_is_empty(pool: MecaExecutor) -> None:
    """A task that reads its standard input finds its end at once, and does not hang."""
    assert isinstance(pool.submit(input).exception(LIMIT), EOFError)
    assert pool.submit(lambda: sys.stdin.read()).result(LIMIT) == ""


def test_a_whole_program(kind: Kind, tmp_path: Path) -> None:
    """Prints of tasks reach the two outputs of the program itself, before it ends."""
    source = """
    import os, sys
    from meca_executor import MecaExecutor
    ex = MecaExecutor(max_workers=2)
    def speak(n):
        print("out", n)
        print("err", n, file=sys.stderr)
        os.system(f"echo shell {n}")
    futures = [ex.submit(speak, n) for n in range(5)]
    """
    done = scripts.run(kind.program(source), tmp_path).expect()
    assert sorted(done.out.splitlines()) == sorted(f"{word} {n}" for word in ("out", "shell") for n in range(5))
    assert sorted(done.err.splitlines()) == [f"err {n}" for n in range(5)]


def test_a_reader_that_went_away(kind: Kind, tmp_path: Path) -> None:
    """With its stdout closed by the reader (`| head`), a program still gets results and ends."""
    source = """
    import os, sys
    from meca_executor import MecaExecutor
    with MecaExecutor(max_workers=1) as ex:
        os.close(1)
        os.open(os.devnull, os.O_RDONLY)  # writing fails now
        ex.submit(print, "hello", flush=True).result(20)
        print(ex.submit(abs, -1).result(20), file=sys.stderr)
        sys.stdout = None
    """
    done = scripts.run(kind.program(source), tmp_path)
    assert "1" in done.err.splitlines()
