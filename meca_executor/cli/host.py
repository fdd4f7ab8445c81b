"""`meca host`: offer this machine's workers to a gateway elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TextIO

from ..errors import UsageError
from ._arguments import count, endpoint, named_amount, named_app, seconds, table_of
from ._containers import add_engine_options, engine_settings

SUMMARY = "offer this machine's workers and containers to a gateway elsewhere, until it is told to leave"

EPILOG = """\
The machine connects to the gateway, so it may be behind NAT or a firewall, sleep, and change its address. While the
connection is down its running calls go on, and their results are delivered when it is back; when it stays away for
longer than --grace seconds they are made again elsewhere. It needs the gateway's major.minor version of Python.

It joins with a key pair of yours (MECA_ACCESS_KEY and MECA_SECRET_KEY, else --key-file, else the first of your own key
file), and runs the functions of that pair's owner only, as the user who starts it, with this user's files and network.

Containers of that owner run here, too, where a Docker engine answers when the host joins; and so do the examples, and
what --app names, as local apps. A name that --app gives, here or at the gateway, runs only where it is given.

Ctrl-C or SIGTERM lets it leave: it gets no more calls, those that run end, and then it goes; a second one ends at once.
With --drain NAME a program of the same owner lets another host leave.

examples:
  meca gateway --workers 0                                         # on the one machine
  meca host --join http://127.0.0.1:3001 --workers 2
  meca host --join https://edge.example:3001 --resource gpu=1 --name bench
  meca host --join https://edge.example:3001 --app mine:latest=path/to/folder --pull never
  meca host --join https://edge.example:3001 --drain bench

exit codes: 0 left, 2 wrong arguments, 3 the gateway cannot be reached or does not take the host, 130 ended at once"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    parser.add_argument("--join", type=joinable, required=True, metavar="URL", help="the gateway")
    parser.add_argument(
        "--workers",
        type=count,
        metavar="N",
        help="worker processes, and as many container calls besides (default: one per core)",
    )
    parser.add_argument(
        "--resource",
        type=named_amount,
        action="append",
        default=[],
        metavar="NAME=AMOUNT",
        help="what it offers of cpu (cores), memory (MiB) or gpu (default: what is found); may be repeated",
    )
    parser.add_argument("--name", metavar="NAME", help="what it is called (default: the machine's name)")
    parser.add_argument(
        "--grace", type=seconds, default=120.0, metavar="S", help="seconds that it may be away (default 120)"
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="where its key pair is (default: your own)")
    parser.add_argument(
        "--app",
        type=named_app,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="run container NAME from FOLDER/src/app.py; may be repeated (the examples are known without)",
    )
    parser.add_argument("--no-containers", action="store_true", help="run functions only")
    parser.add_argument("--drain", metavar="NAME", help="let the host of this name leave, and end")
    add_engine_options(parser, old_dialect=False)


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Serve until it has left. The host prints its lines itself."""
    from ..host import Hosting, run_host

    table = table_of("--resource", args.resource)
    apps, engine = table_of("--app", args.app), engine_settings(args)
    if args.no_containers and apps:
        raise UsageError(f"--no-containers and --app {next(iter(apps))}: say one of them")
    wanted = Hosting(
        args.join,
        args.workers,
        table,
        args.name,
        args.grace,
        args.key_file,
        apps,
        None if args.no_containers else engine,
    )
    if args.drain is None:
        return run_host(wanted)
    if args.key_file is not None:
        raise UsageError("--drain takes its key pair from MECA_ACCESS_KEY and MECA_SECRET_KEY, or your own key file")
    from ..client.executor import MecaExecutor

    with MecaExecutor(args.join) as ex:
        ex.drain_host(args.drain)
    print(f"{args.drain} leaves when its running calls are done", file=out)
    return 0


def joinable(text: str) -> str:
    """Return the URL of a gateway; one of a program's own cannot be joined."""
    if endpoint(text) in ("embedded", "desktop"):
        raise argparse.ArgumentTypeError(f"{text!r} is nothing to join; give the URL of a meca gateway")
    return text.rstrip("/")
