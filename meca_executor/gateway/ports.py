"""What the gateway needs of a runtime; `runtimes/` fits these shapes without importing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..wire.printed import Log
    from ..wire.records import Kind, Outcomes, Status


class WorkerEvents(Protocol):
    """Whom a worker runtime tells what happens."""

    def on_outcomes(self, worker: int, outcomes: Outcomes) -> None:
        """What became of calls."""

    def on_setup_failed(self, worker: int, text: str) -> None:
        """The initializer raised; the text is its traceback."""

    def on_printed(self, worker: int, stream: Status, text: bytes) -> None:
        """A worker's process wrote to its stdout or stderr: whole lines, or all there is when a task ended."""

    def on_look(self, worker: int, started: int, since: float) -> None:
        """What a worker is running: the ordinal `started - 1`, since then (monotonic seconds)."""

    def on_end(self, worker: int, started: int, how: str) -> None:
        """A worker is gone, and its children with it; everything it had sent was reported before."""


class WorkerRuntime(Protocol):
    """Processes that run calls."""

    def spawn(self, worker: int, host: int) -> None:
        """Start a worker under this number on a host (0 is this machine); a failure to start is its end."""

    def send(self, worker: int, kind: Kind, batch: bytes) -> None:
        """Write a message to it; a worker that is gone is ignored."""

    def revoke(self, worker: int, start: int, stop: int) -> None:
        """Tell it to leave ordinals start .. stop - 1 alone."""

    def stop(self, worker: int) -> None:
        """Let it end after what it has been sent; it is killed if it takes long."""

    def kill(self, worker: int) -> None:
        """End it and its children now."""

    def look(self) -> None:
        """Report of every worker what it is running (`on_look`) and results it holds back."""

    async def close(self) -> None:
        """End all workers and wait until they are gone."""


class RemoteHost(Protocol):
    """The workers of one host that joined."""

    def on_message(self, message: bytes) -> None:
        """Take in what the host says; a `ValueError` for garbage."""

    def away(self, away: bool) -> None:
        """Say whether its link is down."""

    def let_leave(self) -> None:
        """Tell it that it may leave."""


class HostFleet(Protocol):
    """The workers of all hosts."""

    def add(
        self, host: int, name: str, send: Callable[[bytes], object], on_leave: Callable[[bool], object]
    ) -> RemoteHost:
        """Return the workers of a host that joined.

        Args:
            host: Its number.
            name: What it is called.
            send: Takes a message for it.
            on_leave: Called when it wants to leave: with True when its calls are done, with False at once.
        """

    def remove(self, host: int) -> None:
        """A host is gone; nothing more is told to its workers, or of them."""


class ContainerRuntime(Protocol):
    """Containers that answer requests."""

    async def call(
        self,
        ref: str,
        content: bytes,
        *,
        timeout: float | None = None,
        runtime: str | None = None,
        resource: Mapping[str, float] | None = None,
        owner: str = "",
        written: Log | None = None,
    ) -> bytes:
        """Return a container's reply; no other owner's calls have been in the same one of an engine.

        What it writes meanwhile, and when it was started for this call before that, goes to `written`, some of it
        perhaps a moment after the reply; an app's is ended with the call, and of others the caller waits a moment.

        Raises:
            NoHostFits: No such container here, no such runtime, or not enough of a resource.
            ContainerFailed: It is not to be had, did not become ready, or ended.
            TaskFailed: It refused the request.
            TaskTimeout: The request took longer than `timeout` seconds.
        """

    def add(self, ref: str, folder: str) -> None:
        """Learn where a container's folder is.

        Raises:
            UsageError: It is no such folder.
        """

    async def close(self) -> None:
        """End all containers and wait until they are gone."""
