"""Calls and results as bytes: what goes by reference, and what by value."""

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
from typing import TYPE_CHECKING, Any, NoReturn

import cloudpickle
import pytest

from meca_executor.wire import calls
from meca_executor.wire.calls import (
    dump_call,
    dump_whole_call,
    dumps,
    importable,
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
    monkeypatch.setattr(calls, "_by_value", frozenset({b"__main__", b"tblib.pickling_support"}))
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
