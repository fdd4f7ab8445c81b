"""`meca ps`: what hosts a gateway has, and what runs there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TextIO

from ..errors import UsageError
from ..settings import resolve_endpoint
from ._arguments import add_endpoint

if TYPE_CHECKING:
    import argparse

SUMMARY = "show a gateway's hosts, their load, and your calls that run there"

EPILOG = """\
The first host is the gateway's own machine; the others have joined with `meca host`. Of other owners' calls only their
number is shown. Slots, free ones and what is in use are those of functions; as many container calls run besides.

examples:
  meca ps --endpoint http://127.0.0.1:3001
  meca ps --endpoint http://127.0.0.1:3001 --json

exit codes: 0 done, 2 wrong arguments, 3 no gateway"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    add_endpoint(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON list instead")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Ask, and print a table."""
    if resolve_endpoint(args.endpoint) is None:
        raise UsageError("meca ps needs a gateway that stays; give --endpoint URL, or set MECA_ENDPOINT")
    from ..client.executor import MecaExecutor

    with MecaExecutor(args.endpoint) as ex:
        hosts = ex.hosts()
    if args.json:
        import json

        print(json.dumps(hosts), file=out)
    else:
        _print_table(hosts, out)
    return 0


def _print_table(hosts: list[dict[str, Any]], out: TextIO) -> None:
    rows = [("HOST", "STATE", "SLOTS", "FREE", "IN USE", "ENGINE", "RUNNING", "OTHERS")]
    for host in hosts:
        name = f"{host['name']} (gateway)" if host["here"] else host["name"]
        used = " ".join(f"{key}={amount:g}" for key, amount in sorted(host["in_use"].items())) or "-"
        counts = str(host["slots"]), str(host["free"]), used, "yes" if host.get("engine") else "no"
        rows.append((name, host["state"], *counts, str(len(host["running"])), str(host["others"])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        out.write("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
    for host in hosts:
        for call in host["running"]:
            behind = f", {call['waiting']} behind it" if call["waiting"] else ""
            what = f" ({call['container']})" if "container" in call else ""
            out.write(f"task {call['task']}{what} on {host['name']} for {call['seconds']:.1f} s{behind}\n")
