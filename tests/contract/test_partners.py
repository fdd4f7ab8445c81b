"""The executor in the hands of others: asyncio, dask, SciPy, pickle, the type checker."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.scripts import PACKAGE_PARENT
from tests.helpers.waiting import LIMIT

from . import tasks
from .kinds import CLUSTER, HOST, Kind, not_on, only_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from pathlib import Path

    from meca_executor import MecaExecutor

    from .rooms import Room


def test_asyncio_run_in_executor(pool: Executor) -> None:
    """`loop.run_in_executor` gives results and exceptions of many calls at once."""

    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(pool, tasks.divide, 6, n % 4) for n in range(20)]
        return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), LIMIT)

    answers = asyncio.run(main())
    for n, answer in enumerate(answers):
        assert isinstance(answer, ZeroDivisionError) if n % 4 == 0 else answer == 6 / (n % 4)


def test_asyncio_wrap_future(pool: Executor) -> None:
    """`asyncio.wrap_future` makes a submitted call awaitable."""

    async def main() -> int:
        return await asyncio.wait_for(asyncio.wrap_future(pool.submit(tasks.multiply, 6, 7)), LIMIT)

    assert asyncio.run(main()) == 42


def test_asyncio_cancels(make: Callable[..., Executor], room: Room) -> None:
    """Cancelling the awaiting task cancels the call that has not begun."""
    pool = make(max_workers=1)
    waiting = [pool.submit(tasks.stay, str(room.folder), n) for n in range(6)]
    room.await_count(1)

    async def main() -> None:
        wrapped = asyncio.wrap_future(waiting[-1])
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped

    asyncio.run(main())
    assert waiting[-1].cancelled()


def test_dask_scheduler(pool: Executor) -> None:
    """A dask computation runs with `scheduler=executor`."""
    dask = pytest.importorskip("dask", reason="dask is not installed")
    squares = [dask.delayed(tasks.multiply)(n, n) for n in range(10)]
    assert dask.delayed(sum)(squares).compute(scheduler=pool) == sum(n * n for n in range(10))


def test_dask_scheduler_and_an_error(pool: Executor) -> None:
    """An error in a dask computation is raised as itself."""
    dask = pytest.importorskip("dask", reason="dask is not installed")
    with pytest.raises(ZeroDivisionError):
        dask.delayed(tasks.divide)(1, 0).compute(scheduler=pool)


def parabola(x: Any) -> float:
    """Return a function value whose minimum is 0 at (1, 1)."""
    return float(sum((part - 1.0) ** 2 for part in x))


def test_scipy_workers(pool: Executor) -> None:
    """SciPy evaluates a population through `workers=executor.map`."""
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed")
    found = optimize.differential_evolution(
        parabola, [(-3, 3), (-3, 3)], workers=pool.map, updating="deferred", maxiter=15, popsize=5, seed=1, tol=1e-3
    )
    assert found.fun < 0.1


def test_pickling_the_executor(pool: Executor) -> None:
    """An executor cannot be pickled."""
    with pytest.raises((TypeError, pickle.PicklingError)):
        pickle.dumps(pool)


@only_ours
def test_pickling_the_executor_fails_in_words(ours: MecaExecutor) -> None:
    """The error names the class and says what to do instead; so does the future of a task that would take it along."""
    with pytest.raises((TypeError, pickle.PicklingError), match="MecaExecutor") as caught:
        pickle.dumps(ours)
    assert len(str(caught.value)) > 40, "says more than what is wrong"
    future = ours.submit(lambda: ours.submit(abs, -1))
    with pytest.raises((TypeError, pickle.PicklingError), match="MecaExecutor"):
        future.result(LIMIT)


TYPED = """\
from meca_executor import MecaExecutor, MecaFuture

def area(width: int, height: float = 1.0) -> float:
    return width * height

with MecaExecutor(max_workers=2) as ex:
    good: MecaFuture[float] = ex.submit(area, 2, height=3.0)
    value: float = good.result(timeout=1)
    texts: list[str] = list(ex.map(str, [1, 2]))
    reply: str = ex.offload_task("knn:latest", "{}").result()
    view: MecaFuture[int] = ex.options(timeout=3).submit(len, "abc")
    ex.submit(area, "wide")
    ex.submit(area, 2, depth=1)
    wrong: MecaFuture[str] = ex.submit(area, 2)
"""


@only_ours
@not_on(HOST, CLUSTER, why="where calls run is no matter of types")
@pytest.mark.timeout(180)
def test_the_type_checker_knows_submit(kind: Kind, tmp_path: Path) -> None:
    """mypy knows the result of `submit`, `map` and `options`, and refuses wrong arguments."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    (tmp_path / "typed.py").write_text(TYPED, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--follow-imports=silent", "typed.py"]
    env = {**os.environ, "MYPYPATH": str(PACKAGE_PARENT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=170, check=False)
    lines = [line.partition(": error")[0] for line in done.stdout.splitlines() if ": error" in line]
    assert lines == ["typed.py:12", "typed.py:13", "typed.py:14"], done.stdout + done.stderr
