"""`python -m tests.chaos --minutes 30 --seed N`: exit code 1 when a promise is broken."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

from meca_executor.settings import PREFIXES
from tests.helpers import leaks

from .engine import Engine, Plan


def main() -> int:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long there are faults (default 2)")
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)), help="repeats a run's schedule")
    parser.add_argument("--links-only", action="store_true", help="no faults but those of the link")
    parser.add_argument("--journal", action="store_true", help="the gateway keeps a journal: nothing at all is lost")
    parser.add_argument("--clients", type=int, default=3, help="programs at once (default 3)")
    parser.add_argument("--pause", type=float, default=0.4, help="seconds between two faults, on average (default 0.4)")
    parser.add_argument(
        "--more", action="append", default=[], metavar="KIND", help="five times as often; may be repeated"
    )
    parser.add_argument("--folder", type=Path, help="keep the run's files there (an empty folder)")
    args = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        del os.environ[name]
    leaks.mark_this_run()
    with tempfile.TemporaryDirectory(prefix="c-") as scratch:
        folder = args.folder or Path(scratch, "run")
        folder.mkdir(parents=True, exist_ok=True)
        own = Path(scratch, "tmp")
        own.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(own)
        os.environ["MECA_STATE_DIR"] = str(Path(scratch, "state"))
        plan = Plan(
            *(args.seed, args.minutes * 60, folder, args.links_only, args.journal, args.clients),
            pause=args.pause,
            more=tuple(args.more),
        )
        engine = Engine(plan)
        report = None
        try:
            with leaks.nothing_left(20.0):
                report = engine.run()
        except AssertionError as error:
            sys.stdout.write(f"BROKEN {error}\n")
            if report is not None:
                report.broken.append("something was left behind")
        if report is not None:
            sys.stdout.write(f"{report}\n")
    return 1 if report is None or report.broken else 0


if __name__ == "__main__":
    sys.exit(main())
