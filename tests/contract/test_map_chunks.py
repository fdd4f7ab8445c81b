"""`map` however its items travel: each has its own end, and none sees, delays or harms another."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import threading
import time
from collections import Counter
from concurrent.futures import Executor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Any

import pytest
import tenacity

from tests.helpers.waiting import LIMIT

from . import tasks
from .kinds import PROCESSES, Kind, across_processes, only_ours
from .rooms import Room
from .test_payloads import CANNOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meca_executor import MecaExecutor

FEW_ATTEMPTS = (tenacity.retry_if_exception_type(ConnectionError), tenacity.stop_after_attempt(3))
SHARED = ["one", "object"]  #: what several items return


# -- what items do


def item_error(number: int) -> LookupError:
    """Return the error of an item, which knows its number."""
    return LookupError("item", number)


def note_and_fail(folder: str, number: int, bad: int) -> int:
    """Work for 5 ms; raise in one item, write the others down."""
    time.sleep(0.005)
    if number == bad:
        raise item_error(number)
    Room(folder).enter(number)
    return number


def fail_at(number: int, bad: int) -> int:
    """Raise in one item."""
    if number == bad:
        raise item_error(number)
    return number


def stay_at(folder: str, number: int, slow: int) -> int:
    """Wait for the door in one item; write the others down."""
    if number == slow:
        Room(folder).stay("slow")
    else:
        Room(folder).enter(number)
    return number


def attempt(folder: str, number: int) -> int:
    """Write an attempt at an item down; return which it is."""
    room = Room(folder)
    room.enter(number)
    return room.entered().count(str(number))


def die_until(folder: str, number: int, deaths: dict[int, int]) -> int:
    """End this process in an item's first so many attempts."""
    if attempt(folder, number) <= deaths.get(number, 0):
        os._exit(5)
    return number


def raise_until(folder: str, number: int, failures: dict[int, int]) -> int:
    """Raise in an item's first so many attempts."""
    if attempt(folder, number) <= failures.get(number, 0):
        raise ConnectionError(number)
    return number


def append_to(items: list[int], number: int) -> list[int]:
    """Change the argument and return it."""
    items.append(number)
    return items


def give_shared(_: object) -> list[str]:
    """Return an object that this process has once."""
    return SHARED


def digest(data: bytes) -> tuple[str, bytes]:
    """Return the argument's digest, and the argument turned round."""
    return hashlib.sha256(data).hexdigest(), data[::-1]


def make_lock_at(number: int, bad: int) -> Any:
    """Return what cannot be pickled in one item."""
    return threading.Lock() if number == bad else number


class Collector:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.items: list[int] = []

    def keep(self, number: int) -> list[int]:
        """Keep one more and return all."""
        return append_to(self.items, number)


def take(results: Iterator[Any], count: int) -> list[Any]:
    """Return the next so many results."""
    return list(itertools.islice(results, count))


# -- errors


@pytest.mark.parametrize("bad", [0, 1, 63, 199])
def test_an_error_comes_behind_all_results_before_it(pool: Executor, bad: int) -> None:
    """Of 200 quick items one fails: what is before it is given, then the error, then nothing."""
    results = pool.map(fail_at, range(200), itertools.repeat(bad), timeout=LIMIT)
    assert take(results, bad) == list(range(bad))
    with pytest.raises(LookupError) as caught:
        next(results)
    assert caught.value.args == ("item", bad)
    assert next(results, "end") == "end"


@across_processes
def test_an_error_shows_where_it_was_raised(pool: Executor) -> None:
    """Its cause has the traceback of the process in which it was raised."""
    results = pool.map(fail_at, range(100), itertools.repeat(50), timeout=LIMIT)
    with pytest.raises(LookupError) as caught:
        list(results)
    assert "in fail_at" in str(caught.value.__cause__)


def test_the_first_error_in_order_is_the_one_raised(pool: Executor) -> None:
    """A later item that fails sooner does not come before it."""
    results = pool.map(tasks.divide, [1] * 100, [1] * 10 + [0] + [1] * 50 + [None] + [1] * 38, timeout=LIMIT)
    assert take(results, 10) == [1.0] * 10
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_an_error_cancels_the_rest(make: Callable[..., Executor], room: Room) -> None:
    """Items that have not begun when the error is raised never run."""
    pool = make(max_workers=2)
    results = pool.map(note_and_fail, itertools.repeat(str(room.folder)), range(600), itertools.repeat(40))
    assert take(results, 40) == list(range(40))
    with pytest.raises(LookupError):
        next(results)
    pool.shutdown()
    assert len(room.entered()) == len(set(room.entered())) < 300


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt("now")], ids=["exit", "interrupt"])
def test_exceptions_that_are_no_errors(pool: Executor, error: BaseException) -> None:
    """They are raised at their place, and end neither worker nor executor."""
    results = pool.map(tasks.fail, [error], timeout=LIMIT)
    with pytest.raises(type(error)):
        next(results)
    assert list(pool.map(abs, range(-50, 0), timeout=LIMIT)) == list(range(50, 0, -1))


