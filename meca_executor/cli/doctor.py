"""`meca doctor`: what works here, what does not, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from ._arguments import add_endpoint

if TYPE_CHECKING:
    import argparse

SUMMARY = "check Python, packages, gateway, workers and a container, and say how to mend what fails"

EPILOG = """\
One line each: 'ok' works, '!!' does not (the line below says how to mend it), '--' could not be tried.

examples:
  meca doctor
  meca doctor --endpoint http://127.0.0.1:3001

exit codes: 0 all is well, 1 something is not"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    add_endpoint(parser)


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Print the findings one by one, as they are made; return 1 when one of them is bad."""
    from ._checkup import checkup

    bad = 0
    for finding in checkup(args.endpoint):
        print(f"{finding.mark}  {finding.subject:<15} {finding.text}", file=out, flush=True)
        if finding.mend:
            print(f"    {'':<15} {finding.mend}", file=out, flush=True)
        bad += finding.mark == "!!"
    return 1 if bad else 0
