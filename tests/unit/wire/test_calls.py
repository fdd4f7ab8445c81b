"""Calls and outcomes as bytes: what goes by reference, what by value, and exceptions that do not travel."""

from __future__ import annotations

import collections
import functools
import importlib.machinery
import importlib.util
import json
import math
import operator
import pickle
import sys
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import cloudpickle
import pytest

from meca_executor import TaskFailed, TaskTimeout
from meca_executor.wire import calls
from meca_executor.wire.calls import (
    RemoteTraceback,
    dump_call,
    dump_exception,
    dump_whole_call,
    dumps,
    importable,
    load_exception,
    loads,
    reference_to,
)
from meca_executor.wire.classes import loads_at_home

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Plain:
    """A class that a worker can import."""

    def __init__(self, value: object = None) -> None:
        self.value = value

    def method(self) -> object:
        return self.value

    @staticmethod
    def static() -> str:
        return "static"


def module_level(value: object) -> object:
    return value


class Meta(type):
    """A metaclass: its classes may carry anything."""


class WithMeta(metaclass=Meta):
    """A class whose class is not `type`."""


SOURCE = """
class Thing:
    def __init__(self, value):
        self.value = value
    def __eq__(self, other):
        return type(other).__name__ == "Thing" and other.value == self.value
    __hash__ = None

class Oops(Exception):
    pass

def double(value):
    return 2 * value

def make(value):
    return Thing(value)
"""


