"""Patterns of files."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from meca_executor.kernels.workfolder import fits


@pytest.mark.parametrize(
    ("pattern", "those"),
    [
        (".", {"a", "out/a.png", "out/deep/b.png", ".hidden"}),
        ("*", {"a", "out/a.png", "out/deep/b.png", ".hidden"}),
        ("**", {"a", "out/a.png", "out/deep/b.png", ".hidden"}),
        ("**/**/*.png", {"out/a.png", "out/deep/b.png"}),
        ("*.png", set()),
        ("a", {"a"}),
        ("out", {"out/a.png", "out/deep/b.png"}),
        ("out/*.png", {"out/a.png"}),
        ("out/**/b.png", {"out/deep/b.png"}),
        ("**/deep", {"out/deep/b.png"}),
        ("a/**", set()),
        ("[.o]*/?.png", {"out/a.png"}),
    ],
)
def test_what_a_pattern_names(pattern: str, those: set[str]) -> None:
    paths = [PurePosixPath(path) for path in ("a", "out/a.png", "out/deep/b.png", ".hidden")]
    assert {str(path) for path in paths if fits(path.parts, PurePosixPath(pattern).parts)} == those
