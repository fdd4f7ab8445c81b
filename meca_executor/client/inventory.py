"""Who asks what is in a session that has a name, and what they are told."""

from __future__ import annotations

import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as Late  # before Python 3.11 another one than the builtin
from typing import TYPE_CHECKING, Any

from ..errors import ExecutorClosed, GatewayUnreachable
from .functions import FunctionCodec
from .recovered import Recovered

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.records import Record
    from .driver import LinkSettings
    from .future import MecaFuture
    from .ledger import Ledger

    Futures = dict[str, MecaFuture[Any]]


class Inventory:
    """The questions of one link, which belong to its thread; and what was recovered."""

    def __init__(self, ledger: Ledger, settings: LinkSettings, proved: Callable[[], bool]) -> None:
        self.ledger = ledger
        self._recovered = Recovered(settings.endpoint or "embedded", FunctionCodec(settings, proved).decode)
        ledger.recovered = self._recovered
        ledger.credit.lift()  # what is here only is lost with this process
        self._answers: list[Future[Futures]] = []
        self._end: BaseException | None = None

    def ask(self, call_soon: Callable[..., object], recover: Callable[[], object], limit: float) -> Futures:
        """Any thread: return the futures of all tasks in the session, by their names.

        Args:
            call_soon: Has the link's thread call something; a `RuntimeError` when it is gone.
            recover: Asks the gateway.
            limit: Seconds that the answer may take.

        Raises:
            MecaError: There is no answer, and why.
        """
        answer: Future[Futures] = Future()
        try:
            call_soon(self._asked, answer, recover)
        except RuntimeError:
            raise self._end or ExecutorClosed("the executor was shut down") from None
        try:
            return answer.result(limit)
        except (TimeoutError, Late) as error:
            raise GatewayUnreachable(f"the gateway did not say within {limit:g} s what is in the session") from error

    def _asked(self, answer: Future[Futures], recover: Callable[[], object]) -> None:
        self._answers.append(answer)
        if len(self._answers) == 1:
            recover()

    @property
    def asking(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._answers)

    def listed(self, records: list[Record]) -> list[int]:
        """As `Host`."""
        now = time.time()
        if not records or records[0][0] != 0:  # these have gone since they were listed
            for number, _, _, _ in records:
                self._recovered.gone(number, now)
            return []
        found, wanted = self._recovered.take(records, self.ledger.futures, now)
        answers, self._answers = self._answers, []
        for answer in answers:
            answer.set_result(dict(found))
        return wanted

    def end(self, why: BaseException | None) -> None:
        """No answer will come."""
        self._end = why
        for answer in self._answers:
            answer.set_exception(why or ExecutorClosed("the executor was shut down"))
        self._answers.clear()