@pytest.fixture(autouse=True)
def knows_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts as a fresh process does, and leaves no module registered with cloudpickle."""
    monkeypatch.setattr(calls, "_by_value", {b"__main__"}, raising=False)
    monkeypatch.setattr(calls, "_importable", {})
    before = set(cloudpickle.list_registry_pickle_by_value())
    yield
    cloudpickle.cloudpickle._PICKLE_BY_VALUE_MODULES.intersection_update(before)


def made_module(name: str, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Return a module that was made at run time, so that no other process can import it."""
    module = types.ModuleType(name)
    exec(SOURCE, module.__dict__)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def elsewhere(data: bytes, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Read a pickle as a process does that has no module of that name."""
    with monkeypatch.context() as there:
        there.delitem(sys.modules, name, raising=False)
        return loads(data)


# -- by reference


@pytest.mark.parametrize(
    "fn", [pow, len, math.sqrt, json.dumps, int, dict, collections.OrderedDict, Plain, module_level]
)
def test_what_a_worker_can_import_goes_by_reference(fn: Callable[..., Any]) -> None:
    """Functions, classes and builtins that are found under their own name are sent as that name."""
    reference = reference_to(fn)
    assert reference is not None
    assert loads(reference) is fn
    assert len(reference) < 200


@pytest.mark.parametrize(
    "fn",
    [
        lambda: None,
        functools.partial(pow, 2),
        Plain(1).method,
        Plain.method,
        Plain.static,
        Plain(1),
        "abc".upper,
        [].append,
        WithMeta,
        operator.itemgetter(1),
        functools.lru_cache(module_level),
        functools.wraps(module_level)(lambda value: value),
        types.FunctionType(module_level.__code__, {}, "not_there"),
    ],
    ids=repr,
)
def test_what_may_carry_state_has_no_reference(fn: Callable[..., Any]) -> None:
    """Anything but a plain function, class or builtin under its own name travels with each call."""
    assert reference_to(fn) is None


def test_a_name_that_means_something_else_is_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that was replaced under its name would be another one in the worker."""
    original = module_level
    monkeypatch.setattr(sys.modules[__name__], "module_level", lambda value: None)
    assert reference_to(original) is None


def test_a_bound_builtin_does_not_make_every_pickle_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """`"abc".upper` has no module; asking for it leaves other calls to the fast pickler."""
    assert reference_to("abc".upper) is None

    def slow(*args: object) -> NoReturn:
        pytest.fail("cloudpickle is asked for what the C pickler can do")

    monkeypatch.setattr(cloudpickle, "dumps", slow)
    assert loads(dump_call((1, "two"), {})) == ((1, "two"), {})


def test_a_module_that_was_unloaded_is_not_importable_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function outlives its module's entry in sys.modules; asking for it is no KeyError."""
    fn = json.dumps
    assert reference_to(fn) is not None
    monkeypatch.delitem(sys.modules, "json")
    assert reference_to(fn) is None


# -- by value


@pytest.mark.parametrize("name", ["__main__", "__mp_main__"])
def test_what_stands_in_the_main_module_goes_by_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions, classes and instances of the program that was started are sent whole, the worker has them not."""
    main = made_module(name, monkeypatch)
    assert not importable(name)
    assert reference_to(main.double) is None
    fn, args, kwargs = elsewhere(dump_whole_call(main.double, (21,), {}), name, monkeypatch)
    assert fn(*args, **kwargs) == 42
    ((thing,), options) = elsewhere(dump_call((main.Thing(1),), {"kind": main.Thing}), name, monkeypatch)
    assert thing == main.Thing(1)
    assert options["kind"] is type(thing)


@pytest.mark.parametrize("name", ["__main__", "__mp_main__"])
def test_an_instance_of_the_main_module_alone_goes_by_value(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument is looked at too, when nothing of the main module was submitted before."""
    main = made_module(name, monkeypatch)
    assert elsewhere(dumps([main.Thing(5)]), name, monkeypatch) == [main.Thing(5)]


def test_text_that_mentions_the_main_module_comes_back() -> None:
    """The name in an argument's text makes the pickle slower and changes nothing."""
    assert loads(dumps({"__main__": ["__main__", b"__main__"]})) == {"__main__": ["__main__", b"__main__"]}


def test_a_module_made_at_run_time_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no worker can import is sent whole: the function, and from then on its module's classes."""
    module = made_module("made_at_run_time", monkeypatch)
    assert reference_to(module.make) is None
    fn, args, _ = elsewhere(dump_whole_call(module.make, (3,), {}), "made_at_run_time", monkeypatch)
    assert fn(*args) == module.Thing(3)
    assert elsewhere(dumps(module.Thing(4)), "made_at_run_time", monkeypatch) == module.Thing(4)


def test_an_argument_of_a_module_made_at_run_time_goes_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when nothing but an argument comes from a module that a worker lacks."""
    module = made_module("made_for_an_argument", monkeypatch)
    (args, _) = elsewhere(dump_call((module.Thing(4),), {}), "made_for_an_argument", monkeypatch)
    assert args == (module.Thing(4),)


def test_a_module_loaded_from_a_path_of_its_own_is_not_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a spec, but no finder finds it, or another file under its name."""
    for name in ("loaded_by_path", "json"):
        path = tmp_path / f"{name}.py"
        path.write_text(SOURCE)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setitem(sys.modules, name, module)
        assert not importable(name)
        fn, args, _ = elsewhere(dump_whole_call(module.double, (4,), {}), name, monkeypatch)
        assert fn(*args) == 8


@pytest.mark.parametrize(
    "name", ["sys", "builtins", "math", "zipimport", "json", "os.path", "meca_executor.wire.calls"]
)
def test_installed_builtin_and_frozen_modules_are_importable(name: str) -> None:
    """A worker has the same builtin and frozen modules and the same path."""
    __import__(name)
    assert importable(sys.modules[name].__name__)


@pytest.mark.parametrize("name", ["", "no_such_module", "__main__", "__mp_main__"])
def test_no_module_is_not_importable(name: str) -> None:
    """A name without a module, and the main one, cannot be imported; asking twice gives the same."""
    assert not importable(name)
    assert not importable(name)


@pytest.mark.parametrize("value", [lambda: 7, functools.partial(lambda value: value, 7)])
def test_what_the_c_pickler_cannot_do_goes_by_value(value: Callable[[], int]) -> None:
    """Lambdas and what holds them are taken by cloudpickle."""
    assert loads(dumps(value))() == 7


def test_closures_and_local_classes_go_by_value() -> None:
    """A local class, its instance and a closure over it come back working."""

    class Local:
        def __init__(self, value: int) -> None:
            self.value = value

    offset = 5

    def add(thing: Local) -> int:
        return thing.value + offset

    fn, args, kwargs = loads(dump_whole_call(add, (Local(2),), {}))
    assert fn(*args, **kwargs) == 7


@pytest.mark.parametrize(
    "value", [(each for each in list[int]()), sys.stdout, sys._getframe()], ids=["generator", "file", "frame"]
)
def test_what_cannot_be_pickled_at_all_is_a_named_error(value: object) -> None:
    """The error is the one that the standard library's executors give: TypeError or PicklingError."""
    with pytest.raises((TypeError, pickle.PicklingError)):
        dump_call((value,), {})


def test_an_error_of_the_users_own_pickling_is_that_error() -> None:
    """What an argument's `__reduce__` raises is what the caller sees."""

    class Refuses:
        def __reduce__(self) -> NoReturn:
            raise LookupError("not this one")

    with pytest.raises(LookupError, match="not this one"):
        dump_call((Refuses(),), {})


def test_a_call_comes_back_whole() -> None:
    """Arguments and keywords arrive equal, with or without their function."""
    call = ((1, [2], {"three": 4.0}), {"self": 1, "fn": 2})
    assert loads(dump_call(*call)) == call
    assert loads(dump_whole_call(module_level, *call)) == (module_level, *call)


def test_a_class_that_comes_back_is_the_same_and_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client changed in its own class meanwhile stays; another process gets the class whole."""
    main = made_module("__main__", monkeypatch)
    main.Thing.count = 1
    data = dumps([main.Thing(5), main.Thing])
    main.Thing.count = 2
    thing, kind = loads_at_home(data)
    assert kind is type(thing) is main.Thing
    assert main.Thing.count == 2
    assert thing.value == 5


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
    head = payload[: -len(pickle.dumps(ValueError("words"), calls.PROTOCOL))]
    error = load_exception(head + pickle.dumps("text", calls.PROTOCOL))
    assert type(error) is TaskFailed
    assert "ValueError: words" in str(error)


def test_a_remote_traceback_travels_itself() -> None:
    """A RemoteTraceback that a task got from an executor of its own can be raised again."""
    got = travelled(RemoteTraceback("the text"))
    assert isinstance(got, RemoteTraceback)
    assert got.tb == "the text"
