"""What connected programs ask of the gateway beside their calls, and what all of them are told: about its hosts.

Short questions and answers are events of their own. They belong to a connection: who has lost it asks again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from ..wire import proof
from .census import census
from .session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .broker import Broker
    from .connection import Connection
    from .joined import Joining

TOGETHER_S = 0.1  #: changes that come within this time are told once

log = logging.getLogger("meca.gateway")


class Answers:
    """Answers the programs of one server.

    Args:
        broker: Knows the hosts.
        joining: The hosts that joined.
        connections: All connections, by their ids.
        send: Sends an event on one of them.
        facts: What a program is told again when the hosts change; given its owner and the workers that it asked for.
    """

    def __init__(
        self,
        broker: Broker,
        joining: Joining,
        connections: Mapping[str, Connection],
        send: Callable[[Connection, str, Any], object],
        facts: Callable[[str, int], dict[str, Any]],
    ) -> None:
        self._broker = broker
        self._joining = joining
        self._connections = connections
        self._send = send
        self._facts = facts
        self._telling: asyncio.TimerHandle | None = None
        joining.changed = self._changed

    async def on_ask(self, sid: str, asked: object = None) -> None:
        """A program asks something."""
        connection = self._connections.get(sid)
        if connection is None or connection.closing or not isinstance(connection.session, Session):
            return  # it has not proved itself, or uses kernels only
        if not isinstance(asked, dict) or type(asked.get("number")) is not int:
            return
        self._send(connection, proof.TOLD, {"number": asked["number"], **self._answer(connection.session, asked)})

    def _answer(self, session: Session, asked: dict[str, Any]) -> dict[str, Any]:
        if asked.get("what") == "hosts":
            return {"hosts": census(self._broker, self._joining.places, session.owner, time.monotonic())}
        if asked.get("what") == "drain":
            name = asked.get("host")
            for joined in self._joining.sessions.values():
                if (joined.owner, joined.host.name) == (session.owner, name):
                    self._joining.drain(joined)
                    return {"drains": name}
            return {"error": f"no host {str(name)[:128]!r} of yours has joined here"}
        return {"error": f"this gateway cannot answer {str(asked.get('what'))[:40]!r}"}

    def _changed(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(TOGETHER_S, self._tell_all)

    def _tell_all(self) -> None:
        self._telling = None
        for connection in list(self._connections.values()):
            session = connection.session
            if isinstance(session, Session) and session.send is not None and not connection.closing:
                self._send(connection, proof.TOLD, self._facts(session.owner, session.cap))

    def close(self) -> None:
        """Tell nobody any more."""
        if self._telling is not None:
            self._telling.cancel()
