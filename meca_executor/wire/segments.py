"""Segments: parcels in shared memory, for processes of one user on one machine.

A segment is a memory file without a name (memfd, Linux): another process opens it by the number of a
descriptor, through `/proc/PID/fd/N`, or gets the descriptor itself over a Unix socket. It is gone with its
last descriptor and its last mapping, so nothing can be left behind, whoever is killed.

A segment keeps its size, by a seal that readers demand, so that none can be made to read beyond the end (SIGBUS).
Its content is written anew only when its readers have said that they are done (see `lending`). They map it
copy-on-write: an array can be written to, and the others do not see it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import struct
import sys
import weakref
from typing import TYPE_CHECKING

from ..errors import SharedMemoryFull, SharedMemoryGone
from .parcels import SHARED, MalformedParcel

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .parcels import Parcel

MOST_OPEN = 256  #: segments a process has open at once, where its limit of descriptors is high
SHARE_OF_DESCRIPTORS = 4  #: else this part of the limit
#: bytes reserved by one call: 4 ms, so that a profiler's timer signals cannot make it start over for ever
STEP = 16 << 20
LOOK_FROM = 16 << 20  #: bytes from which the memory that is left is looked up first, which takes 25 µs

NAME = "meca-segment"
_LINK = f"/memfd:{NAME} (deleted)"
_REFERENCE = struct.Struct("<BIIQQ")  # b"M", pid, descriptor, inode, size

_open: set[int] = set()  #: descriptors of this process's segments; a set's own methods need no lock
_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()  #: those that keep a descriptor of their own


def available() -> bool:
    """Whether this system has what segments are made of: Linux, with `/proc` in its place."""
    return hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS") and os.path.isdir("/proc/self/fd")


def most_open() -> int:
    """Return how many segments this process may have open: 256, or a quarter of its soft limit of descriptors."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_OPEN if soft == resource.RLIM_INFINITY else min(MOST_OPEN, soft // SHARE_OF_DESCRIPTORS)


class Segment:
    """One parcel in shared memory, held by a descriptor of this process until `close()` or garbage collection.

    Whoever has mapped it by then keeps the memory; nobody can find it any more. A forked child has a
    descriptor of its own, which its copy of the object closes.
    """

    __slots__ = ("__weakref__", "_fd", "_inode", "capacity", "size")

    size: int  #: bytes of what it holds
    capacity: int  #: bytes that it can hold

    def __init__(self, fd: int) -> None:
        """Take the descriptor of a sealed memory file; use `create` or `adopt`."""
        status = os.fstat(fd)
        self._fd = fd
        self._inode = status.st_ino
        self.size = self.capacity = status.st_size
        _open.add(fd)

    @classmethod
    def create(cls, parcel: Parcel) -> Segment | None:
        """Return a new segment that holds the packed parcel, or None: then send it in another way.

        None means that this process has as many open as it may, or that the system gives it none.

        Raises:
            SharedMemoryFull: There is no room for it.
        """
        if (fd := _new_file()) is None:
            return None
        try:
            _reserve(fd, parcel.size)
            _write_all(fd, parcel.parts())
            seal(fd)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def rewrite(self, parcel: Parcel) -> None:
        """Put another parcel in its place, which has to fit; for when nobody reads it any more."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        _write_all(self._fd, parcel.parts())
        self.size = parcel.size

    @classmethod
    def adopt(cls, fd: int, size: int) -> Segment:
        """Return the segment of a descriptor that came over a Unix socket; the descriptor is its own from here on.

        It holds `size` bytes. It counts as an open one, but is never refused for their number.

        Raises:
            SharedMemoryGone: It is not the descriptor of a segment. It was closed.
        """
        try:
            check(fd)
            os.set_inheritable(fd, False)  # recv_fds leaves it inheritable
            segment = cls(fd)
        except BaseException:
            os.close(fd)
            raise
        if segment.capacity < size:
            segment.close()
            raise SharedMemoryGone(f"descriptor {fd} has {segment.capacity} bytes of shared memory, not {size}")
        segment.size = size
        return segment

    def fileno(self) -> int:
        """Return the descriptor, which stays the segment's own.

        Raises:
            ValueError: The segment was closed.
        """
        if self._fd < 0:
            raise ValueError("the segment was closed")
        return self._fd

    def parts(self, size: int) -> Iterator[bytes]:
        """Yield its content, so many bytes at a time.

        Raises:
            ValueError: The segment was closed.
        """
        for at in range(0, self.size, size):
            yield os.pread(self.fileno(), min(size, self.size - at), at)

    def reference(self) -> bytes:
        """Return what another process hands to `map_segment`, while this one has the segment open.

        Raises:
            ValueError: The segment was closed.
        """
        return _REFERENCE.pack(SHARED, os.getpid(), self.fileno(), self._inode, self.size)

    def close(self) -> None:
        """Let go of the descriptor; a second time does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            _open.discard(fd)  # first: once it is closed, the number may be another segment's
            os.close(fd)

    def __del__(self) -> None:
        if hasattr(self, "_fd"):  # not in one whose making failed
            self.close()


