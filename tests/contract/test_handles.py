"""Handles: an object that was put is what each task gets, as if it had been passed itself."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import Handle, MecaExecutor
from tests.helpers.memory import open_segments
from tests.helpers.processes import descendants, embedded_gateways
from tests.helpers.waiting import LIMIT, wait_until

from . import tasks
from .kinds import HOST, not_on, only_ours
from .rooms import Room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

np: Any = pytest.importorskip("numpy", reason="numpy is not installed")
pytestmark = only_ours

MEGABYTE = 1_000_000


@dataclass
class Job:
    """A handle, or what it stands for, in an object."""

    name: str
    data: Any


def ramp(size: int = MEGABYTE) -> Any:
    """Return an array of so many bytes, no two parts of which are alike."""
    return np.arange(size // 8, dtype="int64")


def total(array: Any) -> int:
    """Return the sum."""
    return int(array.sum())


def total_of_all(*args: Any, **kwargs: Any) -> int:
    """Return the sum of all arrays among the arguments, however deep."""
    found, waiting = 0, [args, kwargs]
    while waiting:
        one = waiting.pop()
        if isinstance(one, np.ndarray):
            found += total(one)
        elif isinstance(one, Job):
            waiting.append(one.data)
        else:
            waiting += one.values() if isinstance(one, dict) else one
    return found


def increment(array: Any) -> tuple[int, int]:
    """Add 1 in place; return the first and the last number."""
    array += 1
    return int(array[0]), int(array[-1])


def die_until(folder: str, attempts: int, array: Any) -> int:
    """Write the attempt down; the first ones end their process."""
    Room(folder).enter(total(array))
    if len(Room(folder).entered()) < attempts:
        os.kill(os.getpid(), signal.SIGKILL)
    return total(array)


def stay_with(folder: str, array: Any) -> int:
    """Stay in the room with an array."""
    Room(folder).stay(os.getpid())
    return total(array)


class Counted:
    """Counts how often it is pickled."""

    pickled = 0

    def __init__(self, array: Any) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Any, ...]:
        Counted.pickled += 1
        return Counted, (self.array,)


def segments_below() -> list[int]:
    """Return the large segments that the processes below this one have open."""
    return [size for process in descendants(os.getpid()) for size in open_segments(process.pid)]


@pytest.fixture(autouse=True)
def idle_memory_let_go(ours: MecaExecutor) -> Iterator[None]:
    """Have the shared executor let go of what it keeps for a second: else each test would wait for that."""
    yield
    ours._ledger.lender.trim()


# -- what a task gets


def test_an_argument(ours: MecaExecutor) -> None:
    """It is the object itself that the function sees."""
    handle = ours.put(ramp())
    back = ours.submit(tasks.echo, handle).result(LIMIT)
    assert (back == ramp()).all() and back.flags.writeable
    assert type(handle) is Handle and repr(handle).startswith("<Handle ")


@pytest.mark.parametrize("value", [1, None, "text", b"bytes", [1, (2, {"a": 3.5})], tasks.Point(1, 2), len], ids=repr)
def test_small_objects(ours: MecaExecutor, value: object) -> None:
    """Anything that can be pickled, of any size."""
    assert ours.submit(tasks.echo, ours.put(value)).result(LIMIT) == value


def test_local_functions_and_their_like(ours: MecaExecutor) -> None:
    """What cloudpickle takes by value can be put, too."""
    array = ramp()
    handle = ours.put(lambda: total(array))
    assert ours.submit(lambda fn: fn(), handle).result(LIMIT) == total(array)


@pytest.mark.parametrize("large", [8_000, 100_000, MEGABYTE])
def test_wherever_it_stands(ours: MecaExecutor, large: int) -> None:
    """In lists, dicts and objects, by keyword, several in one call, one several times, beside what is large itself."""
    array = ramp(large)
    one, two = ours.put(array), ours.put(array + 1)
    first, second = total(array), total(array + 1)
    submit = ours.submit
    assert submit(total_of_all, [one, (two,)]).result(LIMIT) == first + second
    assert submit(total_of_all, {"a": {"b": one}}, key=two).result(LIMIT) == first + second
    assert submit(total_of_all, Job("a", one), job=Job("b", [two])).result(LIMIT) == first + second
    assert submit(total_of_all, one, one, [one]).result(LIMIT) == 3 * first
    assert submit(total_of_all, one, array, key=[array]).result(LIMIT) == 3 * first


def test_in_a_map(ours: MecaExecutor) -> None:
    """In each item, and other ones in the same map."""
    one, two = ours.put(ramp()), ours.put(ramp() + 1)
    items = [one, two, ramp(8_000)] * 5
    assert list(ours.map(total, items, timeout=LIMIT)) == [total(ramp()), total(ramp() + 1), total(ramp(8_000))] * 5


def test_with_local_functions(ours: MecaExecutor) -> None:
    """As an argument of one, and closed over."""
    handle: Any = ours.put(ramp())
    assert ours.submit(lambda array, more: int(array.sum()) + more, handle, more=1).result(LIMIT) == total(ramp()) + 1
    assert ours.submit(lambda: int(handle.sum())).result(LIMIT) == total(ramp())
    assert list(ours.map(lambda n: int(handle[n]), range(5), timeout=LIMIT)) == list(range(5))


def test_a_thousand_tasks(ours: MecaExecutor) -> None:
    """It was pickled once."""
    before = Counted.pickled
    handle = ours.put(Counted(ramp()))
    futures = [ours.submit(lambda counted: int(counted.array[-1]), handle) for _ in range(1000)]
    assert {future.result(LIMIT) for future in futures} == {124_999}
    assert Counted.pickled == before + 1


def test_what_is_changed_after_put_is_not_sent(ours: MecaExecutor) -> None:
    """The object is taken at the call."""
    array = ramp()
    handle = ours.put(array)
    array[:] = 0
    assert ours.submit(total, handle).result(LIMIT) == total(ramp())


@pytest.mark.parametrize("size", [8_000, 100_000, MEGABYTE])
def test_what_a_task_writes_it_sees_alone(ours: MecaExecutor, size: int) -> None:
    """Each task finds the object as it was put, in whatever worker."""
    array = ramp(size)
    handle = ours.put(array)
    assert set(ours.map(increment, [handle] * 20, timeout=LIMIT)) == {(1, size // 8)}
    assert array[0] == 0


def test_two_places_of_one_call(ours: MecaExecutor) -> None:
    """They are objects apart: what one names is written, what the other names is not."""
    handle = ours.put(ramp())

    def write(one: Any, other: Any) -> tuple[int, int]:
        one[:] = 5
        return int(one[1]), int(other[1])

    assert ours.submit(write, handle, [handle][0]).result(LIMIT) in [(5, 1), (5, 5)]
    assert ours.submit(total, handle).result(LIMIT) == total(ramp())


# -- how long it is there


def test_the_handle_may_go_right_after_submit(make: Callable[..., MecaExecutor], room: Room) -> None:
    """The tasks that mention it keep the object."""
    pool = make(max_workers=1)
    held = pool.submit(tasks.stay, str(room.folder))
    room.await_count(1)
    handles: list[Any] = [pool.put(ramp())]
    futures = [pool.submit(total, handles[0]) for _ in range(5)]
    results = pool.map(total, handles * 5)
    local = pool.submit(lambda: int(handles[0].sum()))
    handles.clear()
    gc.collect()
    pool.submit(abs, -1)
    room.open()
    held.result(LIMIT)
    assert {*(future.result(LIMIT) for future in [*futures, local]), *results} == {total(ramp())}


@pytest.mark.parametrize("size", [8_000, MEGABYTE])
def test_it_is_kept_for_the_next_attempt(make: Callable[..., MecaExecutor], room: Room, size: int) -> None:
    """After a worker's death another one gets it, though the handle is gone."""
    pool = make(max_workers=1)
    future = pool.submit(die_until, str(room.folder), 3, pool.put(ramp(size)))
    assert future.result(LIMIT) == total(ramp(size))
    assert room.entered() == [str(total(ramp(size)))] * 3


