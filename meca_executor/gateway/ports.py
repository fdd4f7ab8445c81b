"""What the gateway needs of a runtime; `runtimes/` fits these shapes without importing them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ..wire.hosting import Offer
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


class HostCalls(Protocol):
    """The container calls of one host that joined."""

    @property
    def running(self) -> int:
        """How many it has."""

    def lost(self, why: str) -> None:
        """The host is gone, and why: they fail so that they may be made again elsewhere."""


class ContainerPlaces(Protocol):
    """The machines that containers run on."""

    def join(self, host: Any, offer: Offer, calls: Any) -> None:
        """Take a host into service, a `BrokerHost` with its `HostCalls`."""

    def leave(self, number: int) -> None:
        """It is gone."""

    def look(self) -> None:
        """Something about one has changed."""

    def running(self, number: int) -> Sequence[ContainerCall]:
        """Return the calls that a machine has, by the number of its `BrokerHost`."""

    def has_engine(self, number: int) -> bool:
        """Return whether a machine has an engine."""


class ContainerCall(Protocol):
    """A container call that is under way."""

    @property
    def task(self) -> int: ...
    @property
    def owner(self) -> str: ...
    @property
    def ref(self) -> str: ...
    @property
    def since(self) -> float: ...


class RemoteHost(Protocol):
    """The workers of one host that joined."""

    def on_message(self, message: bytes) -> None:
        """Take in what the host says; a `ValueError` for garbage."""

    def away(self, away: bool) -> None:
        """Say whether its link is down."""

    def let_leave(self) -> None:
        """Tell it that it may leave."""

    @property
    def calls(self) -> HostCalls:
        """Its container calls."""


class HostFleet(Protocol):
    """The workers of all hosts."""

    def add(
        self,
        host: int,
        name: str,
        send: Callable[[bytes], object],
        on_leave: Callable[[bool], object],
        may_read: Callable[[int], bool],
    ) -> RemoteHost:
        """Return the workers of a host that joined.

        Args:
            host: Its number.
            name: What it is called.
            send: Takes a message for it.
            on_leave: Called when it wants to leave: with True when its calls are done, with False at once.
            may_read: Whether what lies in the memory of a process may be sent to it.
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
        task: int = 0,
    ) -> bytes:
        """Return a container's reply; no other owner's calls have been in the same one of an engine.

        What it writes meanwhile, and when it was started for this call before that, goes to `written`, some of it
        perhaps a moment after the reply; an app's is ended with the call, and of others the caller waits a moment.
        `task` is the number by which the caller's user knows the call, for `running`.

        Raises:
            NoHostFits: No such container here, no such runtime, or not enough of a resource.
            ContainerFailed: It is not to be had, did not become ready, or ended.
            TaskFailed: It refused the request.
            TaskTimeout: The request took longer than `timeout` seconds.
        """

    def why_never(self, ref: str, runtime: str | None, resource: Mapping[str, float], owner: str) -> str | None:
        """Return why no machine that there is can ever make such a call; None when one can, or has words of its own."""

    def slots(self, owner: str) -> int:
        """Return how many calls an owner may have at once, as things are now."""

    changed: Callable[[], object]  #: called when that may be another number

    def add(self, ref: str, folder: str) -> None:
        """Learn where a container's folder is.

        Raises:
            UsageError: It is no such folder.
        """

    async def close(self) -> None:
        """End all containers and wait until they are gone."""