def test_an_item_that_raises_stop_iteration(pool: Executor) -> None:
    """It does not pass for the end of the results."""
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(pool.map(tasks.fail, [StopIteration("not the end")], timeout=LIMIT))


@across_processes
@pytest.mark.parametrize("bad", [0, 100])
def test_an_item_that_cannot_be_pickled(pool: Executor, bad: int) -> None:
    """`map` itself raises nothing: the error is at the item."""
    items: list[Any] = list(range(200))
    items[bad] = threading.Lock()
    results = pool.map(tasks.echo, items, timeout=LIMIT)
    assert take(results, bad) == list(range(bad))
    with pytest.raises(CANNOT):
        next(results)
    assert next(results, "end") == "end"


@across_processes
@pytest.mark.parametrize("bad", [0, 100])
def test_a_result_that_cannot_be_pickled(pool: Executor, bad: int) -> None:
    """The results before it are given, then the error."""
    results = pool.map(make_lock_at, range(200), itertools.repeat(bad), timeout=LIMIT)
    assert take(results, bad) == list(range(bad))
    with pytest.raises(CANNOT):
        next(results)


# -- timeouts, attempts, deaths: of an item, never of its company


@only_ours
def test_a_time_limit_ends_its_item_alone(make: Callable[..., MecaExecutor], room: Room) -> None:
    """All others run, once; the results before it are given, and then TaskTimeout."""
    from meca_executor import TaskTimeout

    limited = make(max_workers=2).options(timeout=4.0)
    results = limited.map(stay_at, itertools.repeat(str(room.folder)), range(300), itertools.repeat(100))
    others = room.await_count(300)
    assert Counter(others) == Counter({"slow": 1, **{str(n): 1 for n in range(300) if n != 100}})
    assert take(results, 100) == list(range(100))
    with pytest.raises(TaskTimeout):
        next(results)


@only_ours
def test_a_time_limit_counts_for_each_item(make: Callable[..., MecaExecutor]) -> None:
    """Slow items behind many quick ones: together over the limit, none of them alone."""
    naps = [0.0] * 300 + [0.25] * 12
    limited = make(max_workers=1).options(timeout=2.5)
    assert list(limited.map(tasks.nap, naps, range(312), timeout=LIMIT)) == list(range(312))


@only_ours
def test_items_whose_worker_dies_are_tried_again(pool: MecaExecutor, room: Room) -> None:
    """Three of 200 items lose their workers, once or twice: all results come; the others ran once."""
    deaths = {3: 1, 90: 2, 91: 1}
    results = pool.map(die_until, itertools.repeat(str(room.folder)), range(200), itertools.repeat(deaths))
    assert list(results) == list(range(200))
    assert Counter(room.entered()) == Counter({str(n): 1 + deaths.get(n, 0) for n in range(200)})


@only_ours
@pytest.mark.parametrize("attempts", [1, 3])
def test_an_item_that_always_kills_its_worker(pool: MecaExecutor, room: Room, attempts: int) -> None:
    """It is a WorkerDied after its attempts (three by default); all others ran once, beside and behind it."""
    from meca_executor import WorkerDied

    view = pool.options(retry=1) if attempts == 1 else pool
    results = view.map(die_until, itertools.repeat(str(room.folder)), range(200), itertools.repeat({50: 99}))
    entered = room.await_count(199 + attempts)
    assert take(results, 50) == list(range(50))
    with pytest.raises(WorkerDied, match=r"exit.*5"):
        next(results)
    assert Counter(entered) == Counter({str(n): attempts if n == 50 else 1 for n in range(200)})


@only_ours
def test_a_retry_policy_is_asked_for_each_item(pool: MecaExecutor, room: Room) -> None:
    """Items that raise what it names are tried again; the others run once."""
    failures = {0: 2, 60: 1, 61: 2}
    view = pool.options(retry=FEW_ATTEMPTS)
    results = view.map(raise_until, itertools.repeat(str(room.folder)), range(150), itertools.repeat(failures))
    assert list(results) == list(range(150))
    assert Counter(room.entered()) == Counter({str(n): 1 + failures.get(n, 0) for n in range(150)})


