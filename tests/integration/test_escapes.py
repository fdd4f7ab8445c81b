"""What could steer a terminal comes through from endpoints that have proved themselves, and from no others."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Literal

import pytest

from meca_executor import Container, MecaExecutor, TaskFailed
from tests.helpers.waiting import LIMIT
from tests.peers.desktop import desktop_app
from tests.peers.programs import container

from .standing import ROOT, standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.peers.desktop import DesktopApp

REF = "meca-python:latest"
#: A colour, a title, a letter that goes back, and a turn of the direction of writing.
STEERING = "\x1b[31mred\x1b[0m \x1b]0;title\x07 back\x08 \u202eturned"
PLAIN = "red  back? ?turned"


@pytest.fixture(scope="module")
def app() -> Iterator[DesktopApp]:
    """Give a desktop app that runs functions."""
    with container("python-runner") as runner, desktop_app(apps={REF: runner}) as running:
        yield running


def printed_by(url: str, trust: Literal["data", "pickle"] | None) -> str:
    """Return what comes of a function's print in a container behind this endpoint."""
    texts: list[str] = []
    with MecaExecutor(url, trust=trust, output=lambda text, _: texts.append(text)) as ex:
        ex.options(container_ref=REF).submit(print, STEERING, end="").result(LIMIT)
    return "".join(texts)


@pytest.mark.parametrize("trust", [None, "data", "pickle"])
def test_prints_from_a_stranger(app: DesktopApp, trust: Literal["data", "pickle"] | None) -> None:
    """Whatever its results may be: nobody knows who wrote them."""
    assert printed_by(app.url, trust) == PLAIN


def test_prints_from_a_gateway_that_proved_itself(tmp_path: Path) -> None:
    """They pass, from workers too, unless its hosts are called strangers; a progress bar is to stay one."""
    with standing_gateway(tmp_path, "--workers", "1") as gateway:
        assert printed_by(gateway.url, None) == STEERING
        assert printed_by(gateway.url, "pickle") == STEERING
        assert printed_by(gateway.url, "data") == PLAIN
        texts: list[str] = []
        with MecaExecutor(gateway.url, output=lambda text, _: texts.append(text)) as ex:
            ex.submit(print, STEERING).result(LIMIT)
        assert "".join(texts) == STEERING + "\n"


def test_errors_from_a_stranger(app: DesktopApp) -> None:
    """Python writes an error's text to the terminal as it is."""
    with MecaExecutor(app.url) as ex:
        failed = ex.submit(Container("echo:latest"), f"Error: {STEERING}").exception(LIMIT)
        unread = ex.submit(Container("echo:latest", codec="bytes"), b"\x00").exception(LIMIT)
        assert unread is None
        as_json = Container("echo:latest", codec=(str, lambda reply: int(reply)))
        unread = ex.submit(as_json, STEERING).exception(LIMIT)
    assert isinstance(failed, TaskFailed)
    assert str(failed).endswith(f"Error: {PLAIN}")
    assert isinstance(unread, TaskFailed)
    assert str(unread).endswith(f": {PLAIN}")
    assert str(unread).isprintable()


def offloaded(url: str, output: int, folder: Path, *words: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "meca_executor.cli", "offload", "--endpoint", url, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE,
        timeout=LIMIT, check=False,
    )  # fmt: skip


def test_a_reply_on_a_terminal(app: DesktopApp, tmp_path: Path) -> None:
    """`meca offload` shows it without escapes there, and gives a file or a program what came."""
    ours, theirs = os.openpty()
    try:
        assert offloaded(app.url, theirs, tmp_path, "echo:latest", STEERING).returncode == 0
        assert os.read(ours, 10_000).decode() == PLAIN + "\r\n"
    finally:
        os.close(ours)
        os.close(theirs)
    piped = offloaded(app.url, subprocess.PIPE, tmp_path, "echo:latest", STEERING)
    assert piped.stdout.decode() == STEERING + "\n"


def test_a_failure_on_a_terminal(app: DesktopApp, tmp_path: Path) -> None:
    """One line, without escapes, wherever it goes."""
    failed = offloaded(app.url, subprocess.PIPE, tmp_path, "echo:latest", f"Error: {STEERING}")
    assert failed.returncode == 1
    assert failed.stderr.decode().rstrip("\n").isprintable()
    assert "red back? ?turned" in failed.stderr.decode()
