"""The desk: sessions of clients that use kernels. It carries notes, and knows no verb.

As the hub does for tasks: a session outlives its connection, its frames wait while the link is down, and are sent
again from where the client had them. Nothing of it is written into a journal: kernels end with their gateway.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..wire.kernels import Say, pack, unpack
from ..wire.records import Kind, MalformedBatch, decode, encode
from ..wire.stream import Stream
from .session import SessionRefused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..wire.kernels import Note
    from ..wire.records import Record

ACK_S = 0.05  #: an acknowledgement waits no longer than this for a frame to travel with
RESUME_S = 600.0  #: a session whose link is down is kept for so long
BEHIND_BYTES = 8 << 20  #: unacknowledged bytes at which a session gets no more output
MESSAGE_BYTES = 512 << 20  #: that a message may have
BATCH_BYTES = 1 << 20

log = logging.getLogger("meca.gateway")


class Service(Protocol):
    """What answers the notes."""

    def ask(self, visitor: Any, note: Note) -> None:
        """A visitor asks for something."""

    def room(self, visitor: Any) -> None:
        """It has fetched some of what waited for it."""

    def gone(self, visitor: Any) -> None:
        """Its session is over."""

    def keep_owners(self, known: set[str]) -> None:
        """End the kernels of everybody else."""

    @property
    def count(self) -> int:
        """How many kernels there are."""

    async def close(self) -> None:
        """End all kernels."""


@dataclass(eq=False)
class Visitor:
    """One client's session."""

    id: str
    owner: str
    desk: Desk
    key: str = ""  #: the access key with which its client came last
    stream: Stream = field(default_factory=lambda: Stream(MESSAGE_BYTES))
    birth: str = field(default_factory=lambda: secrets.token_hex(8))
    send: Callable[[bytes], None] | None = None  #: None while the link is down
    expiry: asyncio.TimerHandle | None = None
    acknowledging: bool = False
    waiting: deque[Record] = field(default_factory=deque)  #: said in this turn of the loop
    waiting_bytes: int = 0

    @property
    def behind(self) -> bool:
        """As `kernels.service.Visitor`."""
        return self.stream.unacked_bytes + self.waiting_bytes > BEHIND_BYTES

    def tell(self, number: int, say: Say, head: Mapping[str, Any], body: bytes = b"") -> None:
        """As `kernels.service.Visitor`; what is said in one turn of the loop travels together."""
        if not self.waiting:
            self.desk.loop.call_soon(self.desk.flush, self)
        self.waiting.append(pack(number, say, head, body))
        self.waiting_bytes += len(body) + 100


class Desk:
    """All such sessions; make it inside the loop."""

    def __init__(self, service: Service, resume_s: float = RESUME_S) -> None:
        self.sessions: dict[str, Visitor] = {}
        self.loop = asyncio.get_running_loop()
        self._service = service
        self._resume_s = resume_s

    durable = False

    def attach(
        self,
        session_id: str,
        owner: str,
        cap: int,
        tasks_per_worker: int | None,
        birth: str = "",
        claim: object = None,
    ) -> tuple[Visitor, bool]:
        """As `Hub.attach`; sessions of kernels have no names, because kernels have."""
        if claim is not None:
            raise SessionRefused("a session of kernels has no name; its kernels have tokens")
        visitor = self.sessions.get(session_id)
        if visitor is not None and visitor.owner != owner:
            raise SessionRefused(f"session {session_id!r} belongs to another access key")
        if visitor is not None and visitor.birth != birth:
            self.end(visitor)
            visitor = None
        resumed = visitor is not None
        if visitor is None:
            visitor = self.sessions[session_id] = Visitor(session_id, owner, self)
        if visitor.expiry is not None:
            visitor.expiry.cancel()
            visitor.expiry = None
        return visitor, resumed

    def when_kept(self, visitor: Visitor, then: Callable[[], object]) -> None:
        """As `Hub.when_kept`; nothing is kept, so at once."""
        then()

    def connect(self, visitor: Visitor, send: Callable[[bytes], None], received: int) -> None:
        """As `Hub.connect`."""
        visitor.send = send
        for frame in visitor.stream.replay(received):
            send(frame)
        self._service.room(visitor)

    def detach(self, visitor: Visitor, send: Callable[[bytes], None]) -> None:
        """As `Hub.detach`."""
        if visitor.send in (send, None) and self.sessions.get(visitor.id) is visitor:
            visitor.send = None
            if visitor.expiry is None:
                visitor.expiry = self.loop.call_later(self._resume_s, self.end, visitor)

    def end(self, visitor: Visitor) -> None:
        """Forget a session; its temporary kernels end."""
        if self.sessions.get(visitor.id) is not visitor:
            return
        del self.sessions[visitor.id]
        visitor.send = None
        if visitor.expiry is not None:
            visitor.expiry.cancel()
        self._service.gone(visitor)

    def on_frame(self, visitor: Visitor, frame: bytes) -> None:
        """Take a frame in.

        Raises:
            ValueError: Garbage; drop the connection.
        """
        if self.sessions.get(visitor.id) is not visitor:
            return
        was_behind = visitor.behind
        message = visitor.stream.receive(frame)
        if message is not None:
            if message.kind is not Kind.KERNEL:
                raise MalformedBatch(f"{message.kind.name} in a session of kernels")
            for record in decode(message.body):
                note = unpack(record)
                if note.head.get("do") == "bye":
                    self.end(visitor)
                    return
                self._service.ask(visitor, note)
        if was_behind and not visitor.behind:
            self._service.room(visitor)
        if visitor.stream.ack_due:
            self._transmit(visitor, visitor.stream.acknowledge())
        elif visitor.stream.ack_owed and not visitor.acknowledging:
            visitor.acknowledging = True
            self.loop.call_later(ACK_S, self._acknowledge, visitor)

    def _acknowledge(self, visitor: Visitor) -> None:
        visitor.acknowledging = False
        if visitor.stream.ack_owed:
            self._transmit(visitor, visitor.stream.acknowledge())

    def flush(self, visitor: Visitor) -> None:
        """Send what was said in this turn of the loop."""
        was_behind = visitor.behind
        while visitor.waiting:
            size, records = 0, []
            while visitor.waiting and size < BATCH_BYTES:
                records.append(visitor.waiting.popleft())
                size += len(records[-1][3])
            for frame in visitor.stream.send(Kind.KERNEL, encode(records)):
                self._transmit(visitor, frame)
        visitor.waiting_bytes = 0
        if was_behind and not visitor.behind:
            self._service.room(visitor)

    def _transmit(self, visitor: Visitor, frame: bytes) -> None:
        if visitor.send is not None:
            visitor.send(frame)

    def revoked(self, known: Iterable[str]) -> None:
        """Only these access keys may still have kernels."""
        self._service.keep_owners(set(known))

    async def close(self) -> None:
        """End all sessions and kernels."""
        for visitor in list(self.sessions.values()):
            self.end(visitor)
        await self._service.close()

    @property
    def quiet(self) -> bool:
        """Whether there is neither a session nor a kernel."""
        return not self.sessions and self._service.count == 0
