"""The old dialect: what the MECAnywhere desktop app and its SDK say to each other.

Socket.IO on `/`, JSON only. A client sends `offload` with one string, the JSON text of a job; the app
answers `offloaded` (which names no job) and later `job_results_received`. Facts: the desktop app at its
commit 60589c5, `src/main/main.ts` and `sdk/py/meca_api.py`.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

NAMESPACE = "/"
REGISTERED, OFFLOAD, OFFLOADED, RESULT = "registered", "offload", "offloaded", "job_results_received"
MAX_PAYLOAD = 1_000_000  #: bytes of a message, where the app's handshake does not say
BACKEND_LIMIT_S = 630.0  #: its backend gives a task up after 600 s, and tells nobody in some cases

#: How the original executor says that a task failed, in a reply that claims success.
_FAILURES = (
    "MECA not enough resources",
    "not enough GPU available",
    "meca executor not started",
    "container failed to start in time",
    "resource limit exceeds the maximum",
    "invalid resource limit",
    "Error: ",
    'Post "http://meca_',
)
_ERROR_PAGE = re.compile(r"\s*<!doctype html>.{0,400}?<title>[45]\d\d ", re.IGNORECASE | re.DOTALL)


class Job(NamedTuple):
    """What a client wants run."""

    task_id: str
    container_ref: str
    content: str
    resource: dict[str, float] | None = None
    runtime: str | None = None
    use_gpu: bool = False
    gpu_count: int = 0


class JobResult(NamedTuple):
    """What became of a job."""

    status: int  #: 1: a host replied; 0: it failed
    response: str
    error: str | None
    task_id: str
    transaction_id: str


class MalformedJob(ValueError):
    """An `offload` that is not one JSON object with the keys of a job."""


def compact(value: Any) -> str:
    """Return JSON text that costs few bytes: no spaces, no escapes for letters beyond ASCII."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def encode_job(job: Job) -> str:
    """Return the one string of `offload`. It ends in `}`: the app puts a key in before that."""
    fields: dict[str, Any] = {
        "task_id": job.task_id,
        "container_reference": job.container_ref,
        "content": job.content,
    }
    if job.resource:
        fields["resource"] = {
            name: int(value) if value == int(value) else value for name, value in job.resource.items()
        }
    if job.runtime:
        fields["runtime"] = job.runtime
    if job.use_gpu:
        fields["use_gpu"], fields["gpu_count"] = True, job.gpu_count
    return compact(fields)


def message_bytes(text: str) -> int:
    """Return how long the websocket message of an `offload` is; quotes in the text are escaped once more."""
    return len(f"42{compact([OFFLOAD, text])}".encode("utf-8", "surrogatepass"))


def decode_job(args: tuple[Any, ...]) -> Job:
    """Return the job of an `offload`.

    Raises:
        MalformedJob: It is none; the text says what is wrong.
    """
    if not args or not isinstance(args[0], str):
        raise MalformedJob("offload takes one string, the JSON text of the job")
    try:
        fields = json.loads(args[0])
    except ValueError as error:
        raise MalformedJob(f"the job is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise MalformedJob("the job is not a JSON object")
    for name in ("task_id", "container_reference", "content"):
        if not isinstance(fields.get(name), str):
            raise MalformedJob(f"the job's {name} is {fields.get(name)!r}, not a string")
    resource, runtime, count = fields.get("resource"), fields.get("runtime"), fields.get("gpu_count", 0)
    return Job(
        fields["task_id"],
        fields["container_reference"],
        fields["content"],
        resource if isinstance(resource, dict) else None,
        runtime if isinstance(runtime, str) else None,
        bool(fields.get("use_gpu", False)),
        count if isinstance(count, int) else 0,
    )


def was_refused(args: tuple[Any, ...]) -> bool:
    """Whether a `registered` says no: only a literal false does; older apps send text, or nothing."""
    return bool(args) and args[0] is False


def offload_error(args: tuple[Any, ...]) -> str | None:
    """Return why an `offloaded` is a failure, or None for success.

    The app's error object arrives as `{}`, so what counts is whether there is one, and the result.
    """
    error = args[0] if args else None
    result = args[1] if len(args) > 1 else None
    if error is None or result == "success":
        return None
    return json.dumps(error) if error else "the app gave no reason"


def read_result(args: tuple[Any, ...]) -> JobResult | None:
    """Return a result; None for what is none. Missing values are filled, other types made text."""
    if len(args) == 2:  # (task id, result), as apps of August 2023 sent it
        args = (1, args[1], None, args[0], "")
    if len(args) < 4 or not isinstance(args[3], (str, int)):
        return None
    status, response, error, task_id, transaction = (*args, "")[:5]
    text = response if isinstance(response, str) else "" if response is None else json.dumps(response)
    told = error if isinstance(error, str) or error is None else json.dumps(error)
    return JobResult(1 if status == 1 else 0, text, told, str(task_id), str(transaction or ""))


def failure_in(response: str) -> str | None:
    """Return the failure that a reply of status 1 really is, or None: the host's own texts, or an error page."""
    if response.startswith(_FAILURES) or _ERROR_PAGE.match(response):
        return response[:500]
    return None
