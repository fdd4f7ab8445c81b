"""Shared memory of ours that processes have: open by a descriptor, or mapped (Linux)."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from meca_executor.wire.segments import NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

LARGE = 64 << 10  #: bytes; what is smaller proves where a process runs, and stays


def open_segments(pid: int) -> list[int]:
    """Return the bytes of each large segment that a process has a descriptor of; none when it is gone."""
    sizes = []
    with contextlib.suppress(FileNotFoundError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                path = f"/proc/{pid}/fd/{number}"
                if f"memfd:{NAME}" in os.readlink(path) and (size := os.stat(path).st_size) >= LARGE:
                    sizes.append(size)
    return sizes


def mapped_segments(pid: int) -> int:
    """Return how many mappings of segments a process has."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/maps", "rb") as file:
        return sum(f"memfd:{NAME}".encode() in line for line in file)
    return 0


def segments_of(pids: Iterable[int]) -> dict[int, tuple[list[int], int]]:
    """Return what each of these processes has, open and mapped; those without any are left out."""
    found = {pid: (open_segments(pid), mapped_segments(pid)) for pid in pids}
    return {pid: had for pid, had in found.items() if had != ([], 0)}
