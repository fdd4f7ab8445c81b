"""What a kernel's user asks for, checked before anything is sent; and replies in the words of the user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..wire.kernels import checked_token
from .checks import check_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MODES = ("query", "batch", "input", "continue")


def kernel_request(
    lang: str,
    token: str | None,
    mounts: Iterable[str] | None,
    max_mem: int,
    exec_timeout: int,
    envs: Mapping[str, str] | None,
    limits: Mapping[str, float | None] | None,
    isolate: bool,
    connect_timeout: float,
    resume_window: float,
) -> dict[str, Any]:
    """Return what is asked of a gateway, given the arguments of `Kernel.get_or_create`.

    Raises:
        UsageError: An argument is wrong.
    """
    if not isinstance(lang, str) or not 0 < len(lang) <= 80:
        raise UsageError(f"lang {str(lang)[:80]!r} is not a language's name (see: meca kernels)")
    if mounts:
        raise UsageError(f"mounts {list(mounts)!r}: there are no virtual folders here; use upload()")
    if token is not None:
        checked_token(token)
    wanted: dict[str, float | None] = dict(limits or {})
    for name, value, key, unit in (
        ("max_mem", max_mem, "memory_mib", 1024),
        ("exec_timeout", exec_timeout, "timeout_s", 1000),
    ):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise UsageError(f"{name} {value!r} is not a number of 0 or more")
        if value:
            wanted.setdefault(key, value / unit)
    for name, text in (envs or {}).items():
        if not isinstance(name, str) or not isinstance(text, str) or not name or "=" in name or "\0" in name + text:
            raise UsageError(f"envs: {name!r}={text!r} is no environment variable")
    check_seconds("connect_timeout", connect_timeout)
    check_seconds("resume_window", resume_window)
    if not isinstance(isolate, bool):
        raise UsageError(f"isolate {isolate!r} is not True or False")
    request = {"lang": lang, "token": token, "env": dict(envs or {}), "limits": wanted}
    return {**request, "isolate": True} if isolate else request


def check_execute(code: object, mode: str, keep: bool = False, token: str | None = None) -> None:
    """Check the arguments of `execute`.

    Raises:
        UsageError: One is wrong.
    """
    if mode not in MODES:
        raise UsageError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    if code is None and mode in ("query", "input"):
        raise UsageError(f"mode {mode!r} needs code, a str")
    if code is not None and not isinstance(code, str):
        raise UsageError(f"code must be a str, not {type(code).__name__}")
    if code and mode in ("batch", "continue"):
        raise UsageError(f"mode {mode!r} takes no code; upload files for 'batch'")
    if keep and (token is None or mode in ("input", "continue")):
        raise UsageError("keep=True is for a run of a kernel that is kept; make it with a client_token")


def check_attach(after: object, wait: object) -> None:
    """Check the arguments of `attach`.

    Raises:
        UsageError: One is wrong.
    """
    if isinstance(after, bool) or not isinstance(after, int) or after < 0:
        raise UsageError(f"after {after!r} is not a whole number of 0 or more (a result's position)")
    if wait is not None:
        check_seconds("wait", wait)


def listed(files: list[list[Any]]) -> list[dict[str, Any]]:
    """Return the files of a reply by name."""
    return [dict(zip(("path", "size", "modified"), file, strict=True)) for file in files]


def as_log(parts: list[list[str]]) -> str:
    """Return a log as text; what was run stands after `>>> `."""
    shown = []
    for stream, text in parts:
        if stream == "in":
            shown += [f">>> {line}\n" for line in text.splitlines()[1:]]
        else:
            shown.append(text)
    return "".join(shown)
