"""The folder of a container: what is in it, and whether a reply is the one that it promises."""

from __future__ import annotations

import difflib
import json
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from ..errors import UsageError
from ..runtimes.examples import shipped

TEMPLATE = "python-template:latest"
TESTED = ("example_input.bin", "example_output.bin")
SHOWN_BYTES = 4000  #: of a reply that is no text
CONFIG = '{"resource": {"cpu": 1, "mem": 128, "use_gpu": false, "gpu_count": 0}}'
RESOURCE_NAMES = {"cpu": "cpu", "mem": "memory", "memory": "memory"}


class ImageFolder(NamedTuple):
    """A folder that an image is built from."""

    path: Path

    @classmethod
    def checked(cls, text: str, *, tested: bool) -> ImageFolder:
        """Return a folder, as an absolute path.

        Args:
            text: What the user wrote.
            tested: It must have an example, too.

        Raises:
            UsageError: Something is missing.
        """
        path = Path(text).expanduser().resolve()
        if not path.is_dir():
            raise UsageError(f"no folder {text!r}")
        wanted = ("Dockerfile", *(TESTED if tested else ()))
        if missing := [name for name in wanted if not (path / name).is_file()]:
            raise UsageError(f"folder {text!r} has no {', no '.join(missing)}; meca image new NAME makes one with all")
        return cls(path)

    @property
    def default_tag(self) -> str:
        """The image's name unless another is given: that of the folder."""
        plain = re.sub(r"[^a-z0-9._-]+", "-", self.path.name.lower()).strip("-._")
        return f"{plain or 'image'}:latest"

    def resource(self) -> dict[str, float]:
        """Return what `config.json` says that a container needs, in our names; nothing when there is none.

        Raises:
            UsageError: It cannot be read.
        """
        path = self.path / "config.json"
        if not path.is_file():
            return {}
        try:
            given = json.loads(path.read_bytes()).get("resource", {})
            wanted = {ours: float(given[name]) for name, ours in RESOURCE_NAMES.items() if given.get(name)}
            if given.get("use_gpu") or given.get("gpu_count"):
                wanted["gpu"] = max(1, int(given.get("gpu_count") or 1))
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is not like {CONFIG}: {error}") from error
        return wanted

    def example(self) -> tuple[bytes, bytes]:
        """Return the example's input, and the reply that it should have."""
        given, expected = (self.path.joinpath(name).read_bytes() for name in TESTED)
        return given, expected


def new_folder(name: str) -> Path:
    """Make a folder from the template and return it.

    Raises:
        UsageError: There is something of that name, or the template is not installed.
    """
    path = Path(name).expanduser().resolve()
    if path.exists():
        raise UsageError(f"{name!r} is there already")
    template = shipped().get(TEMPLATE)
    if template is None:
        raise UsageError("the template is not there: example_containers/python-template is missing from this install")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(template, path, ignore=shutil.ignore_patterns("__pycache__", "README.md"))
    (path / "name.txt").write_text(f"{path.name}\n", encoding="utf-8")
    (path / "description.txt").write_text(f"What {path.name} does, in a sentence.\n", encoding="utf-8")
    return path


def difference(reply: bytes, expected: bytes) -> str:
    """Return how a reply differs from what was expected; "" when it does not.

    Both as JSON where both are, for then spaces and the order of keys mean nothing; else byte by byte.
    """
    found, wanted = as_json(reply), as_json(expected)
    if found is not None and wanted is not None:
        if json.loads(reply) == json.loads(expected):
            return ""
    elif reply == expected:
        return ""
    else:
        found, wanted = as_text(reply), as_text(expected)
    lines = difflib.unified_diff(wanted.splitlines(), found.splitlines(), "example_output.bin", "reply", lineterm="")
    return "\n".join(lines) or f"{len(expected)} bytes were expected, and {len(reply)} came: only line ends differ"


def as_json(data: bytes) -> str | None:
    """Return JSON in one form, or None when it is none."""
    try:
        return json.dumps(json.loads(data), indent=2, sort_keys=True, ensure_ascii=False)
    except ValueError:
        return None


def as_text(data: bytes) -> str:
    """Return text as it is, and the begin of anything else in hexadecimal."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"{len(data)} bytes\n" + data[:SHOWN_BYTES].hex("\n", -32)
