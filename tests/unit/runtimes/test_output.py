"""The last lines of what a container wrote: which of them are shown, and its mark."""

from __future__ import annotations

import pytest

from meca_executor.runtimes.output import ERROR_LINES, LINE_BYTES, LINES, Output


def shown(output: Output) -> list[str]:
    first, *lines = output.told().splitlines()
    assert first == "its last lines:"
    return [line.removeprefix("  ") for line in lines]


def test_lines_of_both_streams_in_the_order_in_which_they_came() -> None:
    output = Output()
    for number in range(15):
        output.feed(0, b"out %d\n" % number)
        output.feed(1, b"err %d\n" % number)
    assert shown(output) == [f"{name} {number}" for number in range(5, 15) for name in ("out", "err")]


def test_stdout_never_pushes_out_an_error_that_came_first() -> None:
    """As of a Python program that ends by an exception while its stdout is still in a buffer."""
    output = Output()
    output.feed(1, b"no such model\n")
    output.feed(0, b"".join(b"line %d\n" % number for number in range(1000)))
    assert shown(output) == ["no such model", *(f"line {number}" for number in range(1000 - LINES + 1, 1000))]


@pytest.mark.parametrize(("errors", "others"), [(0, 50), (50, 0), (50, 50), (3, 50), (50, 3), (3, 3)])
def test_as_many_lines_as_are_kept(errors: int, others: int) -> None:
    output = Output()
    output.feed(1, b"".join(b"err %d\n" % number for number in range(errors)))
    output.feed(0, b"".join(b"out %d\n" % number for number in range(others)))
    lines = shown(output)
    assert len(lines) == min(errors + others, LINES)
    wanted = [f"err {number}" for number in range(errors)][-ERROR_LINES:]
    wanted += [f"out {number}" for number in range(others)][-ERROR_LINES:]
    assert set(wanted) <= set(lines)


def test_a_line_without_an_end_and_one_that_is_too_long() -> None:
    output = Output()
    output.feed(0, b"x" * (LINE_BYTES - 1) + b"yz\nhalf")
    assert shown(output) == ["x" * (LINE_BYTES - 2) + "yz", "half"]


def test_nothing_was_printed_and_nothing_steers_a_terminal() -> None:
    output = Output()
    assert output.told() == "it printed nothing"
    output.feed(1, b"\x1b[31mred\x07 \xff\n")
    assert shown(output) == ["red? \N{REPLACEMENT CHARACTER}"]


def test_the_mark_is_found_in_pieces_and_on_stdout_only() -> None:
    output = Output()
    output.feed(1, b"meca-init-done\n")
    for byte in b"ready: meca-init-don":
        output.feed(0, bytes([byte]))
    assert not output.marked
    output.feed(0, b"e")
    assert output.marked
