"""Functions and classes of `__main__` and of local modules work, however the program is started.

The program and its checks stand in `main_checks.py`; it is run once for each way, and each check is a test.
"""

from __future__ import annotations

import functools
import re
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.helpers import leaks, scripts

from .kinds import Kind, only_ours
from .main_checks import GUARDED, PROGRAM, UNGUARDED

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = only_ours
CHECKS = re.findall(r"^def (check_\w+)", PROGRAM, re.MULTILINE)


@pytest.fixture(scope="module")
def run_once(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """Return a function that runs the program in a way, once, and returns the outcomes."""

    @functools.cache
    def run(way: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp(way)
        source = UNGUARDED if way in ("unguarded", "cell") else GUARDED
        env = {"TOP_LEVEL_RUNS": str(folder / "runs")}
        with leaks.nothing_left():
            done = scripts.run(
                kind.program(source), folder, way="file" if way == "unguarded" else way, env=env
            ).expect()
        return scripts.outcomes(done.out)

    return run


@pytest.mark.parametrize("way", ["unguarded", *scripts.WAYS])
@pytest.mark.parametrize("check", CHECKS)
def test_main_module(kind: Kind, run_once: Callable[[str], dict[str, str]], way: str, check: str) -> None:
    """What a check of the program says holds, in that way of starting Python."""
    outcome = run_once(way).get(check, "never finished")
    assert outcome == "ok", outcome


HELPER = """
    from pkg.deep import offset
    import os
    LEVEL = 5
    state = None

    class Tool:
        def __init__(self, size): self.size = size
        def use(self, x): return self.size * add(x)

    class ToolError(Exception): pass

    def add(x): return x + LEVEL + offset(x)
    def broken(): raise ToolError("tool broke")
    def set_state(value):
        global state
        state = value
    def get_state(): return state
    def make(size): return Tool(size)
    def lazily(x):
        import late
        return late.negate(x)
"""
LOCAL_FILES = {
    "helper.py": HELPER,
    "late.py": "def negate(x): return -x",
    "pkg/__init__.py": "from .deep import offset",
    "pkg/deep.py": "from . import constants\ndef offset(x): return constants.ZERO * x",
    "pkg/constants.py": "ZERO = 0",
    "extra/added.py": "def added(x): return x + 100",
    "plugin/loaded.py": "class Plugin:\n    def run(self, x): return x * 7\ndef run(x): return Plugin().run(x)",
}
LOCAL_PROGRAM = """
    import sys, os, importlib.util
    import helper, pkg.deep
    from helper import Tool, add
    from meca_executor import MecaExecutor

    def main_function(x):
        return helper.add(x), pkg.deep.offset(x), Tool(2).use(x)

    def importing(x):
        import late
        from pkg import constants
        return late.negate(x) + constants.ZERO

    def load(path):
        spec = importlib.util.spec_from_file_location("loaded_by_hand", path)
        module = sys.modules["loaded_by_hand"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def check(name, value, expected):
        try:
            got = value()
        except BaseException as error:
            got = error
        print(name, "ok" if got == expected else f"is {got!r}, not {expected!r}", flush=True)

    def checks(ex):
        get = lambda f, *args: ex.submit(f, *args).result(20)
        check("function", lambda: get(add, 1), 6)
        check("map", lambda: list(ex.map(helper.add, [1, 2])), [6, 7])
        check("instance", lambda: get(Tool(2).use, 1), 12)
        back = get(helper.make, 3)
        check("result", lambda: (type(back) is Tool, back.size), (True, 3))
        check("argument", lambda: get(lambda tool: isinstance(tool, Tool), Tool(1)), True)
        check("from main", lambda: get(main_function, 1), (6, 0, 12))
        check("package", lambda: get(pkg.deep.offset, 3), 0)
        check("lazily", lambda: get(helper.lazily, 3), -3)
        check("import inside", lambda: get(importing, 3), -3)
        check("exception", lambda: type(ex.submit(helper.broken).exception(20)) is helper.ToolError, True)
        loaded = load(os.path.join(os.environ["LOCAL"], "plugin", "loaded.py"))
        check("loaded by hand", lambda: get(loaded.run, 2), 14)
        check("its class", lambda: type(get(lambda: loaded.Plugin())) is loaded.Plugin, True)
        with MecaExecutor(max_workers=1, initializer=helper.set_state, initargs=("set",)) as other:
            check("initializer", lambda: other.submit(helper.get_state).result(20), "set")
        sys.path.append(os.path.join(os.environ["LOCAL"], "extra"))
        import added
        check("path added later, from main", lambda: get(lambda x: added.added(x), 1), 101)
        check("path added later", lambda: get(added.added, 1), 101)

    if __name__ == "__main__":
        with MecaExecutor(max_workers=2) as ex:
            checks(ex)
"""
LOCAL_CHECKS = re.findall(r'check\("([^"]+)"', LOCAL_PROGRAM)


@pytest.mark.parametrize("elsewhere", [True, False], ids=["cwd elsewhere", "cwd beside"])
def test_local_modules(kind: Kind, tmp_path: Path, elsewhere: bool) -> None:
    """Modules and packages beside the script, that are not installed, work, wherever the script is started."""
    program, other = tmp_path / "app", tmp_path / "other"
    other.mkdir()
    for name, text in LOCAL_FILES.items():
        path = program / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    done = scripts.run(
        kind.program(LOCAL_PROGRAM), program, cwd=other if elsewhere else program, env={"LOCAL": str(program)}
    )
    assert done.expect().out.splitlines() == [f"{name} ok" for name in LOCAL_CHECKS]


@pytest.mark.parametrize("way", ["command", "stdin"])
def test_shortest_programs(kind: Kind, tmp_path: Path, way: str) -> None:
    """A one-liner works from the command line and from standard input."""
    source = (
        "from meca_executor import MecaExecutor\nprint(*MecaExecutor(max_workers=2).map(lambda x: x * x, range(4)))\n"
    )
    assert scripts.run(kind.program(source), tmp_path, way=way).expect().out == "0 1 4 9\n"


def test_a_program_in_a_folder_that_is_gone(kind: Kind, tmp_path: Path) -> None:
    """A program whose working directory was removed still runs its tasks."""
    source = """
    import os, sys
    from meca_executor import MecaExecutor
    os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
    import subprocess
    if subprocess.run([sys.executable, "-c", "import socket"], stderr=subprocess.DEVNULL).returncode:
        sys.exit("python itself cannot")
    with MecaExecutor(max_workers=1) as ex:
        print(ex.submit(lambda: 5).result(20))
    """
    done = scripts.run(kind.program(source), tmp_path)
    if "python itself cannot" in done.err:
        pytest.skip("this Python cannot import socket there: CPython 3.13.0")
    assert done.expect().out == "5\n"


def test_files_named_like_parts_of_ours(kind: Kind, tmp_path: Path) -> None:
    """Files beside the script that are named like modules of ours confuse neither workers nor gateway."""
    for name in ("errors", "settings", "worker", "wire", "client", "gateway", "runtimes", "serve"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n", encoding="utf-8")
    assert scripts.run(kind.program(TWO_CALLS), tmp_path).expect().out == "3 4\n"


def test_files_named_like_the_standard_librarys(kind: Kind, tmp_path: Path) -> None:
    """Nor do files in the working directory, where that is not the script's folder and so not on its path."""
    program, other = tmp_path / "app", tmp_path / "other"
    program.mkdir()
    other.mkdir()
    for name in ("json", "socket", "asyncio", "pickle", "queue", "cloudpickle", "aiohttp", "socketio", "meca_executor"):
        (other / f"{name}.py").write_text("raise SystemExit('the wrong module')\n", encoding="utf-8")
    assert scripts.run(kind.program(TWO_CALLS), program, cwd=other).expect().out == "3 4\n"


TWO_CALLS = """
    from meca_executor import MecaExecutor
    with MecaExecutor(max_workers=1) as ex:
        print(ex.submit(abs, -3).result(20), ex.submit(lambda: 4).result(20))
"""
