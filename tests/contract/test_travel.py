"""What travels to a worker and back: functions and objects that no import statement would find.

That the same holds for what stands in a program's main module and beside it is asked in `test_main_module.py`.
"""

from __future__ import annotations

import functools
import operator
import os
import sys
import threading
import types
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from tests.helpers.waiting import LIMIT

from . import tasks
from .kinds import across_processes, only_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

T = TypeVar("T")


@pytest.fixture
def call(pool: Executor) -> Callable[..., Any]:
    """Return a function that runs another one on the pool and returns its result."""

    def run_there(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return pool.submit(function, *args, **kwargs).result(LIMIT)

    return run_there


def undecorated(function: Callable[..., T]) -> Callable[..., list[T]]:
    """Wrap the result in a list; a decorator."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> list[T]:
        return [function(*args)]

    return wrapper


@undecorated
def decorated(x: int) -> int:
    """Return the double, in a list."""
    return 2 * x


@across_processes
def test_functions_of_modules(call: Callable[..., Any]) -> None:
    """Builtins, functions and classes of modules, their static and class methods travel."""
    assert call(operator.add, 1, 2) == 3
    assert call(str.upper, "a") == "A"
    assert call(dict.fromkeys, "ab", 0) == {"a": 0, "b": 0}
    assert call(tasks.Point, 1, 2) == tasks.Point(1, 2)
    assert call(os.path.join, "a", "b") == os.path.join("a", "b")
    assert call(decorated, 2) == [4]


@across_processes
def test_bound_methods_and_partials(call: Callable[..., Any]) -> None:
    """Methods bound to objects and partials of functions travel with what they hold."""
    assert call(tasks.Thing(40).plus, 2) == 42
    assert call([3, 1, 2].index, 2) == 2
    assert call("a-b".split, "-") == ["a", "b"]
    assert call(functools.partial(tasks.multiply, 3, y=4)) == 12
    assert call(functools.partial(pow, 2), 5) == 32
    assert call(operator.methodcaller("plus", 1), tasks.Thing(1)) == 2


@only_ours
def test_lambdas_and_closures(call: Callable[..., Any]) -> None:
    """Lambdas and nested functions travel with the variables that they close over."""
    base, seen = 10, {"k": [1]}

    def outer(x: int) -> Callable[[int], int]:
        def inner(y: int) -> int:
            return base + x + y + seen["k"][0]

        return inner

    assert call(lambda x, /, y=2, *rest, z=3, **more: (x, y, rest, z, more), 1, 5, 6, z=7, w=8) == (
        1, 5, (6,), 7, {"w": 8},
    )  # fmt: skip
    assert call(outer(100), 1000) == 1111
    assert call(functools.partial(lambda a, b: a - b, b=1), 5) == 4
    assert call(decorated.__wrapped__, 3) == 6  # type: ignore[attr-defined]


@only_ours
def test_local_functions_as_arguments_and_results(call: Callable[..., Any]) -> None:
    """A lambda may be an argument of an importable function, deep inside another, and a result."""
    assert call(map_list, lambda x: x + 1, [1, 2]) == [2, 3]
    add = call(lambda n: lambda x: x + n, 5)
    assert add(1) == 6
    inner = call(tasks.echo, {"deep": [{"f": (lambda: "here")}]})
    assert inner["deep"][0]["f"]() == "here"


def map_list(function: Callable[[T], T], values: list[T]) -> list[T]:
    """Apply the function to each value."""
    return [function(value) for value in values]


@only_ours
def test_recursion(call: Callable[..., Any]) -> None:
    """Local functions that call themselves or each other travel."""

    def factorial(n: int) -> int:
        return 1 if n < 2 else n * factorial(n - 1)

    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert call(factorial, 20) == 2432902008176640000
    assert [call(even, 10), call(even, 7), call(odd, 7)] == [True, False, True]


@only_ours
def test_default_arguments_annotations_and_names(call: Callable[..., Any]) -> None:
    """A local function keeps its name, docstring, defaults, annotations and attributes."""

    def local(x: int = 3, *, y: str = "z") -> str:
        """Say something."""
        return f"{x}{y}"

    local.mark = [1]  # type: ignore[attr-defined]

    def describe(function: Any) -> tuple[Any, ...]:
        return function.__name__, function.__doc__, function.__defaults__, function.__kwdefaults__, function.mark

    assert call(describe, local) == ("local", "Say something.", (3,), {"y": "z"}, [1])
    assert call(local) == "3z"


@only_ours
def test_generators_inside_and_async_inside(call: Callable[..., Any]) -> None:
    """Local functions may use generators, comprehensions, async code and imports inside."""

    def numbers(n: int) -> Iterator[int]:
        yield from range(n)

    async def later(n: int) -> int:
        return n

    def all_of_it() -> tuple[list[int], int]:
        import asyncio as aio

        return [x for x in numbers(3) if x], aio.run(later(4))

    assert call(all_of_it) == ([1, 2], 4)


@only_ours
def test_identity_within_a_call(call: Callable[..., Any]) -> None:
    """What is one object in the arguments is one object in the task; cycles are kept."""
    one: list[Any] = [1]
    assert call(lambda a, b, *, c: a is b is c[0], one, one, c=[one])
    one.append(one)
    back = call(tasks.echo, one)
    assert back[1] is back


@only_ours
def test_modules_and_types_as_arguments(call: Callable[..., Any]) -> None:
    """Modules, builtin types, `None`'s type, `Ellipsis` and aliases travel."""
    sent: list[Any] = [os, int, type(None), ..., NotImplemented, list[int], types.SimpleNamespace(a=1), range(3)]
    assert call(tasks.echo, sent) == sent
    assert call(lambda module: module.getpid(), os) != os.getpid()


@only_ours
def test_module_made_by_hand(call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions and classes of a module that no import can find (made at run time, loaded by path) travel."""
    plugin = types.ModuleType("contract_plugin")
    source = "SCALE = 10\ndef scale(x): return helper(x) * SCALE\ndef helper(x): return x + 1\nclass Unit: value = 3\n"
    exec(compile(source, "contract_plugin.py", "exec"), plugin.__dict__)
    monkeypatch.setitem(sys.modules, "contract_plugin", plugin)
    assert call(plugin.scale, 1) == 20
    assert call(lambda: plugin.scale(2)) == 30
    assert type(call(plugin.Unit)) is plugin.Unit


@only_ours
def test_thread_locals_stay_behind(call: Callable[..., Any]) -> None:
    """Tasks of one worker run in its main thread, where signals and asyncio work."""
    assert call(lambda: threading.current_thread() is threading.main_thread())
