"""Where the example containers that come with the package are."""

from __future__ import annotations

from pathlib import Path

_NAMES = ("sampleserver", "knn", "python-template")


def shipped() -> dict[str, Path]:
    """Return the folder of each shipped example by its reference, as in `{"knn:latest": Path(".../knn")}`.

    They are package data of an installed wheel, and a top-level folder of a checkout; what is in neither is left out.
    """
    package = Path(__file__).resolve().parents[1]
    homes = (package / "example_containers", package.parent / "example_containers")
    home = next((home for home in homes if home.is_dir()), None)
    if home is None:
        return {}
    return {f"{name}:latest": home / name for name in _NAMES if (home / name / "src" / "app.py").is_file()}
