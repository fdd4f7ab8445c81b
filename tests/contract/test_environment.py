"""Variables and the working directory of calls: `env=` and `cwd=`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import Container, MecaExecutor, UsageError
from tests.helpers.waiting import LIMIT

from .kinds import only_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = only_ours

ready: list[str | None] = []  #: filled by `begin`, in a worker


def begin() -> None:
    """Note what an initializer finds."""
    ready[:] = [os.environ.get("FIRST")]


def seen(*names: str) -> tuple[list[str | None], str]:
    """Return the values of variables, and the folder."""
    return [os.environ.get(name) for name in names], os.getcwd()


def wander(folder: str) -> str:
    """Change what a call should leave as it was."""
    os.environ["GIVEN"] = "changed by the call"
    os.environ["ITS_OWN"] = "stays"
    os.chdir(folder)
    return os.getcwd()


def fail() -> None:
    """Raise."""
    raise KeyError("as it was")


def test_an_executors_variables_are_there_from_the_start(make: Callable[..., Any]) -> None:
    """For initializers and whatever modules read when they are imported."""
    with make(1, env={"FIRST": "1", "PATH_LIKE": "a:b=c"}, initializer=begin) as ex:
        assert ex.submit(lambda: __import__("tests.contract.test_environment").contract.test_environment.ready).result(
            LIMIT
        ) == ["1"]
        assert ex.submit(seen, "FIRST", "PATH_LIKE").result(LIMIT)[0] == ["1", "a:b=c"]
    assert "FIRST" not in os.environ


def test_a_views_are_there_while_its_calls_run(ours: MecaExecutor, tmp_path: Path) -> None:
    """For functions by name and by value, in `submit` and `map`; other calls of the same workers do not see them."""
    here = ours.submit(os.getcwd).result(LIMIT)  # the caller's own folder, or the host's
    view = ours.options(env={"GIVEN": "1"}, cwd=tmp_path)
    more = view.options(env={"MORE": "2"}, timeout=50)
    for _ in range(4):
        assert view.submit(seen, "GIVEN", "MORE").result(LIMIT) == (["1", None], str(tmp_path))
        assert more.submit(lambda: seen("GIVEN", "MORE")).result(LIMIT) == (["1", "2"], str(tmp_path))
        assert more.options(env=None, cwd=None).submit(seen, "GIVEN").result(LIMIT) == ([None], here)
    assert list(view.map(seen, ["GIVEN"] * 40)) == [(["1"], str(tmp_path))] * 40
    assert list(ours.map(seen, ["GIVEN"] * 40)) == [([None], here)] * 40


def test_what_was_there_before_is_there_afterwards(make: Callable[..., Any], tmp_path: Path) -> None:
    """Also when the call raises, or changes it; what else a call does to its worker stays, as without a view."""
    with make(1, env={"GIVEN": "from the start"}) as ex:
        here = ex.submit(os.getcwd).result(LIMIT)
        view = ex.options(env={"GIVEN": "for the call"}, cwd=tmp_path)
        assert view.submit(wander, "/").result(LIMIT) == "/"
        with pytest.raises(KeyError, match="as it was"):
            view.submit(fail).result(LIMIT)
        assert ex.submit(seen, "GIVEN", "ITS_OWN").result(LIMIT) == (["from the start", "stays"], here)


def test_an_executors_folder(make: Callable[..., Any], ours: MecaExecutor, tmp_path: Path) -> None:
    """All calls run there; a relative one begins where workers are."""
    (tmp_path / "inner").mkdir()
    inner = os.path.relpath(tmp_path / "inner", ours.submit(os.getcwd).result(LIMIT))
    with make(1, cwd=str(tmp_path)) as ex:
        assert ex.submit(os.getcwd).result(LIMIT) == str(tmp_path)
        assert ex.options(cwd=inner).submit(os.getcwd).result(LIMIT).endswith("/inner")


def test_a_folder_that_is_not_there_fails_the_call(ours: MecaExecutor, tmp_path: Path) -> None:
    """With the class that says why, the path and the host; other calls go on."""
    (tmp_path / "file").write_text("")
    gone = ours.options(cwd=tmp_path / "gone", env={"GIVEN": "1"}).submit(seen)
    with pytest.raises(FileNotFoundError, match=f"cannot be entered on {os.uname().nodename}") as caught:
        gone.result(LIMIT)
    assert caught.value.filename == str(tmp_path / "gone")
    assert "/gone" in str(caught.value)
    with pytest.raises(NotADirectoryError):
        ours.options(cwd=tmp_path / "file").submit(seen).result(LIMIT)
    assert ours.submit(seen, "GIVEN").result(LIMIT) == ([None], ours.submit(os.getcwd).result(LIMIT))


def test_errors_and_arguments_are_as_without_a_view(ours: MecaExecutor) -> None:
    """What cannot be called is told at once; keywords of any name reach the function."""
    view = ours.options(env={"GIVEN": "1"})
    with pytest.raises(TypeError, match="7 is not callable"):
        view.submit(7)  # type: ignore[call-overload]
    assert view.submit(dict, self=1, fn=2, env=3).result(LIMIT) == {"self": 1, "fn": 2, "env": 3}
    with pytest.raises(ZeroDivisionError):
        view.submit(divmod, 1, 0).result(LIMIT)


def test_functions_in_containers_have_them_and_containers_do_not(make: Callable[..., Any]) -> None:
    """A container's own call has the image's environment: that is said, and not passed over."""
    with make(1, env={"FIRST": "1"}) as ex:
        inside = ex.options(container_ref="meca-python:latest", env={"GIVEN": "2"}, cwd="/")
        assert inside.submit(lambda: [os.environ["FIRST"], os.environ["GIVEN"], os.getcwd()]).result(60) == [
            "1", "2", "/",
        ]  # fmt: skip
        with pytest.raises(UsageError, match="knn:latest has those of its image"):
            ex.submit(Container("knn:latest"), {})


def test_a_containers_call_in_a_view_is_refused(ours: MecaExecutor) -> None:
    """With what to do instead."""
    with pytest.raises(UsageError, match=r"ex.options\(env=None, cwd=None\)"):
        ours.options(cwd="/").offload_task("sampleserver:latest", "{}")
