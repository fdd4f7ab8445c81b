"""The house rules that a machine can check: floors, front door, errors, docstrings, sizes.

What is read here is the source (by `ast`), not the running package, so that an import inside a
function or under TYPE_CHECKING counts like any other.
"""

from __future__ import annotations

import ast
import builtins
import configparser
import importlib
import pickle
import re
import subprocess
import sys
from concurrent.futures import BrokenExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

import meca_executor
from meca_executor import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "meca_executor"

GROUND = 0
SHELLS = 4
FLOORS = {
    "errors": GROUND,
    "settings": GROUND,
    "keys": GROUND,
    "folders": GROUND,
    "wire": 1,
    "policy": 2,
    "client": 3,
    "gateway": 3,
    "runtimes": 3,
    "kernels": 3,
}  #: folder or file at the top of the package → floor; whatever is not here is a shell

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


# -- reading the source


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return the path below the package, as the messages show it."""
    return path.relative_to(PACKAGE).as_posix()


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(dotted: str) -> bool:
    place = ROOT.joinpath(*dotted.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()


class Import(NamedTuple):
    """One import of something of ours."""

    target: str  #: dotted module, below the package: `wire.stream`; "" is the front door itself
    line: int


def absolute(path: Path, module: str | None, level: int) -> str:
    """Return the dotted name that `from <level dots><module>` means in the file at `path`."""
    if not level:
        return module or ""
    package = path.parent.relative_to(ROOT).parts
    base = package[: len(package) - (level - 1)]
    return ".".join([*base, module] if module else base)


def targets(path: Path, node: ast.AST) -> Iterator[str]:
    """Yield the absolute dotted modules that `node` imports, names of the front door led to their home."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        source = absolute(path, node.module, node.level)
        for alias in node.names:
            if is_module(f"{source}.{alias.name}"):
                yield f"{source}.{alias.name}"
            elif source == "meca_executor" and alias.name in meca_executor._HOMES:
                home = meca_executor._HOMES[alias.name]
                yield source + home if home.startswith(".") else home
            else:
                yield source
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("import_module", "importlib.import_module"):
        if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            name = node.args[0].value
            level = len(name) - len(name.lstrip("."))
            yield absolute(path, name[level:] or None, level)


def imports(path: Path) -> Iterator[Import]:
    """Yield every import of the package's own modules in one of its files."""
    for node in ast.walk(tree_of(path)):
        for target in targets(path, node):
            top, _, rest = target.partition(".")
            if top == "meca_executor":
                yield Import(rest, getattr(node, "lineno", 0))


def floor(room: str) -> int:
    """Return the floor of a top-level file or folder of the package; the front door itself is ground."""
    return GROUND if not room else FLOORS.get(room, SHELLS)


# -- floors