@not_on(HOST, why="the gateway of hosts is not the program's own")
@pytest.mark.parametrize("size", [8_000, MEGABYTE])
def test_it_outlives_the_embedded_gateway(make: Callable[..., MecaExecutor], room: Room, size: int) -> None:
    """The one that is started in its place gets the object again, for the tasks that are tried again and new ones."""
    pool = make(max_workers=1)
    handle = pool.put(ramp(size))
    future = pool.submit(stay_with, str(room.folder), handle)
    room.await_count(1)
    os.kill(embedded_gateways()[-1], signal.SIGKILL)
    room.await_count(2)
    room.open()
    assert future.result(LIMIT) == pool.submit(total, handle).result(LIMIT) == total(ramp(size))


def test_it_is_let_go_with_the_last_handle_and_task(make: Callable[..., MecaExecutor], room: Room) -> None:
    """Here, in the gateway and in the workers; one that is still used stays."""
    pool, before = make(max_workers=2), segments_below()
    assert list(pool.map(abs, range(20), timeout=LIMIT)) == list(range(20))
    handle, other = pool.put(ramp(5 * MEGABYTE)), pool.put(ramp(3 * MEGABYTE))
    inside = [pool.submit(stay_with, str(room.folder), handle) for _ in range(2)]
    room.await_count(2)
    assert len(open_segments(os.getpid())) == 2
    assert max(segments_below()) > 4 * MEGABYTE
    waiting = pool.submit(total, handle)
    del handle
    gc.collect()
    assert len(open_segments(os.getpid())) == 2  # the tasks keep it
    room.open()
    assert {future.result(LIMIT) for future in [*inside, waiting]} == {total(ramp(5 * MEGABYTE))}
    del inside, waiting
    wait_until(lambda: all(size < 4 * MEGABYTE for size in [*open_segments(os.getpid()), *segments_below()]), "let go")
    assert pool.submit(total, other).result(LIMIT) == total(ramp(3 * MEGABYTE))
    del other
    wait_until(lambda: (open_segments(os.getpid()), segments_below()) == ([], before), "all let go")


