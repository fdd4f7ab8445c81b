"""Exceptions come back as themselves, with the place where they were raised."""

from __future__ import annotations

import asyncio
import concurrent.futures as cf
import functools
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.waiting import LIMIT

from . import tasks
from .kinds import across_processes, only_ours

if TYPE_CHECKING:
    from concurrent.futures import Executor


class Detailed(Exception):
    """An exception with fields of its own, whose constructor takes what `args` holds."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code, self.text = code, text


def error_of(pool: Executor, function: Any, *args: Any, **kwargs: Any) -> BaseException:
    """Return the exception of a call."""
    error = pool.submit(function, *args, **kwargs).exception(LIMIT)
    assert error is not None
    return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("wrong", 3),
        KeyError("key"),
        OSError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        StopIteration(5),
        AssertionError(),
        Detailed(3, "three"),
        cf.CancelledError(),
        cf.TimeoutError("slow"),
        cf.BrokenExecutor("inner"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_any_exception_is_itself(pool: Executor, error: Exception) -> None:
    """Type, arguments and text are those of the exception that was raised."""
    future = pool.submit(tasks.fail, error)
    back = future.exception(LIMIT)
    assert type(back) is type(error)
    assert back.args == error.args and str(back) == str(error)
    assert vars(back).keys() >= vars(error).keys() - {"__notes__"}
    with pytest.raises(type(error)):
        future.result(LIMIT)


@pytest.mark.parametrize(
    "error", [SystemExit(3), SystemExit("text"), KeyboardInterrupt("now"), GeneratorExit(), asyncio.CancelledError()]
)
def test_exceptions_that_are_no_errors(pool: Executor, error: BaseException) -> None:
    """`SystemExit`, `KeyboardInterrupt` and their like end the task and not its worker, and reach the future."""
    back = error_of(pool, tasks.fail, error)
    assert type(back) is type(error) and back.args == error.args
    assert pool.submit(abs, -1).result(LIMIT) == 1


@only_ours
def test_exit_functions(pool: Executor) -> None:
    """`sys.exit` in a task is a SystemExit in its future; the worker goes on."""
    worker = pool.submit(tasks.pid)
    back = error_of(pool, sys.exit, 4)
    assert isinstance(back, SystemExit) and back.code == 4
    assert worker.result(LIMIT) in {pool.submit(tasks.pid).result(LIMIT) for _ in range(20)}


@only_ours
def test_local_exceptions(pool: Executor) -> None:
    """An exception of a local class is caught by that class, with its attributes."""

    class Base(Exception):
        pass

    class Local(Base):
        def __init__(self, code: int, text: str) -> None:
            super().__init__(code, text)
            self.code = code

        def __str__(self) -> str:
            return f"local {self.code}"

    def stumble() -> None:
        raise Local(7, "seven")

    with pytest.raises(Local, match="local 7") as caught:
        pool.submit(stumble).result(LIMIT)
    assert isinstance(caught.value, Base) and caught.value.code == 7
    with pytest.raises(Local):
        list(pool.map(lambda _: stumble(), range(3), timeout=LIMIT))

    class Abrupt(BaseException):
        pass

    def leave() -> None:
        raise Abrupt("gone")

    assert type(error_of(pool, leave)) is Abrupt


def deep(level: int) -> None:
    """Raise from a few frames down."""
    if level == 0:
        raise RuntimeError("at the bottom")  # the marked line
    deep(level - 1)


def line_of(text: str) -> int:
    """Return the number of this file's line that contains the text."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return 1 + next(n for n, line in enumerate(lines) if text in line and "line_of" not in line)


@across_processes
def test_the_remote_traceback_is_the_cause(pool: Executor) -> None:
    """`__cause__` has the text of the traceback in the worker: file, line, function and source."""
    error = error_of(pool, deep, 3)
    cause = error.__cause__
    text = getattr(cause, "tb", "")
    assert f'{__file__}", line {line_of("# the marked line")}, in deep' in text
    assert "# the marked line" in text
    assert "RuntimeError: at the bottom" in text
    assert "at the bottom" in str(cause)


@across_processes
def test_the_traceback_when_printed(pool: Executor) -> None:
    """A printed traceback shows both places: where it was raised in the worker, and where it was asked for."""
    try:
        pool.submit(deep, 2).result(LIMIT)
    except RuntimeError as error:
        printed = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert "# the marked line" in printed
    assert "direct cause of the following exception" in printed
    assert "test_the_traceback_when_printed" in printed
    assert printed.rstrip().endswith("RuntimeError: at the bottom")


@only_ours
def test_the_traceback_is_the_users_own(pool: Executor) -> None:
    """The remote traceback has the user's frames only, none of the worker's machinery."""
    text = getattr(error_of(pool, deep, 0).__cause__, "tb", "")
    assert text.count("  File ") == 1, text


def chained() -> None:
    """Raise an exception with a cause of its own."""
    try:
        os.environ["CONTRACT_MISSING"]
    except KeyError as error:
        raise ValueError("no such entry") from error


@across_processes
def test_the_users_own_causes_are_in_the_text(pool: Executor) -> None:
    """The chain of causes that the task made is part of the remote traceback."""
    error = error_of(pool, chained)
    text = getattr(error.__cause__, "tb", "")
    assert type(error) is ValueError
    assert "KeyError: 'CONTRACT_MISSING'" in text and "direct cause" in text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes and groups came with Python 3.11")
@across_processes
def test_notes_and_groups(pool: Executor) -> None:
    """Notes travel with their exception, and groups with their members."""
    if sys.version_info >= (3, 11):
        error: Any = ValueError("noted")
        error.add_note("see page 3")
        back: Any = error_of(pool, tasks.fail, error)
        assert back.__notes__ == ["see page 3"]
        group: Any = error_of(pool, tasks.fail, ExceptionGroup("several", [ValueError(1), Detailed(2, "x")]))  # noqa: F821
        assert type(group) is ExceptionGroup  # noqa: F821
        assert [type(member) for member in group.exceptions] == [ValueError, Detailed]


@only_ours
def test_exception_raised_by_unpickling_nothing_but_the_function(pool: Executor) -> None:
    """A callable object of a local class that raises gives its own exception."""

    class Caller:
        def __call__(self, x: int) -> int:
            return 10 // x

    assert pool.submit(Caller(), 5).result(LIMIT) == 2
    assert type(error_of(pool, Caller(), 0)) is ZeroDivisionError
    assert type(error_of(pool, functools.partial(Caller(), 0))) is ZeroDivisionError


def recurse(n: int) -> int:
    """Go down until the interpreter refuses."""
    return recurse(n + 1) + 1


@across_processes
def test_endless_recursion(pool: Executor) -> None:
    """Endless recursion is a RecursionError in the future."""
    assert type(error_of(pool, recurse, 0)) is RecursionError
    assert pool.submit(abs, -1).result(LIMIT) == 1
