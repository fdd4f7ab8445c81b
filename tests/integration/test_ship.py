"""Modules of the user's own reach workers that do not find them: `ship=`."""

from __future__ import annotations

import os
import sys
import tempfile
import types
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from meca_executor import MecaExecutor, UsageError
from meca_executor.client.missing import advise
from meca_executor.runtimes.code import PREFIX, Code
from meca_executor.runtimes.missing import tell_where
from meca_executor.wire.code import Unit, pack
from tests.helpers.waiting import LIMIT, wait_until

from .projects import BEGIN, CAN_HIDE, HERE, Project
from .standing import Standing, standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not CAN_HIDE, reason="needs /proc/self/cwd, to be to a gateway what another machine is")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """A gateway in a folder of its own."""
    with standing_gateway(tmp_path_factory.mktemp("elsewhere"), "--workers", "2") as standing:
        yield standing


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project."""
    return Project(tmp_path / "project")


def folders() -> list[str]:
    """The folders of workers' code that there are."""
    return [name for name in os.listdir(tempfile.gettempdir()) if name.startswith(PREFIX)]


# -- "auto"


def test_a_module_and_what_it_imports_are_there(project: Project, gateway: Standing) -> None:
    """Also what is imported only when a function runs, and by a function of the main module."""
    project.write(
        {
            "work.py": "import helpers\ndef f(x):\n    import later\n    return helpers.g(x) + later.h()\n",
            "helpers.py": "def g(x): return x * 10\n",
            "later.py": "def h(): return 1\n",
            "lazily.py": "def k(): return 'k'\n",
            "not_needed.py": "1 / 0\n",
        }
    )
    (told,) = project.run(
        """
        import work
        def main_function():
            import lazily
            return lazily.k()
        with executor() as ex:
            missing = ex.submit(lambda: __import__("_".join(["not", "needed"])))
            tell(ex.submit(work.f, 4).result(), ex.submit(main_function).result(), repr(missing.exception()))
        """,
        gateway.url,
    )
    assert told[:2] == [41, "k"]
    assert "No module named 'not_needed'" in told[2], "only what is needed is sent"


def test_what_arrives_are_real_modules(project: Project, gateway: Standing) -> None:
    """They have files, source lines in tracebacks, relative imports, resources; classes are the same on both sides."""
    project.write(
        {
            "pkg/__init__.py": "from .shapes import Square\n",
            "pkg/shapes.py": "class Square:\n  a = 1\n  def area(self): return self.a ** 2\n",
            "pkg/inner/__init__.py": "",
            "pkg/inner/deep.py": """
            import inspect, os
            from importlib import resources
            from .. import Square
            def bigger(square):
                    square.a += 1
                    return square
            def text(): return (resources.files(__package__) / "note.txt").read_text()
            def source(): return os.path.exists(__file__), inspect.getsource(text).split("(")[0]
            def fail(): raise ValueError("here")  # this line is shown
        """,
        }
    )
    (project.folder / "pkg/inner/note.txt").write_text("a note")
    (told,) = project.run(
        """
        from pkg.inner import deep
        from pkg import Square
        with executor() as ex:
            square = ex.submit(deep.bigger, Square()).result()
            error = ex.submit(deep.fail).exception()
            tell(type(square) is Square, ex.submit(square.area).result(), ex.submit(deep.text).result(),
                 ex.submit(deep.source).result(), str(error.__cause__))
        """,
        gateway.url,
    )
    assert told[:4] == [True, 4, "a note", [True, "def text"]]
    assert "this line is shown" in told[4] and PREFIX in told[4]


def test_it_is_the_clients_code_that_runs(project: Project, tmp_path: Path) -> None:
    """Another file at the same place where the worker runs is not taken for it, whatever comes to the path later; one
    that is the same is used there."""
    elsewhere = Project(tmp_path / "elsewhere")
    elsewhere.write(
        {
            "work.py": "def f(): return 'an old copy'\n",
            "same.py": "def f(): return __file__\n",
            "late.py": "NAME = 'an old copy'\n",
        }
    )
    project.write(
        {
            "work.py": "def f(): return 'mine'\ndef g():\n    import late\n    return late.NAME\n",
            "same.py": "def f(): return __file__\n",
            "late.py": "NAME = 'mine, too'\n",
        }
    )
    program = """
        import work, same
        with executor() as ex:
            told = ex.submit(work.f).result(), ex.submit(same.f).result()
            sys.path.append("/later")
            tell(*told, ex.submit(work.g).result(), ex.submit(lambda: "/later" in sys.path).result())
    """
    with standing_gateway(elsewhere.folder, "--workers", "1") as gateway:
        (told,) = project.run(program, gateway.url)
    assert told == ["mine", f"{HERE}/same.py", "mine, too", True]


