"""A picture as a PNG file, by the standard library alone, and the lanes that show who worked when."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._demo_work import Row

BACKGROUND = (7, 8, 26)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(width: int, rows: Sequence[bytes]) -> bytes:
    """Return a PNG file (PNG specification, 8 bits a channel, RGB) of rows of `3 * width` bytes."""
    if not rows or any(len(row) != 3 * width for row in rows):
        raise ValueError(f"a picture {width} wide needs rows of {3 * width} bytes, and one at least")
    header = struct.pack(">IIBBBBB", width, len(rows), 8, 2, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 6)  # 0: this row is not filtered
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def read_png(file: bytes) -> tuple[int, list[bytes]]:
    """Return (width, rows) of a file that `png` wrote; the demo reads back what it wrote.

    Raises:
        ValueError: Not such a file, or damaged.
    """
    if not file.startswith(SIGNATURE):
        raise ValueError("not a PNG file")
    chunks: dict[bytes, bytes] = {}
    place = len(SIGNATURE)
    while place < len(file):
        (length,) = struct.unpack_from(">I", file, place)
        kind, data = file[place + 4 : place + 8], file[place + 8 : place + 8 + length]
        if file[place + 8 + length : place + 12 + length] != struct.pack(">I", zlib.crc32(kind + data)):
            raise ValueError(f"chunk {kind!r} is damaged")
        chunks[kind] = data
        place += 12 + length
    width, height = struct.unpack_from(">II", chunks[b"IHDR"])
    raw, line = zlib.decompress(chunks[b"IDAT"]), 3 * width + 1
    if len(raw) != height * line:
        raise ValueError(f"{len(raw)} bytes are not {height} rows of {line}")
    return width, [raw[start + 1 : start + line] for start in range(0, len(raw), line)]


def lanes(rows: Sequence[Row], width: int) -> list[bytes]:
    """Return the strip below the picture: time runs to the right, a lane a worker, a block a row it computed.

    A block has the mean colour of its row; every second one is dimmed, so that neighbours tell apart.
    """
    start = min(row.began for row in rows)
    scale = width / max(max(row.ended for row in rows) - start, 1e-9)
    workers = sorted({row.worker for row in rows})
    thick = max(2, min(14, 96 // len(workers)))
    strip = [_line(width)] * 6
    for worker in workers:
        lane = bytearray(_line(width))
        for number, row in enumerate(sorted(row for row in rows if row.worker == worker)):
            left = min(int((row.began - start) * scale), width - 1)
            right = min(max(int((row.ended - start) * scale), left + 1), width)
            lane[3 * left : 3 * right] = _mean(row.pixels, strongest=(210, 150)[number % 2]) * (right - left)
        strip += [bytes(lane)] * thick + [_line(width)] * 4
    return strip


def _line(width: int) -> bytes:
    return bytes(BACKGROUND) * width


def _mean(pixels: bytes, strongest: int) -> bytes:
    """Return the mean colour, scaled so that its strongest channel has the value given."""
    sums = [max(1, sum(pixels[channel::3])) for channel in range(3)]
    return bytes(value * strongest // max(sums) for value in sums)
