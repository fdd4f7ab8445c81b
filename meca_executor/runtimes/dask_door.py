"""The one door to the `distributed` package, and what the operator says about a cluster.

Whoever reaches the scheduler or a node of a Dask cluster can run what they like there, as the user whose processes
these are: that is how Dask works. With TLS (`tls://`) only holders of a certificate of the cluster can; a cluster
without it belongs in a network that only its users reach. A gateway trusts its cluster as it trusts its own machine:
calls and results go to the nodes and come from there, by connections that are the cluster's own, TLS where it has that.
A gateway opens no port for its nodes: it connects to theirs, where its certificate is checked as any other client's.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import UsageError
from ..settings import CLUSTER_EXTRA, why_no_cluster

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import ModuleType

CLOSE_S = 10.0


@dataclass(frozen=True)
class ClusterSettings:
    """Which Dask cluster work runs on.

    Attributes:
        address: Of its scheduler, `tcp://HOST:PORT` or `tls://HOST:PORT`; `local:N` starts one of N nodes here.
        leases: Places in the cluster that may be had at once; None is as many as it has, and more as it grows.
        tls_ca: PEM file of the CA of its certificates; None is Dask's own configuration, as for the two others.
        tls_cert: PEM file of our own certificate.
        tls_key: PEM file of its private key.
        connect_s: Seconds in which the scheduler must answer at the start.
        away_s: Seconds for which a scheduler that is gone is waited for before waiting calls fail.
        silence_s: Seconds without a word after which a node is given up.
    """

    address: str
    leases: int | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    connect_s: float = 10.0
    away_s: float = 60.0
    silence_s: float = 30.0

    def __post_init__(self) -> None:
        """Check what was given.

        Raises:
            UsageError: The address is none; a file of the three is missing.
        """
        if (why := why_no_cluster(self.address)) is not None:
            raise UsageError(why)
        files = self.tls_ca, self.tls_cert, self.tls_key
        if any(files) and (None in files or not self.address.startswith("tls://")):
            raise UsageError(
                "a cluster with certificates has an address that begins with tls://, and all three of "
                "--cluster-ca, --cluster-cert and --cluster-key"
            )

    @property
    def local(self) -> int:
        """How many nodes to start here; 0 when the cluster is there already."""
        kind, _, count = self.address.partition(":")
        return int(count) if kind == "local" else 0


def dask() -> ModuleType:
    """Return the `distributed` package.

    Raises:
        UsageError: It is not there.
    """
    try:
        import distributed
    except ImportError as error:
        raise UsageError(f"{CLUSTER_EXTRA} ({error})") from error
    module: ModuleType = distributed
    return module


async def local_cluster(nodes: int, folder: str) -> Any:
    """Start a cluster of so many nodes, with certificates of its own: other users of this machine cannot use it.

    Args:
        nodes: How many.
        folder: Where they may put what they need.
    """
    distributed = dask()
    try:
        security = distributed.Security.temporary()
    except ImportError as error:
        raise UsageError(f"{CLUSTER_EXTRA} ({error})") from error
    from dask import config

    with config.set({"temporary-directory": folder}):  # the scheduler's, too
        return await distributed.LocalCluster(
            n_workers=nodes,
            threads_per_worker=1,
            processes=True,
            asynchronous=True,
            security=security,
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
        )


def security_of(settings: ClusterSettings) -> Any:
    """Return the certificates for a cluster's connections, or Dask's own configuration of them."""
    distributed = dask()
    if settings.tls_ca is None:
        return distributed.Security()
    return distributed.Security(
        require_encryption=True,
        tls_ca_file=str(settings.tls_ca),
        tls_client_cert=str(settings.tls_cert),
        tls_client_key=str(settings.tls_key),
    )


async def connect_client(address: str, security: Any, timeout: float) -> Any:
    """Return a client of the scheduler at an address, in the running loop.

    Raises:
        OSError: Nobody answers there within `timeout` seconds, or not with these certificates.
    """
    make = dask().Client
    return await make(address, security=security, asynchronous=True, timeout=timeout, set_as_default=False, name="meca")


async def close_client(client: Any, topics: Iterable[str]) -> None:
    """Close a client, whatever state its scheduler is in; of these topics it is told no more."""
    with contextlib.suppress(OSError, RuntimeError, ValueError, asyncio.TimeoutError, asyncio.CancelledError):
        for topic in topics:
            client.unsubscribe_topic(topic)  # the scheduler would log that it cannot tell us
        await asyncio.wait_for(client.close(timeout=2), CLOSE_S)


async def connect_node(address: str, security: Any, timeout: float) -> Any:
    """Return a connection to a node.

    Raises:
        OSError: It is not there.
    """
    from distributed.core import connect

    return await connect(address, timeout=timeout, **security.get_connection_args("client"))


def this_node() -> Any:
    """Return the Dask worker whose task is running."""
    return dask().get_worker()


def in_words(error: BaseException) -> str:
    """Return what is wrong with a node, and the way out where it is known."""
    text = str(error) or type(error).__name__
    if "No module named 'meca_executor" in text:  # Dask may have put it into another error
        return f'it has not this meca_executor ({text}); there: pip install "meca-executor[cluster]=={__version__}"'
    return text
