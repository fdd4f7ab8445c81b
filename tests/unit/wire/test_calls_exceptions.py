"""Exceptions as bytes: those that travel, and those that do not."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from meca_executor import TaskFailed, TaskTimeout
from meca_executor.wire import calls
from meca_executor.wire.calls import (
    RemoteTraceback,
    dump_exception,
    load_exception,
)

if TYPE_CHECKING:
    from collections.abc import Callable


# -- exceptions that travel


def raised(error: BaseException) -> BaseException:
    """Return the error as a worker catches it: raised in a call, one frame of the worker's own above it."""

    def users_function() -> NoReturn:
        raise error

    try:
        users_function()
    except BaseException as caught:
        return caught


def travelled(error: BaseException) -> BaseException:
    """Return what arrives of an exception that must travel."""
    travels, payload = dump_exception(raised(error))
    assert travels, payload.decode()
    return load_exception(payload)


class WithState(Exception):
    """Takes what it says apart, as exceptions with more than a text do."""

    def __init__(self, code: int, *, extra: str = "") -> None:
        super().__init__(code)
        self.code = code
        self.extra = extra


def test_an_exception_comes_back_as_itself() -> None:
    """Class, arguments and attributes are the user's own."""
    error = travelled(WithState(7, extra="more"))
    assert type(error) is WithState
    assert (error.args, error.code, error.extra) == ((7,), 7, "more")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("words"),
        KeyError("key"),
        OSError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
        StopIteration(3),
        SystemExit(4),
        KeyboardInterrupt(),
        GeneratorExit(),
        TaskTimeout("ours"),
        AssertionError(),
    ],
    ids=repr,
)
def test_exceptions_of_every_kind_come_back(error: BaseException) -> None:
    """Builtin ones, those that are no `Exception`, and this package's own."""
    got = travelled(error)
    assert type(got) is type(error)
    assert got.args == error.args
    assert str(got) == str(error)


def test_a_local_exception_comes_back_as_one_of_its_name() -> None:
    """A class that only this function knows travels by value."""

    class Local(Exception):
        pass

    got = travelled(Local("words", 1))
    assert type(got).__name__ == "Local"
    assert got.args == ("words", 1)


def test_the_remote_traceback_is_the_cause() -> None:
    """Its text names the user's function and not the worker's frame, and stands in `.tb` as in the stdlib."""
    cause = travelled(ValueError("what went wrong")).__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "in users_function" in cause.tb
    assert "in raised" not in cause.tb
    assert cause.tb.rstrip().endswith("ValueError: what went wrong")
    assert str(cause) == f'\n"""\n{cause.tb}"""'


def test_causes_and_contexts_are_in_the_text() -> None:
    """What led to the exception cannot travel as objects, but is told."""
    error = ValueError("the outer")
    error.__cause__ = KeyError("the inner")
    cause = travelled(error).__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "the inner" in cause.tb


def test_half_a_character_in_the_text_is_no_obstacle() -> None:
    """A message that UTF-8 cannot write comes back as it was."""
    assert travelled(ValueError("half \ud800")).args == ("half \ud800",)


@dataclass(frozen=True)
class Frozen(Exception):
    """An exception that refuses every new attribute, `__cause__` too."""

    code: int

    def __reduce__(self) -> tuple[type[Frozen], tuple[int]]:
        return Frozen, (self.code,)


def test_a_frozen_exception_comes_back_as_itself_with_its_cause() -> None:
    """The cause is put in past the class's own `__setattr__`."""
    got = travelled(Frozen(3))
    assert type(got) is Frozen
    assert got.code == 3
    assert isinstance(got.__cause__, RemoteTraceback)


# -- exceptions that do not


class TwoArguments(Exception):
    """Cannot be made again from what it gives to `Exception`: the classic that kills a pool."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class HoldsLock(Exception):
    """Has something in it that cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("holds a frame")
        self.frame = sys._getframe()


class ReducesToText(Exception):
    """Comes back as something else than an exception."""

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, ("not an exception",)


class ExitsWhenPickled(Exception):
    """Ends the process that pickles it, if it lets it."""

    def __reduce__(self) -> NoReturn:
        raise SystemExit(3)


class NoText(Exception):
    """Has no text, and cannot be pickled either."""

    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    def __reduce__(self) -> NoReturn:
        raise TypeError("nor a pickle")


class RaisesNoText(Exception):
    """Its pickling raises an exception that has no text."""

    def __reduce__(self) -> NoReturn:
        raise NoText


class ExitsWhenShown(Exception):
    """Ends the process that shows it, if it lets it."""

    def __str__(self) -> str:
        raise SystemExit(4)

    def __reduce__(self) -> NoReturn:
        raise TypeError("no pickle")


class Recursive(Exception):
    """Has a traceback text and a pickle without an end."""

    def __reduce__(self) -> Any:
        return self.__reduce__()


@pytest.mark.parametrize(
    "error",
    [
        TwoArguments(1, 2),
        HoldsLock(),
        ReducesToText("words"),
        ExitsWhenPickled(),
        NoText(),
        RaisesNoText(),
        ExitsWhenShown(),
        Recursive(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_exception_that_cannot_travel_is_told_in_words(error: Exception) -> None:
    """Its class's name and its traceback come instead, and nothing is raised on the way."""
    travels, payload = dump_exception(raised(error))
    assert not travels
    text = payload.decode()
    assert text.startswith(type(error).__qualname__ + ":")
    assert "in users_function" in text


def test_the_words_hold_the_exceptions_own_text() -> None:
    """What the user wrote is at the very start, with why the object could not come."""
    _, payload = dump_exception(raised(TwoArguments(1, 2)))
    first = payload.decode().splitlines()[0]
    assert first.startswith("TwoArguments: 1 and 2 (")
    assert "TypeError" in first


def test_a_syntax_error_with_odd_fields_can_still_be_told() -> None:
    """Formatting a traceback runs over the user's attributes, which may be anything."""
    error = SyntaxError("odd")
    error.filename, error.lineno, error.text, error.offset = "file", 1, "the text", "not a number"  # type: ignore[assignment]
    _, payload = dump_exception(raised(error))
    assert b"odd" in payload


class Unreadable(Exception):
    """Can be pickled anywhere, and read only where it is allowed."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return read_here, ("words",)


allowed = True


def read_here(words: str) -> Exception:
    if not allowed:
        raise ModuleNotFoundError("No module named 'only_there'")
    return Unreadable(words)


def test_an_exception_that_cannot_be_read_here_is_a_failure_with_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the worker could read and the client cannot is a TaskFailed; the remote traceback is there all the same."""
    travels, payload = dump_exception(raised(Unreadable("words")))
    assert travels
    monkeypatch.setattr(sys.modules[__name__], "allowed", False)
    error = load_exception(payload)
    assert type(error) is TaskFailed
    assert "Unreadable: words" in str(error)
    assert "No module named 'only_there'" in str(error)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "users_function" in error.__cause__.tb


def test_a_pickle_that_is_no_exception_is_a_failure() -> None:
    """A payload whose pickle holds anything else is not raised."""
    travels, payload = dump_exception(raised(ValueError("words")))
    assert travels
    head = payload[: -len(calls.dumps(ValueError("words")))]
    error = load_exception(head + pickle.dumps("text", calls.PROTOCOL))
    assert type(error) is TaskFailed
    assert "ValueError: words" in str(error)


def test_a_remote_traceback_travels_itself() -> None:
    """A RemoteTraceback that a task got from an executor of its own can be raised again."""
    got = travelled(RemoteTraceback("the text"))
    assert isinstance(got, RemoteTraceback)
    assert got.tb == "the text"
