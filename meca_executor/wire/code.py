"""Code that travels: a unit, which is one module or one whole package, as an archive.

An archive is a zip file with a JSON object as its comment: `name`, under which the unit is imported, and `root`, the
folder in which it was found. Its members are named as they lie below that folder.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

EPOCH = (1980, 1, 1, 0, 0, 0)  #: of each member: the same content is the same archive


class Unit(NamedTuple):
    """One module or package."""

    name: str  #: as it is imported
    root: str  #: where it was found; nothing when it does not lie there as it is imported
    files: Mapping[str, bytes]  #: path below the root, with slashes -> content


class MalformedCode(ValueError):
    """The bytes are not the archive of a unit."""


def pack(unit: Unit) -> bytes:
    """Return the archive of a unit; the same one for the same content."""
    import zipfile

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in sorted(unit.files):
            info = zipfile.ZipInfo(path, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, unit.files[path])
        archive.comment = json.dumps({"name": unit.name, "root": unit.root}).encode()
    return file.getvalue()


def unpack(payload: bytes) -> Unit:
    """Return the unit of an archive.

    Raises:
        MalformedCode: It is none, or has a member that would lie outside of its folder.
    """
    import zipfile

    try:
        with zipfile.ZipFile(io.BytesIO(payload)) as archive:
            fields = json.loads(archive.comment)
            files = {name: archive.read(name) for name in archive.namelist()}
            unit = Unit(str(fields["name"]), str(fields["root"]), files)
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise MalformedCode(f"not the archive of a module or package: {error!r}") from error
    if wrong := [path for path in files if path.startswith("/") or not {"", ".", ".."}.isdisjoint(path.split("/"))]:
        raise MalformedCode(f"{wrong[0]!r} in the archive of {unit.name} would lie outside of its folder")
    return unit


def number_of(payload: bytes) -> int:
    """Return the number of an archive, made of its content; never 0."""
    import hashlib  # here: workers begin quicker without

    return int.from_bytes(hashlib.sha256(payload).digest()[:8], "little") >> 1 or 1
