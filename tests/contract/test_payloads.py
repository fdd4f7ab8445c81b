"""Arguments and results that cannot travel, and those that are large."""

from __future__ import annotations

import hashlib
import pickle
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.waiting import LIMIT

from . import tasks
from .kinds import Kind, across_processes, only_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

CANNOT = (TypeError, pickle.PicklingError, AttributeError)
MEGABYTE = 1_000_000


class Explosive:
    """Cannot be pickled, and says so in its own way."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise LookupError("made of explosives")


class FailsOnArrival:
    """Is pickled well, and raises where it is unpickled."""

    def __init__(self, error: type[BaseException] = LookupError) -> None:
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return tasks.fail, (self.error("broken on arrival"),)


def unpicklable() -> list[Any]:
    """Return things that pickle refuses."""
    return [threading.Lock(), (n for n in range(3)), threading.local(), [{"deep": threading.Event()}]]


def make_unpicklable(index: int) -> Any:
    """Return one of them, as a result."""
    return unpicklable()[index]


def innocent(pool: Executor) -> list[Any]:
    """Submit tasks that must not be harmed."""
    return [pool.submit(tasks.nap, 0.005, n) for n in range(6)]


def check(futures: list[Any]) -> None:
    """Assert that the tasks of `innocent` have their results."""
    assert [future.result(LIMIT) for future in futures] == list(range(6))


@across_processes
@pytest.mark.parametrize("index", range(4))
def test_unpicklable_argument(pool: Executor, index: int) -> None:
    """It is an error in that future, and no other; `submit` raises nothing."""
    others = innocent(pool)
    future = pool.submit(tasks.echo, unpicklable()[index])
    others += innocent(pool)
    assert isinstance(future.exception(LIMIT), CANNOT)
    check(others[:6])
    check(others[6:])


@only_ours
@pytest.mark.parametrize("index", range(4))
def test_unpicklable_argument_by_class(pool: Executor, index: int) -> None:
    """The error is a TypeError or a PicklingError that names the type."""
    future = pool.submit(tasks.echo, unpicklable()[index])
    with pytest.raises((TypeError, pickle.PicklingError), match=r"lock|generator|_local"):
        future.result(LIMIT)


@across_processes
@pytest.mark.parametrize("index", range(4))
def test_unpicklable_result(pool: Executor, index: int) -> None:
    """It is an error in that future, and no other."""
    others = innocent(pool)
    assert isinstance(pool.submit(make_unpicklable, index).exception(LIMIT), CANNOT)
    check(others)


@only_ours
@pytest.mark.parametrize("index", range(4))
def test_unpicklable_result_by_class(pool: Executor, index: int) -> None:
    """The error is a TypeError or a PicklingError that names the type."""
    with pytest.raises((TypeError, pickle.PicklingError), match=r"lock|generator|_local"):
        pool.submit(make_unpicklable, index).result(LIMIT)


@across_processes
def test_pickling_that_raises(pool: Executor) -> None:
    """An error of an argument's or a result's own `__reduce__` is in the future."""
    for future in (pool.submit(tasks.echo, Explosive()), pool.submit(Explosive)):
        with pytest.raises((LookupError, TypeError, pickle.PicklingError), match="made of explosives"):
            future.result(LIMIT)
    check(innocent(pool))


@only_ours
@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
def test_argument_that_fails_on_arrival(pool: Executor, error: type[BaseException]) -> None:
    """An argument that the worker cannot unpickle fails that task alone (the process pool breaks)."""
    others = innocent(pool)
    future = pool.submit(tasks.echo, FailsOnArrival(error))
    others += innocent(pool)
    assert "broken on arrival" in str(future.exception(LIMIT))
    check(others[:6])
    check(others[6:])


@only_ours
@pytest.mark.parametrize("error", [LookupError, SystemExit, KeyboardInterrupt])
def test_result_that_fails_on_arrival(pool: Executor, error: type[BaseException]) -> None:
    """A result that cannot be unpickled here fails that task alone (the process pool breaks)."""
    others = innocent(pool)
    future = pool.submit(FailsOnArrival, error)
    others += innocent(pool)
    assert "broken on arrival" in str(future.exception(LIMIT))
    check(others[:6])
    check(others[6:])


@only_ours
def test_too_deeply_nested(pool: Executor) -> None:
    """Nesting that pickle cannot follow is an error in the future."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    future = pool.submit(len, deep)
    with pytest.raises((RecursionError, pickle.PicklingError)):
        future.result(LIMIT)
    # Taken apart from the outside: the interpreter would free it by recursion.
    while deep:
        deep = deep.pop()
    check(innocent(pool))


