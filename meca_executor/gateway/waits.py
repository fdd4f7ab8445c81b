"""Calls that wait for a host which is not there: who submitted them is told, after a while and then ever more seldom.

That calls wait for their turn needs no words; nor does a cluster, which says for itself what it lacks.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ..policy.leasing import Reminder
from ..wire.records import Status, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .hub import Hub

LOOK_S = 2.0


class Waits:
    """Looks at what waits at a gateway, for as long as its loop runs.

    Args:
        hub: Whose calls these are.
        stuck: Returns owner -> a container that nobody can run who is here.
    """

    def __init__(self, hub: Hub, stuck: Callable[[], Mapping[str, str]]) -> None:
        self._hub = hub
        self._stuck = stuck
        self._loop = asyncio.get_running_loop()
        self._reminders: dict[str, Reminder] = {}  # by session
        self._loop.call_later(LOOK_S, self._look_again)

    def _look_again(self) -> None:
        self._loop.call_later(LOOK_S, self._look_again)
        self.look(self._loop.time())

    def look(self, now: float) -> None:
        """Tell those who have waited for long enough, at this monotonic time."""
        whys = self._whys()
        self._reminders = {session: self._reminders.get(session, Reminder()) for session in whys}
        for session, why in whys.items():
            if self._reminders[session].due(True, now):
                text = f"meca: calls wait: {why}\n"
                self._hub.report(session, encode([(0, int(Status.STDERR), 0, text.encode())]))

    def _whys(self) -> dict[str, str]:
        broker, whys = self._hub.broker, dict[str, str]()
        if stuck := self._stuck():
            for caller in self._hub.sessions.values():
                if caller.calls and (ref := stuck.get(caller.owner)) is not None:
                    whys[caller.id] = f"no host is here that can run {ref}; let one join: meca host --join URL"
        for session in broker.sessions.values():
            if session.queue and not session.paused and (why := broker.hosts.why_waiting(session)) is not None:
                whys[session.id] = why
        return whys
