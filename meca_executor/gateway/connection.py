"""A client's connection, as the server keeps it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio

    from ..wire.tap import Tap
    from .desk import Desk, Visitor
    from .door import Visit
    from .hub import Hub
    from .joined import Joined, Joining
    from .session import Session


@dataclass(eq=False)
class Connection:
    """One Socket.IO connection: unproved at first, then a session's."""

    sid: str
    nonce: str
    tap: Tap  #: frames go through it
    visit: Visit
    key: str = ""
    secret: str = ""  #: that the client proved to have
    asked: bool = False  #: its hello has come
    deadline: asyncio.TimerHandle | None = None
    place: Hub | Desk | Joining | None = None  #: where its session is
    session: Session | Visitor | Joined | None = None
    outgoing: deque[tuple[str, Any]] = field(default_factory=deque)
    sender: asyncio.Task[None] | None = None
    closing: bool = False
    resumed: bool = False  #: the session was there before
    received: int = 0  #: the client's last frame number
