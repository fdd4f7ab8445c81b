"""The PNG file and the lanes below the picture."""

from __future__ import annotations

import struct
import zlib

import pytest

from meca_executor.cli._demo_work import Row
from meca_executor.cli._picture import BACKGROUND, SIGNATURE, lanes, png, read_png

RED, GREEN, BLUE = b"\xff\0\0", b"\0\xff\0", b"\0\0\xff"


def test_png_begins_as_the_specification_says() -> None:
    file = png(2, [RED + GREEN, GREEN + BLUE, BLUE + RED])
    assert file[:8] == SIGNATURE
    assert struct.unpack(">I4sIIBBBBB", file[8:29]) == (13, b"IHDR", 2, 3, 8, 2, 0, 0, 0)
    assert file.endswith(struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND")))


def test_png_reads_back() -> None:
    rows = [RED + GREEN, BLUE + BLUE]
    assert read_png(png(2, rows)) == (2, rows)


@pytest.mark.parametrize("rows", [[], [RED], [RED + RED, RED]])
def test_png_refuses_rows_of_another_width(rows: list[bytes]) -> None:
    with pytest.raises(ValueError, match="rows of 6 bytes"):
        png(2, rows)


def test_read_png_refuses_what_is_damaged() -> None:
    file = bytearray(png(1, [RED]))
    file[-20] ^= 1
    with pytest.raises(ValueError, match="damaged"):
        read_png(bytes(file))
    with pytest.raises(ValueError, match="not a PNG"):
        read_png(b"GIF89a")


def pixel(line: bytes, x: int) -> bytes:
    return line[3 * x : 3 * x + 3]


def test_lanes_show_who_worked_when() -> None:
    rows = [
        Row(0, RED * 10, 7, 100.0, 100.5),
        Row(1, BLUE * 10, 8, 100.0, 101.0),
        Row(2, GREEN * 10, 7, 100.7, 101.0),
    ]
    strip = lanes(rows, 10)
    assert {len(line) for line in strip} == {30}
    kinds = [line for number, line in enumerate(strip) if number == 0 or line != strip[number - 1]]
    gap, first, gap_between, second, gap_below = kinds
    assert gap == gap_between == gap_below == bytes(BACKGROUND) * 10
    assert pixel(first, 0)[0] > 200 and pixel(first, 4)[0] > 200  # red while worker 7 computed row 0
    assert pixel(first, 6) == bytes(BACKGROUND)  # idle
    assert pixel(first, 8)[1] > 100  # green
    assert all(pixel(second, x)[2] > 200 for x in range(10))  # blue all the time


def test_lanes_keep_every_block_visible() -> None:
    rows = [Row(y, RED * 4, 1, y * 1e-6, y * 1e-6) for y in range(3)] + [Row(3, RED * 4, 2, 0.0, 9.0)]
    assert all(any(pixel(line, x)[0] > 100 for x in range(4)) for line in lanes(rows, 4)[6:8])


def test_many_workers_get_thin_lanes() -> None:
    rows = [Row(y, RED * 4, y, 0.0, 1.0) for y in range(64)]
    assert len(lanes(rows, 4)) == 6 + 64 * (2 + 4)
