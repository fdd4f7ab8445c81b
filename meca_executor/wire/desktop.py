"""The old dialect: what the MECAnywhere desktop app and its SDK say to each other.

Socket.IO on `/`, JSON only. A client sends `offload` with one string, the JSON text of a job; the app
answers `offloaded` (which names no job) and later `job_results_received`. Facts: the desktop app at its
commit 60589c5, `src/main/main.ts` and `sdk/py/meca_api.py`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple

from ..settings import why_no_ref, why_no_task_id

NAMESPACE = "/"
REGISTERED, OFFLOAD, OFFLOADED, RESULT = "registered", "offload", "offloaded", "job_results_received"
MAX_PAYLOAD = 1_000_000  #: bytes of a message, where the app's handshake does not say
ENDLESS = 1e15  #: of a resource: more than any host has
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
    "Error response from daemon: ",
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

    task_id: str | None = None  #: where at least that could be read


def compact(value: Any) -> str:
    """Return JSON text that costs few bytes: no spaces, no escapes for letters beyond ASCII."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def encode_job(job: Job) -> str:
    """Return the one string of `offload`. It ends in `}`: the app puts a key in before that.

    Resources are rounded up to whole numbers, and 0 is left out: the app's backend drops a job with others
    without a word.
    """
    fields: dict[str, Any] = {
        "task_id": job.task_id,
        "container_reference": job.container_ref,
        "content": job.content,
    }
    if resource := {name: math.ceil(value) for name, value in (job.resource or {}).items() if value}:
        fields["resource"] = resource
    if job.runtime:
        fields["runtime"] = job.runtime
    if job.use_gpu:
        fields["use_gpu"], fields["gpu_count"] = True, job.gpu_count
    return compact(fields)


def message_bytes(text: str) -> int:
    """Return how long the websocket message of an `offload` is; quotes in the text are escaped once more.

    Raises:
        UnicodeEncodeError: The text has half a surrogate pair in it, which no websocket can carry.
    """
    return len(f"42{compact([OFFLOAD, text])}".encode())


def decode_job(args: tuple[Any, ...]) -> Job:
    """Return the job of an `offload`; its resources are `cpu` (cores) and `memory` (MiB).

    Raises:
        MalformedJob: It is none; the text says what is wrong.
    """
    if not args or not isinstance(args[0], str):
        raise MalformedJob("offload takes one string, the JSON text of the job")
    try:
        fields = json.loads(args[0])
    except (ValueError, RecursionError) as error:
        raise MalformedJob(f"the job is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise MalformedJob("the job is not a JSON object")
    try:
        task_id, ref, content = (_text_of(fields, name) for name in ("task_id", "container_reference", "content"))
    except MalformedJob as error:
        error.task_id = _as_text(fields.get("task_id"))
        raise
    if (why := why_no_task_id(task_id)) is not None:
        raise MalformedJob(why)
    if (why := why_no_ref(ref)) is not None:
        refusal = MalformedJob(why)
        refusal.task_id = task_id
        raise refusal
    resource, runtime = fields.get("resource"), fields.get("runtime")
    given = resource if isinstance(resource, dict) else {}
    count = fields.get("gpu_count") or given.get("gpu_count") or 0
    return Job(
        task_id,
        ref,
        content,
        _needs(given),
        runtime if isinstance(runtime, str) else None,
        bool(fields.get("use_gpu") or given.get("use_gpu")),
        count if isinstance(count, int) else 0,
    )


def _text_of(fields: dict[str, Any], name: str) -> str:
    text = _as_text(value := fields.get(name))
    if text is None:
        raise MalformedJob(f"the job's {name} is of type {type(value).__name__}, not a string")
    return text


def _as_text(value: object) -> str | None:
    """Return text; numbers become text, as the original's backend made it of them."""
    return value if isinstance(value, str) else str(value) if isinstance(value, (int, float)) else None


def _needs(resource: dict[str, Any]) -> dict[str, float] | None:
    """Return the numbers among the resources that there are; `mem` is `memory`. Others were ignored there, too."""
    spelt = {"cpu": "cpu", "mem": "memory", "memory": "memory"}
    numbers = {spelt[key]: value for key, value in resource.items() if key in spelt and isinstance(value, (int, float))}
    return {name: float(max(-ENDLESS, min(value, ENDLESS))) for name, value in numbers.items()} or None


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
    text = "" if response is None else _told(response)
    why = _told(error) if error else None
    return JobResult(1 if status == 1 else 0, text, why, str(task_id), str(transaction or ""))


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=repr)


def failure_in(response: str) -> str | None:
    """Return the failure that a reply of status 1 really is, or None: the host's own texts, or an error page."""
    if response.startswith(_FAILURES) or _ERROR_PAGE.match(response):
        return response[:500]
    return None
