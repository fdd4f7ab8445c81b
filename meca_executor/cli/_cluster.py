"""What `meca gateway` says about a Dask cluster."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..settings import why_no_cluster
from ._arguments import seconds

if TYPE_CHECKING:
    from ..runtimes.dask_door import ClusterSettings


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a cluster."""
    group = parser.add_argument_group(
        "cluster",
        "Functions run on the nodes of a Dask cluster, not on this machine, and containers on those with an engine; "
        "needs the extra `cluster` here and there.",
    )
    group.add_argument(
        "--cluster",
        type=cluster,
        metavar="ADDRESS",
        help="tcp://HOST:PORT or tls://HOST:PORT of its scheduler; local:N starts one of N nodes on this machine. "
        "--workers is then how many places of it are used at once (default: as many as it has)",
    )
    group.add_argument("--cluster-ca", type=Path, metavar="FILE", help="CA of its certificates (PEM); for tls://")
    group.add_argument("--cluster-cert", type=Path, metavar="FILE", help="our certificate (PEM)")
    group.add_argument(
        "--cluster-key",
        type=Path,
        metavar="FILE",
        help="its private key (PEM); without the three: as Dask is configured",
    )
    group.add_argument(
        "--cluster-away",
        type=seconds,
        default=60.0,
        metavar="S",
        help="seconds for which a scheduler that is gone is waited for before waiting calls fail (default 60)",
    )


def cluster_settings(args: argparse.Namespace) -> ClusterSettings | None:
    """Return what the options say; None without a cluster.

    Raises:
        UsageError: They do not go together.
    """
    if args.cluster is None:
        if args.cluster_ca or args.cluster_cert or args.cluster_key:
            raise UsageError("--cluster-ca, --cluster-cert and --cluster-key are for --cluster tls://HOST:PORT")
        return None
    from ..runtimes.dask_door import ClusterSettings  # imports asyncio, and every verb is imported for the help

    return ClusterSettings(
        args.cluster,
        tls_ca=args.cluster_ca,
        tls_cert=args.cluster_cert,
        tls_key=args.cluster_key,
        away_s=args.cluster_away,
    )


def cluster(text: str) -> str:
    """Return the text when it is the address of a cluster."""
    if (why := why_no_cluster(text)) is not None:
        raise argparse.ArgumentTypeError(why)
    return text
