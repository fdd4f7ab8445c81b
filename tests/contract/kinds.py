"""The implementations, and the marks of tests that not all of them pass."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
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
            with joined_host(folder, gateway.url, workers=6, env=env):
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
        with dask_cluster(Path(name), threads=2) as cluster:
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

    def __repr__(self) -> str:
        return self.name


THREADS = Kind("threads", ThreadPoolExecutor, "from concurrent.futures import ThreadPoolExecutor as make")
PROCESSES = Kind(
    "processes",
    _make_processes,
    "import functools, multiprocessing as mp, concurrent.futures as cf\n"
    "make = functools.partial(cf.ProcessPoolExecutor, mp_context=mp.get_context('forkserver'))",
)
OURS = Kind("meca", _make_ours, "from meca_executor import MecaExecutor as make")

HOST = Kind(
    "host",
    _make_on_host,
    "import functools, os\n"
    "from meca_executor import MecaExecutor\n"
    f"make = functools.partial(MecaExecutor, os.environ['{ENDPOINT}'])",
    _a_gateway_and_its_host,
)

CLUSTER = Kind(
    "cluster",
    _make_on_cluster,
    "import functools, os\n"
    "from meca_executor import MecaExecutor\n"
    f"make = functools.partial(MecaExecutor, cluster=os.environ['{SCHEDULER}'])",
    _a_dask_cluster,
)

#: the modules that are always run against a host and a cluster, too
ABOUT_WORKERS = {"test_deaths", "test_exceptions_lost", "test_limits", "test_submit"}
ON_OTHERS = {HOST.name: ABOUT_WORKERS, CLUSTER.name: ABOUT_WORKERS}

KINDS = {kind.name: kind for kind in (THREADS, PROCESSES, OURS, HOST, CLUSTER)}

every_kind = pytest.mark.kinds(*KINDS)
only_ours = pytest.mark.kinds(OURS.name)
ours_anywhere = pytest.mark.kinds(OURS.name, HOST.name, CLUSTER.name)
across_processes = pytest.mark.kinds(PROCESSES.name, OURS.name, HOST.name, CLUSTER.name)
of_this_program = pytest.mark.kinds(PROCESSES.name, OURS.name)  # its workers have this process's authkey
not_processes = pytest.mark.kinds(THREADS.name, OURS.name)
