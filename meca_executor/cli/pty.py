"""`meca pty`: this terminal in a kernel's shell."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING, TextIO

from ..errors import UsageError
from ._arguments import add_endpoint

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from ..asyncio.kernel import StreamPty

SUMMARY = "put this terminal into a kernel's shell"
NAME = "meca-pty"  #: of the terminal in the kernel, so that it is found again
DETACH = b"\x1d"  #: Ctrl-]
CHUNK = 4096

EPILOG = """\
The shell runs in the kernel's folder, whatever its language. Ctrl-C and all other keys go to it; Ctrl-] leaves it.
With -t TOKEN the kernel is kept, and its shell goes on: the same command finds both again, and shows what was missed.

examples:
  meca pty                  a shell that ends with this command
  meca pty -t work          one that can be left and found again
  meca pty lua5 -t work     the same, and the kernel is one for Lua

exit codes: the shell's own; 0 when it was left, 2 wrong arguments, 3 no gateway could be used"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = EPILOG
    parser.add_argument("lang", metavar="LANG", nargs="?", help="language of a new kernel (default sh)")
    parser.add_argument("-t", "--client-token", metavar="TOKEN", help="name of a kernel that is kept")
    add_endpoint(parser)


def run(args: argparse.Namespace, out: TextIO) -> int:
    """Live in the shell until it ends, or is left."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("meca pty needs a terminal; use meca run for pipes")
    return asyncio.run(_live(args))


async def _live(args: argparse.Namespace) -> int:
    from ..asyncio.kernel import AsyncKernel

    lang = args.lang or await _language(args)
    async with await AsyncKernel.get_or_create(lang, args.client_token, endpoint=args.endpoint) as kernel:
        size = os.get_terminal_size(sys.stdout.fileno())
        pty = kernel.stream_pty(size.lines, size.columns, name=NAME)
        await pty.open()
        with raw(sys.stdin.fileno()):
            left = await _carry(pty)
        if left:
            await pty.detach()
            how = f"meca pty -t {args.client_token}" if args.client_token else None
            sys.stderr.write(f"\r\nleft; {f'back with: {how}' if how else 'the temporary kernel ends'}\r\n")
            return 0
        return pty.exit_status or 0


async def _language(args: argparse.Namespace) -> str:
    """The language that a kept kernel has, so that it need not be said again."""
    if args.client_token is None:
        return "sh"
    from ..errors import KernelError
    from ._gateway_link import with_link

    def ask() -> str:
        with contextlib.suppress(KernelError):
            info = with_link(args.endpoint, lambda link: link.ask({"do": "info", "kernel": args.client_token}))
            return str(info.head["lang"])
        return "sh"

    return await asyncio.get_running_loop().run_in_executor(None, ask)


async def _carry(pty: StreamPty) -> bool:
    """Carry bytes both ways; True when the user left, False when the shell ended."""
    loop, keys = asyncio.get_running_loop(), asyncio.Queue[bytes]()
    descriptor = sys.stdin.fileno()
    loop.add_reader(descriptor, lambda: keys.put_nowait(os.read(descriptor, CHUNK)))
    resized = asyncio.Event()
    loop.add_signal_handler(signal.SIGWINCH, resized.set)
    tasks = [
        asyncio.create_task(_type(pty, keys)),
        asyncio.create_task(_show(pty)),
        asyncio.create_task(_fit(pty, resized)),
    ]
    try:
        await asyncio.wait(tasks[:2], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks[:2]:
            if task.done():
                task.result()
        return not tasks[1].done()
    finally:
        loop.remove_reader(descriptor)
        loop.remove_signal_handler(signal.SIGWINCH)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _type(pty: StreamPty, keys: asyncio.Queue[bytes]) -> None:
    while True:
        typed = await keys.get()
        before, left, _ = typed.partition(DETACH)
        if before:
            await pty.send_stdin(before)
        if left or not typed:
            return


async def _show(pty: StreamPty) -> None:
    out = sys.stdout.buffer
    async for data in pty:
        out.write(data)
        out.flush()


async def _fit(pty: StreamPty, resized: asyncio.Event) -> None:
    while True:
        await resized.wait()
        resized.clear()
        size = shutil.get_terminal_size()
        await pty.resize(size.lines, size.columns)


@contextlib.contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Give every key to the program, for the time of the body."""
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)  # what was typed already is not lost
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
