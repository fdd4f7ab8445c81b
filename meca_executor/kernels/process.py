"""A kernel's programs: each leads a process group of its own, with pipes or a terminal, and ends with the gateway."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

LAUNCH = str(Path(__file__).with_name("launch.py"))
OPEN_FILES = 1024
POLL_S = 0.05  #: between two looks where the system does not tell of a child's end
TERM_S = 0.5  #: between the wish and the order to end


def launched(argv: Sequence[str], files: int = OPEN_FILES, *, terminal: bool = False) -> list[str]:
    """Return the command that becomes `argv`, with its limits."""
    return [sys.executable, "-I", "-S", LAUNCH, str(os.getpid()), str(files), str(int(terminal)), *argv]


async def ended(process: subprocess.Popen[bytes]) -> int:
    """Wait for a child of ours; returns its exit code, negative for a signal."""
    if hasattr(os, "pidfd_open") and process.poll() is None:
        with contextlib.suppress(OSError):
            await _ended_by_descriptor(os.pidfd_open(process.pid))
    while (code := process.poll()) is None:  # noqa: ASYNC110  # the system has no event for it
        await asyncio.sleep(POLL_S)
    return code


async def _ended_by_descriptor(descriptor: int) -> None:
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a process group, if there is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


async def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a program and all in its group: asked first, then killed."""
    if process.poll() is None:
        signal_group(process.pid, signal.SIGTERM)
        signal_group(process.pid, signal.SIGCONT)
        with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
            await asyncio.wait_for(ended(process), TERM_S)
    signal_group(process.pid, signal.SIGKILL)  # also what outlived its leader
    await ended(process)


def how_it_ended(code: int, out_of_memory: bool = False) -> str:
    """Return in words how a program ended."""
    if out_of_memory:
        return "out of memory: its container may not have more"
    if code >= 0:
        return f"it ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    hint = "; someone killed it, or the machine was out of memory" if -code == signal.SIGKILL else ""
    return f"signal {-code} ({name}){hint}"


def resident_bytes() -> dict[int, int]:
    """Return how much memory the processes of each session have (Linux: from /proc; elsewhere nothing is known)."""
    page, used = os.sysconf("SC_PAGE_SIZE"), dict[int, int]()
    with contextlib.suppress(OSError):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()  # the name before may hold anything
                used[int(fields[3])] = used.get(int(fields[3]), 0) + int(fields[21]) * page
    return used
