"""`meca gateway`: a gateway that stays."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TextIO

from ..settings import DEFAULT_PORT
from ._arguments import amount, count, count_or_none, named_app, port, seconds, table_of
from ._cluster import add_cluster_options, cluster_settings
from ._containers import add_engine_options, add_kernel_image, engine_settings

SUMMARY = "run a gateway that many programs can use, until it is told to end"

EPILOG = f"""\
Programs of the same user find its keys by themselves:
  with MecaExecutor("http://127.0.0.1:{DEFAULT_PORT}") as ex: ...
  MECA_ENDPOINT=http://127.0.0.1:{DEFAULT_PORT} python program.py

With another --key-file they need MECA_ACCESS_KEY and MECA_SECRET_KEY, a pair of that file. Pairs are made and taken
back with `meca keys`, also while the gateway runs: a new one may connect at once, and the sessions of a revoked one
are ended within a few seconds. Nobody gets at what another owner has here: sessions, results, workers, objects.

All pairs in your own key file are one owner, you. Each pair of another --key-file is an owner of its own; worker
processes are all your system user's, so with several owners functions are refused, and containers run. Say
--trust-all-keys where these people may read each other's files and memory, and yours.

Machines that join with `meca host` add their workers; each runs the functions of its own key's owner, with several
owners too. With --workers 0 functions run only there.

Other machines reach it with --host and a certificate, and need a pair each; with a CA of your own they set
MECA_CA_FILE. Programs on the old MECAnywhere SDK, which have no keys, are served on loopback only. Who fails to prove
that it has a key has to wait: after 5 times in a minute for 1 s, then 2 s, up to 60 s (on this machine up to 4 s).

Ctrl-C or SIGTERM ends it: no new work is taken, and what is running may finish within --grace seconds.

exit codes: 0 told to end, 1 the journal could not be written, 2 wrong arguments or files

examples:
  meca gateway
  meca gateway --port 3100 --workers 4 --app mine:latest=path/to/folder
  meca gateway --cluster tcp://192.168.1.10:8786
  meca gateway --pull never --runtime microVM=kata --container-allow network
  meca gateway --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    parser.add_argument(
        "--host",
        type=host,
        default="127.0.0.1",
        help="address to listen on; any but loopback needs keys, and TLS or --behind-proxy (default 127.0.0.1)",
    )
    parser.add_argument(
        "--port", type=port, default=DEFAULT_PORT, help=f"port, 0 for any free one (default {DEFAULT_PORT})"
    )
    parser.add_argument(
        "--workers",
        type=count_or_none,
        metavar="N",
        help="worker processes on this machine (default: one per core); 0 leaves functions to hosts that join",
    )
    parser.add_argument(
        "--app",
        type=named_app,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="run container NAME from FOLDER/src/app.py; may be repeated (the examples are known without)",
    )
    add_access(parser)
    parser.add_argument(
        "--journal",
        type=Path,
        metavar="FILE",
        help="write tasks and results down in FILE, so that a gateway started again with it goes on with them",
    )
    parser.add_argument(
        "--journal-size",
        type=count,
        default=8192,
        metavar="MIB",
        help="refuse tasks while the journal is larger (default 8192); clients offer them again for a minute",
    )
    parser.add_argument("--grace", type=seconds, default=30.0, metavar="S", help="seconds for running work at the end")
    add_background(parser)
    add_kernel_image(parser)
    add_engine_options(parser)
    add_cluster_options(parser)


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add who may connect, and how."""
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="key pairs of those who may connect (default: one made in your state folder, on loopback)",
    )
    parser.add_argument(
        "--trust-all-keys",
        action="store_true",
        help="run functions although the key file has several owners, all of them as the user who runs this",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="serve https with this certificate (PEM)")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key (PEM, without a password)")
    parser.add_argument(
        "--behind-proxy",
        action="store_true",
        help="plain HTTP on any address, for a proxy that ends TLS, sets X-Forwarded-For, and alone can reach it",
    )


def add_background(parser: argparse.ArgumentParser) -> None:
    """Add what has to do with the background gateway."""
    parser.add_argument(
        "--idle-exit",
        type=amount,
        metavar="S",
        help="end after S seconds without a client or a kernel (default: never)",
    )
    parser.add_argument(
        "--background",
        action="store_true",
        help="have your background gateway run, where kept kernels live, and print its URL; other options do not count",
    )
    parser.add_argument("--stop", action="store_true", help="end your background gateway and its kernels")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Serve until a signal ends it. The gateway prints its ready line itself."""
    if args.background or args.stop:
        return background(out, stop=args.stop)
    apps = table_of("--app", args.app)

    from ..standing import Standing, run_standing

    return run_standing(
        Standing(
            host=args.host,
            port=args.port,
            workers=args.workers,
            apps=apps,
            key_file=args.key_file,
            grace=args.grace,
            journal=args.journal,
            journal_bytes=args.journal_size << 20,
            tls_cert=args.tls_cert,
            tls_key=args.tls_key,
            behind_proxy=args.behind_proxy,
            trust_all_keys=args.trust_all_keys,
            engine=engine_settings(args),
            images=tuple(args.image),
            kernel_images=table_of("--kernel-image", args.kernel_image),
            idle_exit=args.idle_exit,
            cluster=cluster_settings(args),
        )
    )


def background(out: TextIO, *, stop: bool) -> int:
    """Have the background gateway run, or end it."""
    from .. import background as place

    if stop:
        ended = place.stop()
        print("there is none" if ended is None else f"ended {ended.url}, process {ended.pid}", file=out)
    else:
        print(place.ensure().url, file=out)
    return 0


def host(text: str) -> str:
    """Return an address or a host's name; nothing is not taken for every address."""
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is no address; 0.0.0.0 is every one of this machine")
    return text
