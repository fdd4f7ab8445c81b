"""What a link needs of a dialect: how to connect, hand tasks over, and take outcomes in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from ..errors import GatewayRefused

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..settings import KeyPair
    from ..wire.records import Record
    from ..wire.surroundings import Variables
    from .chunks import Slice
    from .inventory import Inventory
    from .ledger import Ledger
    from .link_state import OnLink
    from .questions import Questions
    from .tasks import Registry, Task


@dataclass(frozen=True)
class LinkSettings:
    """What a link needs to know; all checked before."""

    endpoint: str | None  #: None: an embedded gateway
    keys: KeyPair | None
    connect_timeout: float
    resume_window: float  #: seconds for which a dropped connection is tried again
    max_workers: int | None
    max_tasks_per_child: int | None
    initializer: bytes  #: pickled (function, arguments), or nothing
    apps: dict[str, str] = field(default_factory=dict)
    on_output: Callable[[str, str], object] | None = None
    on_link: OnLink | None = None
    name: str = "MecaExecutor-link"
    trust: Literal["data", "pickle"] | None = None  #: what results of functions in containers may be
    allow: tuple[type, ...] = ()  #: dataclasses that may come as data
    strict: bool = True  #: replies in the old dialect that are known failure texts are failures
    ca_file: str | None = None  #: PEM file of the certificates to believe; None: the system's
    env: Variables = ()  #: that workers begin with
    cluster: str | None = None  #: Dask cluster of an embedded gateway
    session: str | None = None  #: its name; None: it ends with the executor
    takeover: bool = False  #: from another program, if one has it
    may_fall_back: bool = False  #: no key, token or TLS was given, so the old dialect may be spoken


class OtherDialect(GatewayRefused):
    """The server speaks Socket.IO and has no namespace `/meca`."""


class Host(Protocol):
    """The link, as its driver sees it."""

    settings: LinkSettings
    ledger: Ledger
    registry: Registry
    endpoint: str | None
    slots: int
    shares: bool  #: large payloads may go through shared memory
    apps: dict[str, str]  #: apps named since the last hand-over
    generation: int | None  #: of a session with a name: clients it had before this one; None: not known yet
    inventory: Inventory | None  #: who asks what is in a session with a name
    questions: Questions
    leaving: bool  #: and leaves its tasks to whoever claims the session
    ends_session: bool  #: with the executor, if all in it is done and fetched
    ends_all: bool  #: with the executor, whatever is in it

    def settled(self, records: list[Record]) -> None:
        """Outcomes came."""

    def attempts_lost(self, why: str) -> None:
        """What was out is lost with its gateway."""

    def down(self, told: str = "") -> None:
        """The connection is gone; `told` is why, where the other side said it."""

    def give_up(self, error: BaseException) -> None:
        """Nothing more will come."""

    def pump(self) -> None:
        """There may be something to hand over."""


class Driver(Protocol):
    """One dialect on one link. All of it is called in the link's loop."""

    dialect: str

    async def connect(self, limit: float) -> None:
        """Get a connection that tasks may be handed over on.

        Raises:
            GatewayUnreachable: Nobody answered within `limit` seconds; the link tries again.
            GatewayError: The link gives up.
        """

    def hand_over(self, batch: list[Task | Slice]) -> None:
        """Send tasks; each comes back in `Host.settled` or `Host.attempts_lost`."""

    def tidy(self) -> None:
        """Tell of objects that are mentioned no more."""

    def recover(self) -> None:
        """Ask what is in the session; `Host.listed` has the answer."""

    @property
    def delivered(self) -> bool:
        """Whether the other side has all that it was sent."""

    def kill(self, task: int) -> None:
        """Have a task ended that was handed over."""

    async def leave(self, *, done: bool) -> None:
        """Drop the connection; with `done`, for good."""

    def close(self) -> None:
        """After the loop: end what belongs to the dialect."""

    def after_fork(self) -> None:
        """In a forked child: let go of what belongs to the parent."""
