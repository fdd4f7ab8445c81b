"""Temporary folders that are removed also when their owner was killed: each is locked as long as its owner lives.

Whoever needs one next removes what others have left.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re
    from collections.abc import Callable


def make_locked(path: str) -> int:
    """Make a folder that only this user can read; returns a descriptor of it, which holds the lock.

    Raises:
        OSError: It cannot be made.
    """
    new = path + ".new"  # not seen as abandoned before it is locked
    os.mkdir(new, 0o700)
    handle = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.rename(new, path)
    return handle


def remove_abandoned(parent: str, name: re.Pattern[str], remove: Callable[[str], object]) -> None:
    """Remove those folders of this user whose owners are gone.

    Args:
        parent: Where they are.
        name: What their names are like.
        remove: Removes one.

    Raises:
        OSError: The parent cannot be read.
    """
    with os.scandir(parent) as entries:
        paths = [entry.path for entry in entries if name.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)]
    for path in paths:
        with contextlib.suppress(OSError):  # another user's, just removed, or its owner lives
            _remove_if_free(path, remove)


def _remove_if_free(path: str, remove: Callable[[str], object]) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(path)
    finally:
        os.close(handle)
