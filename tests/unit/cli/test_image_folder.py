"""`meca image`: folders and comparisons, without an engine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from meca_executor.cli import main
from meca_executor.cli._containers import named_runtime
from meca_executor.cli._image_folder import ImageFolder, difference, new_folder
from meca_executor.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def test_a_new_folder_has_all_that_a_container_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["image", "new", str(tmp_path / "deep" / "My Task")]) == 0
    assert "meca image test" in capsys.readouterr().out
    path = tmp_path / "deep" / "My Task"
    names = {
        "Dockerfile",
        "src",
        "config.json",
        "name.txt",
        "description.txt",
        "example_input.bin",
        "example_output.bin",
    }
    assert {entry.name for entry in path.iterdir()} == names
    assert (path / "name.txt").read_text() == "My Task\n"
    assert (path / "src" / "app.py").is_file()
    folder = ImageFolder.checked(str(path), tested=True)
    assert folder.default_tag == "my-task:latest"
    assert folder.resource() == {"cpu": 1, "memory": 128}
    with pytest.raises(UsageError, match="is there already"):
        new_folder(str(path))


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Dockerfile").touch()
    assert ImageFolder.checked(str(tmp_path), tested=False).path == tmp_path
    assert main(["image", "test", str(tmp_path)]) == 2
    assert "has no example_input.bin, no example_output.bin" in capsys.readouterr().err
    assert main(["image", "build", str(tmp_path / "nowhere")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_no_engine_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Dockerfile").touch()
    assert main(["image", "build", str(tmp_path), "--engine", "none"]) == 2
    assert "there is no container engine here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "resource"),
    [
        ({"resource": {"cpu": 2, "mem": 256, "use_gpu": False, "gpu_count": 0}}, {"cpu": 2, "memory": 256}),
        ({"resource": {"memory": 64.5}}, {"memory": 64.5}),
        ({"resource": {"use_gpu": True}}, {"gpu": 1}),
        ({"resource": {"gpu_count": 2}}, {"gpu": 2}),
        ({}, {}),
    ],
)
def test_resources_of_a_folder(tmp_path: Path, given: object, resource: dict[str, float]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(given))
    assert ImageFolder(tmp_path).resource() == resource


@pytest.mark.parametrize("text", ["{", "[]", '{"resource": {"cpu": "many"}}'])
def test_a_config_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json is not like"):
        ImageFolder(tmp_path).resource()


def test_json_is_compared_as_json() -> None:
    assert difference(b'{"b": [1, 2], "a": 1.0}', b'{"a": 1,\n "b": [1,2]}\n') == ""
    text = difference(b'{"a": 1}', b'{"a": 2}')
    assert '-  "a": 2' in text and '+  "a": 1' in text


def test_anything_else_is_compared_by_bytes() -> None:
    assert difference(b"\xff\x00", b"\xff\x00") == ""
    assert "+ff01" in difference(b"\xff\x01", b"\xff\x00")
    assert "+b" in difference(b"a\nb", b"a\nc")
    assert "2 bytes were expected, and 1 came" in difference(b"a", b"a\n")


def test_runtimes_are_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert named_runtime("microVM=kata") == ("microVM", "kata")
    assert main(["gateway", "--runtime", "kata"]) == 2
    assert "is not NAME=ENGINE_RUNTIME" in capsys.readouterr().err
    assert main(["gateway", "--runtime", "a=b", "--runtime", "a=c"]) == 2
    assert "--runtime a is given twice: b and c" in capsys.readouterr().err