@only_ours
def test_unpicklable_in_a_map(pool: Executor) -> None:
    """In `map`, an argument that cannot travel is raised at its place."""
    results = pool.map(tasks.echo, [1, threading.Lock(), 3], timeout=LIMIT)
    assert next(results) == 1
    with pytest.raises((TypeError, pickle.PicklingError)):
        next(results)


def digest(data: bytes) -> str:
    """Return a hash of what arrived."""
    return hashlib.sha256(data).hexdigest()


def pattern(size: int) -> bytes:
    """Return bytes that show where a piece is missing or misplaced."""
    block = b"".join(n.to_bytes(4, "big") for n in range(250_000))
    return (block * (size // len(block) + 1))[:size]


@pytest.mark.parametrize("size", [0, 1, 65_536, 262_144, 262_145, 5 * MEGABYTE, 30 * MEGABYTE])
def test_large_argument_and_result(pool: Executor, size: int) -> None:
    """Megabytes arrive whole, there and back."""
    data = pattern(size)
    assert pool.submit(digest, data).result(LIMIT) == digest(data)
    assert pool.submit(pattern, size).result(LIMIT) == data


def test_many_large_ones_at_once(pool: Executor) -> None:
    """Large payloads of several tasks at the same time do not mix or block each other."""
    sizes = [MEGABYTE + n for n in range(12)]
    futures = [pool.submit(tasks.echo, pattern(size)) for size in sizes]
    small = innocent(pool)
    assert [len(future.result(LIMIT)) for future in futures] == sizes
    check(small)


@only_ours
def test_large_closure(pool: Executor) -> None:
    """A local function may close over megabytes."""
    data = pattern(5 * MEGABYTE)
    assert pool.submit(lambda: (len(data), data[-4:])).result(LIMIT) == (5 * MEGABYTE, data[-4:])


@only_ours
def test_large_exception(pool: Executor) -> None:
    """An exception may carry megabytes."""
    error = pool.submit(tasks.fail, ValueError("x" * 5 * MEGABYTE)).exception(LIMIT)
    assert isinstance(error, ValueError) and len(str(error)) == 5 * MEGABYTE


def test_arrays(pool: Executor) -> None:
    """numpy arrays arrive equal, with shape, type and order."""
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    small = numpy.arange(12, dtype="float32").reshape(3, 4)
    fortran = numpy.asfortranarray(numpy.arange(600_000, dtype="int64").reshape(300, 2000))
    for sent in (small, fortran, small[:, ::2], numpy.array(5), numpy.array(["a", None], dtype=object), small[:0]):
        back = pool.submit(tasks.echo, sent).result(LIMIT)
        assert (back.dtype, back.shape) == (sent.dtype, sent.shape)
        assert numpy.array_equal(back, sent)
        assert back.flags.f_contiguous == sent.flags.f_contiguous or not sent.flags.contiguous


def test_arrays_can_be_written(pool: Executor) -> None:
    """Arrays are writable in the task and when they come back, whatever their size."""
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    for size in (10, 100_000, 1_000_000):
        back = pool.submit(increment, numpy.zeros(size)).result(LIMIT)
        back += 1
        assert back[0] == back[-1] == 2 and back.flags.writeable


def increment(array: Any) -> Any:
    """Add 1 in place."""
    array += 1
    return array


@only_ours
def test_array_changed_after_submit(make: Callable[..., Executor], kind: Kind) -> None:
    """A large array is copied at submit, not read later."""
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    pool = make(max_workers=1)
    array = numpy.zeros(500_000)
    future = pool.submit(numpy.sum, array)
    array[:] = 1
    assert future.result(LIMIT) == 0


@only_ours
def test_bytearrays_and_views(pool: Executor) -> None:
    """Buffers arrive as what they were, and a `bytearray` can be written to."""
    back = pool.submit(tasks.echo, bytearray(pattern(MEGABYTE))).result(LIMIT)
    assert type(back) is bytearray
    back[0] = 255
    pickled = pickle.PickleBuffer(b"abc" * MEGABYTE)
    assert bytes(pool.submit(tasks.echo, pickled).result(LIMIT)) == b"abc" * MEGABYTE
