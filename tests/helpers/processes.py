"""The processes of this machine, as far as tests ask about them (Linux: read from `/proc`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
CAN_LIST = (PROC / "self" / "stat").exists()  #: False on systems without `/proc`; there nothing is found


class Process(NamedTuple):
    """One process. `pid` alone is not an identity: the system uses it again; with `started` it is."""

    pid: int
    started: int  #: clock ticks after boot
    parent: int
    state: str  #: one letter of `/proc/PID/stat`; Z is a zombie, ended and not yet waited for

    def __str__(self) -> str:
        return f"{self.pid} (child of {self.parent}, state {self.state}): {command(self.pid) or 'ended'}"


def look_up(pid: int) -> Process | None:
    """Return the process with this id, also when it is a zombie; None when there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the name in parentheses and may itself contain spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return Process(pid, int(fields[19]), int(fields[1]), fields[0])


def all_processes() -> dict[int, Process]:
    """Return every process by its id."""
    if not CAN_LIST:
        return {}
    found = (look_up(int(name)) for name in os.listdir(PROC) if name.isdigit())
    return {process.pid: process for process in found if process}


def command(pid: int) -> str:
    """Return the command line, empty for a zombie or for what is gone."""
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def has_in_environment(pid: int, setting: bytes) -> bool:
    """Return whether the process began with `setting` (`NAME=value`) in its environment."""
    try:
        return setting in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def ancestors(process: Process, table: dict[int, Process]) -> list[int]:
    """Return the ids of the parent, its parent and so on, nearest first."""
    chain: list[int] = []
    parent = process.parent
    while parent and parent not in chain:
        chain.append(parent)
        parent = table[parent].parent if parent in table else 0
    return chain


def descendants(pid: int) -> list[Process]:
    """Return the children of `pid` and all that come from them."""
    table = all_processes()
    return [process for process in table.values() if pid in ancestors(process, table)]


def children(pid: int) -> list[Process]:
    """Return the children of `pid`."""
    return [process for process in all_processes().values() if process.parent == pid]


def embedded_gateways() -> list[int]:
    """Return the embedded gateways of this process that run, in the order in which they were started."""
    found = [child for child in children(os.getpid()) if "run_embedded(config)" in command(child.pid)]
    return [child.pid for child in sorted(found, key=lambda child: child.started)]


def is_running(pid: int) -> bool:
    """Return whether there is such a process and it has not ended (a zombie has)."""
    if CAN_LIST:
        process = look_up(pid)
        return process is not None and process.state not in "ZX"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
