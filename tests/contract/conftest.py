"""The implementations of `concurrent.futures.Executor` that the suite is run against.

A test that asks for `kind`, `make` or `pool` runs once with each implementation. What an implementation does
not promise is marked: `@across_processes` (not by threads), `@only_ours`, `@not_on(HOST, why=...)`.

Against a joined host and a Dask cluster the modules in `kinds.ON_OTHERS` are run, and all of them by
`pytest tests/contract --kinds host` and `--kinds cluster`; what does not hold there is then skipped with its reason.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import weakref
from multiprocessing import forkserver, resource_tracker
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers import leaks

from .kinds import CLUSTER, HOST, KINDS, ON_OTHERS, OURS, PROCESSES, Kind
from .printing import Lines
from .rooms import Room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor
    from pathlib import Path

    from meca_executor import MecaExecutor


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Multiply each test over the implementations that make its promise."""
    if "kind" not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker("kinds")
    names = list(mark.args if mark else KINDS)
    lacking = {name: mark.kwargs["why"] for mark in metafunc.definition.iter_markers("not_on") for name in mark.args}
    if asked := metafunc.config.getoption("--kinds"):
        names = [name for name in names if name in asked.split(",")]
    else:
        here = metafunc.module.__name__.rpartition(".")[2]
        names = [name for name in names if here in ON_OTHERS.get(name, {here}) and name not in lacking]
    cases = [
        pytest.param(KINDS[name], id=name, marks=pytest.mark.skip(reason=lacking[name]) if name in lacking else ())
        for name in names
    ]
    metafunc.parametrize("kind", cases, indirect=True, scope="session")


@pytest.fixture(scope="session")
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Return the implementation that the test is run against."""
    chosen: Kind = request.param
    # Helper processes of multiprocessing's own, which live as long as this one: they are no test's leftover.
    resource_tracker.ensure_running()
    if chosen is PROCESSES:
        forkserver.ensure_running()
    with chosen.around():
        yield chosen


@pytest.fixture(scope="session")
def pool(kind: Kind) -> Iterator[Executor]:
    """Return an executor with two workers that tests share; they leave it as they found it."""
    with leaks.nothing_left(), kind.make(max_workers=2) as executor:
        # Both workers run, so that what they need is there before a test counts what it has.
        assert list(executor.map(abs, range(-20, 0), timeout=60)) == list(range(20, 0, -1))
        yield executor


@pytest.fixture
def ours(kind: Kind, pool: Executor) -> MecaExecutor:
    """Return `pool` by its own type; for tests marked `only_ours`."""
    assert kind in (OURS, HOST, CLUSTER)
    from meca_executor import MecaExecutor

    assert isinstance(pool, MecaExecutor)
    return pool


@pytest.fixture
def make(kind: Kind) -> Iterator[Callable[..., Any]]:
    """Return a function that makes executors (two workers unless told otherwise), shut down after the test."""
    made: list[weakref.ref[Executor]] = []

    def make_one(max_workers: int | None = 2, **options: object) -> Executor:
        executor = kind.make(max_workers=max_workers, **options)
        made.append(weakref.ref(executor))
        return executor

    yield make_one
    with contextlib.ExitStack() as stack:
        for reference in made:
            if executor := reference():
                stack.callback(executor.shutdown, cancel_futures=True)


@pytest.fixture
def room(tmp_path: Path, make: object) -> Iterator[Room]:
    """Return a room whose door is opened at the end, before any executor of the test waits for its tasks."""
    meeting_place = Room(tmp_path / "room")
    yield meeting_place
    meeting_place.open()


@pytest.fixture(autouse=True, scope="session")
def default_context() -> Iterator[None]:
    """Tests that use multiprocessing themselves never fork this process, which has threads."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("forkserver", force=True)
    yield
    multiprocessing.set_start_method(before, force=True)


@pytest.fixture
def lines() -> Lines:
    """Return a fresh collector."""
    return Lines()


@pytest.fixture(scope="module")
def module_talker(kind: Kind, pool: Executor) -> Iterator[tuple[MecaExecutor, Lines]]:
    """Return an executor of two workers and what its tasks print, shared by this module."""
    from meca_executor import MecaExecutor

    lines = Lines()
    # `pool` is asked for only to be there before: what it has is not left by this one.
    with leaks.nothing_left(), kind.make(max_workers=2, output=lines) as executor:
        assert isinstance(executor, MecaExecutor)
        list(executor.map(abs, range(20), timeout=60))
        yield executor, lines


@pytest.fixture
def talker(module_talker: tuple[MecaExecutor, Lines]) -> tuple[MecaExecutor, Lines]:
    """Return the shared executor, and its collector without what other tests printed."""
    pool, lines = module_talker
    lines.calls.clear()
    return pool, lines
