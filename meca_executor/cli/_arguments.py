"""Checks of single arguments that several verbs share. Each raises what argparse turns into one line."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..errors import UsageError
from ..settings import resolve_endpoint, why_no_ref

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

_ENDPOINT_HELP = (
    "the gateway to use: http://HOST:PORT, 'desktop' for the MECAnywhere desktop app, or 'embedded' for one that "
    "lives as long as this command (default: the environment variable MECA_ENDPOINT, else 'embedded')"
)


ISOLATE_HELP = (
    "a new kernel runs in a container of the gateway's engine, and has nothing of that machine but its own folder"
)


def add_endpoint(parser: argparse.ArgumentParser) -> None:
    """Add `--endpoint`, which every verb that talks to a gateway has."""
    parser.add_argument("--endpoint", type=endpoint, metavar="URL", help=_ENDPOINT_HELP)


def endpoint(text: str) -> str:
    """Return the text when it names an endpoint."""
    try:
        resolve_endpoint(text, {})
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return value


def port(text: str) -> int:
    """Return a TCP port; 0 lets the system choose a free one."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 1 to 65535, or 0 for any free one")
    return value


def amount(text: str) -> float:
    """Return a number above 0, as an int when it is whole (old hosts read nothing else)."""
    value = _number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(value) if value == int(value) else value


def count_or_none(text: str) -> int:
    """Return a whole number of 0 or more."""
    return 0 if text.strip() == "0" else count(text)


def named_amount(text: str) -> tuple[str, float]:
    """Return (resource, amount) from `NAME=AMOUNT`."""
    name, equals, number = text.partition("=")
    value = _number(number)
    if not (name and equals and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=AMOUNT, such as cpu=8 or memory=16000")
    return name, value


def seconds(text: str) -> float:
    """Return a time of 0 seconds or more."""
    value = _number(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def _number(text: str) -> float:
    """Return a finite number, or NaN, which no comparison lets pass."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def app_folder(text: str) -> str:
    """Return the absolute path of a container folder that can be run as a local app."""
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"no folder {text!r}")
    if not (folder / "src" / "app.py").is_file():
        raise argparse.ArgumentTypeError(f"folder {text!r} has no src/app.py, so it cannot be run as a local app")
    return str(folder.resolve())


def named_app(text: str) -> tuple[str, str]:
    """Return (container name, folder) from `NAME=FOLDER`."""
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER, such as knn:latest=example_containers/knn")
    if (why := why_no_ref(name)) is not None:
        raise argparse.ArgumentTypeError(why)
    return name, app_folder(folder)


def table_of(option: str, pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Return name -> value of an option `NAME=VALUE` that may be repeated.

    Raises:
        UsageError: A name is given twice.
    """
    table: dict[str, T] = {}
    for name, value in pairs:
        if name in table:
            raise UsageError(f"{option} {name} is given twice: {table[name]} and {value}")
        table[name] = value
    return table
