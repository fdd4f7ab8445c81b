"""The computation of the demo."""

from __future__ import annotations

import os

import pytest

from meca_executor.cli._demo_stages import shares
from meca_executor.cli._demo_work import SHADES, STOPS, OutOfPaint, Row, paint_wall, palette, render_row


def test_a_row_is_whole_and_the_same_every_time() -> None:
    first, second = render_row(5, 48, 32), render_row(5, 48, 32)
    assert first.pixels == second.pixels
    assert len(first.pixels) == 3 * 48
    assert first.y == 5
    assert first.worker == os.getpid()
    assert first.began <= first.ended


def test_the_set_is_in_the_middle_and_night_in_the_corners() -> None:
    rows = [render_row(y, 90, 60).pixels for y in range(60)]
    corner = sum(rows[0][:30])
    middle = sum(rows[30][120:150])
    assert corner * 3 < middle
    assert len({row[x : x + 3] for row in rows for x in range(0, 270, 3)}) > 500  # colours


def test_the_palette_is_a_ring_without_edges() -> None:
    colours = palette()
    assert len(colours) == SHADES
    assert colours[0] == STOPS[0][1] == STOPS[-1][1]
    ring = zip(colours, [*colours[1:], colours[0]], strict=True)
    assert max(abs(a - b) for one, next_one in ring for a, b in zip(one, next_one, strict=True)) < 4
    assert all(0 <= value <= 255 for colour in colours for value in colour)


def test_painting_runs_out() -> None:
    with pytest.raises(OutOfPaint) as caught:
        paint_wall("red")
    assert caught.value.args == ("red",)


def rows_of(*workers: int) -> list[Row]:
    return [Row(y, b"", worker, 0.0, 0.0) for y, worker in enumerate(workers)]


def test_shares_name_few_workers_and_count_many() -> None:
    assert shares(rows_of(12, 11, 12)) == "worker 11 took 1 row, worker 12 took 2 rows"
    assert shares(rows_of(*range(9), 3)) == "9 workers took 1 to 2 rows each"
