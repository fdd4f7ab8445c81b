"""What executors can do whose session has a name: ask what is in it, and leave it to others."""

from __future__ import annotations

import contextlib
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from ..errors import ExecutorClosed, MecaError, UsageError
from ..wire.sessions import first_number
from .lifetime import CLOSED

if TYPE_CHECKING:
    from .driver import LinkSettings
    from .future import MecaFuture
    from .ledger import Ledger
    from .link import Link


class Leaving(Executor):
    """The part of `MecaExecutor` that is about its session."""

    _settings: LinkSettings
    _ledger: Ledger
    _link: Link

    def recover(self) -> dict[str, MecaFuture[Any]]:
        """Return the futures of all tasks in the session, by their `task_id`, done or not; asks the gateway.

        Those of other programs that had the session, and this one's own. Of tasks that have the same name, the later
        ones are called `NAME#NUMBER`. A container's reply is read as the program that submitted the task had it; where
        that was by functions of its own, it is the text.

        Raises:
            UsageError: The executor's session has no name.
            RuntimeError: As `submit`.
            GatewayError: The gateway is gone.
        """
        if self._settings.session is None:
            raise UsageError("recover() is for a session with a name; make the executor with session=NAME")
        self._ledger.check()
        return self._link.recover()

    def detach(self, timeout: float = 600.0) -> None:
        """Leave the session to be claimed: hand over what is here still, and end without waiting for any result.

        Open futures fail here with `ExecutorClosed`; their tasks go on. A gateway takes 16,384 open tasks of one
        program: of more than that, the first ones are waited for.

        Args:
            timeout: Seconds that the hand-over may take.

        Raises:
            UsageError: The executor's session has no name.
            TimeoutError: Not all was handed over in time; that goes on.
            GatewayError: The gateway is gone, and open tasks are lost with it or not handed over.
        """
        if self._settings.session is None:
            raise UsageError("detach() is for a session with a name; make the executor with session=NAME")
        self._ledger.refuse(lambda: ExecutorClosed(CLOSED))
        self._link.leave()
        if not self._link.join(timeout):
            raise TimeoutError(f"not all tasks were handed over within {timeout:g} s")
        if self._link.failure is not None:
            raise self._link.failure

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None or self._settings.session is None:
            self.shutdown(wait=True)
        else:  # what the program did not get to is not thrown away with it
            with contextlib.suppress(MecaError, TimeoutError):
                self.detach()


def claimed_by(link: Link) -> int:
    """Wait until a session with a name is the link's; return the number of its first task.

    Raises:
        MecaError: It is not, and why.
    """
    try:
        link.wait_started()
    except BaseException:
        link.close()
        raise
    assert link.generation is not None
    return first_number(link.generation)
