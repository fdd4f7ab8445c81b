"""What is installed once and used by every later run: folders in the user's cache, each complete or not there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

INSTALL_LIMIT_S = 300.0  #: for one command; a download over a slow line takes a fraction
DONE = ".complete"  #: written last; a folder without it was left half made


class Unavailable(RuntimeError):
    """Something outside of this repository that is needed is not there; the text says what."""


def cache_folder() -> Path:
    """Return where these folders are; outside of the checkout and of the run's temporary folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "meca-executor-tests"


def installed(name: str, recipe: str, install: Callable[[Path], None]) -> Path:
    """Return a folder that `install` has filled, now or in an earlier run.

    Args:
        name: Begins the folder's name.
        recipe: All that decides what is in it; another recipe is another folder.
        install: Called with the empty folder, in one process at a time. What it raises is passed on.
    """
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    folder = cache_folder() / f"{name}-{digest}"
    if (folder / DONE).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if not (folder / DONE).exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            install(folder)
            (folder / DONE).touch()
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that the system takes back when this process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # who holds it is bounded by INSTALL_LIMIT_S for each of its commands
        yield


def run(command: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None = None) -> None:
    """Run an installing command in `folder`, its temporary files there too.

    Raises:
        Unavailable: It failed or took too long; its last lines are in the text.
    """
    scratch = folder / ".tmp"
    scratch.mkdir(exist_ok=True)
    try:
        subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(scratch), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=INSTALL_LIMIT_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"`{Path(command[0]).name}` failed: {' / '.join(error.stdout.splitlines()[-3:])}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"`{Path(command[0]).name}`: {error}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def skip(error: Unavailable) -> NoReturn:
    """Skip the test for what is not there; in CI (`CI=true`), where all must be there, fail it."""
    import pytest  # only here: a benchmark uses the desktop app too, without pytest

    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"needed in CI: {error}", pytrace=False)
    pytest.skip(str(error))
