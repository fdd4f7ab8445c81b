"""Large values: equal, writable and private on both sides, and never changed by what comes after them."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from meca_executor import MecaExecutor, TaskKilled, TaskTimeout
from tests.helpers.waiting import LIMIT, wait_until

from . import keeping, tasks
from .keeping import digest
from .kinds import across_processes, only_ours
from .rooms import Room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

np: Any = pytest.importorskip("numpy", reason="numpy is not installed")

MEGABYTE = 1_000_000
AFTER = 50  #: large calls after which what was kept has to be as it was
SOAK_S = 8.0


@dataclass
class Frame:
    """Arrays in an object."""

    name: str
    pixels: Any
    mask: Any


def ramp(size: int) -> Any:
    """Return an array of so many bytes, no two parts of which are alike."""
    return np.arange(size // 8, dtype="int64")


def total(array: Any) -> float:
    """Return the sum."""
    return float(array.sum())


def increment(value: Any) -> Any:
    """Add 1 to every array in place, and return what was given."""
    for array in arrays_in(value):
        array += 1
    return value


def arrays_in(value: Any) -> list[Any]:
    """Return the arrays of a value that this module makes."""
    if isinstance(value, Frame):
        return [value.pixels, value.mask]
    return list(value) if isinstance(value, list) else [value]


def filled(number: float, size: int = MEGABYTE) -> Any:
    """Return an array of so many bytes, all of one number."""
    return np.full(size // 8, float(number))


VALUES: dict[str, Callable[[], Any]] = {
    "100 kB": lambda: ramp(100_000),
    "300 kB": lambda: ramp(300_000),
    "1 MB": lambda: ramp(MEGABYTE),
    "20 MB": lambda: ramp(20 * MEGABYTE),
    "bytes": lambda: ramp(20 * MEGABYTE).tobytes(),
    "str": lambda: "0123456789äöüß" * (20 * MEGABYTE // 14),
    "bytearray": lambda: bytearray(ramp(MEGABYTE)),
    "list": lambda: [ramp(MEGABYTE), ramp(300_000), ramp(80), ramp(2 * MEGABYTE)],
    "dataclass": lambda: Frame("a", ramp(MEGABYTE).reshape(-1, 5), ramp(MEGABYTE) % 2),
    "strided": lambda: ramp(2 * MEGABYTE)[::2],
    "backwards": lambda: ramp(MEGABYTE)[::-1],
    "part": lambda: ramp(4 * MEGABYTE).reshape(500, 1000)[100:300, 200:900],
    "transposed": lambda: ramp(MEGABYTE).reshape(500, 250).T,
    "fortran": lambda: np.asfortranarray(ramp(MEGABYTE).reshape(50, 50, 50)),
    "empty": lambda: np.empty((0, 300_000)),
    "records": lambda: np.ones(50_000, dtype=[("a", "f8"), ("b", "i4"), ("c", "S12")]),
    "objects": lambda: np.array([ramp(MEGABYTE), "text", None], dtype=object),
}
WRITABLE = ["100 kB", "300 kB", "1 MB", "20 MB", "list", "dataclass", "strided", "fortran", "transposed"]


def assert_same(one: Any, other: Any) -> None:
    """Assert that a value has come as it was sent."""
    assert type(one) is type(other)
    if isinstance(one, Frame):
        assert one.name == other.name
        assert_same([one.pixels, one.mask], [other.pixels, other.mask])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for part, part_of_other in zip(one, other, strict=True):
            assert_same(part, part_of_other)
    elif isinstance(one, np.ndarray):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.flags.writeable
        if one.dtype == object:
            assert_same(list(one), list(other))
        else:
            assert one.tobytes() == other.tobytes()
    else:
        assert one == other


@pytest.fixture(autouse=True)
def idle_memory_let_go(pool: Executor) -> Iterator[None]:
    """Have the shared executor let go of what it keeps for a second: else each test would wait for that."""
    yield
    if isinstance(pool, MecaExecutor):
        pool._ledger.lender.trim()


# -- there and back


@across_processes
@pytest.mark.parametrize("name", VALUES)
def test_it_comes_back_as_it_was(pool: Executor, name: str) -> None:
    """As an argument, by keyword, and as a `map`'s item."""
    value = VALUES[name]()
    assert_same(pool.submit(tasks.echo, value).result(LIMIT), value)
    args, kwargs = pool.submit(tasks.capture, 1, key=value).result(LIMIT)
    assert args == (1,)
    assert_same(kwargs["key"], value)
    for back in pool.map(tasks.echo, [value, value], timeout=LIMIT):
        assert_same(back, value)


