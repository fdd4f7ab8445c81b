"""Parcels: a pickle and the large buffers that were taken out of it, as one run of bytes.

Pickle protocol 5 hands large buffers over instead of copying them into the pickle. A parcel holds both:

    magic   4 bytes
    count   u32   buffers
    sizes   u64   of the pickle, then of each buffer
    pickle
    buffers       each at a multiple of 64 bytes from the start, zeros in between

A payload that travels is told apart by its first byte: `PICKLE`, a plain pickle; `PACKED`, a parcel; `SHARED`,
a reference to shared memory that holds a parcel (see `segments`).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pickle import PickleBuffer

PICKLE = 0x80  #: first byte of a pickle, of protocol 2 or later
PACKED = ord("B")  #: first byte of a packed parcel
SHARED = ord("M")  #: first byte of a reference to shared memory
FAILED = ord("E")  #: first byte of a text: why there was no room for a payload
BUFFER_MIN = 64 * 1024  #: bytes; a smaller buffer stays in the pickle. A guess: about where a copy costs 10 µs
ALIGNMENT = 64  #: bytes: a cache line, and the widest vector registers; numpy itself promises 16

_MAGIC = b"BPC1"
_HEAD = struct.Struct("<4sI")
_SIZE = struct.Struct("<Q")


class MalformedParcel(ValueError):
    """The bytes are not a parcel; the text says what is wrong with them."""


class Collector:
    """What to hand to a pickler as its `buffer_callback`; afterwards `.buffers` has what was taken out."""

    __slots__ = ("buffers",)

    def __init__(self) -> None:
        self.buffers: list[memoryview] = []

    def __call__(self, buffer: PickleBuffer) -> bool:
        """Return True for a buffer that stays in the pickle: a small one, and one that is not contiguous."""
        try:
            view = buffer.raw()
        except BufferError:  # whether that can be pickled at all is the pickler's to say
            return True
        if view.nbytes < BUFFER_MIN:
            return True
        self.buffers.append(view)
        return False


class Parcel:
    """A pickle and its out-of-band buffers.

    The buffers are the sender's own memory, not copies: whoever changes it before the parcel is packed or
    written changes what is sent.
    """

    __slots__ = ("buffers", "data", "size")

    data: bytes  #: the pickle
    buffers: list[memoryview]  #: flat views of bytes, as `PickleBuffer.raw()` gives them
    size: int  #: bytes of the packed parcel

    def __init__(self, data: bytes, buffers: Sequence[memoryview] = ()) -> None:
        self.data = data
        self.buffers = list(buffers)
        self.size = _places(self._sizes())[-1][1]

    def _sizes(self) -> list[int]:
        return [len(self.data), *(view.nbytes for view in self.buffers)]

    def parts(self) -> list[bytes | memoryview]:
        """Return what the packed parcel is made of, to be written one after the other; nothing is copied."""
        sizes = self._sizes()
        head = _HEAD.pack(_MAGIC, len(self.buffers)) + b"".join(map(_SIZE.pack, sizes))
        contents: list[bytes | memoryview] = [self.data, *self.buffers]
        parts: list[bytes | memoryview] = [head]
        position = len(head)
        for part, (start, stop) in zip(contents, _places(sizes), strict=True):
            if start > position:
                parts.append(bytes(start - position))
            parts.append(part)
            position = stop
        return parts

    def pack(self) -> bytes:
        """Return the packed parcel, a copy of everything."""
        return b"".join(self.parts())


def unpack(packed: bytes | bytearray | memoryview) -> tuple[memoryview, list[memoryview]]:
    """Return the pickle and the buffers of a packed parcel, for `pickle.loads(data, buffers=buffers)`.

    All are slices of what was given and keep it alive; they can be written to if it can.

    Args:
        packed: The parcel, all of it and nothing else. A view has to be a flat one of bytes.

    Raises:
        MalformedParcel: It is not a parcel, or one that is cut, or followed by something else.
    """
    view = memoryview(packed)
    data, *buffers = [view[start:stop] for start, stop in _places(_announced(view), view.nbytes)]
    return data, buffers


def _announced(view: memoryview) -> list[int]:
    """Return the sizes that a parcel's head tells, whatever they are."""
    if view.ndim != 1 or view.format != "B" or not view.c_contiguous:
        raise MalformedParcel(f"a flat view of bytes was expected, not {view.ndim} dimensions of {view.format!r}")
    if view.nbytes < _HEAD.size:
        raise MalformedParcel(f"{view.nbytes} bytes are too few for a parcel's head")
    magic, count = _HEAD.unpack_from(view)
    if magic != _MAGIC:
        raise MalformedParcel(f"a parcel begins with {_MAGIC!r}, not with {magic!r}")
    stop = _HEAD.size + (count + 1) * _SIZE.size
    if view.nbytes < stop:  # before anything is made of that many
        raise MalformedParcel(f"the head of a parcel with {count} buffers has {stop} bytes, {view.nbytes} are there")
    return [size for (size,) in _SIZE.iter_unpack(view[_HEAD.size : stop])]


def _places(sizes: list[int], total: int | None = None) -> list[tuple[int, int]]:
    """Return where the pickle and each buffer start and stop.

    Raises:
        MalformedParcel: The last one does not stop at `total` bytes.
    """
    places = []
    stop = _HEAD.size + len(sizes) * _SIZE.size
    for number, size in enumerate(sizes):
        start = stop if number == 0 else -(-stop // ALIGNMENT) * ALIGNMENT
        stop = start + size
        if total is not None and stop > total:
            what = f"buffer {number - 1}" if number else "the pickle"
            raise MalformedParcel(f"{what} is {size} bytes at {start}, but the parcel has {total}")
        places.append((start, stop))
    if total is not None and stop != total:
        raise MalformedParcel(f"the parcel ends at {stop} bytes, and {total} are there")
    return places
