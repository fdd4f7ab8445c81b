"""One node of a Dask cluster, as the gateway sees it: the connection to it, and the workers behind that."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from ..policy.leasing import capacity
from .dask_door import connect_node
from .dask_link import DaskLink
from .node import OPERATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..policy.leasing import Lease
    from .dask_link import Control
    from .engine_settings import EngineSettings
    from .remote_calls import RemoteCalls

CONNECT_S = 10.0
DRAINED_S = 0.02  #: between two looks whether a node that is to leave has any call left
CLOSE_S = 25.0  #: for a node to remove its containers when the gateway ends


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
        engine: How containers run there.
    """

    def __init__(
        self, address: str, name: str, house: NodeHouse, security: Any, silence: float, engine: EngineSettings
    ) -> None:
        self.address = address
        self.name = name
        self.member: Any = None
        self._house = house
        self._security = security
        self._silence = silence
        self._engine = engine
        self._used = False  # for containers
        self._ended = asyncio.Event()  # its containers are gone, or it is
        self._link: DaskLink | None = None
        self._settled = asyncio.Event()  # connected, or not to be had
        self._over = False

    def __repr__(self) -> str:
        return f"<ClusterNode {self.name} {'open' if self.open else 'closed'}>"

    @property
    def open(self) -> bool:
        """Whether it has workers, or can have some."""
        return self.member is not None and not self._over

    @property
    def draining(self) -> bool:
        """Whether it is about to leave, and takes no more calls."""
        return self.member is not None and bool(self.member.host.draining)

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
            self._ended.set()

    async def _run(self, gateway: str) -> str:
        comm = await connect_node(self.address, self._security, CONNECT_S)
        try:
            told = {"gateway": gateway, "silence": self._silence, "engine": self._engine.fields()}
            await comm.write({"op": OPERATION, **told, "reply": False})
        except BaseException:
            comm.abort()
            raise
        link = self._link = DaskLink(comm, self._on_message, self._on_control, self._silence)
        self.member = self._house.join(self.name, link.send, self._drained)
        self._settled.set()
        return await link.run()

    def _on_message(self, message: bytes) -> None:
        self.member.remote.on_message(message)

    def _on_control(self, control: Control) -> None:
        if control.get("ended"):
            self._ended.set()

    def use(self) -> RemoteCalls:
        """Return what makes container calls there."""
        self._used = True
        calls: RemoteCalls = self.member.remote.calls
        return calls

    def _drained(self) -> None:
        """It wanted to leave, and no function runs there any more; container calls may."""
        if self._over:
            return
        if self.member.remote.calls.running:
            asyncio.get_running_loop().call_later(DRAINED_S, self._drained)
        else:
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
            self.member.remote.calls.lost(how)
            self._house.leave(self.member, how)

    async def close(self) -> None:
        """End the connection after what is on its way, and when its containers are removed, if there were any."""
        if self._link is None:
            return
        if self._used and self.open:
            self._link.send({"end": True})
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._ended.wait(), CLOSE_S)
        await self._link.finish()