# The front door is left out: it is lazy and names every room.
@pytest.mark.parametrize("path", [path for path in files() if path != PACKAGE / "__init__.py"], ids=name_of)
def test_a_file_imports_its_own_folder_and_lower_floors_only(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    wrong = []
    for found in imports(path):
        other = found.target.partition(".")[0]
        same = other == room or floor(other) == floor(room) in (GROUND, SHELLS)
        if not (same or floor(other) < floor(room)):
            wrong.append(
                f"{name_of(path)}:{found.line} (floor {floor(room)}) imports {found.target} (floor {floor(other)})"
            )
    assert not wrong, "\n".join([*wrong, "move what both need down, or hand it in from a shell (floor 4)"])


# -- sizes


@pytest.mark.parametrize("path", files(), ids=name_of)
def test_a_file_fits_in_the_head(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_FILE_LINES, f"{name_of(path)} has {lines} lines; split it, {MAX_FILE_LINES} is the limit"
    long = [
        f"{name_of(path)}:{node.lineno} {node.name}() has {length} lines; {MAX_FUNCTION_LINES} is the limit"
        for node in ast.walk(tree_of(path))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert not long, "\n".join(long)


# -- the front door


HEAVY = ("socketio", "aiohttp", "tenacity", "asyncio")


@pytest.mark.parametrize(
    "statement",
    ["import meca_executor", "from meca_executor import MecaExecutor", "import meca_executor.runtimes.worker"],
)
def test_import_is_light(statement: str) -> None:
    """What only a connection needs is loaded with the connection, and never in a worker."""
    report = f"import sys; {statement}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    child = subprocess.run(
        [sys.executable, "-c", report], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert child.stdout.split() == [], f"`{statement}` loads too much"


@pytest.mark.parametrize("name", meca_executor.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(meca_executor, name) is not None
    assert name in dir(meca_executor)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'NoSuchName'"):
        _ = meca_executor.NoSuchName


def test_the_type_checker_and_the_running_program_see_the_same_names() -> None:
    (block,) = (
        node
        for node in tree_of(PACKAGE / "__init__.py").body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    typed = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == set(meca_executor._HOMES)


# -- errors


ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.MecaError)]

# What the standard library promises in the place of each, so that old `except` clauses go on working.
PROMISED: dict[type[BaseException], type[BaseException]] = {
    errors.UsageError: ValueError,
    errors.ExecutorClosed: RuntimeError,
    errors.InitializerFailed: BrokenExecutor,
    errors.GatewayUnreachable: ConnectionError,
    errors.GatewayLost: BrokenExecutor,
    errors.TaskTimeout: TimeoutError,
    errors.TaskTooLarge: ValueError,
    errors.WorkerDied: BrokenExecutor,
    errors.AttemptLost: BrokenExecutor,
}


@pytest.mark.usefixtures("without_tblib")
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_is_public_and_survives_pickling(error: type[errors.MecaError]) -> None:
    assert error.__module__ == "meca_executor"
    assert error.__name__ in errors.__all__
    assert getattr(meca_executor, error.__name__) is error
    assert issubclass(error, PROMISED.get(error, errors.MecaError))
    assert error.__doc__
    sent = error("task 7: what happened; what to do next")
    sent.__cause__ = KeyError("why")
    vars(sent)["fact"] = 7  # errors carry facts as plain attributes
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        got = pickle.loads(pickle.dumps(sent, protocol))
        assert type(got) is error
        assert (got.args, str(got), vars(got)) == (sent.args, str(sent), vars(sent))
    assert isinstance(sent.__cause__, KeyError), "pickling took the cause away from the original"


def test_errors_lists_every_class() -> None:
    assert sorted(error.__name__ for error in ERRORS) == sorted(errors.__all__)


# -- docstrings


def raises_names(docstring: str) -> Iterator[str]:
    """Yield the names before the colon in the entries of a `Raises:` section.

    An entry stands at the section's first indent; deeper lines go on with an entry.
    """
    lines = iter(docstring.splitlines())
    for line in lines:
        if line.strip() != "Raises:":
            continue
        indent = None
        for entry in lines:
            if not entry.strip():
                break
            depth = len(entry) - len(entry.lstrip())
            indent = depth if indent is None else indent
            if depth < indent:
                break
            if depth == indent:
                names = entry.strip().partition(":")[0]
                yield from (name.strip(" `") for name in re.split(r",| or | and ", names))


def documented_raises() -> list[tuple[Path, str]]:
    found: set[tuple[Path, str]] = set()
    for path in files():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
                found.update((path, name) for name in raises_names(ast.get_docstring(node) or ""))
    return sorted(found)


def resolve(name: str, path: Path) -> object:
    """Return what `name` means in the module at `path`, to a reader who also knows our errors and the builtins."""
    head, _, rest = name.partition(".")
    places = [importlib.import_module(module_of(path)), errors, builtins]
    thing = next((getattr(place, head) for place in places if hasattr(place, head)), None)
    if thing is None and rest:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(module), attribute, None)
    for part in filter(None, rest.split(".")):
        thing = getattr(thing, part, None)
    return thing


def test_every_error_that_a_docstring_promises_exists() -> None:
    wrong = []
    for path, name in documented_raises():
        thing = resolve(name, path)
        if not (isinstance(thing, type) and issubclass(thing, BaseException)):
            wrong.append(f"{name_of(path)}: `Raises: {name}` is no exception class")
    assert not wrong, "\n".join(wrong)


# -- what an installed package holds


def test_setup_cfg_lists_every_folder_of_the_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["packages"].split("\n")
    listed = {line for line in lines if line and not line.startswith("#")}
    there = {module_of(path) for path in PACKAGE.rglob("__init__.py")} | {"meca_executor.example_containers"}
    assert listed == there, "a folder that is not in [options] packages is missing from the wheel"


@pytest.mark.parametrize("folder", sorted({path.parent for path in files()}), ids=name_of)
def test_every_folder_is_a_package(folder: Path) -> None:
    assert (folder / "__init__.py").is_file(), f"{name_of(folder)} has modules but no __init__.py"
