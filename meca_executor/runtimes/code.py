"""Code that was sent to a worker: written into a folder of the worker's own, from which it is imported.

The folder's owner is the process that started the worker: it names the folder and removes it when the worker is gone.
What is left where that process was killed, too, is removed by the next worker that needs a folder: each holds a lock
on its own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from typing import TYPE_CHECKING

from ..folders import make_locked, remove_abandoned
from ..wire.code import MalformedCode, digest_of, head_of, unpack

if TYPE_CHECKING:
    from ..wire.code import Head, Unit

PREFIX = "meca-code-"
_NAME = re.compile(PREFIX + r"[0-9a-f]{16}")


def new_folder() -> str:
    """Return the path of a folder for one worker's code; nothing is there yet."""
    import secrets
    import tempfile  # not needed by workers, which begin quicker without

    return os.path.join(tempfile.gettempdir(), PREFIX + secrets.token_hex(8))


def remove_folder(folder: str) -> None:
    """Remove a worker's folder, if it made one."""
    if os.path.isdir(folder):
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


class Code:
    """What a worker has been sent.

    Args:
        folder: The worker's own; made when it is needed.

    Attributes:
        problem: Why something that was sent cannot be imported; nothing when all is well.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = -1  # a descriptor of the folder, locked
        self._have: dict[str, int] = {}  # unit -> its number
        self._places: dict[str, str] = {}  # unit -> its entry of sys.path, where it has one
        self.problem = ""

    def take(self, number: int, payload: bytes) -> None:
        """Make a unit importable; a failure is kept in `problem`, for the task that misses it."""
        try:
            head = head_of(payload)
            if self._have.get(head.name) == number:
                return
            in_place = _is_in_place(head)
            if not in_place or head.name in self._have:
                self._forget(head.name)
            if not in_place:
                place = os.path.join(self._folder, f"{number:016x}")
                self._write(place, unpack(payload))
                sys.path.insert(0, place)
                self._places[head.name] = place
            self._have[head.name] = number
            importlib.invalidate_caches()
        except (OSError, MalformedCode) as error:
            self.problem = f"code that was sent for this call could not be written to {self._folder}: {error}"

    def to_front(self) -> None:
        """What was sent comes before all other places: it is what the client has."""
        places = list(self._places.values())
        sys.path[:] = [*reversed(places), *(entry for entry in sys.path if entry not in places)]

    def _forget(self, name: str) -> None:
        """A module of this name that is loaded, from wherever it came, is not the client's."""
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
            del sys.modules[loaded]
        if (place := self._places.pop(name, None)) is not None:
            sys.path.remove(place)

    def _write(self, place: str, unit: Unit) -> None:
        if self._lock < 0:
            self._make_folder()
        for path, content in unit.files.items():
            file = os.path.join(place, *path.split("/"))
            os.makedirs(os.path.dirname(file), exist_ok=True)
            with open(file, "wb") as opened:
                opened.write(content)

    def _make_folder(self) -> None:
        with contextlib.suppress(OSError):  # nobody's task fails for what others have left
            remove_abandoned(os.path.dirname(self._folder), _NAME, remove_folder)
        self._lock = make_locked(self._folder)


def _is_in_place(head: Head) -> bool:
    """Whether this process finds the same files where the client has them."""
    if not head.root or head.root not in sys.path:
        return False
    files = {os.path.join(head.root, *path.split("/")): size for path, size in head.sizes.items()}
    try:
        if any(os.path.getsize(file) != size for file, size in files.items()):
            return False
        return digest_of(map(_content, files)) == head.digest
    except OSError:
        return False


def _content(file: str) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()
