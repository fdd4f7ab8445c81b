"""`meca gateway`: a gateway that stays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..errors import UsageError
from ..settings import DEFAULT_PORT
from ._arguments import count, named_app, port, seconds

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SUMMARY = "run a gateway that many programs can use, until it is told to end"

EPILOG = f"""\
Programs of the same user find its keys by themselves:
  with MecaExecutor("http://127.0.0.1:{DEFAULT_PORT}") as ex: ...
  MECA_ENDPOINT=http://127.0.0.1:{DEFAULT_PORT} python program.py

With another --key-file they need MECA_ACCESS_KEY and MECA_SECRET_KEY, a pair of that file.

Ctrl-C or SIGTERM ends it: no new work is taken, and what is running may finish within --grace seconds.

examples:
  meca gateway
  meca gateway --port 3100 --workers 4 --app mine:latest=path/to/folder"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--port", type=port, default=DEFAULT_PORT, help=f"port, 0 for any free one (default {DEFAULT_PORT})"
    )
    parser.add_argument("--workers", type=count, metavar="N", help="worker processes (default: one per core)")
    parser.add_argument(
        "--app",
        type=named_app,
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="run container NAME from FOLDER/src/app.py; may be repeated (the examples are known without)",
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="key pairs of those who may connect (default: one made in your state folder)",
    )
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
        help="take no more tasks when the journal is larger (default 8192)",
    )
    parser.add_argument("--grace", type=seconds, default=30.0, metavar="S", help="seconds for running work at the end")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Serve until a signal ends it. The gateway prints its ready line itself."""
    host = loopback(args.host)
    apps = app_table(args.app)

    from ..standing import Standing, run_standing

    size = args.journal_size << 20
    return run_standing(Standing(host, args.port, args.workers, apps, args.key_file, args.grace, args.journal, size))


def loopback(host: str) -> str:
    """Return the host when only this machine can reach it.

    Raises:
        UsageError: It is another address or name.
    """
    if host not in LOOPBACK:
        raise UsageError(
            f"--host {host}: this version listens on loopback only (127.0.0.1), because anyone who reaches a gateway "
            "could run code here and it has no TLS yet; use an ssh tunnel from elsewhere"
        )
    return host


def app_table(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return container name -> folder.

    Raises:
        UsageError: A name is given twice.
    """
    table: dict[str, str] = {}
    for name, folder in pairs:
        if name in table:
            raise UsageError(f"--app {name} is given twice: {table[name]} and {folder}")
        table[name] = folder
    return table
