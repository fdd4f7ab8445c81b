"""Exceptions that cannot travel come back in words, and harm nobody."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.waiting import LIMIT

from . import tasks
from .kinds import only_ours

if TYPE_CHECKING:
    from concurrent.futures import Executor


class Picky(Exception):
    """An exception whose constructor does not take what `args` holds: pickle makes it wrongly, or not at all."""

    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(f"{code}: {text}")


class Holder(Exception):
    """An exception that holds what cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Trap(Exception):
    """An exception that cannot be unpickled: doing so raises what it was given."""

    def __init__(self, text: str, error: type[BaseException]) -> None:
        super().__init__(text)
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return tasks.fail, (self.error("out of the trap"),)


class Jammed(Exception):
    """An exception that cannot be pickled: doing so raises what it was given."""

    def __init__(self, text: str, error: type[BaseException]) -> None:
        super().__init__(text)
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        raise self.error("jammed")


def raise_made(cls: type[Exception], *args: Any, **kwargs: Any) -> None:
    """Make an exception there and raise it."""
    raise cls(*args, **kwargs)


@only_ours
@pytest.mark.parametrize(
    ("cls", "args", "kwargs", "text"),
    [
        (Picky, (7,), {"text": "broken"}, "7: broken"),
        (Holder, ("holds a lock",), {}, "holds a lock"),
        (Trap, ("trapped", LookupError), {}, "trapped"),
        (Trap, ("trapped", SystemExit), {}, "trapped"),
        (Trap, ("trapped", KeyboardInterrupt), {}, "trapped"),
        (Jammed, ("stuck", LookupError), {}, "stuck"),
        (Jammed, ("stuck", SystemExit), {}, "stuck"),
        (Jammed, ("stuck", KeyboardInterrupt), {}, "stuck"),
    ],
)
def test_exceptions_that_cannot_travel(
    pool: Executor, cls: type[Exception], args: tuple[Any, ...], kwargs: dict[str, Any], text: str
) -> None:
    """They become a TaskFailed with class name, text and traceback; no other task is harmed."""
    from meca_executor import TaskFailed

    others = [pool.submit(tasks.nap, 0.005, n) for n in range(6)]
    future = pool.submit(raise_made, cls, *args, **kwargs)
    others += [pool.submit(tasks.nap, 0.005, n) for n in range(6, 12)]
    with pytest.raises(TaskFailed) as caught:
        future.result(LIMIT)
    assert cls.__name__ in str(caught.value) and text in str(caught.value)
    assert "raise_made" in str(caught.value) + getattr(caught.value.__cause__, "tb", "")
    assert [other.result(LIMIT) for other in others] == list(range(12))


@only_ours
def test_exceptions_that_cannot_travel_and_are_local(pool: Executor) -> None:
    """The same for local classes, also those with a closure that cannot travel."""
    from meca_executor import TaskFailed

    def stumble() -> None:
        lock = threading.Lock()

        class Inner(Exception):
            def __init__(self, code: int, text: str) -> None:
                super().__init__(text)
                self.lock = lock

        raise Inner(1, "from the inside")

    with pytest.raises(TaskFailed, match="Inner") as caught:
        pool.submit(stumble).result(LIMIT)
    assert "from the inside" in str(caught.value)


@only_ours
def test_exceptions_without_a_text(pool: Executor) -> None:
    """An exception whose own `__str__` fails is reported all the same."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def stumble() -> None:
        raise Mute

    def stumble_unpicklable() -> None:
        raise Mute(threading.Lock())

    assert type(pool.submit(stumble).exception(LIMIT)) is Mute
    assert "Mute" in str(pool.submit(stumble_unpicklable).exception(LIMIT))
    assert pool.submit(abs, -1).result(LIMIT) == 1


@only_ours
def test_exceptions_with_unpicklable_arguments_in_a_map(pool: Executor) -> None:
    """In `map` such an exception is raised at its place, and the results before it are given."""
    from meca_executor import TaskFailed

    def stumble(n: int) -> int:
        if n == 2:
            raise ValueError(threading.Lock())
        return n

    results = pool.map(stumble, range(4), timeout=LIMIT)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(TaskFailed, match="ValueError"):
        next(results)
