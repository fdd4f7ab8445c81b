"""Folders of kernels: what a program of a kernel does to them meanwhile leads nowhere else, and nothing is left."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from meca_executor import KernelError
from meca_executor.kernels.own_folder import OwnFolder, sweep
from meca_executor.kernels.workfolder import WorkFolder

ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import os, signal
from meca_executor.kernels.own_folder import OwnFolder
from meca_executor.kernels.workfolder import WorkFolder
work, own = WorkFolder(), OwnFolder("meca-k-")
work.write("deep/er/file", b"x")
os.chmod(work.root / "deep", 0)
print(work.root, own.path, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("swapped", ["a", "a/b", "a/b/file"])
def test_a_link_that_is_put_there_after_the_check_is_not_followed(swapped: str, tmp_path: Path) -> None:
    """Neither to read nor to write: a file of that name elsewhere stays as it is."""
    (tmp_path / "b").mkdir()
    for place in (tmp_path / "file", tmp_path / "b" / "file"):
        place.write_text("secret")
    folder = WorkFolder()
    try:
        folder.write("a/b/file", b"mine")
        real = folder.confined("a/b/file")
        (folder.root / swapped).rename(folder.root / "away")
        (folder.root / swapped).symlink_to(tmp_path / "file" if swapped.endswith("file") else tmp_path)
        for flags in (os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
            with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
                folder._open(real, flags, make=True)
        assert {place.read_text() for place in tmp_path.rglob("file")} == {"secret"}
    finally:
        folder.remove()


def test_a_link_inside_is_followed_as_long_as_it_stays_inside() -> None:
    folder = WorkFolder()
    try:
        folder.write("build/out", b"x")
        (folder.root / "latest").symlink_to("build")
        folder.write("latest/more", b"y")
        assert folder.read("latest/out") == b"x"
        assert folder.read("build/more") == b"y"
    finally:
        folder.remove()


def test_what_is_the_gateways_is_not_taken_from_a_link_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    own = OwnFolder("meca-k-")
    try:
        (own.path / "link").symlink_to(tmp_path / "target")
        with pytest.raises(OSError, match="exists"):
            own.write("link", b"x")
        with pytest.raises(OSError, match="symbolic links"):
            own.writer("link")
        (own.path / "file").touch()
        with pytest.raises(KernelError, match="has changed what is the gateway's"):
            own.writer("file")
        assert (tmp_path / "target").read_text() == "mine"
    finally:
        own.remove()


def test_a_sweep_removes_what_nobody_holds_and_nothing_else() -> None:
    live = OwnFolder("meca-k-")
    others = Path(tempfile.mkdtemp(prefix="meca-k-of-others-"))
    try:
        done = subprocess.run(
            [sys.executable, "-c", KILLED], env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        left = [Path(word) for word in done.stdout.split()]
        assert len(left) == 2, done.stderr
        assert all(folder.is_dir() for folder in left)
        sweep()
        assert not any(folder.exists() for folder in left)
        assert live.path.is_dir()
        assert others.is_dir()
    finally:
        live.remove()
        others.rmdir()


def test_a_folder_is_locked_as_long_as_it_is_there() -> None:
    own = OwnFolder("meca-k-")
    handle = os.open(own.path, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(handle)
        own.remove()
    own.remove()
    assert not own.path.exists()