class Growing:
    """A segment in the making: its content comes piece by piece."""

    def __init__(self, fd: int) -> None:
        """Take the descriptor of an empty memory file; use `begin`."""
        self._fd = fd
        self._failure: SharedMemoryFull | None = None
        self._looked_at = 0
        self.size = 0  #: bytes so far

    @classmethod
    def begin(cls) -> Growing | None:
        """Return an empty one; None where `Segment.create` would return that."""
        fd = _new_file()
        return None if fd is None else cls(fd)

    def write(self, piece: memoryview) -> None:
        """Add a piece; that there is no room for it is told by `finish`."""
        self.size += len(piece)
        if self._failure is not None:
            return
        try:
            if self.size - self._looked_at >= LOOK_FROM:
                self._looked_at = self.size
                if _memory_left() < LOOK_FROM:
                    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
            _write_all(self._fd, [piece])
        except OSError as error:
            self._failure = _full(self.size, error)
            os.ftruncate(self._fd, 0)

    def finish(self) -> Segment:
        """Return the segment.

        Raises:
            SharedMemoryFull: There was no room for all of it.
        """
        if self._failure is not None:
            raise self._failure
        seal(self._fd)
        fd, self._fd = self._fd, -1
        return Segment(fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def map_segment(reference: bytes) -> memoryview:
    """Return the content of another process's segment, or of one of this process's own.

    It can be written to, which only this process sees. The memory lives as long as the view and what is
    made from it.

    Raises:
        MalformedParcel: This is not a reference.
        SharedMemoryGone: There is no such segment (any more), or this process may not read it.
        SharedMemoryFull: There is no room to map it.
    """
    _, pid, number, inode, size = _fields(reference)
    fd = open_other(pid, number)
    try:
        return _map(fd, size, inode)
    finally:
        os.close(fd)


def open_segment(reference: bytes) -> Segment:
    """Return another process's segment as one of our own: it can be mapped as long as this process has it.

    Raises:
        MalformedParcel: This is not a reference.
        SharedMemoryGone: As `map_segment`.
    """
    _, pid, number, inode, size = _fields(reference)
    segment = Segment.adopt(open_other(pid, number), size)
    if segment._inode != inode:
        segment.close()
        raise SharedMemoryGone(f"the shared memory of {size} bytes was closed: its descriptor is another segment's")
    return segment


def own_prefix() -> bytes:
    """Return what references to this process's own segments begin with."""
    return _REFERENCE.pack(SHARED, os.getpid(), 0, 0, 0)[:5]


def described(reference: bytes) -> tuple[int, int]:
    """Return whose memory is referred to, by the number of a process, and its bytes.

    Raises:
        MalformedParcel: This is not a reference.
    """
    return _fields(reference)[1::3]


def _fields(reference: bytes) -> tuple[int, int, int, int, int]:
    if len(reference) != _REFERENCE.size or reference[0] != SHARED:
        raise MalformedParcel(f"a reference to shared memory has {_REFERENCE.size} bytes, this has {len(reference)}")
    fields: tuple[int, int, int, int, int] = _REFERENCE.unpack(reference)
    return fields


def map_fd(fd: int, size: int) -> memoryview:
    """Return the content of the segment behind a descriptor, which stays the caller's; all else as `map_segment`.

    Raises:
        SharedMemoryGone: It is not the descriptor of a segment of `size` bytes.
        SharedMemoryFull: There is no room to map it.
    """
    return _map(fd, size, None)


# -- writing


def _new_file() -> int | None:
    """Return the descriptor of an empty memory file; None when this process has enough, or gets none."""
    if len(_open) >= most_open() or not available():
        return None
    try:
        return os.memfd_create(NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError:  # no descriptor left, or not allowed
        return None


def _reserve(fd: int, size: int) -> None:
    try:
        if size >= LOOK_FROM and size > _memory_left():
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        for start in range(0, size, STEP):
            os.posix_fallocate(fd, start, min(STEP, size - start))
    except OSError as error:
        raise _full(size, error) from error


def _memory_left() -> int:
    """Return the bytes that can be had without ending a process: a memory file has no limit but that.

    A limit of the process's own group of processes (cgroup) is not seen.
    """
    left = 0
    with open("/proc/meminfo", "rb") as file:
        for line in file:
            if line.startswith((b"MemAvailable:", b"SwapFree:")):
                left += int(line.split()[1]) * 1024
    return left


def _full(size: int, error: OSError) -> SharedMemoryFull:
    return SharedMemoryFull(
        f"a payload of {size} bytes does not fit into shared memory ({error.strerror}): let earlier results go, "
        "send less at once, or put the data into a file and send its path"
    )


def _write_all(fd: int, parts: Iterable[bytes | memoryview]) -> None:
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[os.write(fd, view) :]  # at most 2 GiB at once


def _seals() -> int:
    return fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def seal(fd: int) -> None:
    """Have a memory file keep its size from here on."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _seals() | fcntl.F_SEAL_SEAL)


# -- reading


def open_other(pid: int, number: int) -> int:
    """Return a descriptor of our own for another process's memory file, which is still to be checked.

    The name comes first, because to open is to do something with some files (a device, a pipe); `_check`
    has to follow, because the number may be another file's by then.
    """
    path = f"/proc/{pid}/fd/{number}"
    try:
        link = os.readlink(path)
        if link == _LINK:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise SharedMemoryGone(f"the shared memory of process {pid} cannot be opened: {error.strerror}") from error
    raise SharedMemoryGone(f"descriptor {number} of process {pid} is no longer shared memory of ours, but {link}")


def check(fd: int) -> os.stat_result:
    """Return the status of a memory file that keeps its size.

    Raises:
        SharedMemoryGone: It is something else; something that can be cut while we read it, say.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError as error:  # EINVAL: no memory file at all
        raise SharedMemoryGone(f"descriptor {fd} is not shared memory: {error.strerror}") from error
    if seals & _seals() != _seals():
        raise SharedMemoryGone(f"descriptor {fd} is memory that its owner can still cut")
    return os.fstat(fd)


def _map(fd: int, size: int, inode: int | None) -> memoryview:
    status = check(fd)
    if status.st_size < size or inode not in (None, status.st_ino):
        raise SharedMemoryGone(
            f"the shared memory of {size} bytes was closed: its descriptor is another segment's, "
            f"of {status.st_size} bytes"
        )
    try:
        return memoryview(_mapping(fd, size))
    except OSError as error:
        raise _full(size, error) from error


def _mapping(fd: int, size: int) -> mmap.mmap:
    if sys.version_info >= (3, 13):
        return mmap.mmap(fd, size, access=mmap.ACCESS_COPY, trackfd=False)
    # Up to Python 3.12 each mapping keeps a descriptor; beyond our share of them we have to copy.
    if len(_mappings) >= most_open():
        return _copy(fd, size)
    mapping = mmap.mmap(fd, size, access=mmap.ACCESS_COPY)
    _mappings.add(mapping)
    return mapping


def _copy(fd: int, size: int) -> mmap.mmap:
    """Return memory of our own with the content of the file."""
    mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    view, position = memoryview(mapping), 0
    while position < size:
        position += os.preadv(fd, [view[position:]], position)
    return mapping
