"""`meca run`: a piece of code, or a program of several files, in a kernel."""

from __future__ import annotations

import argparse
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import MecaError, UsageError
from ._arguments import ISOLATE_HELP, add_endpoint, amount
from ._status import Status

if TYPE_CHECKING:
    from ..client.kernel_result import RunResult
    from ..kernel import Kernel

SUMMARY = "run code, or build and run a program of several files, in a kernel"
OURS, INTERRUPTED, TIMEOUT, NOT_BUILT = 125, 130, 124, 127  #: exit codes, beside the program's own

EPILOG = """\
With -c, or - for a script on standard input, the code runs as one snippet. With FILES they are sent into the kernel's
own folder, built and run: main.c, main.py, ... or the file that is named first. `meca kernels` lists the languages.

What the program reads is this terminal, or the pipe up to its end. What it prints goes to stdout and stderr as it is;
the lines of meca are on stderr, and -q leaves them away.

Without -t the kernel is a temporary one. With -t TOKEN it is kept, and the next run with that token goes on in it;
without an endpoint such kernels live on your background gateway (meca gateway --background, --stop). Files: 1,000 of
256 MiB at most, and 1 GiB together.

With --detach the run goes on when this command has ended; meca kernel logs TOKEN --follow shows it. With --isolate a
new kernel runs in a container: in its own folder, without a network, and without anything else of the machine.

examples:
  meca run python3 -c "print('hello world')"
  meca run c main.c mylib.c mylib.h
  meca run python3 -t work -c "x = 1"; meca run python3 -t work -c "print(x)"
  meca run cpp src --build "make -C src" --exec ./src/prog --download 'out/*.png'
  echo 'print(1)' | meca run lua5 -
  meca run python3 --isolate main.py
  meca run python3 -t train --detach main.py; meca kernel logs train --follow

exit codes: the program's own; 1 an uncaught error, 2 wrong arguments, 124 --timeout was reached, 125 a fault of meca
or an unknown language, 127 the build failed or there is no such program, 130 interrupted"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    parser.add_argument("lang", metavar="LANG", help="language, such as python3, lua5, c (see: meca kernels)")
    parser.add_argument(
        "files", metavar="FILES", nargs="*", default=[], help="files and folders to send; - is a script"
    )
    parser.add_argument(
        "-t", "--client-token", metavar="TOKEN", help="name of a kernel that is kept; made when missing"
    )
    parser.add_argument("-c", "--code", help="the code")
    parser.add_argument("-q", "--quiet", action="store_true", help="say failures only")
    parser.add_argument("--build", metavar="CMD", help="shell command that builds (default: the language's own)")
    parser.add_argument("--exec", metavar="CMD", help="shell command that runs (default: the language's own)")
    parser.add_argument(
        "-e", "--env", type=variable, action="append", default=[], metavar="K=V", help="environment of a new kernel"
    )
    parser.add_argument("--timeout", type=amount, metavar="S", help="seconds that the run may take")
    ending = parser.add_mutually_exclusive_group()
    ending.add_argument("--rm", action="store_true", help="end the kernel afterwards, also with -t")
    ending.add_argument("--keep", action="store_true", help="keep the kernel, under the token that is shown")
    ending.add_argument(
        "--detach", action="store_true", help="keep it, begin the run without input, and leave; see meca kernel logs"
    )
    parser.add_argument("--isolate", action="store_true", help=ISOLATE_HELP)
    parser.add_argument("--basedir", type=folder, metavar="DIR", help="folder that FILES are relative to (default: .)")
    parser.add_argument(
        "--download",
        action="append",
        default=[],
        metavar="PATTERN",
        help="fetch files that the program made; to --basedir",
    )
    add_endpoint(parser)


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Check, get a kernel, run, clean up."""
    code, reads = checked(args)
    from ..client.kernels import planned
    from ..wire.kernels import checked_token

    if args.client_token is not None:
        checked_token(args.client_token)
    plan = [path for path, _ in planned(args.files, args.basedir)] if code is None else []
    status = Status(args.quiet)
    try:
        return _run(args, status, code, plan, reads)
    except UsageError:
        raise
    except MecaError as error:
        status.fail(str(error))
        return OURS
    except KeyboardInterrupt:
        status.fail("interrupted")
        return INTERRUPTED


