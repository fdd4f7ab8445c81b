"""Key files: what is in them, how they change, and what a gateway that runs sees of that."""

from __future__ import annotations

import logging
import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from meca_executor import UsageError, keys
from meca_executor.keys import KeyFile, add_keys, ensure_keys, make_keys, read_keys, revoke_keys
from meca_executor.settings import KEY_LIMIT, KeyPair

if TYPE_CHECKING:
    from pathlib import Path

posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")


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


@posix
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


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("A" * (KEY_LIMIT + 1) + " S2", "line 2: a key has 129 characters, and 128 are allowed"),
        ("A2 " + "S" * (KEY_LIMIT + 1), "line 2: a key has 129 characters, and 128 are allowed"),
        ("A2 S\a2", "line 2: a key has a space or an unprintable character"),
        ("A1 S2", "line 2: access key A1 is there twice"),
    ],
)
def test_pairs_that_cannot_be(tmp_path: Path, line: str, why: str) -> None:
    """The error says where and why."""
    path = write(tmp_path / "keys", f"A1 S1\n{line}\n")
    with pytest.raises(UsageError, match=why):
        read_keys(path)


def test_what_is_no_text_file(tmp_path: Path) -> None:
    """A folder, or bytes that are no UTF-8."""
    with pytest.raises(UsageError, match="is a folder"):
        read_keys(tmp_path)
    path = write(tmp_path / "keys", "A1 S1\n")
    path.write_bytes(b"A1 S1\n\xff")
    with pytest.raises(UsageError, match=r"not UTF-8 text .byte 6."):
        read_keys(path)


# -- adding and revoking


@posix
def test_a_pair_is_added_to_a_file_of_the_users_own(tmp_path: Path) -> None:
    """File and folder are made for this user alone; what was there stays."""
    path = tmp_path / "state" / "keys"
    first = add_keys(path)
    assert read_keys(path) == [first]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    write(path, path.read_text() + "# no line end")
    second = add_keys(path)
    assert path.read_text().splitlines() == [" ".join(first), "# no line end", " ".join(second)]
    assert os.listdir(path.parent) == ["keys"]


def test_nothing_is_added_to_a_damaged_file(tmp_path: Path) -> None:
    """It is left as it is."""
    path = write(tmp_path / "keys", "only-one\n")
    with pytest.raises(UsageError, match="line 1"):
        add_keys(path)
    assert path.read_text() == "only-one\n"


def test_many_at_once_lose_nothing(tmp_path: Path) -> None:
    """Each pair that was added is there, and each that was revoked is not."""
    path = tmp_path / "keys"
    old = [add_keys(path) for _ in range(8)]
    added: list[KeyPair] = []
    threads = [threading.Thread(target=lambda: added.append(add_keys(path))) for _ in range(8)]
    threads += [threading.Thread(target=revoke_keys, args=(path, pair.access_key)) for pair in old]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(added) == 8
    assert sorted(read_keys(path)) == sorted(added)
    assert os.listdir(tmp_path) == ["keys"]


@posix
def test_a_lock_that_is_never_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, and then told about."""
    import fcntl

    path = write(tmp_path / "keys", "A1 S1\n")
    monkeypatch.setattr(keys, "LOCK_S", 0.05)
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="is locked by another process"):
            add_keys(path)
    assert len([add_keys(path)]) == 1


@posix
@pytest.mark.parametrize("mode", [0o600, 0o700])
def test_revoking_takes_one_line_out(tmp_path: Path, mode: int) -> None:
    """Comments, other lines, line ends and the mode stay."""
    path = write(tmp_path / "keys", "# A1 is mine\r\nA1 S1\r\n  A2\tS2\n\n#A2\nA22 S3", mode)
    revoke_keys(path, "A2")
    assert path.read_bytes() == b"# A1 is mine\r\nA1 S1\r\n\n#A2\nA22 S3"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.listdir(tmp_path) == ["keys"]


def test_revoking_what_is_not_there(tmp_path: Path) -> None:
    """The error names the keys that are, and no secret; no file is made."""
    path = tmp_path / "keys"
    with pytest.raises(UsageError, match=r"'A3' is not in .*; there are none"):
        revoke_keys(path, "A3")
    assert not path.exists()
    write(path, "A1 S1\nA2 S2\n")
    with pytest.raises(UsageError, match=r"'A3' is not in .*; the keys there are A1, A2$"):
        revoke_keys(path, "A3")


@posix
def test_a_link_to_the_file_stays_one(tmp_path: Path) -> None:
    """The file that it leads to is changed."""
    path = write(tmp_path / "keys", "A1 S1\n")
    (tmp_path / "link").symlink_to(path)
    revoke_keys(tmp_path / "link", "A1")
    assert (tmp_path / "link").is_symlink()
    assert path.read_text() == ""


# -- a file that changes while it is used


def test_each_change_is_seen(tmp_path: Path) -> None:
    """What was added counts at once, what was revoked does not."""
    path = tmp_path / "keys"
    (first,) = ensure_keys(path)
    file = KeyFile(path)
    assert file.secrets() == dict([first])
    second = add_keys(path)
    assert file.secrets() == dict([first, second])
    revoke_keys(path, first.access_key)
    assert file.secrets() == dict([second])
    path.unlink()
    assert file.secrets() == {}


def test_sessions_end_for_what_lasts(tmp_path: Path) -> None:
    """A file that was changed since the last look may be an editor's work under way; the next look settles it."""
    path = write(tmp_path / "keys", "A1 S1\nA2 S2\n")
    file = KeyFile(path)
    assert file.settled() == {"A1": "S1", "A2": "S2"}
    write(path, "")
    assert file.secrets() == {}
    assert file.settled() is None
    write(path, "A1 S1\n")
    assert file.settled() is None
    assert file.settled() == {"A1": "S1"}


@pytest.mark.parametrize(("text", "mode"), [("only-one\n", 0o600), ("A2 S2\n", 0o644)])
def test_a_file_that_is_damaged_while_it_is_used(
    tmp_path: Path, text: str, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The pairs of before go on counting, and the log says why, once."""
    path = write(tmp_path / "keys", "A1 S1\n")
    file = KeyFile(path)
    write(path, text, mode)
    with caplog.at_level(logging.ERROR):
        assert [file.secrets(), file.secrets()] == [{"A1": "S1"}] * 2
    assert caplog.text.count("the keys of before go on counting") == 1
    write(path, "A3 S3\n")
    assert file.secrets() == {"A3": "S3"}
