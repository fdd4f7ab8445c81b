"""`meca keys`: what it prints, and what it never prints."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from meca_executor.cli import main
from meca_executor.keys import add_keys, read_keys
from meca_executor.settings import default_key_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a state folder that is not there yet."""
    monkeypatch.setenv("MECA_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


def test_create_prints_two_lines(own_state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "create"]) == 0
    out, err = capsys.readouterr()
    found = re.fullmatch(r"MECA_ACCESS_KEY=(AKIA[A-Z2-7]{16})\nMECA_SECRET_KEY=([A-Za-z0-9_-]{40})\n", out)
    assert found and not err
    assert read_keys(own_state / "keys") == [found.groups()]


def test_create_elsewhere(own_state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "team" / "keys"
    for _ in range(2):
        assert main(["keys", "create", "--file", str(path)]) == 0
    assert capsys.readouterr().out == "".join(
        f"MECA_ACCESS_KEY={access}\nMECA_SECRET_KEY={secret}\n" for access, secret in read_keys(path)
    )
    assert not own_state.exists()


def test_list_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "list"]) == 0
    path = default_key_file()
    assert capsys.readouterr().out == f"# key file: {path}\n"
    assert not path.exists()
    pairs = [add_keys(path) for _ in range(3)]
    assert main(["keys", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [pair.access_key for pair in pairs]


def test_revoke(capsys: pytest.CaptureFixture[str]) -> None:
    path = default_key_file()
    first, second = add_keys(path), add_keys(path)
    assert main(["keys", "revoke", first.access_key]) == 0
    assert capsys.readouterr().out == f"{first.access_key} is revoked in {path}\n"
    assert read_keys(path) == [second]


def test_an_unknown_key_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    pair = add_keys(default_key_file())
    assert main(["keys", "revoke", "AKIANOBODY"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert "'AKIANOBODY'" in err and pair.access_key in err and pair.secret_key not in err
    assert read_keys(default_key_file()) == [pair]