def _run(args: argparse.Namespace, status: Status, code: str | None, plan: list[str], reads: bool) -> int:
    from ..kernel import Kernel
    from ._follow import begin_kept

    kept = bool(args.client_token or args.keep or args.detach)
    token = args.client_token or secrets.token_hex(16)
    status.info(f"Client session token: {token}")
    status.wait("Connecting to the kernel..." if args.client_token else "Creating a temporary kernel...")
    kernel = Kernel.get_or_create(
        args.lang, token if kept else None, envs=dict(args.env) or None, endpoint=args.endpoint, isolate=args.isolate
    )
    try:
        status.done(f"Kernel (ID: {kernel.kernel_id}) is ready.")
        if plan:
            status.wait("Uploading source files...")
            kernel.upload(args.files, args.basedir)
            status.done("Uploading done.")
        if args.detach:
            run = begin_kept(kernel._core, *_what(args, code, plan), args.timeout)
            status.done(f"Run {run} goes on; see it with: meca kernel logs {token} --follow")
            return 0
        result = _execute(kernel, args, code, plan, reads)
        exit_code = told(result, status)
        if args.download:
            status.wait("Downloading files...")
            fetched = kernel.download(args.download, args.basedir or ".")
            status.done(f"Downloaded {', '.join(map(str, fetched[:5]))}{' and more' if len(fetched) > 5 else ''}.")
    finally:
        if kept and not args.rm:
            kernel.close()
        else:
            status.wait("Cleaning up the temporary kernel...")
            kernel.destroy()
            status.done("Cleaned up the kernel.")
    return exit_code


def _execute(kernel: Kernel, args: argparse.Namespace, code: str | None, plan: list[str], reads: bool) -> RunResult:
    from ._follow import follow

    return follow(kernel._core, *_what(args, code, plan), args.timeout, reads=reads)


def _what(args: argparse.Namespace, code: str | None, plan: list[str]) -> tuple[str, str, dict[str, Any]]:
    """Return the code, the mode and the options of the run."""
    if code is not None:
        return code, "query", {}
    opts = {"main": plan[0] if plan else None}
    opts |= {name: value for name, value in (("build", args.build), ("exec", args.exec)) if value is not None}
    return "", "batch", opts


def told(result: RunResult, status: Status) -> int:
    """Say what went wrong, and return the exit code."""
    if result.status == "exec-timeout":
        status.fail(f"Execution timed out: {result.error.value if result.error else ''}")
        return TIMEOUT
    if result.status == "interrupted":
        status.fail("interrupted")
        return INTERRUPTED
    if result.steps.get("build"):
        status.fail(f"Build failed (exit code {result.steps['build']}).")
        return NOT_BUILT
    return result.exit_code or 0


def checked(args: argparse.Namespace) -> tuple[str | None, bool]:
    """Return the code, or None for files; and whether standard input is left for the program.

    Raises:
        UsageError: There is neither code nor files, or both; or an option that means nothing here.
    """
    script = args.files == ["-"]
    if args.code is not None and args.files:
        raise UsageError("give code with -c, or FILES, not both")
    if args.code is None and not args.files:
        raise UsageError("give code with -c, FILES to build and run, or - for a script on standard input")
    if "-" in args.files and not script:
        raise UsageError("- is a script on standard input, and stands alone")
    if (script or args.code is not None) and (args.build or args.exec):
        raise UsageError("--build and --exec are for FILES")
    if (args.keep or args.detach) and args.endpoint == "embedded":
        option = "--detach" if args.detach else "--keep"
        raise UsageError(f"{option} needs a gateway that stays; leave --endpoint embedded away")
    if args.detach and args.download:
        raise UsageError("--download has nothing to fetch when --detach leaves at once")
    if not script:
        return args.code, True
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode(), False
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 text (byte {error.start})") from None


def variable(text: str) -> tuple[str, str]:
    """Return (name, value) from `K=V`."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def folder(text: str) -> Path:
    """Return a folder that is there."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"no folder {text!r}")
    return Path(text)
