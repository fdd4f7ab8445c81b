"""Are two processes on one machine, and may one read the other's memory?"""

from __future__ import annotations

import contextlib
import os

from ..errors import SharedMemoryGone
from .segments import NAME, available, check, open_other, seal

_NONCE_BYTES = 32


class Probe:
    """A secret in shared memory, by which another process shows that it can read ours.

    It shows one direction only: each side that is to read needs an answer of its own to a probe of the other.
    """

    def __init__(self) -> None:
        """Make the secret; for systems where `available()`.

        Raises:
            OSError: The system gives none.
        """
        self._nonce = os.urandom(_NONCE_BYTES)
        self._fd = os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(self._fd, self._nonce)
        seal(self._fd)

    def offer(self) -> str:
        """Return where the secret is, and by what it is known, as text without the secret.

        Raises:
            ValueError: The probe was closed.
        """
        if self._fd < 0:
            raise ValueError("the probe was closed")
        return f"{os.getpid()}:{self._fd}:{os.fstat(self._fd).st_ino}:{_digest(self._nonce)}"

    def accepts(self, answer: str | None) -> bool:
        """Whether this is what `answer` returns to one who has read the secret."""
        import hmac

        told = (answer or "").encode("utf-8", "replace")
        return hmac.compare_digest(told, self._nonce.hex().encode())

    def close(self) -> None:
        """Let go of the secret, which nobody can read from then on; a second time does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()


def _digest(nonce: bytes) -> str:
    import hashlib  # not at the top: it takes some milliseconds, and workers only map

    return hashlib.sha256(nonce).hexdigest()


def answer(offer: str) -> str | None:
    """Return the secret of another process's probe, or None where this process cannot read it.

    The offer may come from anybody: nothing is given away but what its sender has described by its hash.
    """
    if not available():
        return None
    with contextlib.suppress(ValueError, SharedMemoryGone):
        pid, number, inode, digest = offer.split(":")
        fd = open_other(int(pid), int(number))
        try:
            if check(fd).st_ino == int(inode):
                nonce = os.pread(fd, _NONCE_BYTES, 0)
                if _digest(nonce) == digest:
                    return nonce.hex()
        finally:
            os.close(fd)
    return None


def pid_of(offer: str) -> int | None:
    """Return the number of the process that an offer tells of; None when it is none."""
    try:
        return int(offer.partition(":")[0])
    except ValueError:
        return None


def are_shared(probe: Probe | None, told: tuple[str | None, str | None]) -> bool:
    """Whether this process and another one can read each other's memory.

    Args:
        probe: Ours.
        told: The offer of the other side's, and its answer to ours.
    """
    theirs, ours = told
    return probe is not None and probe.accepts(ours) and theirs is not None and answer(theirs) is not None
