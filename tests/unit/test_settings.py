"""Settings: what the environment says, and what is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from meca_executor import UsageError
from meca_executor.settings import (
    DESKTOP_ENDPOINT,
    KEY_LIMIT,
    KeyPair,
    default_key_file,
    given_ca_file,
    given_keys,
    resolve_endpoint,
    setting,
    state_dir,
    without_secrets,
)

NAMES = ("MECA", "BACKEND", "SORNA")
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


@pytest.mark.parametrize("prefix", ["MECA_", "BACKEND_", "SORNA_"])
@pytest.mark.parametrize("wrong", ["two words", "line\nend", "bell\a", "x" * (KEY_LIMIT + 1)])
@pytest.mark.parametrize("half", ["ACCESS_KEY", "SECRET_KEY"])
def test_what_cannot_be_a_key_is_refused(prefix: str, half: str, wrong: str) -> None:
    """The error names the variable, and not what may be a secret."""
    environ = {prefix + "ACCESS_KEY": "A", prefix + "SECRET_KEY": "S", prefix + half: wrong}
    with pytest.raises(UsageError, match=f"{prefix}{half} has ") as caught:
        given_keys(environ)
    assert wrong not in str(caught.value)


def test_keys_of_the_greatest_length() -> None:
    """The limit itself is allowed."""
    pair = KeyPair("A" * KEY_LIMIT, "S" * KEY_LIMIT)
    assert given_keys({"MECA_ACCESS_KEY": pair.access_key, "MECA_SECRET_KEY": pair.secret_key}) == pair


def test_the_newest_pair_counts_first() -> None:
    """MECA_, then BACKEND_, then SORNA_, each with both halves."""
    environ = {f"{prefix}_{half}_KEY": f"{prefix}-{half}" for prefix in NAMES for half in ("ACCESS", "SECRET")}
    for prefix in NAMES:
        assert given_keys(environ) == KeyPair(f"{prefix}-ACCESS", f"{prefix}-SECRET")
        environ = {name: value for name, value in environ.items() if not name.startswith(prefix)}
    assert given_keys(environ) is None


def test_the_ca_file() -> None:
    """It is in the environment, or there is none."""
    assert given_ca_file({}) is None
    assert given_ca_file({"MECA_CA_FILE": ""}) is None
    assert given_ca_file({"MECA_CA_FILE": "/ca.pem"}) == "/ca.pem"


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
