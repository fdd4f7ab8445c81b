"""`meca offload`: one call of a container."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from ..errors import UsageError
from ..settings import resolve_endpoint
from ._arguments import add_endpoint, amount, app_folder, count
from ._session import session

if TYPE_CHECKING:
    import argparse

SUMMARY = "send data to a container and print its reply"

EPILOG = """\
DATA is sent as it is, as UTF-8 text; containers usually expect JSON.
  TEXT    this text; if it begins with '@' or is a lone '-', send it by standard input
  -       all of standard input
  @FILE   the contents of a file
  none    the empty text; standard input is read only when you say '-'
Bytes that are not text have to be encoded first, usually as base64.

The reply is printed as it came, with a line end if it has none. On a terminal, escapes in the reply of a desktop app
are left out: nobody has proved who wrote them.

examples:
  meca offload sampleserver:latest '{"name": "meca dev 0"}'
  meca offload knn:latest @points.json --timeout 60
  echo '{"name": "you"}' | meca offload sampleserver:latest -
  meca offload mine:latest '[1, 2]' --app path/to/folder     a folder with src/app.py, without an engine

exit codes: 0 replied, 1 the task failed, 2 wrong arguments, 3 no gateway could be used"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    parser.add_argument("image", metavar="IMAGE", help="the container's image, such as knn:latest")
    parser.add_argument("data", metavar="DATA", nargs="?", default="", help="what to send: TEXT, - or @FILE; see below")
    add_endpoint(parser)
    parser.add_argument(
        "--timeout", type=amount, metavar="S", help="seconds that one attempt may run (default: no limit)"
    )
    parser.add_argument(
        "--retry",
        type=count,
        metavar="N",
        help="attempts in all when one is lost, not when it fails (default 3)",
    )
    parser.add_argument("--cpu", type=amount, metavar="N", help="cores that the container needs")
    parser.add_argument("--memory", type=amount, metavar="MIB", help="memory that it needs, in MiB")
    parser.add_argument(
        "--app",
        type=app_folder,
        metavar="FOLDER",
        help="run IMAGE from FOLDER/src/app.py (embedded gateway only)",
    )


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Offload, wait, print."""
    data = read_data(args.data)
    if args.app and resolve_endpoint(args.endpoint) is not None:
        raise UsageError("--app is for the embedded gateway; start the other one with: meca gateway --app IMAGE=FOLDER")
    apps = {args.image: args.app} if args.app else None
    resource = {key: value for key in ("cpu", "memory") if (value := getattr(args, key)) is not None}
    with session(args.endpoint, apps=apps) as executor:
        future = executor.offload_task(
            args.image, data, resource=resource or None, timeout=args.timeout, retry=args.retry
        )
        try:
            reply = future.result()
        except KeyboardInterrupt:
            executor.kill(future)  # or shutdown would wait for a reply that nobody will read
            raise
        stranger = executor.dialect != "native"
    if stranger and out.isatty():  # a reply may be anything, and a terminal obeys
        from ..wire.data import printable

        reply = printable(reply)
    out.write(reply if reply.endswith("\n") else reply + "\n")
    return 0


def read_data(argument: str) -> str:
    """Return the text that DATA stands for.

    Raises:
        UsageError: The file is not there, or what was read is not UTF-8 text.
    """
    if argument == "-":
        source, raw = "standard input", sys.stdin.buffer.read()
    elif argument.startswith("@"):
        source = argument[1:]
        try:
            with open(source, "rb") as file:
                raw = file.read()
        except OSError as error:
            raise UsageError(f"cannot read {source!r}: {error.strerror}") from error
    else:
        return argument
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8 text (byte {error.start}); encode it first, e.g. as base64") from error