def test_initializers_arguments_maps_and_handles_bring_their_modules(project: Project, gateway: Standing) -> None:
    """Whatever the payload is that names a module."""
    project.write(
        {
            "start_up.py": "import helpers\ndef begin(x):\n    global ready\n    ready = helpers.g(x)\n",
            "helpers.py": "def g(x): return x * 10\n",
            "things.py": "class Thing:\n    value = 7\n",
            "mapped.py": "def f(x): return -x\n",
            "kept.py": "class Kept:\n    value = 8\n",
        }
    )
    told = project.run(
        """
        import start_up, things, mapped, kept
        def ready():
            return sys.modules["_".join(["start", "up"])].ready  # the call itself does not name it
        with executor(initializer=start_up.begin, initargs=(4,)) as ex:
            tell(ex.slots)  # connected: workers know what they are for
            handle = ex.put(kept.Kept())
            tell(ex.submit(ready).result(), ex.submit(getattr, things.Thing(), "value").result(),
                 list(ex.map(mapped.f, [1, 2])), ex.submit(getattr, handle, "value").result())
        """,
        gateway.url,
    )
    assert told == [[2], [40, 7, [-1, -2], 8]]


def test_a_module_that_is_loaded_again_runs_as_it_is_now(project: Project, gateway: Standing) -> None:
    """After a reload calls run in workers that have nothing of the old module, also when another module uses it."""
    project.write({"work.py": "import helpers\ndef f(): return helpers.VALUE\n", "helpers.py": "VALUE = 'before'\n"})
    (told,) = project.run(
        """
        import importlib, work, helpers
        with executor() as ex:
            first = [ex.submit(work.f).result() for _ in range(4)]
            with open("helpers.py", "w") as file:
                file.write("VALUE = 'now, and longer'\\n")
            unchanged = ex.submit(work.f).result()
            importlib.reload(helpers)
            tell(first, unchanged, [ex.submit(work.f).result() for _ in range(4)], work.f())
        """,
        gateway.url,
    )
    assert told == [["before"] * 4, "before", ["now, and longer"] * 4, "now, and longer"]


def test_programs_with_other_versions_share_a_gateway(project: Project, tmp_path: Path, gateway: Standing) -> None:
    """Two programs that are alike but for a module: each runs its own, also on one worker after the other."""
    other = Project(tmp_path / "other")
    project.write({"work.py": "def f(): return 'one'\n"})
    other.write({"work.py": "def f(): return 'two'\n"})
    inner = """
        import work
        with executor() as ex:
            tell([ex.submit(work.f).result() for _ in range(3)])
    """
    outer = f"""
        import subprocess, sys, work
        with executor() as ex:
            before = [ex.submit(work.f).result() for _ in range(3)]
            done = subprocess.run([sys.executable, "{HERE}/main.py"], cwd={str(other.folder)!r}, stdout=subprocess.PIPE)
            tell(before, json.loads(done.stdout), [ex.submit(work.f).result() for _ in range(3)])
    """
    (other.folder / "main.py").write_text(BEGIN + dedent(inner))
    (told,) = project.run(outer, gateway.url)
    assert told == [["one"] * 3, [["two"] * 3], ["one"] * 3]


def test_a_program_that_is_a_module_of_a_package(project: Project, gateway: Standing) -> None:
    """`python -m package.program`: its package is sent, and functions of the main module find it."""
    project.write(
        {
            "app/__init__.py": "",
            "app/part.py": "def f(): return 'part'\n",
            "app/program.py": """
            import json, os
            from meca_executor import MecaExecutor
            def run():
                from app import part
                return part.f()
            if __name__ == "__main__":
                with MecaExecutor(os.environ["GATEWAY"]) as ex:
                    print(json.dumps(ex.submit(run).result()))
        """,
        }
    )
    begin = f"import runpy, sys; sys.path[0] = {HERE!r}; "  # as `python -m` with that folder
    words = ["-c", begin + "runpy.run_module('app.program', run_name='__main__', alter_sys=True)"]
    assert project.finish(project.start(words, gateway.url)) == ["part"]


# -- limits, and what is named


