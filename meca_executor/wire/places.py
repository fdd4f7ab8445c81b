"""Where modules lie: the standard library's and the installed ones, which another machine has or can be given."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig

INSTALLED = {"site-packages", "dist-packages"}  #: folders that pip and distributions install into


def is_local_path(path: str) -> bool:
    """Whether a file or folder belongs neither to the standard library nor to what is installed."""
    path = os.path.abspath(path)
    return not (path.startswith(_standard_library()) or INSTALLED.intersection(path.split(os.sep)))


@functools.cache
def _standard_library() -> tuple[str, ...]:
    """Return its folders, also those of the Python that a virtual environment was made from, and its archive."""
    base = {"base": sys.base_prefix, "platbase": sys.base_prefix, "installed_base": sys.base_prefix}
    folders = [sysconfig.get_path(name, vars=scheme) for name in ("stdlib", "platstdlib") for scheme in ({}, base)]
    archive = os.path.join(os.path.dirname(folders[0]), f"python{sys.version_info[0]}{sys.version_info[1]}.zip")
    return tuple({os.path.abspath(folder) + os.sep for folder in [*folders, archive]})
