"""Containers: how inputs are encoded and replies are read, by each codec."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor import Container, TaskFailed, UsageError
from meca_executor.client.container import SHOWN, Codec

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)

TEXT = st.text('aé漢🎉\n"\\{}', max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def reply(container: Container, data: object, answer: bytes) -> Any:
    """Return what a container's answer to this input means."""
    return container.decoder(data)(answer)


# -- codecs


@quickly
@given(JSON.filter(lambda value: not isinstance(value, str)))
def test_by_default_values_are_json_both_ways(value: object) -> None:
    """Anything but text is written as JSON and its reply is read as JSON."""
    container = Container("knn:latest")
    assert json.loads(container.encode(value)) == value
    assert reply(container, value, json.dumps(value).encode()) == value


@quickly
@given(TEXT)
def test_by_default_text_is_passed_as_it_is(text: str) -> None:
    """A `str` input is not quoted, and its reply is a `str`."""
    container = Container("sampleserver:latest")
    assert container.encode(text) == text.encode()
    assert reply(container, text, text.encode()) == text


@quickly
@given(JSON)
def test_json_takes_text_for_a_json_text(value: object) -> None:
    """Under the explicit codec a `str` is a JSON value like any other."""
    container = Container("knn:latest", codec="json")
    assert json.loads(container.encode(value)) == value
    assert reply(container, value, json.dumps(value).encode()) == value


@quickly
@given(st.binary())
def test_bytes_travel_as_base64(data: bytes) -> None:
    """Both ways; any buffer may be given."""
    container = Container("image:latest", codec="bytes")
    for buffer in (data, bytearray(data), memoryview(data)):
        assert base64.b64decode(container.encode(buffer)) == data
    assert reply(container, data, base64.b64encode(data)) == data


def test_a_pair_of_callables_is_a_codec() -> None:
    """The first makes text or bytes of the input, the second anything of the reply's text."""
    container = Container("sum:latest", codec=(lambda numbers: " ".join(map(str, numbers)), int))
    assert container.encode([1, 2]) == b"1 2"
    assert reply(container, [1, 2], b"3") == 3
    assert Container("raw:latest", codec=(bytes, str)).encode(b"\xff") == b"\xff"


@pytest.mark.parametrize(
    ("codec", "data"),
    [
        (None, {1, 2}),
        (None, b"bytes"),
        (None, object()),
        ("json", {1, 2}),
        ("text", 7),
        ("text", b"bytes"),
        ("bytes", "text"),
        ("bytes", [1]),
        ((lambda data: 7, str), "an int is no text"),
        ((lambda data: None, str), "nor is nothing"),
        ((lambda data: [65, 66], str), "nor a list"),
    ],
)
def test_what_a_codec_cannot_encode_is_a_type_error(codec: Codec | None, data: object) -> None:
    """Nothing wrong is sent instead."""
    with pytest.raises(TypeError):
        Container("knn:latest", codec=codec).encode(data)


@pytest.mark.parametrize(
    ("codec", "data", "answer", "name"),
    [
        (None, {}, b"<html>not json</html>", "json"),
        ("json", {}, b"", "json"),
        ("json", {}, b"\xff\xfe", "json"),
        ("json", {}, b"[" * 100_000, "json"),
        ("text", "", b"\xff\xfe", "text"),
        ("bytes", b"", b"not base64!", "bytes"),
        ("bytes", b"", b"abc", "bytes"),
        ((str, int), 1, b"not a number", "own"),
        ((str, lambda reply: dict[str, str]()[reply]), 1, b"anything", "own"),
    ],
)
def test_a_reply_that_is_not_what_the_codec_expects(
    codec: Codec | None, data: object, answer: bytes, name: str
) -> None:
    """It is a TaskFailed that names the container and the codec and shows the beginning of the reply."""
    with pytest.raises(TaskFailed) as caught:
        reply(Container("knn:latest", codec=codec), data, answer)
    text = str(caught.value)
    assert text.startswith(f"knn:latest replied what its {name} codec cannot read (")
    assert answer[:20].decode("utf-8", "backslashreplace") in text
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("letter", ["x", "é", "漢", "🎉"])
def test_the_first_200_characters_of_a_bad_reply_are_shown(letter: str) -> None:
    """Characters and not bytes, and no more of a long one."""
    with pytest.raises(TaskFailed) as caught:
        reply(Container("knn:latest", codec="json"), {}, (letter * 1000).encode())
    assert str(caught.value).endswith(": " + letter * SHOWN)
    assert SHOWN == 200


# -- what it is made of


@pytest.mark.parametrize("ref", ["knn", "knn:latest", "registry.example/team/knn@sha256:" + "0" * 64])
def test_image_names(ref: str) -> None:
    """As for `docker run`."""
    assert Container(ref).ref == ref


@pytest.mark.parametrize("ref", ["", " ", "two words", "tab\tbed", "line\n", None, 7, b"knn"])
def test_what_is_no_image_name_is_refused(ref: Any) -> None:
    """The error names it and shows how one looks."""
    with pytest.raises(UsageError, match="is not an image name such as 'knn:latest'"):
        Container(ref)


@pytest.mark.parametrize("codec", ["yaml", "", 7, ("json", "json"), (str,), (str, str, str), [str, str], {"json"}])
def test_what_is_no_codec_is_refused(codec: Any) -> None:
    """The error names it and lists what there is."""
    with pytest.raises(UsageError, match="is not 'json', 'text', 'bytes' or a pair"):
        Container("knn:latest", codec=codec)


def test_resources_are_in_one_spelling() -> None:
    """`mem`, as the original's files have it, is `memory`."""
    assert Container("knn:latest", resource={"cpu": 0.5, "mem": 256, "gpu": 0}).resource == {
        "cpu": 0.5,
        "memory": 256,
        "gpu": 0,
    }
    assert Container("knn:latest").resource == {}


def test_a_folder_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the program goes later does not matter; a Path is as good as text."""
    monkeypatch.chdir(tmp_path)
    container = Container("knn:latest", app="knn")
    assert container.app == str(tmp_path / "knn") == Container("knn:latest", app=Path("knn")).app
    monkeypatch.chdir(tmp_path.parent)
    assert container.app == str(tmp_path / "knn")


def test_repr_is_the_call_that_makes_it() -> None:
    """Only what was given is shown."""
    assert repr(Container("knn:latest")) == "Container('knn:latest')"
    assert repr(Container("knn:latest", resource={"cpu": 1}, codec="json")) == (
        "Container('knn:latest', resource={'cpu': 1}, codec='json')"
    )
