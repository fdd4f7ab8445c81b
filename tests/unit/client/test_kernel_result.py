"""The result of a run, as Sorna's clients know it."""

from __future__ import annotations

import json
from typing import Any

from meca_executor.client.kernel_result import RunResult
from meca_executor.wire.kernels import Note, Say


def event(kind: str, body: bytes = b"", **head: Any) -> Note:
    return Note(1, Say.EVENT, {"t": kind, **head}, body)


def result_of(*events: Note) -> RunResult:
    result = RunResult("r1")
    for one in events:
        result.take(one)
    return result.settle()


def test_the_keys_of_a_run_that_goes_on() -> None:
    assert dict(RunResult("r1")) == {
        "status": "continued", "console": [], "options": None, "files": [], "exitCode": None, "runId": "r1",
    }  # fmt: skip


def test_streams_keep_their_order_and_neighbours_are_one() -> None:
    result = result_of(
        event("stdout", b"a"), event("stdout", b"b"), event("stderr", b"!"), event("stdout", b"c"),
        event("end", status="finished", code=3, files=["x"], seconds=1.5, error=None),
    )  # fmt: skip
    assert result["console"] == [["stdout", "ab"], ["stderr", "!"], ["stdout", "c"]]
    assert (result.stdout, result.stderr, result.status, result.exit_code) == ("abc", "!", "finished", 3)
    assert (result["files"], result.seconds, result.error) == (["x"], 1.5, None)


def test_a_value_and_a_picture() -> None:
    value = json.dumps({"text/plain": "2"}).encode()
    picture = json.dumps({"image/png": "iVBOR", "text/plain": "<Figure>"}).encode()
    result = result_of(
        event("media", picture, mime="image/png", result=False), event("media", value, mime="text/plain", result=True)
    )
    assert result["console"] == [["media", ["image/png", "iVBOR"]], ["media", ["text/plain", "2"]]]
    assert result.text == "2"
    assert result.media[0].data["text/plain"] == "<Figure>"


def test_waiting_for_a_password() -> None:
    result = result_of(event("input", password=True))
    assert (result.status, result["options"]) == ("waiting-input", {"is_password": True})


def test_missing_output_is_marked() -> None:
    result = result_of(event("cut", bytes=1234))
    assert "1,234 bytes of output are missing here" in result.stderr
