"""Short questions to the gateway, and their answers; any thread may ask."""

from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late  # before Python 3.11 another one than the builtin
from typing import TYPE_CHECKING, Any

from ..errors import ExecutorClosed, GatewayUnreachable, MecaError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER_S = 30.0  #: a connection that drops meanwhile may come back


class Questions:
    """Those of one link; what is asked while the connection is down is asked when it is back."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._open: dict[int, tuple[dict[str, Any], Future[dict[str, Any]]]] = {}
        self._send: Callable[[dict[str, Any]], object] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # of the link

    def ask(self, fields: dict[str, Any], limit: float = ANSWER_S) -> dict[str, Any]:
        """Any thread but the link's, once there was a connection: return the answer.

        Args:
            fields: The question.
            limit: Seconds that the answer may take.

        Raises:
            UsageError: The gateway cannot answer that, and why.
            MecaError: There is no answer.
        """
        answer: Future[dict[str, Any]] = Future()
        try:
            if (loop := self._loop) is None:
                raise RuntimeError
            loop.call_soon_threadsafe(self._begin, fields, answer)
        except RuntimeError:  # it is gone, or was just closed
            raise ExecutorClosed("the executor was shut down") from None
        try:
            told = answer.result(limit)
        except (TimeoutError, Late) as error:
            raise GatewayUnreachable(f"the gateway did not answer within {limit:g} s") from error
        if "error" in told:
            raise UsageError(str(told["error"]))
        return told

    # -- the link's thread ------------------------------------------------------------------------

    def _begin(self, fields: dict[str, Any], answer: Future[dict[str, Any]]) -> None:
        number = next(self._numbers)
        self._open[number] = fields, answer
        if self._send is not None:
            self._send({**fields, "number": number})

    def connected(self, send: Callable[[dict[str, Any]], object] | None) -> None:
        """There is another connection, or none: what has no answer yet is asked on the next one."""
        self._send, self._loop = send, asyncio.get_running_loop()
        if send is not None:
            for number, (fields, _) in self._open.items():
                send({**fields, "number": number})

    def answered(self, told: dict[str, Any]) -> None:
        """An answer came."""
        found = self._open.pop(told["number"], None) if isinstance(told.get("number"), int) else None
        if found is not None:
            found[1].set_result(told)

    def end(self, why: BaseException | None) -> None:
        """No answer will come."""
        self._loop = None
        for _, answer in self._open.values():
            answer.set_exception(why if isinstance(why, MecaError) else ExecutorClosed("the executor was shut down"))
        self._open.clear()
