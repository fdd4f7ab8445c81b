"""Which process is at the other end of a loopback connection.

The old dialect gives a client no name, so after a reconnect only its process tells that it is the same.
Linux says so in /proc (proc(5), net/tcp and PID/fd) for processes of the same user; elsewhere nobody does.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_LINK = re.compile(r"socket:\[(\d+)\]")


def process_at(port: int, our_port: int) -> str | None:
    """Return a name for the process whose socket is `port`, connected to `our_port` here; None when unknown.

    It holds as long as the process lives: its number, and when it started.
    """
    inode = _inode(port, our_port)
    if inode is None:
        return None
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if inode in _sockets(pid):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                # The name in parentheses may hold anything; the start time is the 20th field after it.
                return f"{pid}@{file.read().rpartition(')')[2].split()[19]}"
    return None


def _sockets(pid: str) -> Iterator[str]:
    """Yield the inodes of a process's sockets; of what it closes or ends meanwhile, some."""
    descriptors: list[str] = []
    with contextlib.suppress(OSError):
        descriptors = os.listdir(f"/proc/{pid}/fd")
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            if (found := _LINK.match(os.readlink(f"/proc/{pid}/fd/{descriptor}"))) is not None:
                yield found[1]


def _inode(port: int, our_port: int) -> str | None:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table, encoding="ascii") as file:
            for line in file.readlines()[1:]:
                fields = line.split()
                local, remote = (int(field.rpartition(":")[2], 16) for field in fields[1:3])
                if (local, remote) == (port, our_port):
                    return fields[9]
    return None