def test_data_that_is_too_much_stays_and_code_that_is_too_much_fails_its_call(
    project: Project, gateway: Standing
) -> None:
    """The texts say what is too large; other calls go on."""
    project.write(
        {"pkg/__init__.py": "def f(): return 1\n", "big.py": "def f(): return 2\n", "small.py": "def f(): return 3\n"}
    )
    with (project.folder / "pkg/model.bin").open("wb") as file:
        file.truncate((16 << 20) + 1)
    with (project.folder / "big.py").open("a") as file:
        file.write("#" * (64 << 20))
    (told,) = project.run(
        """
        import pkg, small, logging, types
        logs = []
        logging.getLogger("meca.client").addFilter(lambda record: logs.append(record.getMessage()))
        import big
        with executor() as ex:
            tell(ex.submit(pkg.f).result(), repr(ex.submit(big.f).exception()), ex.submit(small.f).result(), logs)
        """,
        gateway.url,
    )
    assert told[0] == 1 and told[2] == 3
    assert told[1].startswith("UsageError") and "big.py" in told[1] and "67,108,864 can be sent" in told[1]
    assert len(told[3]) == 1 and "pkg" in told[3][0] and "16,777,217 bytes of data files" in told[3][0]


def test_named_and_nothing(project: Project, gateway: Standing) -> None:
    """A list is sent as it stands, with all its files; None sends nothing, and the error says what would help."""
    project.write(
        {
            "work.py": "def f():\n    import plugins.one\n    return plugins.one.NAME\n",
            "plugins/__init__.py": "",
            "plugins/one.py": "NAME = 'one'\n",
            "lib/tool.py": "def g(): return 'tool'\n",
        }
    )
    told = project.run(
        """
        import work, plugins
        def tool():
            import tool
            return tool.g()
        with executor(ship=["work.py", plugins, "lib"]) as ex:
            tell(ex.submit(work.f).result(), ex.submit(tool).result())
        with executor(ship=None) as ex:
            error = ex.submit(work.f).exception()
            tell(type(error).__name__, error.name, str(error))
        """,
        gateway.url,
    )
    assert told[0] == ["one", "tool"]
    assert told[1][:2] == ["ModuleNotFoundError", "work"]
    assert os.uname().nodename in told[1][2] and f"ship=['{HERE}/work.py']" in told[1][2]
    assert "pip install" not in told[1][2], "a stranger's package may have the name of one's own module"


