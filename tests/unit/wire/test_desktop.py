"""The old dialect's codec: what goes to the desktop app, and what its answers mean."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.wire.desktop import (
    Job,
    JobResult,
    MalformedJob,
    decode_job,
    encode_job,
    failure_in,
    message_bytes,
    offload_error,
    read_result,
    was_refused,
)

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)
text = st.text('aé漢🎉\n\t"\\{}', max_size=8)


def offload(**fields: object) -> tuple[str]:
    """Return the arguments of an `offload` with these fields in place of the usual ones."""
    return (json.dumps({"task_id": "7", "container_reference": "knn:latest", "content": "x", **fields}),)


# -- a job


def test_a_job_is_one_json_text_that_ends_in_a_brace() -> None:
    """The app cuts the last character off and puts a key of its own there."""
    job = Job("7", "knn:latest", '{"k": 2}\n', {"cpu": 1, "memory": 256}, "microVM")
    encoded = encode_job(job)
    assert encoded.endswith("}") and encoded == encoded.strip()
    assert json.loads(encoded[:-1] + ',"did":"did:meca:1"}') == {
        "task_id": "7",
        "container_reference": "knn:latest",
        "content": '{"k": 2}\n',
        "resource": {"cpu": 1, "memory": 256},
        "runtime": "microVM",
        "did": "did:meca:1",
    }


def test_a_job_without_wishes_has_three_keys() -> None:
    """What is not asked for is left out, as the original did."""
    assert encode_job(Job("7", "knn", "é", {}, "")) == '{"task_id":"7","container_reference":"knn","content":"é"}'


def test_gpus_stand_beside_the_resources() -> None:
    """The keys of the last versions of the original SDK."""
    fields = json.loads(encode_job(Job("7", "knn", "x", use_gpu=True, gpu_count=2)))
    assert (fields["use_gpu"], fields["gpu_count"], "resource" in fields) == (True, 2, False)


@pytest.mark.parametrize(
    ("given_", "sent"),
    [
        ({"cpu": 0.5, "memory": 100.2}, {"cpu": 1, "memory": 101}),
        ({"cpu": 2.0, "memory": 0}, {"cpu": 2}),
        ({"cpu": 0}, None),
    ],
)
def test_resources_are_whole_numbers_above_0(given_: dict[str, float], sent: dict[str, int] | None) -> None:
    """The backend answers 422 to others, and then nobody hears of the job again."""
    encoded = json.loads(encode_job(Job("7", "knn", "x", given_))).get("resource")
    assert encoded == sent
    assert all(type(value) is int for value in (encoded or {}).values())


@quickly
@given(
    text, text, st.sampled_from([None, {"cpu": 1.0}, {"cpu": 2.0, "memory": 64.0}]), st.none() | st.just("container")
)
def test_what_one_side_writes_the_other_reads(
    task_id: str, content: str, resource: dict[str, float] | None, runtime: str | None
) -> None:
    """A job survives the wire, whatever letters are in it."""
    job = Job(task_id, "a/b:1", content, resource, runtime, bool(resource), 2 if resource else 0)
    assert decode_job((encode_job(job),)) == job


@quickly
@given(text)
def test_message_bytes_is_what_goes_over_the_websocket(content: str) -> None:
    """The JSON text is escaped once more, in the frame; letters beyond ASCII are not."""
    encoded = encode_job(Job("7", "knn", content))
    frame = "42" + json.dumps(["offload", encoded], separators=(",", ":"), ensure_ascii=False)
    assert message_bytes(encoded) == len(frame.encode())


def test_a_quote_in_the_input_costs_four_bytes() -> None:
    """Escaped by the job's JSON, and both letters again by the frame's."""
    sizes = [message_bytes(encode_job(Job("7", "knn", content))) for content in ("", '"', "é", "a")]
    assert [size - sizes[0] for size in sizes] == [0, 4, 2, 1]


def test_half_a_surrogate_pair_cannot_be_sent() -> None:
    """A websocket carries UTF-8; better an error than a dead link."""
    with pytest.raises(UnicodeEncodeError):
        message_bytes(encode_job(Job("7", "knn", "\ud800")))


# -- reading a job


def test_a_job_of_the_last_sdk() -> None:
    """It always names the GPU, mostly to say that it wants none."""
    args = offload(resource={"cpu": 1, "memory": 256}, runtime="container", use_gpu=False, gpu_count=0)
    assert decode_job(args) == Job("7", "knn:latest", "x", {"cpu": 1, "memory": 256}, "container")


@pytest.mark.parametrize("name", ["mem", "memory"])
def test_both_spellings_of_memory_are_one(name: str) -> None:
    assert decode_job(offload(resource={name: 256})).resource == {"memory": 256}


@pytest.mark.parametrize(
    ("resource", "read"),
    [
        ({"disk": 5, "cpu": "two"}, None),
        ({"cpu": 10**400}, {"cpu": 1e15}),
        ("much", None),
        (None, None),
    ],
)
def test_what_is_no_resource_is_ignored(resource: object, read: dict[str, float] | None) -> None:
    """As the original's backend did; no number is too large to be read."""
    assert decode_job(offload(resource=resource)).resource == read