@only_ours
@pytest.mark.parametrize("name", VALUES)
def test_it_goes_with_local_functions(pool: Executor, name: str) -> None:
    """As an argument of one, and closed over."""
    value = VALUES[name]()
    assert_same(pool.submit(lambda given: given, value).result(LIMIT), value)
    assert_same(pool.submit(lambda: value).result(LIMIT), value)


# -- private


@across_processes
@pytest.mark.parametrize("name", WRITABLE)
def test_what_a_task_writes_it_sees_alone(pool: Executor, name: str) -> None:
    """Neither the caller's arrays change nor another task's, and what came back can be written to."""
    value, same = VALUES[name](), VALUES[name]()
    futures = [pool.submit(increment, value) for _ in range(4)]
    expected = increment(VALUES[name]())
    backs = [future.result(LIMIT) for future in futures]
    assert_same(value, same)
    for back in backs:
        assert_same(back, expected)
        increment(back)  # the others stay as they are
    assert_same(value, same)
    twice = increment(expected)
    for back in backs:
        assert_same(back, twice)


@only_ours
@pytest.mark.parametrize("name", [*WRITABLE, "bytearray"])
def test_what_is_changed_after_submit_is_not_sent(make: Callable[..., Executor], room: Room, name: str) -> None:
    """The value is taken at the call, while the tasks still wait for their turn."""
    pool, value, same = make(max_workers=1), VALUES[name](), VALUES[name]()
    held = pool.submit(tasks.stay, str(room.folder))
    room.await_count(1)
    futures = [pool.submit(tasks.echo, value) for _ in range(3)]
    results = pool.map(tasks.echo, [value] * 3)
    if isinstance(value, bytearray):
        value[:] = bytes(len(value))
    else:
        increment(value)
    room.open()
    held.result(LIMIT)
    for back in [*(future.result(LIMIT) for future in futures), *results]:
        assert_same(back, same)


# -- what is kept


