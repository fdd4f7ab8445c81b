"""`meca run`: wrong arguments are told before anything is made."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from meca_executor.cli import main
from meca_executor.cli._status import Status

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["python3"], "give code with -c, FILES to build and run"),
        (["python3", "-c", "1", "main.py"], "not both"),
        (["python3", "nowhere.py"], "there is no file 'nowhere.py'"),
        (["python3", "-", "main.py"], "stands alone"),
        (["python3", "-c", "1", "--build", "make"], "--build and --exec are for FILES"),
        (["python3", "-c", "1", "-t", "a b"], "client_token 'a b' is not 1 to 64"),
        (["python3", "-c", "1", "-e", "X"], "'X' is not NAME=VALUE"),
        (["python3", "-c", "1", "--rm", "--keep"], "not allowed with"),
        (["python3", "-c", "1", "--timeout", "0"], "'0' is not a number above 0"),
        (["python3", "-c", "1", "--detach", "--rm"], "not allowed with"),
        (["python3", "-c", "1", "--detach", "--endpoint", "embedded"], "--detach needs a gateway that stays"),
        (["python3", "-c", "1", "--detach", "--download", "x"], "nothing to fetch"),
        (["python3", "/etc/hostname"], "outside of"),
        ([], "the following arguments are required: LANG"),
    ],
)
def test_wrong_arguments(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *words]) == 2
    told = capsys.readouterr()
    assert why in told.err
    assert not told.out


def test_an_endpoint_without_keys_says_which_variable(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MECA_STATE_DIR", str(tmp_path))
    assert main(["run", "python3", "-q", "-c", "1", "--endpoint", "http://127.0.0.1:1"]) == 2
    assert "MECA_ACCESS_KEY and MECA_SECRET_KEY are not set" in capsys.readouterr().err


def test_status_lines_without_a_terminal() -> None:
    out = io.StringIO()
    status = Status(out=out)
    status.info("one")
    status.wait("two...")
    status.done("three")
    status.fail("four\n\x1b[31m")
    assert out.getvalue() == "∙ one\n✔ three\n✘ four ?[31m\n"


def test_quiet_says_failures_only() -> None:
    out = io.StringIO()
    status = Status(quiet=True, out=out)
    status.info("one")
    status.done("two")
    status.fail("three")
    assert out.getvalue() == "✘ three\n"


def test_no_line_steers_the_terminal() -> None:
    out = io.StringIO()
    status = Status(out=out)
    status.done("Downloaded \x1b]0;title\x07name.")
    status.fail("a\x9bb\nc")
    assert out.getvalue() == "✔ Downloaded ?]0;title?name.\n✘ a?b c\n"
