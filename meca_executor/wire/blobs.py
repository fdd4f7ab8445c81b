"""Blobs: what is too large for a message, in pieces, so that it is copied as seldom as can be.

Who sends one gives it a number. Its pieces are messages of their own, in order; a later message mentions the number in
place of the content, which is a packed parcel (`parcels.py`). Whoever has shared memory puts the pieces there, so
that other processes of its machine read them in place.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ..errors import SharedMemoryFull
from . import segments
from .parcels import PACKED, Parcel
from .payloads import Held, held_by, no_room
from .records import HEADER_BYTES, MalformedBatch, pack_header, unpack_header
from .stream import PART_BYTES, Piece

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOB_MIN = 256 << 10  #: bytes; a smaller payload is quicker in its message
LARGE = ord("L")  #: first byte of a mention
PIECE_BYTES = PART_BYTES - HEADER_BYTES
ARRIVING_MOST = 16  #: blobs at once that are not whole; ours come one after the other
LAST = 1  #: tag of the last piece's record

_MENTION = struct.Struct("<BQ")
MENTION_BYTES = HEADER_BYTES + _MENTION.size  #: of a record with one


def mention(number: int) -> bytes:
    """Return the payload that stands for a blob."""
    return _MENTION.pack(LARGE, number)


def mentioned(payload: bytes) -> int | None:
    """Return the number of the blob that a payload stands for; None when it stands for itself."""
    if len(payload) != _MENTION.size or payload[0] != LARGE:
        return None
    return int(_MENTION.unpack(payload)[1])


def contents(payload: bytes) -> list[bytes | memoryview]:
    """Return the parts of the packed parcel that a payload is, none of them a copy."""
    return [payload] if payload[0] == PACKED else Parcel(payload).parts()


def pieces(number: int, parts: Iterable[bytes | memoryview]) -> Iterator[Piece]:
    """Yield the pieces of a blob of these parts, of which there is at least one, none of them empty."""
    last: memoryview | None = None
    for part in parts:
        for at in range(0, len(part), PIECE_BYTES):
            if last is not None:
                yield pack_header(number, 0, 0, len(last)), last
            last = memoryview(part)[at : at + PIECE_BYTES]
    assert last is not None
    yield pack_header(number, LAST, 0, len(last)), last


class Arriving:
    """Blobs of which pieces have come, of at most `most` bytes each.

    With `shared` they are put into shared memory; what does not get any is a payload to be sent on.
    """

    def __init__(self, most: int, *, shared: bool) -> None:
        self._most = most
        self._shared = shared
        self._parts: dict[int, _Memory | segments.Growing] = {}

    def add(self, body: bytes) -> tuple[int, bytes] | None:
        """Take in a piece; returns the number and the payload of a blob that is whole now.

        Raises:
            ValueError: It is none, or the blob is larger than agreed (`MalformedBatch`).
        """
        if len(body) < HEADER_BYTES:
            raise MalformedBatch(f"a piece of {len(body)} bytes")
        number, tag, _, size = unpack_header(body)
        piece = memoryview(body)[HEADER_BYTES:]
        if size != len(piece) or not size:
            raise MalformedBatch(f"a piece announces {size} bytes, {len(piece)} are there")
        if (blob := self._parts.get(number)) is None:
            if len(self._parts) >= ARRIVING_MOST:
                raise MalformedBatch(f"a piece of one more blob, where {ARRIVING_MOST} are not whole yet")
            blob = self._parts[number] = self._begin()
        if blob.size + size > self._most:
            del self._parts[number]
            raise MalformedBatch(f"a blob of more than {self._most} bytes")
        blob.write(piece)
        if tag != LAST:
            return None
        del self._parts[number]
        if isinstance(blob, segments.Growing):
            return number, _in_segment(blob)
        return number, bytes(blob.content) if self._shared else blob.payload()

    def _begin(self) -> _Memory | segments.Growing:
        return (segments.Growing.begin() if self._shared else None) or _Memory()

    def clear(self) -> None:
        """Forget what is not whole."""
        self._parts.clear()


class _Memory:
    """A blob in this process's own memory."""

    def __init__(self) -> None:
        self.content = bytearray()

    @property
    def size(self) -> int:
        return len(self.content)

    def write(self, piece: memoryview) -> None:
        self.content += piece

    def payload(self) -> Held:
        payload = Held(bytes((PACKED,)))
        payload.view = memoryview(self.content)
        return payload


def _in_segment(blob: segments.Growing) -> bytes:
    try:
        return held_by(blob.finish())
    except SharedMemoryFull as error:
        return no_room(error)
