"""What can change is sent as it is at each submit: no cache changes an answer.

Arguments, defaults, closures, globals and attributes are what they were when `submit` was called,
neither later nor earlier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.helpers.waiting import LIMIT

from . import tasks
from .kinds import only_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    import pytest

    from .rooms import Room

pytestmark = only_ours


def results(pool: Executor, function: Callable[..., Any], count: int = 6) -> list[Any]:
    """Return what so many calls give, one after the other."""
    return [pool.submit(function).result(LIMIT) for _ in range(count)]


def test_arguments_changed_after_submit(make: Callable[..., Executor], room: Room) -> None:
    """What the caller does to its arguments after `submit` is not seen by the task."""
    pool = make(max_workers=1)
    blocker = pool.submit(tasks.stay, str(room.folder))
    room.await_count(1)
    numbers, options, buffer = [1, 2], {"a": [1]}, bytearray(b"old")
    thing = tasks.Thing(1)
    futures: list[Future[Any]] = [
        pool.submit(tasks.capture, numbers, buffer, options=options),
        pool.submit(thing.plus, 10),
        pool.submit(lambda: (numbers, options)),
        *(pool.submit(tasks.capture, numbers, n) for n in range(20)),
    ]
    numbers.append(3)
    options["a"].append(2)
    buffer[:] = b"new"
    thing.value = 100
    room.open()
    assert blocker.result(LIMIT) == ""
    assert futures[0].result(LIMIT) == (([1, 2], bytearray(b"old")), {"options": {"a": [1]}})
    assert futures[1].result(LIMIT) == 11
    assert futures[2].result(LIMIT) == ([1, 2], {"a": [1]})
    assert all(future.result(LIMIT)[0][0] == [1, 2] for future in futures[3:])


def test_arguments_changed_before_there_is_a_connection(make: Callable[..., Executor]) -> None:
    """The same for what is submitted while the executor still starts."""
    pool = make(max_workers=1)
    numbers = [0]
    futures = []
    for n in range(1, 10):
        futures.append(pool.submit(sum, numbers))
        numbers.append(n)
    assert [future.result(LIMIT) for future in futures] == [sum(range(n)) for n in range(1, 10)]


def test_arguments_of_map(make: Callable[..., Executor], room: Room) -> None:
    """`map` sends its arguments as they are at the call."""
    pool = make(max_workers=1)
    blocker = pool.submit(tasks.stay, str(room.folder))
    shared = [1]
    given = pool.map(tasks.echo, [shared] * 5, timeout=LIMIT)
    shared.append(2)
    room.open()
    assert list(given) == [[1]] * 5
    assert blocker.result(LIMIT) == ""


def test_the_same_list_twice(pool: Executor) -> None:
    """A list that is changed between two submits is sent again."""
    numbers: list[int] = []
    for n in range(10):
        numbers.append(n)
        assert pool.submit(sum, numbers).result(LIMIT) == sum(range(n + 1))


def test_closure_changed_between_submits(pool: Executor) -> None:
    """A variable that a function closes over has its present value at each submit."""
    count, seen = 0, [0]

    def look() -> tuple[int, list[int]]:
        return count, seen

    for count in range(1, 6):
        seen.append(count)
        assert pool.submit(look).result(LIMIT) == (count, list(range(count + 1)))


def test_default_argument_changed_between_submits(pool: Executor) -> None:
    """Mutable and replaced defaults have their present value at each submit."""

    def look(x: list[int] = [0], *, y: int = 0) -> tuple[list[int], int]:  # noqa: B006  (that is the point)
        return x, y

    for n in range(1, 5):
        look.__defaults__[0].append(n)  # type: ignore[index]
        look.__kwdefaults__["y"] = n  # type: ignore[index]
        assert pool.submit(look).result(LIMIT) == (list(range(n + 1)), n)


def test_global_changed_between_submits(pool: Executor) -> None:
    """A local function sees the present value of the global variables that it uses."""
    namespace: dict[str, Any] = {"level": 0, "__name__": "contract_nowhere"}
    exec("def look(): return level, table\ntable = {}", namespace)
    for n in range(4):
        namespace["level"] = n
        namespace["table"][n] = n
        expected = n, {k: k for k in range(n + 1)}
        assert pool.submit(namespace["look"]).result(LIMIT) == expected


def test_function_that_calls_a_changed_function(pool: Executor) -> None:
    """A helper that was replaced is replaced in the tasks."""

    def first() -> str:
        return "first"

    helper = first

    def look() -> str:
        return helper()

    assert pool.submit(look).result(LIMIT) == "first"

    def replacement() -> str:
        return "second"

    helper = replacement
    assert pool.submit(look).result(LIMIT) == "second"


def test_class_changed_between_submits(pool: Executor) -> None:
    """A local class has its present attributes and methods in each task."""

    class Setting:
        limit = 0

        def get(self) -> Any:
            return self.limit

    setting = Setting()
    for n in range(1, 4):
        Setting.limit = n
        assert pool.submit(setting.get).result(LIMIT) == n
        assert pool.submit(lambda: Setting.limit).result(LIMIT) == n
    Setting.get = lambda self: "replaced"  # type: ignore[method-assign]
    assert results(pool, setting.get, 4) == ["replaced"] * 4
    assert Setting.limit == 3


def test_attributes_changed_between_submits(pool: Executor) -> None:
    """A function's attributes are sent anew."""

    def look() -> Any:
        return getattr(look, "mark", None)

    assert pool.submit(look).result(LIMIT) is None
    look.mark = [1]  # type: ignore[attr-defined]
    assert pool.submit(look).result(LIMIT) == [1]


