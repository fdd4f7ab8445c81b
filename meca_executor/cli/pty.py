"""`meca pty`: this terminal in a kernel's shell."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from ..errors import UsageError
from ._arguments import ISOLATE_HELP, add_endpoint

if TYPE_CHECKING:
    import argparse

SUMMARY = "put this terminal into a kernel's shell"

EPILOG = """\
The shell runs in the kernel's folder, whatever its language. Ctrl-C and all other keys go to it; Ctrl-] leaves it.
With -t TOKEN the kernel is kept, and its shell goes on: the same command finds both again, and shows what was missed.

examples:
  meca pty                  a shell that ends with this command
  meca pty -t work          one that can be left and found again
  meca pty lua5 -t work     the same, and the kernel is one for Lua
  meca pty --isolate        a shell in a container

exit codes: the shell's own; 0 when it was left, 2 wrong arguments, 3 no gateway could be used"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    parser.add_argument("lang", metavar="LANG", nargs="?", help="language of a new kernel (default sh)")
    parser.add_argument("-t", "--client-token", metavar="TOKEN", help="name of a kernel that is kept")
    parser.add_argument("--isolate", action="store_true", help=ISOLATE_HELP)
    add_endpoint(parser)


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Live in the shell until it ends, or is left."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("meca pty needs a terminal; use meca run for pipes")
    from ._terminal import live  # heavy: asyncio

    return live(args.lang, args.client_token, args.endpoint, isolate=args.isolate)
