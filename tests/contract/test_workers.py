"""The constructor's arguments: what is refused, and what workers make of them."""

from __future__ import annotations

import collections
import contextlib
import itertools
import logging
import multiprocessing
import os
import sys
import threading
from concurrent.futures import BrokenExecutor, Executor
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.waiting import LIMIT, wait_until

from . import tasks
from .kinds import CLUSTER, HOST, Kind, across_processes, every_kind, not_on, not_processes, only_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .rooms import Room

#: ProcessPoolExecutor has `max_tasks_per_child` from Python 3.11 on
replaces_workers = across_processes if sys.version_info >= (3, 11) else only_ours


@pytest.fixture(autouse=True)
def quiet_stdlib(caplog: pytest.LogCaptureFixture) -> None:
    """The standard library logs a failing initializer; it is no concern of the run's."""
    caplog.set_level(logging.CRITICAL + 1, logger="concurrent.futures")


@pytest.mark.parametrize("number", [0, -1])
def test_too_few_workers(kind: Kind, number: int) -> None:
    """`max_workers` below 1 is a ValueError."""
    with pytest.raises(ValueError, match="max_workers must be greater than 0"):
        kind.make(max_workers=number)


def test_workers_of_another_type(kind: Kind) -> None:
    """`max_workers` that is no number is a TypeError."""
    with pytest.raises(TypeError):
        kind.make(max_workers="two")


@pytest.mark.parametrize("initializer", [1, "name"])
def test_an_initializer_that_cannot_be_called(kind: Kind, initializer: object) -> None:
    """An initializer that is no function is a TypeError."""
    with pytest.raises(TypeError, match="initializer must be a callable"):
        kind.make(initializer=initializer)


@replaces_workers
@pytest.mark.parametrize(("number", "error"), [(0, ValueError), (-1, ValueError), ("3", TypeError), (2.5, TypeError)])
def test_too_few_tasks_per_child(kind: Kind, number: Any, error: type[Exception]) -> None:
    """`max_tasks_per_child` is an integer of 1 or more."""
    with pytest.raises(error, match="max_tasks_per_child"):
        kind.make(max_tasks_per_child=number)


@every_kind
def test_unknown_argument(kind: Kind) -> None:
    """A misspelt argument is a TypeError that names it."""
    with pytest.raises(TypeError, match="max_worker"):
        kind.make(max_worker=3)


@only_ours
@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": "soon"}, TypeError),
        ({"retry": 0}, ValueError),
        ({"retry": -2}, ValueError),
        ({"retry": "often"}, TypeError),
        ({"endpoint": "ftp://example.com"}, ValueError),
        ({"endpoint": "example"}, ValueError),
        ({"endpoint": 3, "max_workers": 2}, ValueError),
        ({"resource": {"cpu": -1}}, ValueError),
        ({"resource": ["cpu"]}, TypeError),
        ({"output": "yes"}, TypeError),
        ({"connect_timeout": 0}, ValueError),
    ],
)
def test_wrong_arguments_of_our_own(kind: Kind, options: dict[str, Any], error: type[Exception]) -> None:
    """A wrong argument is refused by the constructor, before anything is started, and named."""
    with pytest.raises((error, ValueError)) as caught:
        kind.make(**options)
    assert next(iter(options)) in str(caught.value)


@not_processes
@not_on(HOST, CLUSTER, why="they are named by another argument, or in the first place itself")
def test_the_first_argument_may_be_the_number_of_workers(kind: Kind) -> None:
    """A number in the first place is `max_workers`, as in `ThreadPoolExecutor(4)`."""
    from concurrent.futures import ThreadPoolExecutor

    from meca_executor import MecaExecutor

    cls: Callable[[int], Executor] = ThreadPoolExecutor if kind.name == "threads" else MecaExecutor
    with cls(1) as pool:
        assert len(set(pool.map(tasks.pid, range(5), timeout=LIMIT))) == 1


@not_processes
def test_thread_names_begin_with_the_prefix(make: Callable[..., Executor]) -> None:
    """Every thread that the executor has in this process is named after `thread_name_prefix`."""
    before = set(threading.enumerate())
    pool = make(max_workers=1, thread_name_prefix="special")
    assert pool.submit(abs, -1).result(LIMIT) == 1
    names = [thread.name for thread in threading.enumerate() if thread not in before]
    assert names and all(name.startswith("special") for name in names)