def test_code_changed_between_submits(pool: Executor) -> None:
    """A function whose code was replaced runs the new code."""

    def look() -> int:
        return 4

    assert pool.submit(look).result(LIMIT) == 4
    look.__code__ = (lambda: 5).__code__
    assert pool.submit(look).result(LIMIT) == 5


def test_bound_method_of_a_changed_object(pool: Executor) -> None:
    """The object of a bound method is sent with its present state, also when the method is kept."""
    thing = tasks.Thing(0)
    plus = thing.plus
    for n in range(5):
        thing.value = n
        assert pool.submit(plus, 1).result(LIMIT) == n + 1


def test_partial_of_a_changed_list(pool: Executor) -> None:
    """The arguments held by a partial are sent with their present values."""
    from functools import partial

    numbers: list[int] = []
    total = partial(sum, numbers)
    for n in range(5):
        numbers.append(n)
        assert pool.submit(total).result(LIMIT) == sum(range(n + 1))


def test_what_a_task_changes_is_not_kept(pool: Executor) -> None:
    """What a local function does to its own defaults, closure and attributes is gone with the task."""
    counter = [0]
    total = 0

    def count(seen: list[int] = []) -> tuple[int, int, int, int]:  # noqa: B006  (that is the point)
        nonlocal total
        seen.append(1)
        counter.append(1)
        total += 1
        count.calls = getattr(count, "calls", 0) + 1  # type: ignore[attr-defined]
        return len(seen), len(counter), total, count.calls  # type: ignore[attr-defined]

    assert results(pool, count, 8) == [(1, 2, 1, 1)] * 8
    assert (counter, total) == ([0], 0)


def test_same_name_other_function(pool: Executor) -> None:
    """Functions of the same name, and code at the same line, are not taken for each other."""
    made = [(lambda k: lambda: k)(n) for n in range(20)]
    assert [pool.submit(function).result(LIMIT) for function in made] == list(range(20))
    namespaces: list[dict[str, Any]] = [{"__name__": "contract_nowhere"} for _ in range(5)]
    for n, namespace in enumerate(namespaces):
        exec(f"def f(): return {n}", namespace)
    assert [pool.submit(namespace["f"]).result(LIMIT) for namespace in namespaces] == list(range(5))


def test_importable_function_that_was_replaced(pool: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function put in the place of an importable one is what runs, and after that the first one again."""
    assert pool.submit(tasks.multiply, 2, 3).result(LIMIT) == 6
    original = tasks.multiply
    monkeypatch.setattr(tasks, "multiply", lambda x, y=1: -x * y)
    assert pool.submit(tasks.multiply, 2, 3).result(LIMIT) == -6
    monkeypatch.undo()
    assert tasks.multiply is original
    assert pool.submit(tasks.multiply, 2, 3).result(LIMIT) == 6