def test_many_come_and_go(ours: MecaExecutor) -> None:
    """From several threads at once; each task gets its own object."""
    wrong: list[int] = []

    def work(name: int) -> None:
        for turn in range(15):
            number = 100 * name + turn
            future = ours.submit(increment, ours.put(np.full(50_000, number)))
            if future.result(LIMIT) != (number + 1, number + 1):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- where it is not for


@pytest.mark.parametrize("other_has_put", [False, True])
def test_another_executor(ours: MecaExecutor, make: Callable[..., MecaExecutor], other_has_put: bool) -> None:
    """The task fails with a TypeError that says so, and no other."""
    other = make(max_workers=1)
    own = other.put(1) if other_has_put else None
    future = other.submit(tasks.echo, [ours.put(2)])
    with pytest.raises(TypeError, match=r"handle.*executor that made it"):
        future.result(LIMIT)
    assert other.submit(tasks.echo, own).result(LIMIT) == (1 if other_has_put else None)


def test_it_is_not_pickled_elsewhere(ours: MecaExecutor) -> None:
    """Nor put into another object, nor returned."""
    handle = ours.put(ramp())
    for attempt in (lambda: pickle.dumps(handle), lambda: ours.put([handle])):
        with pytest.raises(TypeError, match="handle"):
            attempt()
    assert ours.submit(total, handle).result(LIMIT) == total(ramp())
    with pytest.raises(TypeError, match="handle"):
        pickle.dumps(handle)


def test_views_share_handles(ours: MecaExecutor) -> None:
    """A handle of a view is one of its executor and of the other views."""
    view, second = ours.options(timeout=LIMIT), ours.options(retry=1)
    for maker in (ours, view, second):
        handle = maker.put(ramp())
        for user in (ours, view, second):
            assert user.submit(total, handle).result(LIMIT) == total(ramp())


def test_what_cannot_be_pickled_raises_at_put(ours: MecaExecutor) -> None:
    """It is nobody's future that could tell."""
    with pytest.raises(TypeError, match="generator"):
        ours.put([ramp(), (n for n in range(3))])
    assert ours.submit(abs, -1).result(LIMIT) == 1


def test_after_shutdown(make: Callable[..., MecaExecutor]) -> None:
    """It raises, as `submit` does; old handles may go as they please."""
    pool = make(max_workers=1)
    handle = pool.put(ramp())
    assert pool.submit(total, handle).result(LIMIT) == total(ramp())
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.put(ramp())
    with pytest.raises(RuntimeError):
        pool.submit(total, handle)
    assert open_segments(os.getpid()) == []
    del handle


def test_shutdown_waits_for_tasks_with_handles(make: Callable[..., MecaExecutor]) -> None:
    """What was submitted before it gets its object."""
    pool = make(max_workers=1)
    futures = [pool.submit(total, pool.put(ramp())) for _ in range(20)]
    pool.shutdown()
    assert {future.result(0) for future in futures} == {total(ramp())}
