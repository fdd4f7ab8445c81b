"""Checks of single arguments."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest

from meca_executor import UsageError
from meca_executor.cli import main
from meca_executor.cli._arguments import amount, count, endpoint, named_app, port, seconds, table_of
from meca_executor.cli.gateway import host

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(
    ("check", "text", "value"),
    [
        (host, "::", "::"),
        (count, "1", 1),
        (count, "64", 64),
        (port, "0", 0),
        (port, "65535", 65535),
        (amount, "0.5", 0.5),
        (seconds, "0", 0.0),
        (seconds, "2.5", 2.5),
        (endpoint, "http://127.0.0.1:3001", "http://127.0.0.1:3001"),
        (endpoint, "desktop", "desktop"),
        (endpoint, "embedded", "embedded"),
    ],
)
def test_good(check: Callable[[str], object], text: str, value: object) -> None:
    assert check(text) == value


def test_whole_amounts_are_ints() -> None:
    assert isinstance(amount("2.0"), int)


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (host, ""),
        (host, " "),
        (count, "0"),
        (count, "-1"),
        (count, "2.5"),
        (count, "many"),
        (port, "-1"),
        (port, "65536"),
        (port, "http"),
        (amount, "0"),
        (amount, "-1"),
        (amount, "nan"),
        (amount, "inf"),
        (amount, "x"),
        (seconds, "-0.1"),
        (seconds, "nan"),
        (endpoint, "ftp://here"),
        (endpoint, "localhost:3001"),
        (named_app, "knn"),
        (named_app, "=folder"),
        (named_app, "knn="),
    ],
)
def test_bad(check: Callable[[str], object], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as caught:
        check(text)
    assert text in str(caught.value)


def test_table_of() -> None:
    assert table_of("--app", [("a:1", "/x"), ("b:1", "/y")]) == {"a:1": "/x", "b:1": "/y"}
    with pytest.raises(UsageError, match="a:1 is given twice"):
        table_of("--app", [("a:1", "/x"), ("a:1", "/y")])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["lua"], "'lua' is not LANG=IMAGE"),
        (["cobol74=thing:latest"], "no language 'cobol74' runs isolated"),
        (["python=bad image"], "bad image"),
        (["python=a:1", "python=b:1"], "--kernel-image python is given twice: a:1 and b:1"),
    ],
)
def test_a_wrong_image_of_kernels(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gateway", *(part for word in words for part in ("--kernel-image", word))]) == 2
    assert why in capsys.readouterr().err
