"""Every script, one after the other: `python -m benchmarks [--quick] [--json FOLDER] [--plot FOLDER] [OPTION...]`.

Each runs in a process of its own and prints its tables; other options, such as `--rounds`, go to all of them.
`old_dialect` is left to itself, because it needs Node.js.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from .harness import ROOT, plotter

ALL = ("throughput", "latency", "payload", "scaling", "startup", "containers", "kernels", "cluster", "scale")
USAGE = 2  #: exit code of a command line that a script does not understand


def main(argv: list[str] | None = None) -> int:
    """Run the scripts; returns 1 when a peer failed in one of them."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Run every benchmark.",
        epilog="Other options go to every script, such as --rounds 7; the --help of each lists them.",
    )
    parser.add_argument("--quick", action="store_true", help="one round, and fewer calls")
    parser.add_argument("--json", metavar="FOLDER", type=Path, help="write NAME.json of each script there")
    parser.add_argument("--plot", metavar="FOLDER", type=Path, help="draw NAME.png of each script there")
    args, rest = parser.parse_known_args(argv)
    if args.plot:
        plotter()  # before hours of work: is matplotlib there?
        rest += ["--plot", str(args.plot.absolute())]
    if args.json:
        args.json.mkdir(parents=True, exist_ok=True)
    if args.quick:
        rest.append("--quick")
    worst = 0
    for name in ALL:
        own = ["--json", str((args.json / f"{name}.json").absolute())] if args.json else []
        code = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *rest, *own], cwd=ROOT).returncode
        if code == USAGE:
            return code
        worst = max(worst, code)
        print(flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main())
