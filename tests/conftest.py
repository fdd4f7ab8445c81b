"""Every test runs away from the user's own settings, and leaves nothing behind."""

from __future__ import annotations

import copyreg
import os
import shutil
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meca_executor.settings import PREFIXES

from .helpers import engine, leaks

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what leaves out the controls of the contract suite."""
    parser.addoption("--kinds", default="", help="only these implementations in tests/contract, e.g. meca")


def pytest_configure() -> None:
    """Give the run a temporary folder of its own, so that a forgotten file is seen, and its mark."""
    # Where pytest itself keeps `tmp_path` folders stays as it is: they outlive the run.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    folder = tempfile.mkdtemp(prefix="t-")  # short: paths of Unix sockets have about 100 characters
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        del os.environ[name]
    engine.remember()
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.path.join(folder, "hypothesis")
    os.mkdir(os.environ["HYPOTHESIS_STORAGE_DIRECTORY"])  # now: what comes later is taken for left behind
    os.environ["MECA_STATE_DIR"] = os.path.join(folder, "state")
    leaks.mark_this_run()
    # After multiprocessing has removed its own folder in this one (its priority is -100).
    Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=-101)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[engine.Images]:
    """Give images made for this run; without an engine the test is skipped, with the reason."""
    made = engine.Images(tmp_path_factory.mktemp("images"))
    yield made
    made.close()


@pytest.fixture
def without_tblib(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have exceptions pickled as Python does it: `distributed`, which other tests import, changes that for all."""
    for kind, reducer in list(copyreg.dispatch_table.items()):
        if getattr(reducer, "__module__", "") == "tblib.pickling_support":
            monkeypatch.delitem(copyreg.dispatch_table, kind)


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, thread, descriptor or temporary file (unit tests touch none)."""
    if request.path.is_relative_to(HERE / "unit"):
        yield
        return
    with leaks.nothing_left():
        yield
