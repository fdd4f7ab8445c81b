"""A Python with the packages that the original SDK was pinned to, made once and used by every later run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from .cache import Unavailable, installed, run, skip

#: the original's requirements of December 2023; what they need in turn is free
REQUIREMENTS = ("python-socketio==5.8.0", "python-engineio==4.5.1", "aiohttp==3.8.5")
VERSIONS = ("3.11", "3.10")  #: aiohttp 3.8.5 has no wheels for later ones, and `asyncio.Event` was another before


def find_python(version: str) -> str | None:
    """Return a Python `X.Y` of this machine that can make environments, or None."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [sys.executable, f"python{version}", *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))]
    test = f"import ensurepip, sys; sys.exit('%d.%d' % sys.version_info[:2] != '{version}')"
    for candidate in candidates:
        try:
            subprocess.run([candidate, "-c", test], check=True, capture_output=True, timeout=30)
        except (OSError, subprocess.SubprocessError):
            continue
        return candidate
    return None


def make_old_python() -> Path:
    """Return the interpreter of that environment.

    Raises:
        Unavailable: No Python of these versions is here, or pip failed (without a network, for one).
    """
    found = ((version, find_python(version)) for version in VERSIONS)
    version, base = next(((version, python) for version, python in found if python), ("", None))
    if base is None:
        raise Unavailable(f"the original SDK's packages need a Python of {' or '.join(VERSIONS)}")

    def install(folder: Path) -> None:
        run([base, "-m", "venv", "venv"], folder)
        # Wheels only: a compiler that works is not to be expected, and its errors fill pages.
        run(["venv/bin/python", "-m", "pip", "install", "-q", "--only-binary=aiohttp", *REQUIREMENTS], folder)

    return installed("old_sdk", " ".join([version, base, *REQUIREMENTS]), install) / "venv" / "bin" / "python"


def old_python() -> Path:
    """Return the interpreter as `make_old_python` does; without it the test is skipped, in CI it fails."""
    try:
        return make_old_python()
    except Unavailable as error:
        skip(error)
