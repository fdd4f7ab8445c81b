"""`meca kernel`: what kept kernels there are, their logs, code for one, and their end."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import MecaError, UsageError
from ._arguments import add_endpoint, amount
from ._status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..client.kernel_link import KernelLink
    from ..client.kernel_result import RunResult
    from ..client.kernels import KernelCore

SUMMARY = "list kept kernels, show what they printed, run code in one, end one"
ACTIONS = ("ls", "logs", "rm", "exec")

EPILOG = """\
ls lists the kernels of your access key, logs shows the last that one ran and printed, exec runs a snippet in one (- is
standard input), and rm ends some. A kernel is named by its token or its id. Without an endpoint these are the kernels
of your background gateway.

logs --follow shows the run that goes on in it (or its last one) from its beginning, or from --after N on, until it
ends; its last 16 MiB are there. Ctrl-C leaves it, and says how to go on. A run goes on without whoever began it with
meca run --detach.

examples:
  meca kernel ls
  meca kernel logs work
  meca kernel logs work --follow
  meca kernel exec work "print(x)"
  meca kernel rm work

exit codes: 0 done, 1 there is no such kernel, 2 wrong arguments, 3 no gateway; exec and logs --follow: as meca run"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    parser.add_argument("action", metavar="ACTION", choices=ACTIONS, help=", ".join(ACTIONS))
    parser.add_argument("names", metavar="TOKEN", nargs="*", default=[], help="which kernel; and the code for exec")
    parser.add_argument("--timeout", type=amount, metavar="S", help="exec: seconds that the run may take")
    parser.add_argument("--follow", action="store_true", help="logs: show the run that goes on, until it ends")
    parser.add_argument("--after", type=position, metavar="N", help="logs --follow: what was said from there on")
    parser.add_argument("--run", metavar="ID", help="logs --follow: which run, of the last 16")
    add_endpoint(parser)


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Do one of them."""
    counts = {"ls": (0, 0), "logs": (1, 1), "rm": (1, 1000), "exec": (2, 2)}
    least, most = counts[args.action]
    if not least <= len(args.names) <= most:
        wanted = {"ls": "no name", "logs": "one TOKEN", "rm": "a TOKEN or more", "exec": "a TOKEN and CODE"}
        raise UsageError(f"meca kernel {args.action} takes {wanted[args.action]}")
    if args.follow and args.action != "logs":
        raise UsageError("--follow is for logs")
    if not args.follow and (args.after is not None or args.run is not None):
        raise UsageError("--after and --run are for logs --follow")
    from ._gateway_link import with_link

    if args.action == "exec" or args.follow:
        return _in_kernel(args, _execute if args.action == "exec" else _follow)
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
            f"{one['lang']}{' (isolated)' if one.get('isolated') else ''}",
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


def position(text: str) -> int:
    """Return a position in a run's output."""
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise argparse.ArgumentTypeError(f"{text!r} is not a position: a whole number, as --follow says it at its end")
    return int(text)


def _execute(core: KernelCore, args: argparse.Namespace, status: Status) -> RunResult:
    from ._follow import follow

    code, script = args.names[1], args.names[1] == "-"
    if script:
        code = sys.stdin.buffer.read().decode("utf-8", "replace")
    return follow(core, code, "query", {}, args.timeout, reads=not script)


def _follow(core: KernelCore, args: argparse.Namespace, status: Status) -> RunResult:
    from ._follow import attached

    try:
        return attached(core, args.run, args.after or 0)
    except KeyboardInterrupt:
        if (run := core.attached) is not None:
            words = f"meca kernel logs {args.names[0]} --follow --run {run.run} --after {run.position}"
            status.info(f"The run goes on; so does this: {words}")
        raise


def _in_kernel(args: argparse.Namespace, work: Callable[[KernelCore, argparse.Namespace, Status], RunResult]) -> int:
    """Do something with a kernel that is there; returns the exit code of the run."""
    from ..client.kernels import KernelCore, hold_link, let_go
    from ..client.portal import portal
    from ..kernel import find_place
    from .run import INTERRUPTED, OURS, told

    status = Status()
    url, keys = find_place(args.endpoint, kept=True)
    portal.hold()
    try:
        link = portal.submit(hold_link(url, keys, 5.0, 600.0)).result()
        try:
            info = portal.submit(link.ask({"do": "info", "kernel": args.names[0]})).result().head
            return told(work(KernelCore(link, info), args, status), status)
        except KeyboardInterrupt:
            return INTERRUPTED
        except MecaError as error:
            status.fail(str(error))
            return OURS
        finally:
            portal.submit(let_go(link)).result()
    finally:
        portal.release()