@only_ours
def test_a_retry_policy_that_gives_an_item_up(pool: MecaExecutor, room: Room) -> None:
    """After its attempts its error is raised, at its place."""
    view = pool.options(retry=FEW_ATTEMPTS)
    results = view.map(raise_until, itertools.repeat(str(room.folder)), range(80), itertools.repeat({40: 99}))
    entered = room.await_count(82)
    assert take(results, 40) == list(range(40))
    with pytest.raises(ConnectionError):
        next(results)
    assert Counter(entered)["40"] == 3


# -- arguments and results


@only_ours
def test_arguments_are_those_at_the_call(make: Callable[..., Executor], room: Room) -> None:
    """What is changed after `map` has returned is not sent: not in items, nor in what the function carries."""
    pool = make(max_workers=1)
    pool.submit(tasks.stay, str(room.folder))
    numbers, thing, items = [1], tasks.Thing(1), [[n] for n in range(100)]
    maps: list[Iterator[Any]] = [
        pool.map(tasks.echo, items, timeout=LIMIT),
        pool.map(thing.plus, range(100), timeout=LIMIT),
        pool.map(functools.partial(tasks.capture, numbers), range(100), timeout=LIMIT),
        pool.map(lambda n: (n, numbers), range(100), timeout=LIMIT),
    ]
    numbers.append(2)
    thing.value = 1000
    for item in items:
        item.clear()
    room.open()
    assert list(maps[0]) == [[n] for n in range(100)]
    assert list(maps[1]) == [n + 1 for n in range(100)]
    assert list(maps[2]) == [(([1], n), {}) for n in range(100)]
    assert list(maps[3]) == [(n, [1]) for n in range(100)]


@across_processes
@pytest.mark.parametrize("way", ["argument", "partial", "method"])
def test_items_do_not_see_what_others_change(pool: Executor, way: str) -> None:
    """An object given to all items is a fresh copy for each, also one that the function itself carries."""
    shared: list[int] = []
    if way == "argument":
        results = pool.map(append_to, itertools.repeat(shared), range(200), timeout=LIMIT)
    else:
        fn = functools.partial(append_to, shared) if way == "partial" else Collector().keep
        results = pool.map(fn, range(200), timeout=LIMIT)
    assert list(results) == [[n] for n in range(200)]
    assert shared == []


@across_processes
def test_results_share_nothing(pool: Executor) -> None:
    """The same object returned by two items is two objects here."""
    results = list(pool.map(give_shared, range(100), timeout=LIMIT))
    assert results == [SHARED] * 100
    assert len({id(result) for result in results}) == 100


def test_a_generator_is_read_at_the_call(pool: Executor) -> None:
    """To its end, in this thread, however many items it gives."""
    threads = []

    def numbers() -> Iterator[int]:
        for number in range(2000):
            threads.append(threading.get_ident())
            yield -number

    results = pool.map(abs, numbers(), timeout=LIMIT)
    assert threads == [threading.get_ident()] * 2000
    assert list(results) == list(range(2000))


def test_large_items(pool: Executor) -> None:
    """3 MB there and back, eight times, among small ones."""
    items = [bytes([n]) * (3_000_000 if n % 5 == 0 else n) + b"end" for n in range(40)]
    expected = [(hashlib.sha256(item).hexdigest(), item[::-1]) for item in items]
    assert list(pool.map(digest, items, timeout=60)) == expected


def test_very_many(kind: Kind, pool: Executor) -> None:
    """20,000 quick items of two arguments, in order."""
    chunksize = 500 if kind is PROCESSES else 1
    results = pool.map(divmod, range(20_000), itertools.repeat(7), timeout=60, chunksize=chunksize)
    assert list(results) == [divmod(n, 7) for n in range(20_000)]


# -- a slow item among quick ones


@pytest.mark.parametrize("slow", [0, 1000, 1998])
def test_a_slow_item_delays_no_other(pool: Executor, room: Room, slow: int) -> None:
    """All others are done, and the results before it are given, while it still runs."""
    results = pool.map(stay_at, itertools.repeat(str(room.folder)), range(2000), itertools.repeat(slow), timeout=60)
    assert take(results, slow) == list(range(slow))
    assert Counter(room.await_count(2000)).most_common(1)[0][1] == 1
    room.open()
    assert list(results) == list(range(slow, 2000))


def test_a_deadline_gives_what_is_there(pool: Executor, room: Room) -> None:
    """`timeout` of `map`: the results before the slow item, then TimeoutError, and nothing more."""
    results = pool.map(stay_at, itertools.repeat(str(room.folder)), range(200), itertools.repeat(150), timeout=5)
    assert take(results, 150) == list(range(150))
    with pytest.raises(FutureTimeoutError):
        next(results)
    assert next(results, "end") == "end"
