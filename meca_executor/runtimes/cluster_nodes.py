"""One node of a Dask cluster, as the gateway sees it: the connection to it, and the workers behind that."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from ..policy.leasing import capacity
from .dask_door import connect_node
from .dask_link import DaskLink
from .node import OPERATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..policy.leasing import Lease

CONNECT_S = 10.0


class Remote(Protocol):
    """A node's workers; `runtimes/remote.py` is it."""

    def on_message(self, message: bytes) -> None: ...
    def let_leave(self) -> None: ...


class Member(Protocol):
    """A node, as the gateway's broker has it."""

    remote: Any


class NodeHouse(Protocol):
    """Where nodes are hosts; `gateway/annex.py` is it."""

    def join(self, name: str, send: Callable[[bytes], object], on_drained: Callable[[], object]) -> Any: ...
    def resize(self, member: Any, slots: int, capacity: Mapping[str, float]) -> None: ...
    def use(self, member: Any) -> tuple[int, dict[str, float]]: ...
    def leave(self, member: Any, how: str) -> None: ...


class ClusterNode:
    """One node.

    Args:
        address: Of the Dask worker.
        name: What Dask calls it.
        house: Where it is a host, once it is connected.
        security: Certificates of the cluster.
        silence: Seconds without a word after which it is given up.
    """

    def __init__(self, address: str, name: str, house: NodeHouse, security: Any, silence: float) -> None:
        self.address = address
        self.name = name
        self.member: Any = None
        self._house = house
        self._security = security
        self._silence = silence
        self._link: DaskLink | None = None
        self._settled = asyncio.Event()  # connected, or not to be had
        self._over = False

    def __repr__(self) -> str:
        return f"<ClusterNode {self.name} {'open' if self.open else 'closed'}>"

    @property
    def open(self) -> bool:
        """Whether it has workers, or can have some."""
        return self.member is not None and not self._over

    async def connected(self, seconds: float) -> bool:
        """Wait until it is connected; whether it is."""
        try:
            await asyncio.wait_for(self._settled.wait(), seconds)
        except asyncio.TimeoutError:
            return False
        return self.open

    async def run(self, gateway: str) -> str:
        """Connect, and carry messages until the node is gone; returns how that came."""
        try:
            return await self._run(gateway)
        except (OSError, asyncio.TimeoutError) as error:
            return f"it cannot be connected to: {error or type(error).__name__}"
        finally:
            self._over = True
            self._settled.set()

    async def _run(self, gateway: str) -> str:
        comm = await connect_node(self.address, self._security, CONNECT_S)
        try:
            await comm.write({"op": OPERATION, "gateway": gateway, "silence": self._silence, "reply": False})
        except BaseException:
            comm.abort()
            raise
        link = self._link = DaskLink(comm, self._on_message, lambda _: None, self._silence)
        self.member = self._house.join(self.name, link.send, self._drained)
        self._settled.set()
        return await link.run()

    def _on_message(self, message: bytes) -> None:
        self.member.remote.on_message(message)

    def _drained(self) -> None:
        """It wanted to leave, and nothing runs there any more."""
        self.member.remote.let_leave()

    def resize(self, leases: list[Lease]) -> None:
        """Have so many places there as there are leases."""
        self._house.resize(self.member, len(leases), capacity(leases))

    def release(self, leases: Iterable[str]) -> None:
        """Give leases back to Dask."""
        if self._link is not None:
            self._link.send({"release": list(leases)})

    def leave(self, how: str) -> None:
        """It is gone."""
        if self.member is not None:
            self._house.leave(self.member, how)

    async def close(self) -> None:
        """End the connection, after what is on its way."""
        if self._link is not None:
            await self._link.finish()
