"""Messages between a worker and its owner: `length u64, kind u8`, then a batch of records.

A worker's results have a summary before their records, so that its owner need not look through them.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ..wire.records import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = struct.Struct("<QB")
SUMMARY = struct.Struct("<QII")  #: before a worker's results: microseconds of all, their count, 1 if none was skipped


def framed(kind: Kind, batch: bytes) -> bytes:
    """Return the message to write."""
    return PREFIX.pack(len(batch), kind) + batch


class Reader:
    """Cuts what arrives into messages and hands each to `on_message(kind, batch)`."""

    def __init__(self, on_message: Callable[[Kind, bytes], None]) -> None:
        self._on_message = on_message
        self._buffer = bytearray()
        self._wanted = PREFIX.size

    def feed(self, data: bytes) -> None:
        """Take in what was read from the pipe."""
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._wanted:
            return
        position, messages = 0, []
        while len(buffer) - position >= PREFIX.size:
            length, kind = PREFIX.unpack_from(buffer, position)
            end = position + PREFIX.size + length
            if end > len(buffer):
                self._wanted = end - position
                break
            with memoryview(buffer) as view:
                batch = bytes(view[position + PREFIX.size : end])
            position = end
            self._wanted = PREFIX.size
            messages.append((kind, batch))
        del buffer[:position]
        for kind, batch in messages:
            self._on_message(Kind(kind), batch)