@pytest.mark.parametrize("fields", [{"use_gpu": True, "gpu_count": 2}, {"resource": {"use_gpu": True, "gpu_count": 2}}])
def test_gpus_are_read_at_both_places(fields: dict[str, Any]) -> None:
    """The SDK names them beside the resources, the executor wanted them among them."""
    job = decode_job(offload(**fields))
    assert (job.use_gpu, job.gpu_count, job.resource) == (True, 2, None)


@pytest.mark.parametrize(("task_id", "read"), [(5, "5"), (1.5, "1.5"), ("", "")])
def test_a_number_becomes_text(task_id: object, read: str) -> None:
    """The original's backend did so, and programs count on it."""
    assert decode_job(offload(task_id=task_id)).task_id == read
    assert decode_job(offload(content=task_id)).content == read


@pytest.mark.parametrize(
    ("args", "why", "task_id"),
    [
        ((), "one string", None),
        (({"task_id": "7"},), "one string", None),
        ((b"{}",), "one string", None),
        (("",), "not JSON", None),
        (("{",), "not JSON", None),
        (("[" * 100_000,), "not JSON", None),
        (("[]",), "not a JSON object", None),
        (("{}",), "task_id is of type NoneType", None),
        (offload(task_id=[]), "task_id is of type list", None),
        (offload(content={"k": 2}), "content is of type dict", "7"),
        (offload(content=None, task_id=5), "content is of type NoneType", "5"),
        (offload(container_reference=None), "container_reference is of type NoneType", "7"),
    ],
)
def test_what_is_no_job_is_told_in_words(args: tuple[Any, ...], why: str, task_id: str | None) -> None:
    """With the task's id where it can be read, so that its program can be told."""
    with pytest.raises(MalformedJob, match=why) as caught:
        decode_job(args)
    assert caught.value.task_id == task_id


# -- answers


@pytest.mark.parametrize(
    ("args", "refused"),
    [((False,), True), ((True,), False), ((), False), (("knn:latest",), False), ((None,), False), ((0,), False)],
)
def test_only_a_literal_false_is_a_refusal(args: tuple[Any, ...], refused: bool) -> None:
    """Older apps sent text, or nothing."""
    assert was_refused(args) is refused


@pytest.mark.parametrize(
    ("args", "error"),
    [
        ((None, "success"), None),
        ((None,), None),
        ((), None),
        (({}, "success"), None),
        (({}, None), "the app gave no reason"),
        (({"message": "no"}, None), '{"message": "no"}'),
    ],
)
def test_an_error_that_arrives_as_an_empty_object_is_one(args: tuple[Any, ...], error: str | None) -> None:
    """A JavaScript Error has no JSON of its own."""
    assert offload_error(args) == error


@pytest.mark.parametrize(
    ("args", "result"),
    [
        ((1, "R", None, "7", "t"), JobResult(1, "R", None, "7", "t")),
        ((0, "", "Time out.", "7", "t"), JobResult(0, "", "Time out.", "7", "t")),
        ((0, "", "No host available.", "7", ""), JobResult(0, "", "No host available.", "7", "")),
        ((1, "R", "Error recording task: x", "7", "t"), JobResult(1, "R", "Error recording task: x", "7", "t")),
        ((1, None, None, 7, None), JobResult(1, "", None, "7", "")),
        ((1, {"a": 1}, {}, "7"), JobResult(1, '{"a": 1}', None, "7", "")),
        ((None, [b"x"], ["no"], "7", 5, "more"), JobResult(0, "[\"b'x'\"]", '["no"]', "7", "5")),
        (("7", "R"), JobResult(1, "R", None, "7", "")),
    ],
)
def test_results_are_read_tolerantly(args: tuple[Any, ...], result: JobResult) -> None:
    """Five arguments; two as of August 2023; what is missing is null."""
    assert read_result(args) == result


@pytest.mark.parametrize(
    "args", [(), (1,), (1, "R", None), (1, "R", None, None, "t"), (1, "R", None, {}, "t"), ([], 1)]
)
def test_what_is_no_result_is_none(args: tuple[Any, ...]) -> None:
    assert read_result(args) is None


# -- failures that claim success


@pytest.mark.parametrize(
    "response",
    [
        "MECA not enough resources",
        "not enough GPU available",
        "meca executor not started",
        "container failed to start in time",
        "resource limit exceeds the maximum",
        "invalid resource limit",
        'Post "http://meca_knn_latest_c1-m0:8080": dial tcp 172.18.0.3:8080: connect: connection refused',
        "Error: Network response was not ok",
        "Error response from daemon: No such image: knn:latest",
        "<!doctype html>\n<html lang=en>\n<title>500 Internal Server Error</title>\n<h1>Internal Server Error</h1>",
        "\n<!DOCTYPE HTML>\n<title>415 Unsupported Media Type</title>",
    ],
)
def test_known_failures_are_found(response: str) -> None:
    """The executor's own texts and the error pages of its containers, all sent as status 1."""
    assert failure_in(response) == response


@pytest.mark.parametrize(
    "response",
    [
        "",
        "[0, 1]",
        '{"error": "Error: in my JSON"}',
        "the MECA not enough resources",
        "<!doctype html><title>My page</title>",
        "<!doctype html><title>5000 ways</title>",
        "POST is a verb",
    ],
)
def test_other_replies_are_replies(response: str) -> None:
    assert failure_in(response) is None


def test_a_long_failure_is_cut() -> None:
    """It is told in an error's text."""
    found = failure_in("Error: " + "x" * 10_000)
    assert found is not None
    assert len(found) == 500
