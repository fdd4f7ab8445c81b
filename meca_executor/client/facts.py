"""What an executor says about itself and its connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from ..errors import UsageError

if TYPE_CHECKING:
    from .driver import LinkSettings
    from .ledger import Ledger
    from .link import Link


class Facts:
    """The properties of a `MecaExecutor`."""

    _settings: LinkSettings
    _ledger: Ledger
    _link: Link

    def __repr__(self) -> str:
        queued, running = self._ledger.counts
        where, spoken = self._link.endpoint or "embedded", f"{self._link.dialect} dialect{self._link.why}"
        return f"<MecaExecutor {where} {self.state}, {spoken}, {queued} queued, {running} running>"

    @property
    def endpoint(self) -> str:
        """URL of the gateway in use; waits until an embedded one is up.

        Raises:
            GatewayError: There is no connection, and why.
        """
        if self._settings.endpoint is not None:
            return self._settings.endpoint
        self._link.wait_started()
        return cast("str", self._link.endpoint)

    @property
    def dialect(self) -> str:
        """The protocol spoken: `"native"`, or `"desktop"` with a MECAnywhere desktop app; waits for the connection.

        Raises:
            GatewayError: There is no connection, and why.
        """
        self._link.wait_started()
        return self._link.dialect

    @property
    def state(self) -> str:
        """`"connecting"`, `"connected"`, `"closed"`, or `"lost"` for good.

        While a connection that dropped is tried again: `"resuming (3 s, attempt 4)"`, seconds since it dropped and
        attempts to connect so far; and behind that the gateway's reason, where it gave one.
        """
        return self._link.state

    @property
    def slots(self) -> int:
        """Tasks that run at once; waits for the connection.

        Raises:
            GatewayError: There is no connection, and why.
        """
        self._link.wait_started()
        return self._link.slots

    def hosts(self) -> list[dict[str, Any]]:
        """Ask the gateway for its hosts: its own machine first, then those that joined and run your functions.

        Each is a dict: `name`; `here` (the gateway's own machine); `state` (`"connected"`, `"away"`, `"draining"`);
        `slots`, and how many of them are `free`; `resource` that it has, and what of it is `in_use` by calls that
        need some; `running`, your calls, each a dict of `task` (as `future.task_id`), `seconds`, and how many are
        `waiting` behind it in its worker; `others`, how many calls of other owners run there.

        Raises:
            UsageError: The other side is a MECAnywhere desktop app, which does not say.
            RuntimeError: As `submit`.
            GatewayError: There is no connection, or no answer within 30 s.
        """
        return cast("list[dict[str, Any]]", self._asked("hosts")["hosts"])

    def drain_host(self, name: str) -> None:
        """Let a host leave that joined with a key of yours: it gets no more calls, those that run end, then it goes.

        Raises:
            UsageError: There is no such host. Else as `hosts`.
        """
        self._asked("drain", host=name)

    def _asked(self, what: str, **fields: object) -> dict[str, Any]:
        """Return what the gateway answers to a short question."""
        self._ledger.check()
        self._link.wait_started()
        if self._link.dialect != "native":
            raise UsageError("a MECAnywhere desktop app does not say what hosts it has; ask a meca gateway")
        return self._link.questions.ask({"what": what, **fields})

    @property
    def _max_workers(self) -> int:
        """What dask and joblib ask of an executor."""
        return self._settings.max_workers or self.slots