def test_named_goes_to_an_embedded_gateway_too(tmp_path: Path) -> None:
    """What is not on this program's own path is importable in tasks."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "not_on_path_8.py").write_text("def g(): return 'tool'\n")
    with MecaExecutor(1, ship=tmp_path / "lib") as ex:
        assert ex.submit(lambda: __import__("not_on_path_8").g()).result(LIMIT) == "tool"


@pytest.mark.parametrize(
    ("ship", "told"),
    [("no/such/folder", "there is no /"), (7, "not 'auto', None"), ([7], "7 is not 'auto', a path"), ([os], "x")],
)
def test_what_cannot_be_sent_is_refused_at_once(ship: object, told: str, tmp_path: Path) -> None:
    """With the value, and before anything is started."""
    if ship == [os]:
        (tmp_path / "notes.txt").write_text("x")
        ship, told = [tmp_path / "notes.txt"], "is no Python file"
    with pytest.raises(UsageError, match=told):
        MecaExecutor(1, ship=ship)  # type: ignore[arg-type]


# -- what stays


def test_a_package_that_is_missing_there(project: Project, gateway: Standing) -> None:
    """`ModuleNotFoundError` with host, Python and the command; one that a program handles itself is left alone."""
    (told,) = project.run(
        """
        def needs(name):
            return __import__(name).__name__
        def copes():
            try:
                import no_such_thing
            except ModuleNotFoundError as error:
                return str(error)
        def own():
            raise ModuleNotFoundError("my words")
        with executor() as ex:
            missing = ex.submit(needs, "no_such_thing").exception()
            part = ex.submit(needs, "json.no_such_part").exception()
            tell(type(missing).__name__, missing.name, str(missing), str(part), ex.submit(copes).result(),
                 str(ex.submit(own).exception()))
        """,
        gateway.url,
    )
    assert told[:2] == ["ModuleNotFoundError", "no_such_thing"]
    assert f"on {os.uname().nodename}, Python 3." in told[2] and "-m pip install no_such_thing" in told[2]
    assert "pip install" not in told[3] and "json.no_such_part" in told[3]
    assert told[4:] == ["No module named 'no_such_thing'", "my words"]


def test_the_package_that_this_program_has_is_the_one_to_install() -> None:
    """By the name and the version under which it is installed here; nothing is guessed for what cannot be."""
    told = {}
    for name in ("_pytest", "no_such_thing", "made_here", "_tkinter"):
        error = ModuleNotFoundError(f"No module named {name!r} (on far)", name=name)
        error.__dict__["worker_python"] = "/opt/a b/python"
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "made_here", types.ModuleType("made_here"))
            advise(error)
        told[name] = str(error)
    assert told["_pytest"].endswith(f"; there: '/opt/a b/python' -m pip install pytest=={pytest.__version__}")
    assert told["no_such_thing"].endswith("pip install no_such_thing (if the package is called as the module is)")
    assert told["made_here"].endswith("; this program has it from None, which cannot be sent")
    assert told["_tkinter"].endswith("standard library that this Python was built without")


def test_code_that_cannot_be_written_is_the_reason_of_the_error_that_follows(tmp_path: Path) -> None:
    """The worker goes on; the task that misses the module says why it is missing."""
    (tmp_path / "file").write_text("")
    code = Code(str(tmp_path / "file" / "folder"))
    code.take(7, pack(Unit("no_such_unit", "", {"no_such_unit.py": b""})))
    with pytest.raises(ModuleNotFoundError) as caught:
        __import__("no_such_unit")
    tell_where(caught.value, code.problem)
    assert "could not be written to" in str(caught.value) and "Not a directory" in str(caught.value)
    code.take(8, b"garbage")
    assert "not the archive" in code.problem


def test_a_journal_has_the_code_too(project: Project, tmp_path: Path) -> None:
    """What was queued at a gateway that is killed runs at the next one, whose workers never met the client."""
    work = """
        import os, time
        def f(x):
            while x < 2 and os.path.exists("wait"):
                time.sleep(0.01)
            return x * 3
    """
    project.write({"work.py": work})
    program = """
        import work, subprocess
        with executor(retry=5) as ex:
            tell(ex.submit(work.f, 9).result())
            futures = [ex.submit(work.f, x) for x in range(6)]
            print(json.dumps("ready"), flush=True)
            tell([future.result() for future in futures])
    """
    place = tmp_path / "gateway"
    place.mkdir()
    (place / "wait").write_text("")
    journal = ("--workers", "2", "--journal", str(tmp_path / "journal.db"))
    with standing_gateway(place, *journal, killed=True) as gateway:
        client = project.begin(program, gateway.url)
        assert client.stdout and client.stdout.readline() == "[27]\n" and client.stdout.readline() == '"ready"\n'
        wait_until(lambda: len(folders()) == 2, "both workers have the code")
    (place / "wait").unlink()
    with client, standing_gateway(place, *journal, port=gateway.port):
        assert client.stdout and client.stdout.readline() == f"[{[0, 3, 6, 9, 12, 15]}]\n"
        assert client.wait(LIMIT) == 0


def test_nothing_is_left_when_a_worker_is_killed_or_its_gateway(project: Project, tmp_path: Path) -> None:
    """The gateway removes what its workers had; after a gateway that was killed, the next one's worker does."""
    project.write(
        {"work.py": "import os, signal\ndef f(): return 1\ndef die(): os.kill(os.getpid(), signal.SIGKILL)\n"}
    )
    program = """
        import work
        with executor(retry=1) as ex:
            tell(ex.submit(work.f).result(), type(ex.submit(work.die).exception()).__name__)
        ex = executor(retry=1)
        tell(ex.submit(work.f).result())
        os._exit(0)  # without a farewell: the session, and so its worker, stays
    """
    assert not folders()
    first = tmp_path / "first"
    first.mkdir()
    with standing_gateway(first, "--workers", "1", killed=True) as gateway:
        assert project.run(program, gateway.url) == [[1, "WorkerDied"], [1]]
        assert len(folders()) == 1, "that of the worker which was killed is gone"
    assert len(folders()) == 1
    second = tmp_path / "second"
    second.mkdir()
    with standing_gateway(second, "--workers", "1") as gateway:
        assert project.run(program, gateway.url) == [[1, "WorkerDied"], [1]]
        wait_until(lambda: len(folders()) == 1, "what the first gateway left is removed")
    assert not folders()
