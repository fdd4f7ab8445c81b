"""The user's own modules and packages: where they are, what is in them, what they import."""

from __future__ import annotations

import importlib.machinery
import logging
import os
import re
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import UsageError
from ..wire.code import Unit
from ..wire.places import is_local_path

if TYPE_CHECKING:
    from collections.abc import Iterator

CODE_MOST = 64 << 20  #: bytes of the source files (and built extensions) of one unit
DATA_MOST = 16 << 20  #: bytes of a package's other files, above which "auto" leaves these out
FILES_MOST = 20_000  #: of one unit
SKIPPED = frozenset({"__pycache__", "node_modules"})  #: folders, besides hidden ones and virtual environments
SUFFIXES = tuple(importlib.machinery.all_suffixes())
OWN = __name__.partition(".")[0]
NOT_SHIPPED = frozenset({OWN, "__main__", "__mp_main__"}) | sys.stdlib_module_names
_IMPORTS = re.compile(rb"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import|import[ \t]+([\w., \t]+))", re.MULTILINE)

log = logging.getLogger("meca.client")


class Place(NamedTuple):
    """Where a top-level module is, by the name under which it is imported."""

    name: str
    paths: tuple[str, ...]  #: its one file, or the folders of the package
    whole: bool = False  #: named by the user: everything in it is wanted


# -- finding


def find(name: str) -> Place | None:
    """Return where a top-level module is; None when it is not the user's own, or not in files."""
    if name in NOT_SHIPPED:
        return None
    module = sys.modules.get(name)
    try:
        spec = module.__spec__ if module is not None else _look_up(name)
    except (AttributeError, ImportError, ValueError):  # what stands in sys.modules may be anything
        return None
    return None if spec is None else _place_of(name, spec)


def _look_up(name: str) -> Any:
    """Return the spec of a module that is not loaded, without loading it."""
    return next((spec for finder in sys.meta_path if (spec := finder.find_spec(name, None)) is not None), None)


def _place_of(name: str, spec: Any) -> Place | None:
    paths = _paths_of(spec)
    if not paths or not all(map(is_local_path, paths)):  # first: it asks no disk, and most are installed
        return None
    there = tuple(filter(os.path.exists, paths))
    return Place(name, there) if there else None


def _paths_of(spec: Any) -> tuple[str, ...]:
    """Return the folders of a package, or the file of a module; nothing for one that is in no file."""
    if spec.submodule_search_locations is not None:
        return tuple(map(os.path.abspath, spec.submodule_search_locations))
    return (os.path.abspath(spec.origin),) if spec.has_location and spec.origin else ()


def project_folder() -> str | None:
    """Return the folder of the script or notebook that runs here; None when that is an installed program."""
    main = sys.modules.get("__main__")
    file, spec = getattr(main, "__file__", None), getattr(main, "__spec__", None)
    try:
        folder = os.getcwd() if file is None else os.path.dirname(os.path.abspath(file))
    except FileNotFoundError:  # the working directory was removed
        return None
    for _ in range(getattr(spec, "parent", "").count(".") + 1 if getattr(spec, "parent", "") else 0):
        folder = os.path.dirname(folder)  # of a program started by `python -m package.module`
    return folder if is_local_path(folder) else None


def names_in(folder: str) -> Iterator[str]:
    """Yield the names of the modules and packages that lie in a folder."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                stem, _, suffix = entry.name.partition(".")
                if not stem.isidentifier():
                    continue
                if suffix == "py" or (not suffix and os.path.isfile(os.path.join(entry.path, "__init__.py"))):
                    yield stem
    except OSError:  # gone, or not ours to read: nothing is imported from it either
        return


def imports_of(unit: Unit) -> set[str]:
    """Return the top-level names that a unit's sources import anywhere, also inside of functions."""
    names: set[str] = set()
    for path, content in unit.files.items():
        if path.endswith(".py"):
            for whole, several in _IMPORTS.findall(content):
                for part in (whole or several).split(b","):
                    words = part.split()
                    if words and not words[0].startswith(b"."):
                        names.add(words[0].partition(b".")[0].decode("utf-8", "replace"))
    return names


# -- what the user names


