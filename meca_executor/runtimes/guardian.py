"""The guardian: a tiny process that outlives a gateway which is killed, and ends what its tasks have started.

The kernel ends workers and apps with their gateway (`lifeline.py`), but not their children. So the gateway tells a
process of its own, through a pipe, which process groups there are; when the pipe closes, that one kills them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from . import guardian_process

if TYPE_CHECKING:
    from collections.abc import Mapping

END_S = 5.0  #: for its process to end
log = logging.getLogger("meca.gateway")


class Guardian:
    """The guardian of one gateway; its process starts with the first group, and again if somebody ended it.

    A child that left its group (`setsid`, `start_new_session=True`) is not known here, and lives on.

    Args:
        environ: Environment of its process.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._groups: set[int] = set()
        self._popen: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        pid = "not started" if self._popen is None else f"pid {self._popen.pid}"
        return f"<Guardian {pid} groups={sorted(self._groups)}>"

    def watch(self, group: int) -> None:
        """Have this process group killed when the gateway is gone."""
        self._groups.add(group)
        if self._popen is None:
            self._start()
        else:
            self._tell([group])

    def done(self, group: int) -> None:
        """This group has ended; its number may soon be another's."""
        self._groups.discard(group)
        if self._popen is not None:
            self._tell([-group])

    def check(self) -> None:
        """A child of this process has ended: if it was the guardian's, start another one."""
        if self._popen is not None and self._popen.poll() is not None:
            self._start_again()

    def close(self) -> None:
        """End its process, and with it every group that is still watched."""
        self._groups.clear()
        self._end()

    def _start(self) -> None:
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-S", guardian_process.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self._environ,
                cwd="/",
                start_new_session=True,  # what kills the gateway's group leaves it alone
                bufsize=0,
            )
        except OSError as error:
            log.error("no guardian (%s): if this gateway is killed, children of its tasks live on", error)
            return
        assert self._popen.stdin is not None
        os.set_blocking(self._popen.stdin.fileno(), False)
        self._write(sorted(self._groups))

    def _tell(self, numbers: list[int]) -> None:
        if not self._write(numbers):
            self._start_again()

    def _start_again(self) -> None:
        log.warning("the guardian process was ended, or hangs; another one is started")
        assert self._popen is not None
        self._popen.kill()  # before its pipe is closed, at which it would do its work
        self._end()
        self._start()

    def _write(self, numbers: list[int]) -> bool:
        """Whether its process could be told: it is there, and reads."""
        assert self._popen is not None
        assert self._popen.stdin is not None
        text = "".join(f"{number}\n" for number in numbers).encode()
        with contextlib.suppress(OSError):
            return self._popen.stdin.write(text) == len(text)
        return False

    def _end(self) -> None:
        popen, self._popen = self._popen, None
        if popen is None:
            return
        assert popen.stdin is not None
        popen.stdin.close()
        try:
            popen.wait(END_S)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
