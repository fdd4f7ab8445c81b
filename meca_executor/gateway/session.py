"""A client's session, as long as the gateway keeps it."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import MecaError
from ..settings import MESSAGE_LIMIT
from ..wire.blobs import Arriving, mentioned
from ..wire.records import MalformedBatch, Release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..wire.payloads import Held
    from ..wire.stream import Stream
    from .tasks import Options


@dataclass(eq=False)
class Session:
    """One client's session."""

    id: str
    owner: str  #: whom it belongs to
    cap: int
    tasks_per_worker: int | None
    stream: Stream
    birth: str = field(default_factory=lambda: secrets.token_hex(8))  #: one made again under the same name has another
    key: str = ""  #: the access key with which its client came last
    send: Callable[[bytes], None] | None = None  #: to the connection; None while the link is down
    opened: bool = False  #: its setup has come
    paused: bool = False
    acknowledging: bool = False  #: will, soon
    expiry: asyncio.TimerHandle | None = None
    refused: dict[int, bytes] = field(default_factory=dict)  #: options id -> why such a task can never run here
    containers: dict[int, Options] = field(default_factory=dict)  #: options ids of container calls
    calls: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    shares: bool = False  #: the client reads our memory, and we its
    arriving: Arriving = field(default_factory=lambda: Arriving(MESSAGE_LIMIT, shared=True))
    arrived: dict[int, bytes] = field(default_factory=dict)  #: blobs, until the client has them forgotten
    blobs: Iterator[int] = field(default_factory=lambda: itertools.count(1))  #: numbers for those that it is sent
    shared: dict[bytes, Held] = field(default_factory=dict)  #: results in shared memory that the client has not mapped
    lent: dict[bytes, Held] = field(default_factory=dict)  #: those that it has mapped

    @property
    def unfetched(self) -> int:
        """Bytes of results that the client has not taken."""
        shared = sum(held.segment.size for held in self.shared.values() if held.segment is not None)
        return self.stream.unacked_bytes + shared

    def meant(self, payload: bytes) -> bytes:
        """Return a payload, or the blob that it mentions.

        Raises:
            MalformedBatch: There is no such blob.
        """
        if (number := mentioned(payload)) is None:
            return payload
        if (blob := self.arrived.get(number)) is None:
            raise MalformedBatch(f"blob {number} was never sent")
        return blob

    def released(self, what: int, reference: bytes) -> Held | None:
        """The client has mapped a result in shared memory, or is done with it: returns what may be used again."""
        if (held := self.shared.pop(reference, None)) is not None and held.segment is not None:
            held.segment.close()
            self.lent[reference] = held
        return self.lent.pop(reference, None) if what == Release.FREED else None


class SessionRefused(MecaError):
    """The session that a client asked for is not its own."""
