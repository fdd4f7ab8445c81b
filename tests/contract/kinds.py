"""The three implementations, and the marks of tests that not all of them pass."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


def _make_ours(**options: Any) -> Executor:
    from meca_executor import MecaExecutor

    return MecaExecutor(**options)


def _make_processes(**options: Any) -> Executor:
    # "fork" would copy this process in the middle of what its other threads do.
    return ProcessPoolExecutor(mp_context=multiprocessing.get_context("forkserver"), **options)


@dataclass(frozen=True)
class Kind:
    """An implementation of `concurrent.futures.Executor`."""

    name: str
    #: makes one; takes the constructor's keywords
    make: Callable[..., Executor]
    #: statements for a script, after which its `make` is the same
    setup: str

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

KINDS = {kind.name: kind for kind in (THREADS, PROCESSES, OURS)}

every_kind = pytest.mark.kinds(*KINDS)
only_ours = pytest.mark.kinds(OURS.name)
across_processes = pytest.mark.kinds(PROCESSES.name, OURS.name)
not_processes = pytest.mark.kinds(THREADS.name, OURS.name)
