"""Futures between threads: who waits is told, who calls first wins, whatever the threads' turns."""

from __future__ import annotations

import gc
import random
import threading
import time
from concurrent.futures import ALL_COMPLETED, FIRST_EXCEPTION, CancelledError, _base, as_completed, wait
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.client import future as module
from meca_executor.client.future import MecaFuture

from ...helpers.waiting import LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

COUNT = 500
FILES = {module.__file__, _base.__file__}

Futures = list[MecaFuture[int]]


@pytest.fixture(autouse=True)
def turns_at_any_line() -> Iterator[None]:
    """Let threads take turns within the futures' own lines; by itself the interpreter changes threads elsewhere."""
    dice = random.Random(7)

    def within(frame: FrameType, event: str, arg: object) -> Callable[..., Any]:
        if event == "line" and dice.random() < 0.3:
            time.sleep(0)  # lets another thread go on
        return within

    def calls(frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
        return within if frame.f_code.co_filename in FILES else None

    before = threading.gettrace()
    threading.settrace(calls)
    yield
    threading.settrace(before)


def together(*works: Callable[[], object]) -> None:
    """Run these at the same time, each in a thread, to their end."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        start.wait(LIMIT)
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
        assert not thread.is_alive(), "it waits for ever"
    if errors:
        raise errors[0]


def made() -> Futures:
    return [MecaFuture() for _ in range(COUNT)]


def give(futures: Futures) -> None:
    """Do what the link does: claim each and give it its outcome, a result or every third time an error."""
    for number, future in enumerate(futures):
        assert future.claim()
        if number % 3:
            future.set_result(number)
        else:
            future.set_exception(LookupError(number))


def outcome(future: MecaFuture[int]) -> int:
    try:
        return future.result()
    except LookupError as error:
        return int(error.args[0])


def ask_each(futures: Futures) -> list[int]:
    return [outcome(future) for future in futures]


def ask_for_exceptions(futures: Futures) -> list[int]:
    errors = [future.exception() for future in futures]
    assert [error is None for error in errors] == [number % 3 > 0 for number in range(COUNT)]
    return ask_each(futures)


def ask_backwards(futures: Futures) -> list[int]:
    return ask_each(futures[::-1])[::-1]


def take_as_completed(futures: Futures) -> list[int]:
    return sorted(map(outcome, as_completed(futures)))  # type: ignore[arg-type]


def wait_for_each(futures: Futures) -> list[int]:
    for future in futures:
        assert wait([future]).done == {future}
    return ask_each(futures)


def wait_for_all(futures: Futures) -> list[int]:
    assert wait(futures, return_when=ALL_COMPLETED).done == set(futures)
    return ask_each(futures)


def wait_for_an_error(futures: Futures) -> list[int]:
    for at in range(1, COUNT, 30):
        some = futures[at : at + 20]
        done = wait(some, return_when=FIRST_EXCEPTION).done
        assert any(future.exception(0) for future in done)
    return ask_each(futures)


@pytest.mark.parametrize(
    "ask",
    [
        ask_each,
        ask_for_exceptions,
        ask_backwards,
        take_as_completed,
        wait_for_each,
        wait_for_all,
        wait_for_an_error,
    ],
)
def test_who_waits_is_told(ask: Callable[[Futures], list[int]]) -> None:
    """Whether it began to wait before or after the outcome, or just then."""
    futures = made()
    got: list[list[int]] = []
    together(lambda: give(futures), lambda: got.append(ask(futures)), lambda: got.append(ask(futures)))
    assert got == [list(range(COUNT))] * 2


def test_each_callback_is_called_once() -> None:
    """Whether it was added before or after the outcome, or just then."""
    futures = made()
    called: list[MecaFuture[int]] = []

    def add() -> None:
        for future in futures:
            future.add_done_callback(called.append)  # type: ignore[arg-type]

    together(lambda: give(futures), add)
    assert len(called) == COUNT
    assert set(called) == set(futures)


@pytest.mark.parametrize("watched", [False, True])
def test_either_the_claim_or_the_cancel_wins(watched: bool) -> None:
    """One of them, and everyone is told the same; whether or not somebody waits for the future."""
    futures = made()
    called: list[object] = []
    if watched:
        for future in futures:
            future.add_done_callback(called.append)
    claimed: list[bool] = []
    cancelled: list[bool] = []
    together(
        lambda: claimed.extend([future.claim() for future in futures]),
        lambda: cancelled.extend([future.cancel() for future in futures]),
    )
    assert [not won for won in claimed] == cancelled
    assert [future.cancelled() for future in futures] == cancelled
    assert [future.running() for future in futures] == claimed
    assert len(called) == watched * sum(cancelled)


@pytest.mark.parametrize("watched", [False, True])
def test_one_of_many_claims_wins(watched: bool) -> None:
    """A task is handed over once."""
    futures = made()
    if watched:
        for future in futures:
            future.add_done_callback(id)
    claims: list[list[bool]] = []
    together(*[lambda: claims.append([future.claim() for future in futures])] * 3)
    assert [sum(wins) for wins in zip(*claims, strict=True)] == [1] * COUNT


def test_who_waits_for_what_is_cancelled_is_told() -> None:
    """By each way of waiting, and callbacks once."""
    futures = made()
    called: list[Any] = []

    def ask() -> None:
        for future in futures:
            future.add_done_callback(called.append)
            with pytest.raises(CancelledError):
                future.result()

    together(
        lambda: [future.cancel() for future in futures],
        lambda: [future.cancel() for future in reversed(futures)],
        ask,
        lambda: wait(futures),
        lambda: list(as_completed(futures)),
    )
    assert sorted(map(id, called)) == sorted(map(id, futures))


@pytest.mark.parametrize("name", ["_condition", "_waiters", "_done_callbacks"])
def test_what_is_made_later_is_made_once(name: str) -> None:
    """Two that ask at the same moment get the same one."""
    futures = made()
    seen: list[list[object]] = []
    together(*[lambda: seen.append([getattr(future, name) for future in futures])] * 3)
    assert all(one is two is three for one, two, three in zip(*seen, strict=True))


class LastWill:
    """Cancels a future when the garbage collector finds it, as an abandoned iterator of `map` does."""

    def __init__(self) -> None:
        self.itself = self
        self.future: MecaFuture[int] = MecaFuture()

    def __del__(self) -> None:
        self.future.cancel()


@pytest.mark.parametrize(
    "touch",
    [lambda future: future._condition, MecaFuture.cancel, MecaFuture.claim, lambda future: future.set_result(1)],
)
def test_a_finalizer_may_cancel_a_future_at_any_moment(touch: Callable[[MecaFuture[int]], object]) -> None:
    """The collector runs wherever memory is asked for, also while this thread holds what guards the futures."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        for allocations in range(1, 30):
            LastWill()
            future: MecaFuture[int] = MecaFuture()
            gc.set_threshold(allocations)
            gc.enable()
            touch(future)
            gc.disable()
            gc.collect()
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
