"""The shipped example containers: their folders are complete and true, and the arithmetic of knn is right."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.runtimes.examples import shipped

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

EXAMPLES = shipped()
#: what the original checked before it registered a task, and the example of a call
FILES = ["Dockerfile", "config.json", "description.txt", "example_input.bin", "example_output.bin", "name.txt"]

every_example = pytest.mark.parametrize("folder", EXAMPLES.values(), ids=EXAMPLES.keys())


def test_all_are_found() -> None:
    here = f"meca-python:{sys.version_info[0]}.{sys.version_info[1]}"
    assert sorted(EXAMPLES) == sorted(
        ["knn:latest", "meca-python:latest", here, "python-template:latest", "sampleserver:latest"]
    )


@every_example
def test_folder_is_complete(folder: Path) -> None:
    assert (folder / "src" / "app.py").is_file()
    assert all((folder / name).stat().st_size > 0 for name in FILES)
    assert (folder / "name.txt").read_text().strip() == folder.name
    assert len((folder / "README.md").read_text().splitlines()) <= 20


@every_example
def test_config_has_the_executors_keys(folder: Path) -> None:
    resource = json.loads((folder / "config.json").read_text())["resource"]
    assert set(resource) == {"cpu", "mem", "use_gpu", "gpu_count"}
    # The original executor refuses 1.0 and "1".
    assert all(type(resource[name]) is int for name in ("cpu", "mem", "gpu_count"))


@every_example
def test_image_needs_no_network_to_build(folder: Path) -> None:
    lines = (folder / "Dockerfile").read_text().splitlines()
    assert lines[0] == "FROM python:3.11-slim"
    assert "EXPOSE 8080" in lines
    # The one that runs functions has to read them.
    reader = ["RUN pip install --no-cache-dir cloudpickle"] if folder.name == "python-runner" else []
    assert [line for line in lines if line.startswith(("RUN", "ADD"))] == reader
    assert lines[-1] == 'CMD ["python", "-u", "app.py"]'


@every_example
def test_sources_need_the_standard_library_only(folder: Path) -> None:
    files = list((folder / "src").glob("*.py"))
    allowed = {path.stem for path in files} | sys.stdlib_module_names
    allowed |= {"cloudpickle"} if folder.name == "python-runner" else set()
    for node in (node for path in files for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] in allowed


@pytest.fixture(scope="module")
def knn() -> ModuleType:
    spec = importlib.util.spec_from_file_location("knn_core", EXAMPLES["knn:latest"] / "src" / "knn_core.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


VALID: dict[str, Any] = {"dataset": [[1, 2], [3, 4]], "point": [2, 3], "k": 1, "num_processes": 1}


def test_knn_takes_a_valid_input(knn: ModuleType) -> None:
    assert knn.check(VALID) == ([[1, 2], [3, 4]], [2, 3], 1, 1)
    assert knn.check({**VALID, "point": [0.5, -1e300], "more": "is ignored"}).point == [0.5, -1e300]
    assert knn.check({"dataset": [[1]], "point": [1], "k": 1}).num_processes == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": 3}, "k is 3 and dataset has only 2 rows"),
        ({"k": 0}, "k must be an integer of at least 1"),
        ({"k": True}, "k must be"),
        ({"k": "1"}, "k must be"),
        ({"k": None}, "k must be"),
        ({"num_processes": 0}, "num_processes must be"),
        ({"num_processes": 1.0}, "num_processes must be"),
        ({"dataset": []}, "only 0 rows"),
        ({"dataset": {}}, "dataset must be a list"),
        ({"dataset": [[1, 2], 3]}, "row 1"),
        ({"dataset": [[1, 2], [3]]}, "row 1 of dataset has 1 numbers and point has 2"),
        ({"dataset": [[1, "2"]]}, "row 0"),
        ({"dataset": [[1, float("nan")]]}, "row 0"),
        ({"dataset": [[1, 10**400]]}, "row 0"),
        ({"point": []}, "point"),
        ({"point": [True, False]}, "point"),
        ({"point": "23"}, "point"),
    ],
)
def test_knn_refuses_in_words(knn: ModuleType, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        knn.check({**VALID, **change})


@pytest.mark.parametrize("data", [None, [], "text", 1])
def test_knn_input_must_be_an_object(knn: ModuleType, data: object) -> None:
    with pytest.raises(ValueError, match="JSON object"):
        knn.check(data)


def test_knn_names_what_is_missing(knn: ModuleType) -> None:
    with pytest.raises(ValueError, match="dataset, k missing"):
        knn.check({"point": [1]})


def test_knn_search_counts_from_its_offset_and_keeps_the_order_of_equals(knn: ModuleType) -> None:
    rows = [[3.0], [1.0], [2.0], [1.0], [3.0]]
    assert knn.search(rows, [2.0], 4, 10) == [(0.0, 12), (1.0, 10), (1.0, 11), (1.0, 13)]
    assert knn.search(rows[:2], [2.0], 4, 0) == [(1.0, 0), (1.0, 1)]


def test_knn_in_this_process(knn: ModuleType) -> None:
    assert knn.nearest_rows(knn.check({**VALID, "point": [3, 4], "k": 2})) == [1, 0]