def test_initializer_in_each_worker(make: Callable[..., Executor], room: Room) -> None:
    """The initializer runs with its arguments before a worker's first task."""
    pool = make(max_workers=2, initializer=tasks.install, initargs=("ready",))
    assert [pool.submit(tasks.get_installed).result(LIMIT) for _ in range(4)] == ["ready"] * 4


@across_processes
def test_initializer_once_in_each_worker(make: Callable[..., Executor], room: Room) -> None:
    """Each worker process runs the initializer exactly once."""
    started = room.beside("started")
    pool = make(max_workers=2, initializer=tasks.install_in, initargs=(str(started.folder),))
    both = [pool.submit(tasks.stay_as_pid, str(room.folder)) for _ in range(2)]
    room.await_count(2)
    room.open()
    workers = {future.result(LIMIT) for future in both}
    workers |= set(pool.map(tasks.pid, range(20), timeout=LIMIT))
    assert sorted(map(int, started.entered())) == sorted(workers)


@only_ours
def test_initializer_in_a_worker_that_replaces_another(make: Callable[..., Executor], room: Room) -> None:
    """A worker that comes later, for one that died, runs the initializer too."""
    pool = make(max_workers=1, retry=1, initializer=tasks.install, initargs=("ready",))
    with pytest.raises(BrokenExecutor):
        pool.submit(os._exit, 1).result(LIMIT)
    assert pool.submit(tasks.get_installed).result(LIMIT) == "ready"


@only_ours
def test_initializer_that_is_local(make: Callable[..., Executor]) -> None:
    """A closure can be the initializer, and what it changes in a module is there for the tasks."""
    chosen = {"value": [1, 2]}

    def prepare(extra: int) -> None:
        tasks.installed = [*chosen["value"], extra]

    pool = make(max_workers=1, initializer=prepare, initargs=(3,))
    assert pool.submit(tasks.get_installed).result(LIMIT) == [1, 2, 3]


def stumble(text: str) -> None:
    """Raise; a failing initializer."""
    raise LookupError(text)


def test_failing_initializer(make: Callable[..., Executor]) -> None:
    """After a failed initializer every waiting future and every later `submit` is a BrokenExecutor."""
    pool = make(max_workers=2, initializer=stumble, initargs=("no licence left",))
    futures = []
    with contextlib.suppress(BrokenExecutor):
        futures += [pool.submit(abs, n) for n in range(10)]
    assert all(isinstance(future.exception(LIMIT), BrokenExecutor) for future in futures)

    def refuses() -> bool:
        try:
            pool.submit(abs, 1).exception(LIMIT)
        except BrokenExecutor:
            return True
        return False

    wait_until(refuses, "submit raises BrokenExecutor")
    with pytest.raises(BrokenExecutor):
        pool.map(abs, [1])
    pool.shutdown()


@only_ours
def test_failing_initializer_in_words(make: Callable[..., Executor]) -> None:
    """The error of a failed initializer shows what it raised and where."""
    from meca_executor import InitializerFailed

    pool = make(max_workers=1, initializer=stumble, initargs=("no licence left",))
    with pytest.raises(InitializerFailed, match="no licence left") as caught:
        pool.submit(abs, 1).result(LIMIT)
    assert "LookupError" in str(caught.value) and "stumble" in str(caught.value)
    with pytest.raises(InitializerFailed, match="no licence left"):
        pool.submit(abs, 1)


@only_ours  # the process pool of Python 3.12.1 was seen to hang in its own shutdown after this
def test_initializer_that_kills_its_worker(make: Callable[..., Executor]) -> None:
    """Workers that die in their initializer break the executor; they are not started for ever."""
    pool = make(max_workers=1, initializer=os._exit, initargs=(3,))
    with pytest.raises(BrokenExecutor):
        pool.submit(abs, 1).result(LIMIT)


@replaces_workers
def test_workers_are_replaced_after_their_tasks(make: Callable[..., Executor]) -> None:
    """With `max_tasks_per_child` a worker process runs so many tasks, and the next one follows."""
    pool = make(max_workers=1, max_tasks_per_child=2)
    workers = [pool.submit(tasks.pid).result(LIMIT) for _ in range(6)]
    assert [len(list(group)) for _, group in itertools.groupby(workers)] == [2, 2, 2]


