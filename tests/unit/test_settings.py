"""Settings: what the environment and the user's key file say, and what is wrong with them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from meca_executor import UsageError
from meca_executor.settings import (
    DESKTOP_ENDPOINT,
    KeyPair,
    default_key_file,
    ensure_keys,
    given_keys,
    make_keys,
    read_keys,
    resolve_endpoint,
    setting,
    state_dir,
    without_secrets,
)

ALL_THREE = {"MECA_ENDPOINT": "http://meca", "BACKEND_ENDPOINT": "http://backend", "SORNA_ENDPOINT": "http://sorna"}


# -- the environment


def test_the_newest_name_counts_first() -> None:
    """MECA_, then BACKEND_, then SORNA_; an empty value is none."""
    assert setting("ENDPOINT", ALL_THREE) == "http://meca"
    assert setting("ENDPOINT", {**ALL_THREE, "MECA_ENDPOINT": ""}) == "http://backend"
    assert setting("ENDPOINT", {"SORNA_ENDPOINT": "http://sorna"}) == "http://sorna"
    assert setting("ENDPOINT", {"ENDPOINT": "http://no-prefix"}) is None
    assert setting("ENDPOINT", {}) is None


def test_without_a_mapping_it_is_the_real_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the real one is read each time."""
    monkeypatch.setenv("MECA_ENDPOINT", "http://here:1")
    assert setting("ENDPOINT") == resolve_endpoint(None) == "http://here:1"
    monkeypatch.delenv("MECA_ENDPOINT")
    assert resolve_endpoint(None) is None


@pytest.mark.parametrize(
    ("endpoint", "environ", "url"),
    [
        (None, {}, None),
        ("embedded", ALL_THREE, None),
        (None, {"MECA_ENDPOINT": "embedded"}, None),
        (None, ALL_THREE, "http://meca"),
        ("https://edge.example:3001", ALL_THREE, "https://edge.example:3001"),
        ("http://127.0.0.1:3001/", {}, "http://127.0.0.1:3001"),
        ("http://[::1]:3001", {}, "http://[::1]:3001"),
        ("http://edge.example", {}, "http://edge.example"),
        ("desktop", {}, DESKTOP_ENDPOINT),
        (None, {"MECA_ENDPOINT": "desktop"}, DESKTOP_ENDPOINT),
    ],
)
def test_endpoints(endpoint: str | None, environ: dict[str, str], url: str | None) -> None:
    """An argument before the environment; None is a gateway of this process's own."""
    assert resolve_endpoint(endpoint, environ) == url


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "localhost:3001",
        "127.0.0.1",
        "ftp://host",
        "ws://host:1",
        "http://",
        "http://:3001",
        "http://host:0",
        "http://host:65536",
        "http://host:port",
        "http://[::1",
        7.5,
        b"http://host",
        ["http://host"],
    ],
)
def test_what_is_no_url_is_refused(endpoint: object) -> None:
    """The error names it."""
    with pytest.raises(UsageError, match="is not a URL") as caught:
        resolve_endpoint(endpoint, {})
    assert repr(endpoint) in str(caught.value)


def test_a_wrong_url_in_the_environment_is_refused_too() -> None:
    """It is named like an argument."""
    with pytest.raises(UsageError, match="'nonsense' is not a URL"):
        resolve_endpoint(None, {"MECA_ENDPOINT": "nonsense"})


def test_a_whole_pair_or_none() -> None:
    """Both halves are in the environment, or neither is."""
    assert given_keys({}) is None
    assert given_keys({"MECA_ACCESS_KEY": "A", "MECA_SECRET_KEY": "S"}) == KeyPair("A", "S")
    assert given_keys({"SORNA_ACCESS_KEY": "A", "SORNA_SECRET_KEY": "S"}) == KeyPair("A", "S")


@pytest.mark.parametrize("there", ["ACCESS", "SECRET"])
def test_half_a_pair_is_refused(there: str) -> None:
    """The error names the variable that is missing, and not the secret."""
    missing = {"ACCESS": "SECRET", "SECRET": "ACCESS"}[there]
    with pytest.raises(UsageError, match=f"MECA_{missing}_KEY is not set") as caught:
        given_keys({f"MECA_{there}_KEY": "the value", f"MECA_{missing}_KEY": ""})
    assert "the value" not in str(caught.value)


def test_halves_of_two_pairs_are_no_pair() -> None:
    """An access key of today and a secret that an old setting left behind do not belong together."""
    with pytest.raises(UsageError, match="MECA_SECRET_KEY is not set"):
        given_keys({"MECA_ACCESS_KEY": "new", "SORNA_ACCESS_KEY": "old", "SORNA_SECRET_KEY": "old secret"})


