"""A kernel's own folder: what may be put there, and what is there. No path leads out of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..errors import KernelError
from ..wire.kernels import FILE_BYTES, FILES, TOTAL_BYTES

NAME_BYTES = 1024  #: of a path
LISTED = 10_000  #: files that a listing names


class Listed(NamedTuple):
    """One file of a folder."""

    path: str  #: relative, with `/`
    size: int
    modified: float  #: as time.time()


class WorkFolder:
    """A fresh temporary folder; `remove` ends it."""

    def __init__(self) -> None:
        self.root = Path(os.path.realpath(tempfile.mkdtemp(prefix="meca-kernel-")))

    def confined(self, path: str) -> Path:
        """Return where a relative path leads.

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
        return place

    def write(self, path: str, content: bytes, mode: int | None = None) -> None:
        """Put a file there, its folders too; one that is there is replaced.

        Raises:
            KernelError: The path leads elsewhere, names a folder, or the disk does not take it.
        """
        place = self.confined(path)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            if mode is not None and mode & 0o100:
                place.chmod(place.stat().st_mode | 0o100)
        except OSError as error:
            raise KernelError(f"cannot write {path!r}: {error.strerror}") from error

    def matching(self, patterns: list[str]) -> list[str]:
        """Return the files that patterns such as `out/*.txt` or `**/*.png` name, or folders that are named.

        Raises:
            KernelError: A pattern names nothing, leads elsewhere, or too much is named.
        """
        found: dict[str, int] = {}
        for pattern in patterns:
            parts = PurePosixPath(pattern)
            if not pattern or parts.is_absolute() or ".." in parts.parts:
                raise KernelError(f"pattern {pattern!r} leads out of the kernel's folder")
            if parts == PurePosixPath("."):
                parts = PurePosixPath("**/*")
            try:
                places = sorted(self.root.glob(str(parts)))
            except ValueError as error:
                raise KernelError(f"pattern {pattern!r} cannot be read: {error}") from error
            files = [file for place in places for file in (sorted(place.rglob("*")) if place.is_dir() else [place])]
            inside = [file for file in files if file.is_file() and self._is_inside(file)]
            if not inside:
                raise KernelError(f"{pattern!r} names no file in the kernel's folder")
            found.update({file.relative_to(self.root).as_posix(): file.stat().st_size for file in inside})
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
            size = place.stat().st_size
            if size > FILE_BYTES:
                raise KernelError(f"{path!r} has {size:,} bytes, and {FILE_BYTES:,} are allowed")
            return place.read_bytes()
        except OSError as error:
            raise KernelError(f"cannot read {path!r}: {error.strerror}") from error

    def listing(self, path: str = ".") -> list[Listed]:
        """Return the files below a path, hidden ones too, without following symbolic links."""
        start = self.root if path in (".", "") else self.confined(path)
        found: list[Listed] = []
        for folder, folders, names in os.walk(start):
            folders.sort()
            for name in sorted(names):
                place = os.path.join(folder, name)
                try:
                    state = os.lstat(place)
                except OSError:
                    continue  # gone meanwhile
                relative = os.path.relpath(place, self.root).replace(os.sep, "/")
                found.append(Listed(relative, state.st_size, state.st_mtime))
                if len(found) == LISTED:
                    return found
        return found

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
        shutil.rmtree(self.root, ignore_errors=True)
        if self.root.exists():  # a kernel may have taken rights away
            for folder, _, _ in os.walk(self.root):
                os.chmod(folder, 0o700)
            shutil.rmtree(self.root, ignore_errors=True)


def changed(before: dict[str, tuple[int, float]], after: dict[str, tuple[int, float]]) -> list[str]:
    """Return the files that are new or other ones; at most as many as may be fetched at once."""
    return [path for path, state in after.items() if before.get(path) != state][:FILES]
