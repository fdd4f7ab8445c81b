"""How tasks run: the options of an executor, of a view on it, or of one task."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UsageError
from ..policy.retry import RetryPolicy
from .container import checked_ref, checked_resource, checked_runtime

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

    def changed(
        self,
        *,
        timeout: Any = UNSET,
        retry: Any = UNSET,
        resource: Any = UNSET,
        container_ref: Any = UNSET,
        runtime: Any = UNSET,
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
