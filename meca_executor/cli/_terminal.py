"""This terminal in a kernel's shell: bytes both ways, until one end is over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
from typing import TYPE_CHECKING

from ..asyncio.kernel import AsyncKernel
from ..errors import KernelError
from ._gateway_link import with_link

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..asyncio.kernel import StreamPty

NAME = "meca-pty"  #: of the terminal in the kernel, so that it is found again
DETACH = b"\x1d"  #: Ctrl-]
CHUNK = 4096


def live(lang: str | None, token: str | None, endpoint: str | None, *, isolate: bool = False) -> int:
    """Live in a kernel's shell until it ends, or is left; returns the exit code."""
    return asyncio.run(_live(lang, token, endpoint, isolate))


async def _live(lang: str | None, token: str | None, endpoint: str | None, isolate: bool) -> int:
    lang = lang or await _language(token, endpoint)
    async with await AsyncKernel.get_or_create(lang, token, endpoint=endpoint, isolate=isolate) as kernel:
        size = os.get_terminal_size(sys.stdout.fileno())
        pty = kernel.stream_pty(size.lines, size.columns, name=NAME)
        await pty.open()
        with raw(sys.stdin.fileno()):
            left = await _carry(pty)
        if left:
            await pty.detach()
            how = f"meca pty -t {token}" if token else None
            sys.stderr.write(f"\r\nleft; {f'back with: {how}' if how else 'the temporary kernel ends'}\r\n")
            return 0
        return pty.exit_status or 0


async def _language(token: str | None, endpoint: str | None) -> str:
    """The language that a kept kernel has, so that it need not be said again."""
    if token is None:
        return "sh"

    def ask() -> str:
        with contextlib.suppress(KernelError):
            info = with_link(endpoint, lambda link: link.ask({"do": "info", "kernel": token}))
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
