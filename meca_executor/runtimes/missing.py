"""A module that is missing where a call runs: the error says where that is."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys


def tell_where(error: ModuleNotFoundError, problem: str = "") -> None:
    """Add to an error's text on which machine, in which Python a module is missing, and `problem`.

    An error that an import statement did not raise is left alone: it names no module. `worker_python`, a plain
    attribute, has the path of the Python; it is left out where only a part of a package is missing.
    """
    if not error.name or not error.args or error.args[0] != error.msg or getattr(error, "worker_python", None):
        return
    where = f"on {os.uname().nodename}, Python {platform.python_version()} in {sys.prefix}"
    error.msg = f"{error.msg} ({where}{'; ' if problem else ''}{problem})"
    error.args = (error.msg, *error.args[1:])
    if not _is_there(error.name.partition(".")[0]):
        error.__dict__["worker_python"] = sys.executable


def _is_there(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
