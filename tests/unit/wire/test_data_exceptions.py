"""The data codec: exceptions, and text that goes to a terminal."""

from __future__ import annotations

import builtins
import decimal
from typing import NoReturn

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meca_executor import TaskFailed, UntrustedResult
from meca_executor.wire.calls import RemoteTraceback
from meca_executor.wire.data import decode_error, encode, encode_error, printable

from .values import values


class Text(str):
    """A text of its own type."""


# -- exceptions


def back(error: BaseException) -> Exception:
    return decode_error(encode_error(error, "the traceback\n"))


builtin_errors = [
    KeyError("a"),
    ValueError(),
    ZeroDivisionError("division by zero", {"a": (1, 2.5)}),
    StopIteration(3),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
    UserWarning("careful"),
    TimeoutError(110, "slow"),
]


@pytest.mark.parametrize("error", builtin_errors, ids=lambda error: type(error).__name__)
def test_a_builtin_exception_comes_back_as_itself(error: Exception) -> None:
    got = back(error)
    assert type(got) is type(error)
    assert (got.args, str(got)) == (error.args, str(error))
    assert isinstance(got.__cause__, RemoteTraceback)
    assert got.__cause__.tb == "the traceback\n"


def test_what_exceptions_hold_beside_their_arguments() -> None:
    missing = back(FileNotFoundError(2, "No such file", "/tmp/a", None, "/tmp/b"))
    assert isinstance(missing, FileNotFoundError)
    assert (missing.errno, missing.filename, missing.filename2) == (2, "/tmp/a", "/tmp/b")
    lost = back(ModuleNotFoundError("No module named 'a'", name="a", path="/b"))
    assert isinstance(lost, ModuleNotFoundError)
    assert (lost.name, lost.path) == ("a", "/b")
    unknown = back(NameError("name 'a' is not defined", name="a"))
    assert isinstance(unknown, NameError)
    assert unknown.name == "a"
    noted = ValueError("a")
    noted.__notes__ = ["first", "second\x1b[1m"]  # type: ignore[attr-defined]  # Python 3.11
    assert vars(back(noted)) == {"__notes__": ["first", "second"]}
    noted.__notes__ = "no list"  # type: ignore[attr-defined]
    assert vars(back(noted)) == {}


class OwnError(Exception):
    pass


class Mute(Exception):
    def __str__(self) -> NoReturn:
        raise SystemExit("broken")


class Chatty(Exception):
    def __str__(self) -> str:
        return Text("many words")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OwnError("a", 1), r"\.OwnError: \('a', 1\)$"),
        (Mute(), r"Mute: <no text>$"),
        (Chatty(), "Chatty: many words$"),
        (ValueError(object()), "^ValueError: <object object"),
        (SystemExit(3), "^SystemExit: 3$"),
        (KeyboardInterrupt(), "^KeyboardInterrupt: $"),
        (GeneratorExit(), "^GeneratorExit: $"),
        (decimal.InvalidOperation("a"), r"^decimal\.InvalidOperation: a$"),
        (TaskFailed("inside"), r"^meca_executor\.TaskFailed: inside$"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_other_exception_is_told(error: BaseException, words: str) -> None:
    got = back(error)
    assert type(got) is TaskFailed
    with pytest.raises(TaskFailed, match=words):
        raise got
    assert isinstance(got.__cause__, RemoteTraceback)


def test_an_exception_group_is_told() -> None:
    group = getattr(builtins, "ExceptionGroup", None)
    if group is None:
        pytest.skip("Python 3.11 has them first")
    assert str(back(group("two", [ValueError(1)]))) == "ExceptionGroup: two (1 sub-exception)"


@pytest.mark.parametrize("name", ["open", "eval", "int", "__import__", "SystemExit", "no_such", "UnicodeDecodeError"])
def test_no_name_makes_anything_else_than_an_exception(name: str) -> None:
    """Neither the name of another builtin, nor arguments that the class does not take."""
    sent = encode((name, encode((("a", "b"), {})), "text", "traceback"))
    assert str(decode_error(sent)) == f"{name}: text"
    assert type(decode_error(sent)) is TaskFailed


@pytest.mark.parametrize(
    "value",
    [
        1,
        (),
        ("ValueError", "", "text", "traceback"),
        ("ValueError", b"", "text"),
        ("ValueError", encode(1), "text", "traceback"),
        ("ValueError", encode(((), [])), "text", "traceback"),
        ("ValueError", b"\x80\x05N.", "text", "traceback"),
    ],
    ids=repr,
)
def test_what_is_no_exception(value: object) -> None:
    with pytest.raises(UntrustedResult):
        decode_error(encode(value))


@given(st.binary() | values.map(encode))
@example(encode(("OSError", encode((({},), {"name": [], "path": 1, "__notes__": [1]})), "", "")))
@example(encode(("ImportError", encode(((), {"name": [], "path": 1})), "", "")))
def test_decoding_an_exception_raises_nothing_else(data: bytes) -> None:
    try:
        assert isinstance(decode_error(data), Exception)
    except UntrustedResult:
        pass


# -- text for a terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\r\nJürgen \U0001f600 \u00a0", None),
        ("\x1b[1;31mred\x1b[0m \x1b[2J\x1b[?25l", "red "),
        ("\x1b]0;title\x07a\x1b]52;c;AAAA\x1b\\b", "ab"),
        ("a\x1b]0;never ends", "a?]0;never ends"),
        ("bell\x07 back\x08 c1\x9b31m null\x00", "bell? back? c1?31m null?"),
        ("\u202eevil\u2069 \ud800", "?evil? ?"),
    ],
)
def test_what_steers_a_terminal_is_taken_out(text: str, shown: str | None) -> None:
    assert printable(text) == (text if shown is None else shown)


def test_exceptions_do_not_steer_the_terminal() -> None:
    steering = "\x1b[2Jgone\x1b]0;t\x07"
    for error in (ValueError(steering), OwnError(steering)):
        got = decode_error(encode_error(error, f"{steering}\n"))
        assert "\x1b" not in str(got)
        assert str(got.__cause__).count("\x1b") == 0
    lost = back(ImportError("a", name=steering))
    assert isinstance(lost, ImportError)
    assert lost.name == "gone"
