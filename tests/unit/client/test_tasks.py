"""Numbers for functions and options: the same thing is one number, and is sent once."""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import pytest
import tenacity

from meca_executor.client import tasks
from meca_executor.client.options import TaskOptions
from meca_executor.client.tasks import Registry
from meca_executor.wire.calls import NO_DEFINITION, loads


class Callable:
    """A callable object, which may carry state."""

    def __call__(self) -> None: ...


class Unhashable(Callable):
    __hash__ = None  # type: ignore[assignment]


class BadHash(Callable):
    def __hash__(self) -> int:
        raise ValueError("no hash today")


class EqualToAll(Callable):
    """Looks like a function that was registered before."""

    def __init__(self, like: object) -> None:
        self.like = like

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(self.like)


def test_an_importable_function_has_one_number() -> None:
    """From 1 on, with its pickled reference at that place."""
    registry = Registry()
    numbers = [registry.function_number(fn) for fn in (math.sqrt, json.dumps, math.sqrt)]
    assert numbers == [1, 2, 1]
    assert [loads(reference) for reference in registry.references[1:]] == [math.sqrt, json.dumps]
    assert registry.references[NO_DEFINITION] == b""


@pytest.mark.parametrize("fn", [lambda: None, Callable(), Unhashable(), BadHash(), "abc".upper], ids=repr)
def test_what_travels_with_its_calls_has_none(fn: Any) -> None:
    """Callables with a state, or without a hash, have no number, and asking is no error."""
    registry = Registry()
    assert registry.function_number(fn) == NO_DEFINITION
    assert registry.references == [b""]


def test_an_object_that_equals_a_function_is_not_that_function() -> None:
    """Equality is the user's to define; what is called is the object that was given."""
    registry = Registry()
    registry.function_number(math.sqrt)
    assert registry.function_number(EqualToAll(math.sqrt)) == NO_DEFINITION


def test_beyond_the_most_functions_travel_with_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have a number keep it."""
    monkeypatch.setattr(tasks, "DEFINITIONS_MOST", 2)
    registry = Registry()
    functions = [math.sqrt, math.sin, math.cos, math.tan]
    assert [registry.function_number(fn) for fn in functions] == [1, 2, 0, 0]
    assert registry.function_number(math.sin) == 2


def test_equal_options_are_one_number() -> None:
    """From 0 on."""
    registry = Registry()
    one, same, other = (TaskOptions().changed(timeout=seconds) for seconds in (1, 1.0, 2))
    assert [registry.options_number(options) for options in (one, same, other, TaskOptions())] == [0, 0, 1, 2]
    assert registry.options == [one, other, TaskOptions()]


def test_what_the_gateway_cannot_tell_apart_is_one_number() -> None:
    """A retry policy is the client's own affair: a new tenacity object for each call makes no new kind of task."""
    registry = Registry()
    numbers = {registry.options_number(TaskOptions().changed(retry=tenacity.stop_after_attempt(4))) for _ in range(100)}
    assert len(numbers) == 1
    assert len(registry.options) == 1


def test_many_threads_agree() -> None:
    """The same function and options have the same numbers in all threads, without a gap."""
    registry = Registry()
    functions = [getattr(math, name) for name in ("sin", "cos", "tan", "exp", "log", "sqrt", "floor", "ceil")]
    start = threading.Barrier(4)
    seen: list[list[tuple[int, int]]] = []

    def register() -> None:
        start.wait()
        seen.append(
            [
                (registry.function_number(fn), registry.options_number(TaskOptions().changed(timeout=at + 1)))
                for at, fn in enumerate(functions)
            ]
        )

    threads = [threading.Thread(target=register) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(numbers == seen[0] for numbers in seen)
    assert sorted(number for number, _ in seen[0]) == list(range(1, 9))
    assert sorted(number for _, number in seen[0]) == list(range(8))
