"""A kernel's own folder: what may be put there, and what is there. No path leads out of it.

Programs of the kernel may change the folder while we look: a path is followed from its root, link by link, and what
was found is opened without following any link.
"""

from __future__ import annotations

import contextlib
import os
import stat
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from ..errors import KernelError
from ..wire.kernels import FILE_BYTES, FILES, TOTAL_BYTES
from .own_folder import OwnFolder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

NAME_BYTES = 1024  #: of a path
LISTED = 10_000  #: files that a listing names
NO_LINK = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  #: nor a wait for the other end of a pipe


class Listed(NamedTuple):
    """One file of a folder."""

    path: str  #: relative, with `/`
    size: int
    modified: float  #: as time.time()


class WorkFolder:
    """A fresh temporary folder; `remove` ends it."""

    def __init__(self) -> None:
        self._own = OwnFolder("meca-kernel-")
        self.root = self._own.path

    def confined(self, path: str) -> Path:
        """Return where a relative path leads, with no link in it.

        Raises:
            KernelError: Out of the folder (symbolic links count), or it is no path at all.
        """
        if not path or "\0" in path or len(os.fsencode(path)) > NAME_BYTES:
            raise KernelError(f"{path[:80]!r} is not a path of 1 to {NAME_BYTES} bytes")
        parts = PurePosixPath(path)
        place = self.root.joinpath(parts)
        real = Path(os.path.realpath(place))
        if parts.is_absolute() or ".." in parts.parts or not real.is_relative_to(self.root):
            raise KernelError(f"path {path!r} leads out of the kernel's folder; give one inside of it")
        return real

    def _open(self, real: Path, flags: int, *, make: bool = False) -> int:
        """Open what `confined` gave; a link that was put there meanwhile is an error."""
        *folders, name = real.relative_to(self.root).parts or (".",)
        here = self._folder(folders, make=make)
        try:
            handle = os.open(name, flags | NO_LINK, 0o666, dir_fd=here)
        finally:
            os.close(here)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
        raise OSError(0, "it is no plain file")

    def _folder(self, folders: Iterable[str], *, make: bool = False) -> int:
        """Open a folder of what `confined` gave; as `_open`."""
        here = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | NO_LINK)
        try:
            for folder in folders:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(folder, dir_fd=here)
                before, here = here, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | NO_LINK, dir_fd=here)
                os.close(before)
        except BaseException:
            os.close(here)
            raise
        return here

    def write(self, path: str, content: bytes, mode: int | None = None) -> None:
        """Put a file there, its folders too; one that is there is replaced.

        Raises:
            KernelError: The path leads elsewhere, names a folder, or the disk does not take it.
        """
        place = self.confined(path)
        try:
            handle = self._open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, make=True)
            with open(handle, "wb") as file:
                file.write(content)
                if mode is not None and mode & 0o100:
                    os.fchmod(handle, os.fstat(handle).st_mode | 0o100)
        except OSError as error:
            raise KernelError(f"cannot write {path!r}: {error.strerror}") from error

    def matching(self, patterns: list[str]) -> list[str]:
        """Return the files that patterns such as `out/*.txt` or `**/*.png` name, or folders that are named.

        Raises:
            KernelError: A pattern names nothing, leads elsewhere, or too much is named.
        """
        found: dict[str, int] = {}
        for pattern in patterns:
            parts = PurePosixPath(pattern).parts
            if not pattern or pattern.startswith("/") or ".." in parts:
                raise KernelError(f"pattern {pattern!r} leads out of the kernel's folder")
            if any("**" in part and part != "**" for part in parts):
                raise KernelError(f"pattern {pattern!r} cannot be read: '**' stands for whole folders")
            inside = {path: size for path, size in self._plain() if fits(PurePosixPath(path).parts, parts)}
            if not inside:
                raise KernelError(f"{pattern!r} names no file in the kernel's folder")
            found.update(inside)
        if len(found) > FILES or sum(found.values()) > TOTAL_BYTES:
            raise KernelError(
                f"{len(found):,} files with {sum(found.values()):,} bytes are named; {FILES:,} with {TOTAL_BYTES:,} "
                "are allowed"
            )
        return list(found)

    def read(self, path: str) -> bytes:
        """Return a file's content.

        Raises:
            KernelError: It cannot be read, or is too large.
        """
        place = self.confined(path)
        try:
            with open(self._open(place, os.O_RDONLY), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > FILE_BYTES:
                    raise KernelError(f"{path!r} has {size:,} bytes, and {FILE_BYTES:,} are allowed")
                return file.read(FILE_BYTES)
        except OSError as error:
            raise KernelError(f"cannot read {path!r}: {error.strerror}") from error

    def listing(self, path: str = ".") -> list[Listed]:
        """Return the files below a path, hidden ones too, without following symbolic links."""
        start = self.root if path in (".", "") else self.confined(path)
        found: list[Listed] = []
        for relative, state in self._walk(start):
            found.append(Listed(relative, state.st_size, state.st_mtime))
            if len(found) == LISTED:
                break
        return found

    def _walk(self, start: Path) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the path and state of each file below a folder, in order; links are not followed."""
        above = start.relative_to(self.root)
        try:
            top = self._folder(above.parts)
        except OSError:
            return  # it is no folder
        try:
            for folder, folders, names, handle in os.fwalk(".", dir_fd=top):
                folders.sort()
                for name in sorted(names):
                    with contextlib.suppress(OSError):  # gone meanwhile
                        state = os.stat(name, dir_fd=handle, follow_symlinks=False)
                        yield (above / folder / name).as_posix(), state
        finally:
            os.close(top)

    def _plain(self) -> Iterator[tuple[str, int]]:
        """Yield the path and size of what can be read; links to files count as long as they stay inside."""
        for path, state in self._walk(self.root):
            if stat.S_ISREG(state.st_mode):
                yield path, state.st_size
            elif stat.S_ISLNK(state.st_mode) and self._is_inside(place := self.root / path) and place.is_file():
                yield path, place.stat().st_size

    def state(self) -> dict[str, tuple[int, float]]:
        """Return what shows whether a visible file has changed."""
        return {
            path: (size, modified)
            for path, size, modified in self.listing()
            if not any(part.startswith(".") for part in path.split("/"))
        }

    def _is_inside(self, place: Path) -> bool:
        return Path(os.path.realpath(place)).is_relative_to(self.root)

    def remove(self) -> None:
        """Delete it, with all that is in it."""
        self._own.remove()


def fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether a pattern names a path, or a folder above it."""
    at = {0}  # how much of the pattern may have been used
    for part in path:
        while more := {place + 1 for place in at if pattern[place : place + 1] == ("**",)} - at:
            at |= more
        if len(pattern) in at:
            return True
        at = {place for place in at if pattern[place] == "**"} | {
            place + 1 for place in at if pattern[place] != "**" and fnmatchcase(part, pattern[place])
        }
    return len(pattern) in at


def changed(before: dict[str, tuple[int, float]], after: dict[str, tuple[int, float]]) -> list[str]:
    """Return the files that are new or other ones; at most as many as may be fetched at once."""
    return [path for path, state in after.items() if before.get(path) != state][:FILES]