def test_tasks_do_not_get_our_secrets() -> None:
    """All of the environment but keys under any of the three names."""
    environ = {
        "HOME": "/home/me",
        "MECA_ENDPOINT": "http://here",
        "MECA_ACCESS_KEY": "a",
        "MECA_SECRET_KEY": "s",
        "BACKEND_SECRET_KEY": "s",
        "SORNA_ACCESS_KEY": "a",
        "SECRET_KEY": "the user's own",
    }
    given = dict(environ)
    assert without_secrets(environ) == {
        "HOME": "/home/me",
        "MECA_ENDPOINT": "http://here",
        "SECRET_KEY": "the user's own",
    }
    assert environ == given


# -- places


@pytest.mark.skipif(os.name == "nt", reason="where POSIX systems keep such things")
@pytest.mark.parametrize(
    ("environ", "folder"),
    [
        ({"MECA_STATE_DIR": "/chosen", "XDG_STATE_HOME": "/xdg"}, Path("/chosen")),
        ({"XDG_STATE_HOME": "/xdg"}, Path("/xdg/meca")),
        ({"MECA_STATE_DIR": "", "XDG_STATE_HOME": ""}, Path.home() / ".local" / "state" / "meca"),
    ],
)
def test_the_state_folder(environ: dict[str, str], folder: Path) -> None:
    """MECA_STATE_DIR, else the platform's place; the key file is in it."""
    assert state_dir(environ) == folder
    assert default_key_file(environ) == folder / "keys"


# -- the key file


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_made_keys_are_of_the_known_shape() -> None:
    """`AKIA` and 16 characters, and 40 URL-safe ones; never the same."""
    pairs = [make_keys() for _ in range(50)]
    assert len(set(pairs)) == 50
    for access, secret in pairs:
        assert access.startswith("AKIA")
        assert len(access) == 20
        assert access.isalnum()
        assert len(secret) == 40
        assert not set(secret) - set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_no_file_is_no_pairs(tmp_path: Path) -> None:
    """Nothing is made by reading."""
    assert read_keys(tmp_path / "keys") == []
    assert list(tmp_path.iterdir()) == []


def test_pairs_are_lines(tmp_path: Path) -> None:
    """Empty lines and comments do not count, nor do spaces around."""
    path = write(tmp_path / "keys", "# mine\n\nA1 S1\n   # more\n  A2\tS2  \r\n")
    assert read_keys(path) == [KeyPair("A1", "S1"), KeyPair("A2", "S2")]


@pytest.mark.parametrize("line", ["only-one", "one two three"])
def test_a_line_that_is_no_pair_is_refused(tmp_path: Path, line: str) -> None:
    """The error says where, and shows nothing of what may be a secret."""
    path = write(tmp_path / "keys", f"# first\nA1 S1\n{line}\n")
    with pytest.raises(UsageError, match="line 3: expected an access key and a secret key") as caught:
        read_keys(path)
    assert str(path) in str(caught.value)
    assert line not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """The error says what to run."""
    path = write(tmp_path / "keys", "A1 S1\n", mode)
    with pytest.raises(UsageError, match=f"run: chmod 600 {path}"):
        read_keys(path)


def test_keys_are_made_once(tmp_path: Path) -> None:
    """A file with one pair, for this user alone, in a folder of the same kind; from then on it is read."""
    path = tmp_path / "state" / "meca" / "keys"
    (pair,) = ensure_keys(path)
    assert ensure_keys(path) == read_keys(path) == [pair]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0


@pytest.mark.parametrize("text", ["", "\n", "# my keys, later\n", "# my keys, later", "   "])
def test_a_file_without_a_pair_gets_one(tmp_path: Path, text: str) -> None:
    """What was written in it stays."""
    path = write(tmp_path / "keys", text)
    pairs = ensure_keys(path)
    assert len(pairs) == 1
    assert read_keys(path) == pairs
    assert path.read_text(encoding="utf-8").startswith(text)


def test_a_files_pairs_are_taken_as_they_are(tmp_path: Path) -> None:
    """No pair is added to those that are there."""
    path = write(tmp_path / "keys", "A1 S1\nA2 S2\n")
    assert ensure_keys(path) == [KeyPair("A1", "S1"), KeyPair("A2", "S2")]
    assert path.read_text(encoding="utf-8") == "A1 S1\nA2 S2\n"
