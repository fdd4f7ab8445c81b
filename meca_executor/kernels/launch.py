"""Becomes the program of a kernel: `launch.py PARENT_PID OPEN_FILES TERMINAL PROGRAM ARGUMENTS...`.

Run as a script, by itself: nothing of the package is imported here. The program ends with the gateway, has a
limit of open files, and in a terminal that terminal is its own.
"""

from __future__ import annotations

import os
import resource
import sys

NOT_FOUND, NOT_RUNNABLE = 127, 126  #: exit codes of a shell


def main() -> None:
    """Take the process over."""
    parent, files, terminal, *argv = sys.argv[1:]
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != int(parent):
        os._exit(1)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = int(files) if hard == resource.RLIM_INFINITY else min(int(files), hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if terminal == "1":
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    try:
        os.execvp(argv[0], argv)  # nosec B606 # what the kernel is, as its language says
    except OSError as error:
        os.write(2, f"cannot run {argv[0]}: {error.strerror}\n".encode())
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUNNABLE)


if __name__ == "__main__":
    main()
