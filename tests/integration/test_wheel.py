"""The built wheel, installed without extras into an environment of its own, used from an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
import venv
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.processes import all_processes, command, has_in_environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("setup.py", "setup.cfg", "README.md", "LICENSE", "meca_executor", "example_containers")
MARK = "MECA_WHEEL_TEST"  #: a variable that every process started from here inherits
INSTALL_S, RUN_S = 300, 120

pytestmark = [pytest.mark.slow, pytest.mark.timeout(INSTALL_S + RUN_S)]

# Without a main guard, with a lambda and a function of __main__: what a newcomer types first.
SCRIPT = """
import os
import meca_executor
from meca_executor import MecaExecutor

def double(x):
    return 2 * x, os.getpid()

with MecaExecutor() as ex:
    print(list(ex.map(pow, range(5), [2] * 5)))
    doubled, worker = ex.submit(double, 21).result(timeout=60)
    print(doubled, worker != os.getpid(), ex.submit(lambda: "closed over").result(timeout=60))
print(meca_executor.__file__)
"""


def clean_environment() -> dict[str, str]:
    """Return this environment without what would lead back to the checkout or to another gateway."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "MECA_", "BACKEND_", "SORNA_")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


def run(line: list[str | Path], cwd: Path, env: Mapping[str, str], timeout: float) -> str:
    """Run to the end and return stdout; a failure shows both streams."""
    done = subprocess.run(
        line, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"{line} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def survivors(mark: str) -> list[str]:
    """Return the command lines of the living processes that carry the mark."""
    setting = f"{MARK}={mark}".encode()
    return [command(pid) for pid in all_processes() if has_in_environment(pid, setting)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that no old build folder of the checkout gets into it."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name)
        else:
            shutil.copy(ROOT / name, source / name)
    place = tmp_path_factory.mktemp("wheel")
    line: list[str | Path] = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", place, source]
    run(line, place, clean_environment(), INSTALL_S)
    (built,) = place.glob("meca_executor-*.whl")
    return built


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `python` and `meca` of an environment that holds the wheel and its dependencies only."""
    place = tmp_path_factory.mktemp("venv")
    venv.create(place, with_pip=True, symlinks=os.name != "nt")
    scripts = place / ("Scripts" if os.name == "nt" else "bin")
    run([scripts / "python", "-m", "pip", "install", "--quiet", wheel], place, clean_environment(), INSTALL_S)
    return scripts


@pytest.fixture
def marked(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A clean environment; the test fails when a process that got it outlives the command, be it for a moment."""
    mark = uuid.uuid4().hex
    yield {**clean_environment(), MARK: mark, "MECA_STATE_DIR": str(tmp_path / "state")}
    assert survivors(mark) == []


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    """A working folder with nothing in it."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_wheel_carries_the_example_containers_and_the_types(wheel: Path) -> None:
    """Every file of the examples is in it as it stands in the checkout, and no compiled leftovers."""
    examples = ROOT / "example_containers"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for path in examples.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                inside = f"meca_executor/example_containers/{path.relative_to(examples).as_posix()}"
                assert inside in names
                assert archive.read(inside) == path.read_bytes()
    assert "meca_executor/py.typed" in names
    assert not [name for name in names if name.endswith(".pyc")]
    tops = {name.split("/")[0] for name in names}
    assert sorted(top for top in tops if not top.endswith(".dist-info")) == ["meca_executor"]


def test_demo_runs_in_an_empty_folder(commands: Path, empty: Path, marked: dict[str, str]) -> None:
    """`meca demo` ends well and leaves one file: its picture."""
    out = run([commands / "meca", "demo"], empty, marked, RUN_S)
    assert out.strip()
    assert [path.name for path in empty.iterdir()] == ["meca-demo.png"]
    assert (empty / "meca-demo.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_doctor_finds_nothing_wrong(commands: Path, empty: Path, marked: dict[str, str]) -> None:
    run([commands / "meca", "doctor"], empty, marked, RUN_S)
    assert list(empty.iterdir()) == []


def test_a_script_without_main_guard_runs(commands: Path, empty: Path, marked: dict[str, str]) -> None:
    """The installed package is what it imports, not the checkout."""
    (empty / "script.py").write_text(SCRIPT, encoding="utf-8")
    out = run([commands / "python", "script.py"], empty, marked, RUN_S).splitlines()
    assert out[:2] == ["[0, 1, 4, 9, 16]", "42 True closed over"]
    assert Path(out[2]).is_relative_to(commands.parent)


def test_a_program_on_standard_input_runs(commands: Path, empty: Path, marked: dict[str, str]) -> None:
    """As in `python < script.py`: there is no main file that a worker could read again."""
    done = subprocess.run(
        [commands / "python", "-"], cwd=empty, env=marked, input=SCRIPT, capture_output=True, text=True, timeout=RUN_S
    )
    assert (done.returncode, done.stdout.splitlines()[:1]) == (0, ["[0, 1, 4, 9, 16]"]), done.stderr
