"""How tasks run: the options of an executor, of a view on it, or of one task."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..policy.retry import RetryPolicy
from ..settings import PREFIXES
from ..wire.surroundings import Surrounded
from .container import checked_ref, checked_resource, checked_runtime

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.surroundings import Variables

TIMEOUT_MOST = 1e9  #: seconds; thirty years and more are no limit
UNSET: Any = object()  #: an option that is not given, where None means something


@dataclass(frozen=True)
class TaskOptions:
    """Checked options; equal ones share an options id on the link."""

    timeout: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    resource: tuple[tuple[str, float], ...] = ()
    container_ref: str | None = None
    runtime: str | None = None
    called: bool = False  #: the task is the container's own call: its input is in the payload
    env: Variables = ()  #: that a view sets around its calls
    cwd: str | None = None  #: in which calls run

    def changed(
        self,
        *,
        timeout: Any = UNSET,
        retry: Any = UNSET,
        resource: Any = UNSET,
        container_ref: Any = UNSET,
        runtime: Any = UNSET,
        env: Any = UNSET,
        cwd: Any = UNSET,
    ) -> TaskOptions:
        """Return these options with those given checked and put in.

        Raises:
            UsageError: A value is wrong.
        """
        given: dict[str, Any] = {}
        if timeout is not UNSET:
            given["timeout"] = checked_timeout(timeout)
        if retry is not UNSET:
            given["retry"] = RetryPolicy.of(retry)
        if resource is not UNSET:
            given["resource"] = tuple(sorted(checked_resource(resource).items()))
        if container_ref is not UNSET:
            given["container_ref"] = None if container_ref is None else checked_ref(container_ref)
        if runtime is not UNSET:
            given["runtime"] = checked_runtime(runtime)
        if env is not UNSET:
            given["env"] = () if env is None else tuple({**dict(self.env), **checked_env(env)}.items())
        if cwd is not UNSET:
            given["cwd"] = checked_cwd(cwd)
        return replace(self, **given) if given else self

    def calling(self, container_ref: str, resource: dict[str, float], runtime: str | None) -> TaskOptions:
        """Return these options for a call of a container, whose own resource and runtime count first."""
        return replace(
            self,
            container_ref=container_ref,
            resource=tuple(sorted(resource.items())) or self.resource,
            runtime=runtime or self.runtime,
            called=True,
        )

    @property
    def surrounds(self) -> bool:
        """Whether something is set around calls."""
        return bool(self.env) or self.cwd is not None

    def around(self, fn: Callable[..., Any], env: Variables = ()) -> Callable[..., Any]:
        """Return the function with what is set around its calls; `env` comes first, where no worker has it anyway."""
        env = (*env, *self.env)
        return Surrounded(fn, env, self.cwd) if env or self.cwd is not None else fn

    def wire(self) -> bytes:
        """Return what the gateway has to know, as JSON."""
        fields: dict[str, Any] = {"timeout": self.timeout, "resource": dict(self.resource), "runtime": self.runtime}
        fields["attempts"] = self.retry.attempts if self.retry.stop is None else None
        if self.called:
            fields["container_ref"] = self.container_ref
        return json.dumps({name: value for name, value in fields.items() if value}).encode()


def checked_timeout(timeout: object) -> float | None:
    """Return a timeout in seconds.

    Raises:
        UsageError: It is not None or a positive number.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise UsageError(f"timeout {timeout!r} is not a positive number of seconds, or None for no limit")
    return None if timeout > TIMEOUT_MOST else float(timeout)


def checked_env(env: object) -> dict[str, str]:
    """Return environment variables.

    Raises:
        UsageError: It is no mapping of names to texts, or a name is one of ours.
    """
    if not isinstance(env, Mapping):
        raise UsageError(f"env {env!r} is not a mapping of names to texts such as {{'OMP_NUM_THREADS': '1'}}")
    for name, value in env.items():  # values may be secret, and are not told
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise UsageError(f"env {name!r} is not a variable's name")
        if not isinstance(value, str) or "\0" in value:
            kind = "has a zero byte in it" if isinstance(value, str) else f"is {type(value).__name__}, not text"
            raise UsageError(f"env {name}: its value {kind}; give a str")
        if name.startswith(PREFIXES):
            raise UsageError(f"env {name}: the settings of this package ({', '.join(PREFIXES)}...) are not for tasks")
    return dict(env)


def checked_cwd(cwd: object) -> str | None:
    """Return a folder's path.

    Raises:
        UsageError: It is not a path.
    """
    if cwd is None:
        return None
    path = os.fspath(cwd) if isinstance(cwd, (str, os.PathLike)) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise UsageError(f"cwd {cwd!r} is not the path of a folder where tasks run")
    return path
