"""The gateway's side of a Dask cluster ends, in whatever moment it is told to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from meca_executor.client.embedded import EmbeddedGateway
from meca_executor.runtimes.cluster import Cluster
from tests.helpers.dask import dask_cluster, skip_without_dask

if TYPE_CHECKING:
    from pathlib import Path


CLOSE_S = 60.0  #: for what takes a tenth of a second


class NobodyHome:
    """A gateway that has nothing to do."""

    def waiting(self) -> list[Any]:
        return []

    def use(self, member: object) -> tuple[int, dict[str, float]]:
        return 0, {}

    def join(self, *_: object) -> None: ...
    def resize(self, *_: object) -> None: ...
    def leave(self, *_: object) -> None: ...
    def reserve(self, *_: object) -> None: ...
    def refuse(self, text: str) -> None: ...
    def tell(self, text: str, containers: bool) -> None: ...


def test_it_closes_while_news_arrive(tmp_path: Path) -> None:
    """Up to Python 3.11 a wait that is over in the same turn of the loop in which it is cancelled goes on."""
    skip_without_dask()
    from meca_executor.runtimes.dask_door import ClusterSettings

    async def close_after(turns: int, address: str) -> None:
        cluster = Cluster(ClusterSettings(address), NobodyHome())
        await cluster.start()
        cluster._on_news(None)
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(cluster.close(), CLOSE_S)

    async def close_in_all_moments(address: str) -> None:
        for turns in range(6):
            await close_after(turns, address)

    with dask_cluster(tmp_path / "cluster", nodes=0) as made:
        asyncio.run(close_in_all_moments(made.address))


def test_an_embedded_gateway_ends_whose_program_did_not_wait_for_it(tmp_path: Path) -> None:
    """It is told to end before it could say where it is."""
    with dask_cluster(tmp_path / "cluster", nodes=1) as made:
        gateway = EmbeddedGateway(1, {}, cluster=made.address)
        process = gateway._popen
        assert process.stdin is not None and process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        assert process.wait(CLOSE_S) == 0, gateway.how_it_ended()
        gateway.close()
