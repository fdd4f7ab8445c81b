"""The guardian's process: `guardian_process.py`, its standard input a pipe from the gateway.

It reads process groups, one a line, with a minus those that have ended, and at the end of its input it kills what is
left. Run as a script without `site`, so that it is there in 10 ms and is small; it imports nothing of ours.
"""

from __future__ import annotations

import os
from _signal import SIG_IGN, SIGINT, SIGKILL, SIGTERM, signal  # type: ignore[import-not-found]  # half of `signal`'s time


def main() -> None:
    """Watch until the gateway's end of the pipe closes, however that comes."""
    for number in (SIGINT, SIGTERM):  # a service manager sends it to all processes; this one ends after the gateway
        signal(number, SIG_IGN)
    groups: set[int] = set()
    rest = b""
    while data := os.read(0, 65_536):
        *lines, rest = (rest + data).split(b"\n")
        for number in map(int, lines):
            if number > 0:
                groups.add(number)
            else:
                groups.discard(-number)
    for group in groups:
        kill(group)


def kill(group: int) -> None:
    """Kill a process group, if anybody is left of it."""
    try:
        os.killpg(group, SIGKILL)
    except OSError:
        return


if __name__ == "__main__":
    main()
