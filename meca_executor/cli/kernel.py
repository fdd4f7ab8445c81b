"""`meca kernel`: what kept kernels there are, their logs, code for one, and their end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import MecaError, UsageError
from ._arguments import add_endpoint, amount
from ._status import Status

if TYPE_CHECKING:
    import argparse

    from ..client.kernel_link import KernelLink

SUMMARY = "list kept kernels, show what they printed, run code in one, end one"
ACTIONS = ("ls", "logs", "rm", "exec")

EPILOG = """\
ls lists the kernels of your access key, logs shows the last that one ran and printed, exec runs a snippet in one (- is
standard input), and rm ends some. A kernel is named by its token or its id. Without an endpoint these are the kernels
of your background gateway.

examples:
  meca kernel ls
  meca kernel logs work
  meca kernel exec work "print(x)"
  meca kernel rm work

exit codes: 0 done, 1 there is no such kernel, 2 wrong arguments, 3 no gateway; exec: as meca run"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=", ".join(ACTIONS))
    parser.add_argument("names", metavar="TOKEN", nargs="*", default=[], help="which kernel; and the code for exec")
    parser.add_argument("--timeout", type=amount, metavar="S", help="exec: seconds that the run may take")
    add_endpoint(parser)


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Do one of them."""
    counts = {"ls": (0, 0), "logs": (1, 1), "rm": (1, 1000), "exec": (2, 2)}
    least, most = counts[args.action]
    if not least <= len(args.names) <= most:
        wanted = {"ls": "no name", "logs": "one TOKEN", "rm": "a TOKEN or more", "exec": "a TOKEN and CODE"}
        raise UsageError(f"meca kernel {args.action} takes {wanted[args.action]}")
    from ._gateway_link import with_link

    if args.action == "exec":
        return _execute(args)
    if args.action == "ls":
        _table([info for info in with_link(args.endpoint, _all)], out)
    elif args.action == "logs":
        from ..client.kernel_request import as_log

        async def logs(link: KernelLink) -> list[list[str]]:
            parts: list[list[str]] = (await link.ask({"do": "logs", "kernel": args.names[0]})).head["logs"]
            return parts

        out.write(as_log(with_link(args.endpoint, logs)))
    else:

        async def remove(link: KernelLink) -> None:
            for name in args.names:
                await link.ask({"do": "destroy", "kernel": name})

        with_link(args.endpoint, remove)
    return 0


async def _all(link: KernelLink) -> list[dict[str, Any]]:
    kernels: list[dict[str, Any]] = (await link.ask({"do": "list"})).head["kernels"]
    return kernels


def _table(kernels: list[dict[str, Any]], out: TextIO) -> None:
    rows = [("TOKEN", "ID", "LANG", "STATUS", "AGE S", "IDLE S", "RUNS")]
    rows += [
        (
            str(one["token"] or "(temporary)"),
            str(one["kernelId"]),
            str(one["lang"]),
            str(one["status"]),
            f"{one['age']:.0f}",
            f"{one['idle']:.0f}",
            str(one["numQueriesExecuted"]),
        )
        for one in kernels
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        out.write("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def _execute(args: argparse.Namespace) -> int:
    from ..client.kernels import KernelCore, hold_link, let_go
    from ..client.portal import portal
    from ..kernel import find_place
    from ._follow import follow
    from .run import INTERRUPTED, OURS, told

    name, code = args.names
    script = code == "-"
    if script:
        code = sys.stdin.buffer.read().decode("utf-8", "replace")
    status = Status()
    url, keys = find_place(args.endpoint, kept=True)
    portal.hold()
    try:
        link = portal.submit(hold_link(url, keys, 5.0, 600.0)).result()
        try:
            info = portal.submit(link.ask({"do": "info", "kernel": name})).result().head
            return told(follow(KernelCore(link, info), code, "query", {}, args.timeout, reads=not script), status)
        except KeyboardInterrupt:
            return INTERRUPTED
        except MecaError as error:
            status.fail(str(error))
            return OURS
        finally:
            portal.submit(let_go(link)).result()
    finally:
        portal.release()
