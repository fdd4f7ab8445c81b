"""Key files: `ACCESS SECRET` a line, `#` comments, mode 600, for one user alone.

A file is changed by putting a new one in its place, so that a reader never sees half of it; those who change
it wait for each other by a lock on the file.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import secrets
import tempfile
import time
from typing import TYPE_CHECKING

from .errors import UsageError
from .settings import KeyPair, why_no_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LOCK_S = 10.0  #: whoever changes the file is through long before
LOCK_POLL_S = 0.01

log = logging.getLogger("meca.gateway")


def make_keys() -> KeyPair:
    """Return a fresh pair: `AKIA` and 16 characters of base32, and 40 URL-safe characters."""
    name = base64.b32encode(secrets.token_bytes(10)).decode()
    return KeyPair("AKIA" + name, secrets.token_urlsafe(30))


def read_keys(path: Path) -> list[KeyPair]:
    """Return the pairs of a key file; [] when there is no file.

    Raises:
        UsageError: A line is not a pair, an access key is there twice, or others may read the file.
    """
    try:
        with open(path, "rb") as file:
            return _pairs(path, _read(path, file.fileno()))
    except FileNotFoundError:
        return []
    except IsADirectoryError:
        raise UsageError(f"key file {path} is a folder") from None


def ensure_keys(path: Path) -> list[KeyPair]:
    """Return the pairs of a key file, first making it with one pair (mode 600) when there is none.

    Raises:
        UsageError: As `read_keys`; or another process does not let go of the file.
    """
    if pairs := read_keys(path):
        return pairs
    with _changing(path) as text:
        if not (pairs := _pairs(path, text)):  # nobody was quicker
            pairs = [make_keys()]
            _replace(path, _with(text, pairs[0]))
    return pairs


def add_keys(path: Path) -> KeyPair:
    """Make a pair, add it to a key file (made when missing: mode 600, its folder 700), and return it.

    Raises:
        UsageError: As `ensure_keys`.
    """
    pair = make_keys()
    with _changing(path) as text:
        _pairs(path, text)  # a file that a gateway could not read is not written to
        _replace(path, _with(text, pair))
    return pair


def revoke_keys(path: Path, access_key: str) -> None:
    """Take a pair out of a key file; all else in it stays, its mode too.

    Raises:
        UsageError: The key is not in it; or as `ensure_keys`.
    """
    known = [pair.access_key for pair in read_keys(path)]
    if access_key not in known:
        there = f"the keys there are {', '.join(known)}" if known else "there are none"
        raise UsageError(f"access key {access_key[:64]!r} is not in {path}; {there}")
    with _changing(path) as text:
        lines = text.splitlines(keepends=True)
        _replace(path, "".join(line for line in lines if line.split()[:1] != [access_key]))


class KeyFile:
    """The pairs of a key file as it is now; what changes in it counts from the next look on.

    A file that is damaged meanwhile, or that others may read, is told about in the log, and the pairs before
    go on counting.

    Args:
        path: The file.
        one_owner: All pairs are one person's; else each pair is somebody's own.

    Raises:
        UsageError: As `read_keys`.
    """

    def __init__(self, path: Path, one_owner: bool = False) -> None:
        self.path = path
        self.one_owner = one_owner
        self._seen = self._state()
        self._secrets: dict[str, str] = dict(read_keys(path))
        self._steady = self._seen

    def secrets(self) -> Mapping[str, str]:
        """Return access key -> secret."""
        seen = self._state()
        if seen != self._seen:
            try:
                self._secrets = dict(read_keys(self.path))
            except (UsageError, OSError) as error:
                log.error("the keys of before go on counting: %s", error)
            self._seen = seen  # as it was before it was read: a change in between is seen at the next look
        return self._secrets

    def settled(self) -> Mapping[str, str] | None:
        """Return access key -> secret when the file is as it was at the last call of this, else None.

        An editor may empty or remove a file for a moment; no session is to end for that.
        """
        known, before, self._steady = self.secrets(), self._steady, self._seen
        return known if before == self._steady else None

    def _state(self) -> tuple[int, ...] | None:
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(path: Path, handle: int) -> str:
    if hasattr(os, "getuid") and os.fstat(handle).st_mode & 0o077:
        raise UsageError(f"key file {path} can be read by others; run: chmod 600 {path}")
    with open(handle, encoding="utf-8", newline="", closefd=False) as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            raise UsageError(f"key file {path} is not UTF-8 text (byte {error.start})") from None


def _pairs(path: Path, text: str) -> list[KeyPair]:
    pairs: dict[str, KeyPair] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.strip().startswith("#"):
            continue
        fields = line.split()
        if len(fields) != 2:
            raise UsageError(f"key file {path}, line {number}: expected an access key and a secret key")
        if (why := why_no_key(fields[0]) or why_no_key(fields[1])) is not None:
            raise UsageError(f"key file {path}, line {number}: a key {why}")
        if fields[0] in pairs:
            raise UsageError(f"key file {path}, line {number}: access key {fields[0]} is there twice; take one out")
        pairs[fields[0]] = KeyPair(*fields)
    return list(pairs.values())


def _with(text: str, pair: KeyPair) -> str:
    between = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{between}{pair.access_key} {pair.secret_key}\n"


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[str]:
    """Give the text of a key file, which nobody else changes meanwhile; makes the file."""
    import fcntl  # here: clients read key files where there is no such module

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    deadline = time.monotonic() + LOCK_S
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(f"key file {path} is locked by another process; try again") from None
                time.sleep(LOCK_POLL_S)
                continue
            if _is_at(handle, path):  # else it was replaced while we waited
                yield _read(path, handle)
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(path))
    return False


def _replace(path: Path, text: str) -> None:
    """Put a file with this text in the place of another, with the other's owner and mode."""
    place = os.path.realpath(path)  # what a link leads to, not the link
    old = os.stat(place)
    handle, name = tempfile.mkstemp(dir=os.path.dirname(place), prefix=".keys-")
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:
            os.fchmod(handle, old.st_mode & 0o700)
            if os.fstat(handle).st_uid != old.st_uid:  # root tidies up for another user
                os.fchown(handle, old.st_uid, old.st_gid)
            file.write(text)
            file.flush()
            os.fsync(handle)
        os.replace(name, place)
    except BaseException:
        os.unlink(name)
        raise
