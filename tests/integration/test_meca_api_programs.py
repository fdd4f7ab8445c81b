"""Programs of the original SDK on `meca_api`, as processes: on a desktop app and on a gateway of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.helpers.scripts import SCRIPT_LIMIT
from tests.helpers.scripts import run as run_script
from tests.peers.desktop import desktop_app
from tests.peers.programs import OLD_PROGRAMS, ROOT, container

from .standing import EXAMPLES, standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The URLs of a desktop app with the example containers and of a gateway of ours with the same."""
    with ExitStack() as stack:
        names = {"sampleserver:latest": "sampleserver", "my_knn_app:latest": "knn", "knn:latest": "knn"}
        urls = {name: stack.enter_context(container(name)) for name in set(names.values())}
        app = stack.enter_context(desktop_app(apps={ref: urls[name] for ref, name in names.items()}))
        words = [word for ref, name in names.items() for word in ("--app", f"{ref}={EXAMPLES / name}")]
        gateway = stack.enter_context(standing_gateway(tmp_path_factory.mktemp("gateway"), *words))
        yield {"desktop": app.url, "gateway": gateway.url}


@pytest.mark.parametrize("where", ["desktop", "gateway"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("basic_offload.py", ["reply of task 0 hello meca dev 0", "reply of task 1 hello meca dev 1"]),
        ("knn.py", ["indices [0, 1]", "points [[1, 2], [3, 4]]"]),
    ],
)
def test_programs_of_the_old_sdk_with_one_changed_import(
    places: dict[str, str], tmp_path: Path, where: str, name: str, expected: list[str]
) -> None:
    """And nothing printed but what they print themselves."""
    original = "from tests.peers import old_sdk as meca_api\n"
    text = (OLD_PROGRAMS / name).read_text(encoding="utf-8")
    assert original in text
    done = run_script(
        text.replace(original, "from meca_executor import meca_api\n"), tmp_path, env={"MECA_ENDPOINT": places[where]}
    )
    assert done.expect(0).out.splitlines() == expected
    assert done.err == ""


@pytest.mark.parametrize("where", ["desktop", "gateway"])
@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("sampleserver/basic_offload_api.py", [], ["task 0: hello meca dev 0", "task 1: hello meca dev 1"]),
        ("knn/knn_api.py", [], ["indices [0, 1]", "points [[1, 2], [3, 4]]"]),
        ("knn/knn_api.py", ["--tasks", "5"], ["indices [0, 1]", "points [[1, 2], [3, 4]]"]),
    ],
)
def test_the_examples_old_style_programs(
    places: dict[str, str], tmp_path: Path, where: str, name: str, words: list[str], expected: list[str]
) -> None:
    """As they stand, on both."""
    done = subprocess.run(
        [sys.executable, ROOT / "example_containers" / name, *words, "--endpoint", places[where]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SCRIPT_LIMIT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == expected