@only_ours
@pytest.mark.parametrize("size", [300_000, 4 * MEGABYTE])
@pytest.mark.parametrize("way", keeping.WAYS)
def test_an_argument_that_a_task_keeps_stays_as_it_was(make: Callable[..., Executor], way: str, size: int) -> None:
    """Its memory is not used for other calls, however it is kept."""
    pool = make(max_workers=1)
    before = pool.submit(keeping.keep, way, ramp(size)).result(LIMIT)
    assert pool.submit(keeping.look, way).result(LIMIT) == before
    for number in range(AFTER):
        assert pool.submit(total, filled(number, size)).result(LIMIT) == number * (size // 8)
    assert pool.submit(keeping.look, way).result(LIMIT) == before


@across_processes
@pytest.mark.parametrize("size", [300_000, 4 * MEGABYTE])
def test_a_result_that_the_client_keeps_stays_as_it_was(pool: Executor, size: int) -> None:
    """Or a part of it, or a buffer."""
    whole = pool.submit(filled, 1, size).result(LIMIT)
    part = pool.submit(filled, 2, size).result(LIMIT)[100:-100]
    view = memoryview(pool.submit(filled, 3, size).result(LIMIT))[100:200]
    for number in range(AFTER):
        assert (pool.submit(filled, 10 + number, size).result(LIMIT) == 10 + number).all()
    assert (whole == 1).all() and (part == 2).all() and view.tolist() == [3.0] * 100


@only_ours
def test_many_threads_get_their_own(pool: Executor) -> None:
    """Results of calls from several threads at once, some kept for a while."""

    def work(name: int) -> bool:
        kept = []
        for turn in range(12):
            sent = filled(name * 100 + turn, 400_000)
            kept.append((name * 100 + turn, pool.submit(increment, sent).result(LIMIT)))
            if not (kept[-1][1] == kept[-1][0] + 1).all() or (len(kept) > 4 and not (kept.pop(0)[1] >= 1).all()):
                return False
        return all((back == number + 1).all() for number, back in kept)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


@only_ours
def test_random_samples_stay_as_they_were(make: Callable[..., Executor]) -> None:
    """A few seconds of calls of mixed sizes; a sample of arguments, there, and of results, here, is kept."""
    seed = random.SystemRandom().randrange(10**6)
    rng, pool, here = random.Random(seed), make(max_workers=2), dict[int, tuple[str, Any]]()
    deadline, number = time.monotonic() + SOAK_S, 0
    while time.monotonic() < deadline:
        sizes = [rng.choice([40_000, 100_000, 300_000, 310_000, MEGABYTE, 3 * MEGABYTE]) for _ in range(8)]
        sent = [np.frombuffer(rng.randbytes(size), dtype="u1") for size in sizes]
        futures = [
            pool.submit(keeping.keep_some, number + n, array, not number or rng.random() < 0.05)
            for n, array in enumerate(sent)
        ]
        for array, future in zip(sent, futures, strict=True):
            number += 1
            told, back = future.result(LIMIT)
            reverse = digest(array[::-1].copy())
            assert (told, digest(back)) == (digest(array), reverse), f"seed {seed}, call {number}"
            if not here or rng.random() < 0.05:
                here[number] = reverse, back if rng.random() < 0.5 else back[:]
            if len(here) > 30:
                del here[rng.choice(list(here))]
        del told, back
    assert [n for n, (before, back) in here.items() if digest(back) != before] == [], f"seed {seed}"
    assert [pool.submit(keeping.changed).result(LIMIT) for _ in range(10)] == [[]] * 10, f"seed {seed}"
    assert here and sum(pool.submit(keeping.count_kept).result(LIMIT) for _ in range(10)), f"seed {seed}"


# -- attempts


def die_until(folder: str, attempts: int, array: Any) -> str:
    """Write the attempt down with what it got; the first ones end their process."""
    Room(folder).enter(hashlib.sha256(array).hexdigest())
    if len(Room(folder).entered()) < attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    return digest(array)


def raise_until(folder: str, attempts: int, array: Any) -> str:
    """Write the attempt down with what it got; the first ones raise."""
    Room(folder).enter(digest(array))
    if len(Room(folder).entered()) < attempts:
        raise LookupError(folder)
    return digest(array)


@only_ours
@pytest.mark.parametrize("by_map", [False, True], ids=["submit", "map"])
def test_the_argument_comes_again_after_each_death(make: Callable[..., Executor], room: Room, by_map: bool) -> None:
    """A worker that dies takes no argument with it."""
    pool, array = make(max_workers=1), ramp(5 * MEGABYTE)
    call: tuple[Any, ...] = (str(room.folder), 3, array)
    if by_map:
        assert next(pool.map(die_until, *([part] for part in call), timeout=LIMIT)) == digest(array)
    else:
        assert pool.submit(die_until, *call).result(LIMIT) == digest(array)
    assert room.entered() == [digest(array)] * 3


@only_ours
@pytest.mark.parametrize("by_map", [False, True], ids=["submit", "map"])
def test_the_argument_is_kept_for_the_next_attempt(make: Callable[..., MecaExecutor], room: Room, by_map: bool) -> None:
    """Other calls that come before it do not get its memory."""
    pool, array = make(max_workers=1), ramp(5 * MEGABYTE)
    seconds = wait_exponential(multiplier=0.3)
    again = Retrying(retry=retry_if_exception_type(LookupError), stop=stop_after_attempt(5), wait=seconds)
    view = pool.options(retry=again)
    call: tuple[Any, ...] = (str(room.folder), 3, array)
    if by_map:
        results = view.map(raise_until, *([part] for part in call), timeout=LIMIT)
    else:
        future = view.submit(raise_until, *call)
    for attempt in range(1, 3):
        room.await_count(attempt)
        for number in range(6):
            assert pool.submit(total, filled(number, 5 * MEGABYTE)).result(LIMIT) == number * 625_000
    assert (next(results) if by_map else future.result(LIMIT)) == digest(array)
    assert room.entered() == [digest(array)] * 3


@only_ours
def test_a_result_outlives_its_worker(make: Callable[..., Executor]) -> None:
    """The worker dies right after it, before the client has looked."""
    pool = make(max_workers=1)
    for number in range(3):
        result, pid = pool.submit(filled, number, 5 * MEGABYTE), pool.submit(tasks.pid)
        end = pool.submit(os._exit, 7)
        wait_until(end.running, "the last task begins")
        assert (result.result(LIMIT) == number).all() and pid.result(LIMIT)
        with pytest.raises(Exception, match="exit"):
            end.result(LIMIT)
        assert (result.result() == number).all()


def stay_with(folder: str, array: Any) -> int:
    """Stay in the room with an array."""
    Room(folder).stay(0)
    return len(array)


@only_ours
def test_killed_cancelled_and_late_tasks(make: Callable[..., MecaExecutor], room: Room) -> None:
    """Tasks with large arguments that end before their time harm no other."""
    pool, array = make(max_workers=1), ramp(5 * MEGABYTE)
    killed = pool.submit(stay_with, str(room.folder), array)
    room.await_count(1)
    queued = [pool.submit(total, array) for _ in range(3)]
    last = pool.submit(total, array)
    last.cancel()
    pool.kill(killed)
    with pytest.raises(TaskKilled):
        killed.result(LIMIT)
    assert [future.result(LIMIT) for future in queued] == [total(array)] * 3
    if last.cancelled():
        with pytest.raises(CancelledError):
            last.result(LIMIT)
    with pytest.raises(TaskTimeout):
        pool.options(timeout=0.2, retry=1).submit(stay_with, str(room.folder), array).result(LIMIT)
    for number in range(10):
        assert pool.submit(total, filled(number, 5 * MEGABYTE)).result(LIMIT) == number * 625_000


@across_processes
def test_large_items_of_a_map(pool: Executor) -> None:
    """Each item gets its own, and gives its own back."""
    arrays = [filled(number) for number in range(40)]
    for number, back in enumerate(pool.map(increment, arrays, timeout=LIMIT)):
        assert (back == number + 1).all()
        assert (arrays[number] == number).all()


@only_ours
def test_an_exception_may_carry_an_array(pool: Executor) -> None:
    """Of any size, and after large calls it is as it was."""
    error = pool.submit(tasks.fail, ValueError(ramp(3 * MEGABYTE))).exception(LIMIT)
    assert isinstance(error, ValueError)
    for number in range(5):
        pool.submit(total, filled(number, 3 * MEGABYTE)).result(LIMIT)
    assert_same(error.args[0], ramp(3 * MEGABYTE))


@only_ours
def test_callbacks_may_submit_what_they_got(pool: Executor) -> None:
    """A done-callback that passes a large result on, on the link's own thread."""
    done, last = threading.Event(), list[Any]()

    def go_on(future: Any) -> None:
        last.append(future.result())
        if len(last) < 10:
            pool.submit(increment, last[-1]).add_done_callback(go_on)
        else:
            done.set()

    pool.submit(increment, filled(0)).add_done_callback(go_on)
    assert done.wait(LIMIT)
    assert [float(array[0]) for array in last] == [float(array[-1]) for array in last] == list(range(1, 11))
