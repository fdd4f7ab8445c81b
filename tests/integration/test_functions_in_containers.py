"""Functions in a container, by `container_ref`: on our gateway, and by the old dialect on the desktop app."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from meca_executor import MecaExecutor, NoHostFits, TaskTimeout, UntrustedResult, UsageError, WorkerDied
from tests.helpers.waiting import LIMIT
from tests.peers.desktop import desktop_app
from tests.peers.programs import container

if TYPE_CHECKING:
    from collections.abc import Iterator

REF = "meca-python:latest"


class Plain:
    """No plain data."""


@dataclasses.dataclass
class Point:
    """Data, once it is allowed."""

    x: int
    y: int


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Give a desktop app that has the container."""
    with container("python-runner") as runner, desktop_app(apps={REF: runner}) as app:
        yield app.url


def test_on_the_embedded_gateway() -> None:
    """Values, closures, exceptions with their traceback and objects of any class come back, and what was printed."""
    printed: list[tuple[str, str]] = []
    with MecaExecutor(2, output=lambda text, stream: printed.append((stream, text))) as ex:
        inside = ex.options(container_ref=REF)
        offset = 3

        def fail() -> None:
            raise LookupError("in there")

        assert list(inside.map(lambda x: x + offset, range(4))) == [3, 4, 5, 6]
        assert type(inside.submit(Plain).result(LIMIT)) is Plain
        error = inside.submit(fail).exception(LIMIT)
        assert isinstance(error, LookupError)
        assert "in fail" in str(error.__cause__)
        assert inside.submit(print, "hello").result(LIMIT) is None
        assert ("stdout", "hello\n") in printed
        assert isinstance(inside.submit(exec, "import os; os._exit(3)").exception(LIMIT), WorkerDied)
        assert isinstance(ex.options(container_ref="none:such").submit(abs, 1).exception(LIMIT), NoHostFits)


def test_a_limit_ends_it() -> None:
    """`timeout` counts for a function in a container as for any other."""
    with MecaExecutor(1) as ex:
        inside = ex.options(container_ref=REF, timeout=0.5)
        assert isinstance(inside.submit(exec, "import time; time.sleep(60)").exception(LIMIT), TaskTimeout)
        assert inside.submit(abs, -1).result(LIMIT) == 1


def test_on_the_desktop_app(url: str) -> None:
    """The same call works there; without a container the error says how to name one."""
    with MecaExecutor(url) as ex:
        inside = ex.options(container_ref=REF)
        assert inside.submit(lambda x: {"twice": 2 * x}, 4).result(LIMIT) == {"twice": 8}
        assert isinstance(inside.submit(int, "no number").exception(LIMIT), ValueError)
        error = ex.submit(abs, -1).exception(LIMIT)
        assert isinstance(error, NoHostFits)
        assert "container_ref=" in str(error)
        assert ex.dialect == "desktop"


def test_results_from_the_desktop_app_are_data(url: str) -> None:
    """What is no plain data is not read, and the error names its type; `allow` and `trust` say otherwise."""
    with MecaExecutor(url) as ex:
        error = ex.options(container_ref=REF).submit(Plain).exception(LIMIT)
        assert isinstance(error, UntrustedResult)
        assert "Plain" in str(error)
    with MecaExecutor(url, allow=[Point]) as ex:
        assert ex.options(container_ref=REF).submit(Point, 1, 2).result(LIMIT) == Point(1, 2)
    with MecaExecutor(url, trust="pickle") as ex:
        assert type(ex.options(container_ref=REF).submit(Plain).result(LIMIT)) is Plain


def test_wrong_trust_is_refused() -> None:
    """By the constructor, in words."""
    with pytest.raises(UsageError, match="'data' or 'pickle'"):
        MecaExecutor(trust="yes")  # type: ignore[arg-type]
