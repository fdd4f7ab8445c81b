"""What a test must not leave behind: processes, threads, descriptors and temporary files.

Processes are found in two ways: as descendants of this one, and, when their parent has died and they belong
to nobody, by a mark that all inherit in their environment. What an executor that was there before the test
starts and ends meanwhile (one shared by several tests) does not count.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import tempfile
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .processes import all_processes, ancestors, has_in_environment
from .waiting import becomes_true

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .processes import Process

MARK = "LEAK_CHECK_RUN"  #: environment variable; its value is this test run's own
GRACE_S = 20.0  #: a process that was told to end may take this long
DESCRIPTORS = Path("/dev/fd")
#: these live as long as the test run: pytest's own, those of multiprocessing's fork server, the state folder
TEMPORARY_ALLOWED = ("pytest-of-", "pymp-", "state")


class Belongings(NamedTuple):
    """What this process has at one moment."""

    processes: frozenset[tuple[int, int]]  #: (pid, start time)
    threads: frozenset[threading.Thread]
    descriptors: frozenset[int]
    files: frozenset[str]


def mark_this_run() -> None:
    """Put the mark into the environment, for all processes that this one starts from now on."""
    os.environ[MARK] = uuid.uuid4().hex


def _our_processes() -> list[Process]:
    """Return the living and unreaped processes that come from this one."""
    setting = f"{MARK}={os.environ.get(MARK, '')}".encode()
    table, me = all_processes(), os.getpid()
    return [
        process
        for process in table.values()
        if process.pid != me and (me in ancestors(process, table) or has_in_environment(process.pid, setting))
    ]


def _is_open(descriptor: int) -> bool:
    """Return False for the descriptor through which the folder itself was listed."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _open_descriptors() -> frozenset[int]:
    if not DESCRIPTORS.is_dir():
        return frozenset()
    listed = [int(name) for name in os.listdir(DESCRIPTORS)]
    return frozenset(filter(_is_open, listed))


def _temporary_files() -> frozenset[str]:
    return frozenset(name for name in os.listdir(tempfile.gettempdir()) if not name.startswith(TEMPORARY_ALLOWED))


def belongings() -> Belongings:
    """Return what there is now."""
    return Belongings(
        processes=frozenset((process.pid, process.started) for process in _our_processes()),
        threads=frozenset(threading.enumerate()),
        descriptors=_open_descriptors(),
        files=_temporary_files(),
    )


def new_processes(before: Belongings) -> list[Process]:
    """Return the processes that have come since, but for the offspring of those that were there."""
    table = all_processes()
    known = {pid for pid, started in before.processes if pid in table and table[pid].started == started}
    return [
        process
        for process in _our_processes()
        if (process.pid, process.started) not in before.processes and not known.intersection(ancestors(process, table))
    ]


def _describe_descriptor(descriptor: int) -> str:
    try:
        return f"descriptor {descriptor}: {os.readlink(f'/proc/self/fd/{descriptor}')}"
    except OSError:
        return f"descriptor {descriptor}"


def left_since(before: Belongings) -> list[str]:
    """Return a line for each thing that is here and was not here before."""
    lines = [f"process {process}" for process in new_processes(before)]
    threads = [thread for thread in threading.enumerate() if thread not in before.threads]
    lines += [f"thread {thread.name}" for thread in threads]
    now = _open_descriptors()
    # A link of a shared executor may have been renewed: then one is gone for each that is new.
    if len(now) > len(before.descriptors):
        lines += [_describe_descriptor(descriptor) for descriptor in sorted(now - before.descriptors)]
    lines += [f"temporary file {name}" for name in sorted(_temporary_files() - before.files)]
    return lines


def _end_new_processes(before: Belongings) -> None:
    """Kill what was left, so that only the test that left it fails."""
    for process in new_processes(before):
        with contextlib.suppress(OSError):
            os.kill(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def nothing_left(grace: float = GRACE_S) -> Iterator[None]:
    """Check that the body leaves nothing behind.

    Args:
        grace: Seconds that processes and threads have to finish ending.

    Raises:
        AssertionError: Something is still there; each thing has its line. Processes were then killed.
    """
    before = belongings()
    yield

    def clean() -> bool:
        if not left_since(before):
            return True
        gc.collect()  # what hangs in a cycle of references goes only now
        return not left_since(before)

    if not becomes_true(clean, grace):
        lines = left_since(before)
        _end_new_processes(before)
        if lines:
            raise AssertionError("left behind:\n  " + "\n  ".join(lines))
