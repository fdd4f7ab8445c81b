"""Folders of kernels outside of which nothing of theirs is: locked, so that what a killed gateway left is found."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from ..errors import KernelError
from ..folders import make_locked, remove_abandoned

_NAME = re.compile(r"meca-k(?:ernel)?-[0-9a-f]{12}")


class OwnFolder:
    """A fresh temporary folder; `remove` ends it.

    Raises:
        KernelError: It cannot be made.
    """

    def __init__(self, prefix: str) -> None:
        root = os.path.realpath(tempfile.gettempdir())
        self.path = Path(root, prefix + secrets.token_hex(6))  # short: names of sockets have about 100 characters
        try:
            self.handle = make_locked(str(self.path))
        except OSError as error:
            raise KernelError(f"no folder can be made in {root}: {error.strerror}") from error

    def write(self, name: str, content: bytes) -> None:
        """Make a file in it that is not there."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(name, flags, 0o600, dir_fd=self.handle), "wb") as file:
            file.write(content)

    def pipe(self, name: str, *, writes: bool = False) -> int:
        """Make a named pipe in it that is not there; returns this end, which waits for nobody.

        Args:
            writes: This end writes; it is open both ways then, so that nothing is at its end before a reader came.
        """
        os.mkfifo(name, 0o600, dir_fd=self.handle)
        return self._open(name, os.O_RDWR if writes else os.O_RDONLY)

    def writer(self, name: str) -> int:
        """Return an end of a named pipe that writes alone, of which there is a reader."""
        return self._open(name, os.O_WRONLY)

    def _open(self, name: str, flags: int) -> int:
        handle = os.open(name, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.handle)
        if stat.S_ISFIFO(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
        raise KernelError("a program of the kernel has changed what is the gateway's; it is not used any more")

    def drop(self, prefix: str) -> None:
        """Delete the files whose names begin so."""
        for name in os.listdir(self.handle):
            if name.startswith(prefix):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self.handle)

    def remove(self) -> None:
        """Delete it, with all that is in it. Again does nothing."""
        if self.handle >= 0:
            _remove(str(self.path))
            os.close(self.handle)
            self.handle = -1


def sweep() -> None:
    """Remove the folders of gateways that were killed."""
    with contextlib.suppress(OSError):
        remove_abandoned(os.path.realpath(tempfile.gettempdir()), _NAME, _remove)


def _remove(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if os.path.isdir(path):  # a kernel may have taken rights away
        os.chmod(path, 0o700)
        for folder, folders, _ in os.walk(path):
            for name in folders:
                place = os.path.join(folder, name)
                if not os.path.islink(place):
                    os.chmod(place, 0o700)
        shutil.rmtree(path, ignore_errors=True)