def places_named(item: object) -> list[Place]:
    """Return the units that one item of `ship=` stands for.

    Raises:
        UsageError: It is no module, Python file or folder with some.
    """
    if isinstance(item, ModuleType):
        return [_place_of_module(item)]
    if not isinstance(item, (str, os.PathLike)):
        raise UsageError(f"ship {item!r} is not 'auto', a path or a module")
    path = os.path.abspath(os.fspath(item))
    stem, _, suffix = os.path.basename(path).partition(".")
    if os.path.isfile(path) and "." + suffix in SUFFIXES and stem.isidentifier():
        return [Place(stem, (path,), whole=True)]
    if os.path.isdir(path) and os.path.isfile(os.path.join(path, "__init__.py")):
        return [Place(os.path.basename(path), (path,), whole=True)]
    if os.path.isdir(path) and (names := sorted(set(names_in(path)))):
        return [place for name in names for place in places_named(_file_of(path, name))]
    if not os.path.exists(path):
        raise UsageError(f"ship {item!r}: there is no {path}; give a path that is there, or a module itself")
    raise UsageError(f"ship {item!r} is no Python file, package, or folder with some in it")


def _file_of(folder: str, name: str) -> str:
    package = os.path.join(folder, name)
    return package if os.path.isfile(os.path.join(package, "__init__.py")) else package + ".py"


def _place_of_module(module: ModuleType) -> Place:
    name = module.__name__.partition(".")[0]
    spec = getattr(sys.modules.get(name, module), "__spec__", None)
    paths = () if spec is None else tuple(filter(os.path.exists, _paths_of(spec)))
    if not paths or name in (OWN, "__main__"):
        raise UsageError(f"ship {module!r}: it is in no file that can be sent")
    return Place(name, paths, whole=True)


# -- reading


def read(place: Place) -> Unit:
    """Return what is in a module or package: all its files, but for hidden ones and caches.

    Raises:
        UsageError: It is too large, or a file cannot be read.
    """
    found = dict(_files_of(place))
    code = {path for path in found if path.endswith(SUFFIXES)}
    sizes = {path: os.path.getsize(file) if os.path.exists(file) else 0 for path, file in found.items()}
    data = sum(size for path, size in sizes.items() if path not in code)
    total = sum(sizes.values())
    if data > DATA_MOST and not place.whole:
        total -= data
        found = {path: file for path, file in found.items() if path in code}
        log.warning(
            "%s in %s has %s bytes of data files, which are not sent with it (the limit is %s); put them where tasks "
            "run, pass what is in them as an argument, or name the package in ship=",
            place.name, place.paths[0], f"{data:,}", f"{DATA_MOST:,}",
        )  # fmt: skip
    if total > CODE_MOST:
        largest = max(found, key=sizes.__getitem__)
        raise UsageError(
            f"{place.name} in {place.paths[0]} has {total:,} bytes and {CODE_MOST:,} can be sent; its largest file is "
            f"{largest} ({sizes[largest]:,}); move data out of it, or install it where tasks run and use ship=None"
        )
    try:
        files = {path: _content(file) for path, file in found.items()}
    except OSError as error:
        raise UsageError(f"{place.name} cannot be sent: {error.filename}: {error.strerror}") from error
    return Unit(place.name, _root_of(place), files)


def _content(file: str) -> bytes:
    with open(file, "rb") as opened:
        return opened.read()


def _root_of(place: Place) -> str:
    """The folder from which it is imported, if it lies there under its own name."""
    folder, base = os.path.split(place.paths[0])
    return folder if len(place.paths) == 1 and base.partition(".")[0] == place.name else ""


def _files_of(place: Place) -> Iterator[tuple[str, str]]:
    """Yield the path below the root and the file of each."""
    count = 0
    for path in reversed(place.paths):  # of a name in two of a package's folders the first one counts
        if os.path.isfile(path):
            yield place.name + "." + os.path.basename(path).partition(".")[2], path
            continue
        for folder, folders, files in os.walk(path, followlinks=False):
            folders[:] = sorted(name for name in folders if _is_wanted(os.path.join(folder, name), name))
            below = os.path.relpath(folder, path).replace(os.sep, "/")
            prefix = place.name if below == "." else f"{place.name}/{below}"
            for name in sorted(files):
                if not name.startswith(".") and os.path.isfile(os.path.join(folder, name)):
                    yield f"{prefix}/{name}", os.path.join(folder, name)
                    count += 1
            if count > FILES_MOST:
                raise UsageError(
                    f"{place.name} in {path} has more than {FILES_MOST:,} files, which is the most that can be sent; "
                    "move data out of it, or install it where tasks run and use ship=None"
                )


def _is_wanted(folder: str, name: str) -> bool:
    return not (name.startswith(".") or name in SKIPPED or os.path.isfile(os.path.join(folder, "pyvenv.cfg")))
