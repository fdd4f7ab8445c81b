"""From words to a verb, and from an error to one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn, Protocol, TextIO, cast

from .. import __version__
from ..errors import GatewayRefused, GatewayUnreachable, MecaError, ProtocolMismatch, UsageError
from . import VERBS

if TYPE_CHECKING:
    from collections.abc import Sequence

OK, FAILED, USAGE, NO_GATEWAY, INTERRUPTED = 0, 1, 2, 3, 130  #: exit codes; 130 is the shell's own for Ctrl-C

DESCRIPTION = "Run Python functions and containers in other processes, through a gateway."
DEBUG_HELP = "show the whole traceback of an error"
EPILOG = """\
meca COMMAND --help tells about one of them.

examples:
  meca demo                                                  see it work, without a server or an account
  meca offload sampleserver:latest '{"name": "meca dev 0"}'  one call of an example container
  meca doctor                                                find out what is missing

exit codes: 0 done, 1 the work failed, 2 wrong arguments, 3 no gateway, 130 interrupted"""


class Verb(Protocol):
    """What a file of this folder has to have to be a verb."""

    SUMMARY: str  #: its line in `meca --help`

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, args: argparse.Namespace, out: TextIO) -> int: ...


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, like every other error of the command."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see: {self.prog} --help)")


def run_command(argv: Sequence[str] | None) -> int:
    """Find the verb, run it, and turn whatever happens into an exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words  # known before parsing, which may fail itself
    try:
        code = _run_verb(words)
        sys.stdout.flush()
        return code
    except SystemExit as end:  # argparse ends --help and --version this way
        return int(end.code or 0)
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED, debug)
    except BrokenPipeError:
        # Whoever read our output has gone (`meca demo | head -1`). Python would complain about it once more
        # when it flushes stdout at exit, so stdout gets a place to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except UsageError as error:
        return _complain(str(error), USAGE, debug)
    except (GatewayUnreachable, GatewayRefused, ProtocolMismatch) as error:
        return _complain(str(error), NO_GATEWAY, debug)
    except (MecaError, OSError) as error:
        return _complain(str(error), FAILED, debug)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return _complain(text if debug else f"{text} (a fault of meca; --debug shows where)", FAILED, debug)


def _run_verb(words: Sequence[str]) -> int:
    """Give the words before the verb to the command's own parser and those after it to the verb's."""
    place = next((number for number, word in enumerate(words) if not word.startswith("-")), len(words))
    top = _top_parser()
    top.parse_args(words[:place])
    if place == len(words):
        top.print_help(sys.stderr)
        return USAGE
    name = words[place]
    if name not in VERBS:
        top.error(f"no command {name!r}; there are {', '.join(VERBS)}")
    verb = _verb(name)
    parser = _Parser(
        prog=f"meca {name}", description=verb.SUMMARY, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verb.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help=DEBUG_HELP)
    # Intermixed: otherwise argparse refuses `IMAGE --timeout 5 DATA` where DATA may be left out.
    return verb.run(parser.parse_intermixed_args(words[place + 1 :]), sys.stdout)


def _top_parser() -> argparse.ArgumentParser:
    commands = "\n".join(f"  {name:<9} {_verb(name).SUMMARY}" for name in VERBS)
    parser = _Parser(
        prog="meca",
        usage="meca [--version] [--debug] COMMAND ...",
        description=DESCRIPTION,
        epilog=f"commands:\n{commands}\n\n{EPILOG}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"meca-executor {__version__}")
    parser.add_argument("--debug", action="store_true", help=DEBUG_HELP)
    return parser


def _verb(name: str) -> Verb:
    return cast("Verb", import_module(f".{name}", __package__))


def _complain(text: str, code: int, debug: bool) -> int:
    """Print one line (and with `debug` the traceback of the error in hand) and return `code`."""
    if debug:
        import traceback

        traceback.print_exc()
    # A message may quote what a container said: nothing in it may steer the terminal.
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    print("meca:", line or "failed without a reason", file=sys.stderr)
    return code
