"""The implementations, and the marks of tests that not all of them pass."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import tempfile
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


def _make_ours(**options: Any) -> Executor:
    from meca_executor import MecaExecutor

    return MecaExecutor(**options)


def _make_processes(**options: Any) -> Executor:
    # "fork" would copy this process in the middle of what its other threads do.
    return ProcessPoolExecutor(mp_context=multiprocessing.get_context("forkserver"), **options)


ENDPOINT = "CONTRACT_ENDPOINT"  #: environment variable with the URL of a gateway that has one host and no workers


def _make_on_host(**options: Any) -> Executor:
    from meca_executor import MecaExecutor

    return MecaExecutor(**{"endpoint": os.environ[ENDPOINT], **options})


@contextlib.contextmanager
def _a_gateway_and_its_host() -> Iterator[None]:
    from tests.integration.joined import joined_host
    from tests.integration.standing import standing_gateway

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        env = {"TMPDIR": name}  # code that its workers were sent stays there as long as they live
        with standing_gateway(folder, "--workers", "0") as gateway:
            with joined_host(folder, gateway.url, workers=PLACES, env=env):
                patch.setenv(ENDPOINT, gateway.url)
                yield


SCHEDULER = "CONTRACT_SCHEDULER"  #: environment variable with the address of a Dask cluster of three nodes


def _make_on_cluster(**options: Any) -> Executor:
    from meca_executor import MecaExecutor

    if "endpoint" not in options:
        options["cluster"] = os.environ[SCHEDULER]
    return MecaExecutor(**options)


@contextlib.contextmanager
def _a_dask_cluster() -> Iterator[None]:
    from tests.helpers.dask import dask_cluster

    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        with dask_cluster(Path(name), threads=PLACES // 3) as cluster:
            patch.setenv(SCHEDULER, cluster.address)
            yield


@dataclass(frozen=True)
class Kind:
    """An implementation of `concurrent.futures.Executor`."""

    name: str
    #: makes one; takes the constructor's keywords
    make: Callable[..., Executor]
    #: statements for a script, after which its `make` is the same
    setup: str
    #: what it needs, as long as tests run against it
    around: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    #: what a program says to `MecaExecutor` to have this one
    said: str = ""
    #: how many workers there are without `max_workers`; None: one for each core
    places: int | None = None

    def __repr__(self) -> str:
        return self.name

    def program(self, source: str) -> str:
        """Return a program that makes executors by `MecaExecutor` as one that makes these; the rest is as it was."""
        if not self.said:
            return source
        line = f"import functools, os; MecaExecutor = functools.partial(MecaExecutor, {self.said})"
        program, count = re.subn(
            r"^( *)(from meca_executor import MecaExecutor\b.*)$", rf"\1\2\n\1{line}", source, flags=re.M
        )
        assert count == 1, "the program imports MecaExecutor in a line of its own"
        return program


THREADS = Kind("threads", ThreadPoolExecutor, "from concurrent.futures import ThreadPoolExecutor as make")
PROCESSES = Kind(
    "processes",
    _make_processes,
    "import functools, multiprocessing as mp, concurrent.futures as cf\n"
    "make = functools.partial(cf.ProcessPoolExecutor, mp_context=mp.get_context('forkserver'))",
)
OURS = Kind("meca", _make_ours, "from meca_executor import MecaExecutor as make")

PLACES = 6  #: that a host, and all nodes of a cluster together, have for tests
MAKE = "import functools, os\nfrom meca_executor import MecaExecutor\nmake = functools.partial(MecaExecutor, {})"
AT_ENDPOINT = f"endpoint=os.environ['{ENDPOINT}']"
ON_CLUSTER = f"cluster=os.environ['{SCHEDULER}']"
HOST = Kind("host", _make_on_host, MAKE.format(AT_ENDPOINT), _a_gateway_and_its_host, AT_ENDPOINT, PLACES)
CLUSTER = Kind("cluster", _make_on_cluster, MAKE.format(ON_CLUSTER), _a_dask_cluster, ON_CLUSTER, PLACES)

#: The modules that are always run against a host and a cluster, too: what is about workers and the way to them. All of
#: the suite holds there; it takes ten minutes each, by `--kinds host` and `--kinds cluster`.
ABOUT_WORKERS = {"test_attempts", "test_deaths", "test_environment", "test_exceptions", "test_exceptions_lost"}
ABOUT_WORKERS |= {"test_limits", "test_logs", "test_output", "test_payloads", "test_submit", "test_workers"}
ABOUT_GATEWAYS = {"test_endpoint", "test_futures", "test_nothing_left", "test_shutdown"}
ON_OTHERS = {HOST.name: ABOUT_WORKERS | ABOUT_GATEWAYS, CLUSTER.name: ABOUT_WORKERS}

KINDS = {kind.name: kind for kind in (THREADS, PROCESSES, OURS, HOST, CLUSTER)}

every_kind = pytest.mark.kinds(*KINDS)
only_ours = pytest.mark.kinds(OURS.name, HOST.name, CLUSTER.name)
across_processes = pytest.mark.kinds(PROCESSES.name, OURS.name, HOST.name, CLUSTER.name)
not_processes = pytest.mark.kinds(THREADS.name, OURS.name, HOST.name, CLUSTER.name)


def not_on(*kinds: Kind, why: str) -> pytest.MarkDecorator:
    """Mark what does not hold on these; a run that names them (`--kinds host`) skips the test with this reason."""
    return pytest.mark.not_on(*(kind.name for kind in kinds), why=why)
