"""`meca keys`: the key pairs of those who may use a gateway."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..errors import UsageError

if TYPE_CHECKING:
    import argparse

SUMMARY = "make, list and revoke the key pairs of those who may use a gateway"
ACTIONS = ("create", "list", "revoke")

EPILOG = """\
  create             add a new pair to the key file and print it, as two lines for the environment of whoever gets it
  list               print where the file is, and the access key of each pair, never a secret
  revoke ACCESS_KEY  take a pair out of the file

The file is your own (mode 600), and is what `meca gateway` and your own programs read unless told otherwise. A gateway
that runs takes a change into account at once: a new pair may connect, and the sessions of a revoked one are ended
within a few seconds, their tasks with them.

examples:
  meca keys create
  meca keys create --file team.keys > for-a-colleague.env
  meca keys list
  meca keys revoke AKIAABCDEFGHIJKLMNOP

exit codes: 0 done, 1 the file cannot be written, 2 wrong arguments, an unknown key, or a damaged file"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    parser.add_argument("action", choices=ACTIONS, metavar="ACTION", help="create, list or revoke; see below")
    parser.add_argument("access_key", metavar="ACCESS_KEY", nargs="?", help="the pair to revoke")
    parser.add_argument("--file", type=Path, metavar="FILE", help="the key file (default: in your state folder)")


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Do what the action says."""
    from ..keys import add_keys, read_keys, revoke_keys
    from ..settings import default_key_file

    path = args.file or default_key_file()
    if args.access_key is not None and args.action != "revoke":
        raise UsageError(f"meca keys {args.action} takes no access key, and {args.access_key!r} was given")
    if args.action == "create":
        pair = add_keys(path)
        out.write(f"MECA_ACCESS_KEY={pair.access_key}\nMECA_SECRET_KEY={pair.secret_key}\n")
    elif args.action == "list":
        out.write(f"# key file: {path}\n")
        out.writelines(f"{pair.access_key}\n" for pair in read_keys(path))
    elif args.access_key is None:
        raise UsageError("meca keys revoke needs the ACCESS_KEY of the pair; meca keys list shows them")
    else:
        revoke_keys(path, args.access_key)
        out.write(f"{args.access_key} is revoked in {path}\n")
    return 0
