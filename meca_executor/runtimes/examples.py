"""Where the example containers that come with the package are."""

from __future__ import annotations

import sys
from pathlib import Path

_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"  #: as a local app it runs on this interpreter
_FOLDERS = {
    "sampleserver:latest": "sampleserver",
    "knn:latest": "knn",
    "python-template:latest": "python-template",
    "meca-python:latest": "python-runner",
    f"meca-python:{_PYTHON}": "python-runner",
}
#: Those that run functions: as local apps they do it as the gateway's user.
RUNNERS = frozenset(ref for ref, name in _FOLDERS.items() if name == "python-runner")


def shipped() -> dict[str, Path]:
    """Return the folder of each shipped example by its reference, as in `{"knn:latest": Path(".../knn")}`.

    They are package data of an installed wheel, and a top-level folder of a checkout; what is in neither is left out.
    """
    package = Path(__file__).resolve().parents[1]
    homes = (package / "example_containers", package.parent / "example_containers")
    home = next((home for home in homes if home.is_dir()), None)
    if home is None:
        return {}
    return {ref: home / name for ref, name in _FOLDERS.items() if (home / name / "src" / "app.py").is_file()}