@only_ours  # the process pool may hang here: CPython issue 115634
def test_workers_are_replaced_in_a_stream_of_tasks(make: Callable[..., Executor]) -> None:
    """No worker runs more than its share, also when many tasks wait."""
    pool = make(max_workers=2, max_tasks_per_child=3)
    served = collections.Counter(pool.map(tasks.pid, range(14), timeout=LIMIT))
    assert max(served.values()) <= 3
    assert sum(served.values()) == 14


@only_ours
def test_worker_replacement_and_early_shutdown(make: Callable[..., Executor]) -> None:
    """All tasks are done although workers are replaced during the shutdown."""
    pool = make(max_workers=2, max_tasks_per_child=1)
    futures = [pool.submit(tasks.multiply, n, n) for n in range(5)]
    pool.shutdown()
    assert [future.result() for future in futures] == [n * n for n in range(5)]


def test_idle_workers_are_used_again(make: Callable[..., Executor]) -> None:
    """Tasks one after the other need no more than the first workers."""
    pool = make(max_workers=2)
    assert len({pool.submit(tasks.pid).result(LIMIT) for _ in range(10)}) <= 2


@only_ours
def test_one_slot_per_core_by_default(kind: Kind) -> None:
    """Without `max_workers` there are as many slots as this process may use cores; elsewhere, as there are."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with kind.make() as pool:
        expected = kind.places or cores
        wait_until(lambda: pool.slots == expected, f"{expected} slots")  # type: ignore[attr-defined]


def surroundings(name: str) -> tuple[str, str | None, bytes, list[str]]:
    """Return the working directory, a variable of the environment, the authkey, and the names of secrets."""
    secrets = [name for name in os.environ if name.endswith(("ACCESS_KEY", "SECRET_KEY"))]
    return os.getcwd(), os.environ.get(name), bytes(multiprocessing.current_process().authkey), secrets


@only_ours
@not_on(HOST, CLUSTER, why="workers elsewhere start in the folder and environment of their own machine")
def test_workers_start_where_the_caller_is(kind: Kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers have the caller's working directory, environment and authkey, and none of its secrets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONTRACT_COLOUR", "blue")
    monkeypatch.setenv("MECA_ACCESS_KEY", "AKIA")
    monkeypatch.setenv("MECA_SECRET_KEY", "hidden")
    with kind.make(max_workers=1) as pool:
        seen = pool.submit(surroundings, "CONTRACT_COLOUR").result(LIMIT)
    authkey = bytes(multiprocessing.current_process().authkey)
    assert seen == (str(tmp_path), "blue", authkey, [])


@across_processes
@not_on(HOST, CLUSTER, why="a manager admits who has its program's authkey, and that is for no other machine")
def test_managers_of_multiprocessing_work(pool: Executor) -> None:
    """A proxy of a `multiprocessing.Manager` can be sent to tasks, which reach the manager through it."""
    with multiprocessing.get_context("spawn").Manager() as manager:
        queue = manager.Queue()
        futures = [pool.submit(queue.put, n) for n in range(5)]
        assert [future.result(LIMIT) for future in futures] == [None] * 5
        assert sorted(queue.get(timeout=LIMIT) for _ in range(5)) == list(range(5))


def inner_pool(numbers: list[int]) -> list[int]:
    """Map over a process pool made inside a task."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(abs, numbers))


def inner_meca(numbers: list[int]) -> list[int]:
    """Map over an executor of our own made inside a task."""
    from meca_executor import MecaExecutor

    with MecaExecutor(max_workers=1) as pool:
        return list(pool.map(abs, numbers))


@only_ours
@pytest.mark.parametrize("inner", [inner_pool, inner_meca])
def test_a_task_may_have_an_executor_of_its_own(pool: Executor, inner: Callable[[list[int]], list[int]]) -> None:
    """A worker is a usual process: a task in it can start pools and executors."""
    assert pool.submit(inner, [-1, -2]).result(LIMIT) == [1, 2]


@only_ours
def test_slots_before_a_connection(make: Callable[..., Any]) -> None:
    """`slots` and `endpoint` wait for the connection."""
    assert make(max_workers=3).slots == 3
    assert make(max_workers=1).endpoint.startswith("http://127.0.0.1:")
