"""`meca demo`: a real computation over the workers, two containers, two failures, and what was checked."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..errors import UsageError
from ._arguments import add_endpoint, count
from ._session import session

if TYPE_CHECKING:
    import argparse

SUMMARY = "draw a picture on all cores, call containers, survive failures, and check it all"

EPILOG = """\
Needs nothing else: it starts a gateway and workers of its own and ends them. It takes a few seconds of
every core and writes one file. Exit code 1 when a check fails.

examples:
  meca demo
  meca demo --workers 2 --out julia.png
  meca demo --endpoint http://127.0.0.1:3001    on a gateway that runs already"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    parser.add_argument("--workers", type=count, metavar="N", help="worker processes (default: one per core)")
    parser.add_argument(
        "--out", type=Path, default=Path("meca-demo.png"), metavar="FILE", help="the picture (default meca-demo.png)"
    )
    parser.add_argument("--quick", action="store_true", help="a picture of a ninth of the size")
    add_endpoint(parser)


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Run the stages, print a few lines for each, and return 1 when a check failed."""
    folder = args.out.parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)) or args.out.is_dir():
        raise UsageError(f"cannot write {args.out}: give --out a file in a folder that you may write to")
    from ._demo_stages import Report, calls_in_containers, failures, opening, picture

    report = Report(out)
    began = time.perf_counter()
    try:
        with session(args.endpoint, max_workers=args.workers) as executor:
            opening(executor, report, began)
            picture(executor, report, args.out, (300, 200) if args.quick else (900, 600))
            calls_in_containers(executor, report)
            failures(executor, report)
    except BaseException:
        report.leave()
        raise
    return report.close(time.perf_counter() - began)
