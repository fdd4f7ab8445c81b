"""Keepers: what a gateway writes down before it does or tells something.

Without a journal that is nothing. With one, a client's message is acknowledged, a result told, and a call begun when
that is on disk, and not before; so no end of the gateway loses a call, or has it made more often than it may be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..settings import MESSAGE_LIMIT
from ..wire.stream import Stream
from .shelf import FETCHED_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.records import Kind
    from ..wire.stream import Message
    from .session import Session


MESSAGE_MOST = MESSAGE_LIMIT + (16 << 20)  #: with small ones that travel beside a large one


class Keeper(Protocol):
    """What the hub tells of."""

    @property
    def durable(self) -> bool:
        """Whether sessions outlive the gateway."""

    @property
    def full(self) -> bytes | None:
        """Why no more tasks are taken; None as long as they are."""

    def stream(self) -> Stream:
        """Return a new session's stream."""

    def opened(self, session: Session, then: Callable[[], object]) -> None:
        """A session begins; its client may be told so by `then`."""

    def taken(self, session: Session, message: Message | None) -> None:
        """A message of the client has come, and is acted on next; None: it was refused."""

    def started(self, session: Session, calls: bytes) -> None:
        """Calls are to begin."""

    def then(self, go: Callable[[], object]) -> None:
        """Do something that must not come before what was told until now is kept; in order."""

    def report(self, session: Session, kind: Kind, batch: bytes, transmit: Callable[[bytes], object]) -> int:
        """Outcomes are to be told, by `transmit` frame by frame; returns the number of their entry, 0 for none."""

    def told(self, session: Session) -> int | None:
        """The last frame that may be told; None when all may."""

    def acknowledged(self, session: Session) -> None:
        """The client has had frames."""

    def ended(self, session: Session) -> None:
        """A session is over."""

    # Of sessions that have a name:

    @property
    def fetched_bytes(self) -> int:
        """How much of outcomes that were fetched before may be kept."""

    def shelve(self, session: Session, batch: bytes) -> int:
        """Outcomes are to be told to nobody yet; returns the number of their entry, 0 for none."""

    def claimed(self, session: Session) -> None:
        """Another client has the session, or none; nothing is on the way any more."""

    def forgotten(self, session: Session, number: int) -> None:
        """No call mentions an object any more."""

    def attempted(self, session: Session, task: int, attempts: int) -> None:
        """A task had so many attempts and is made once more."""

    def read(self, session: Session, row: int, then: Callable[[bytes], object]) -> None:
        """Tell `then` what outcomes an entry has."""

    def released(self, session: Session, row: int, gone: list[int]) -> None:
        """An entry is not needed any more; these tasks it has to go on to name as done."""

    async def close(self) -> None:
        """Write what is left; nothing that comes later."""


class Volatile:
    """Keeps nothing: what the gateway knows ends with it."""

    durable = False
    full = None
    fetched_bytes = FETCHED_BYTES

    def stream(self) -> Stream:
        """Return a new session's stream."""
        return Stream(MESSAGE_MOST)

    def opened(self, session: Session, then: Callable[[], object]) -> None:
        """As `Keeper`."""
        then()

    def taken(self, session: Session, message: Message | None) -> None:
        """As `Keeper`."""

    def started(self, session: Session, calls: bytes) -> None:
        """As `Keeper`."""

    def then(self, go: Callable[[], object]) -> None:
        """As `Keeper`."""
        go()

    def report(self, session: Session, kind: Kind, batch: bytes, transmit: Callable[[bytes], object]) -> int:
        """As `Keeper`."""
        for frame in session.stream.send(kind, batch):
            transmit(frame)
        return 0

    def told(self, session: Session) -> int | None:
        """As `Keeper`."""
        return None

    def acknowledged(self, session: Session) -> None:
        """As `Keeper`."""

    def ended(self, session: Session) -> None:
        """As `Keeper`."""

    def shelve(self, session: Session, batch: bytes) -> int:
        """As `Keeper`."""
        return 0

    def claimed(self, session: Session) -> None:
        """As `Keeper`."""

    def forgotten(self, session: Session, number: int) -> None:
        """As `Keeper`."""

    def attempted(self, session: Session, task: int, attempts: int) -> None:
        """As `Keeper`."""

    def read(self, session: Session, row: int, then: Callable[[bytes], object]) -> None:
        """As `Keeper`; it has no entries."""
        raise KeyError(f"there is no entry {row}")

    def released(self, session: Session, row: int, gone: list[int]) -> None:
        """As `Keeper`."""

    async def close(self) -> None:
        """As `Keeper`."""


def limits() -> dict[str, int]:
    """Return what a client may send and have out."""
    return {"message": MESSAGE_LIMIT, "window": 16_384, "window_bytes": 256 << 20}
