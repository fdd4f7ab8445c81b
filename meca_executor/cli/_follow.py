"""One run at a terminal or in a pipe: what it says goes out as it comes, what is typed goes in."""

from __future__ import annotations

import contextlib
import getpass
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

from ..client.portal import portal
from ..errors import MecaError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..client.kernel_result import RunResult
    from ..client.kernels import KernelCore, RunState

INTERRUPT_S = 15.0  #: for an interrupted run to end
CHUNK = 64 << 10


def follow(
    core: KernelCore,
    code: str,
    mode: str,
    opts: Mapping[str, Any],
    timeout: float | None,
    *,
    reads: bool = True,
) -> RunResult:
    """Run something and return how it ended; its output has gone to stdout and stderr.

    Args:
        reads: It gets our standard input; else it has none.

    Raises:
        KeyboardInterrupt: After the run was interrupted, too, and has ended.
        BrokenPipeError: The same; whoever read our output is gone.
    """
    asked = core.stateful and mode == "query"  # such a kernel says when it wants a line
    if not asked and reads and sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty():
        opts = {**opts, "tty": True}  # so that a prompt without a line end is seen
    state = portal.submit(_begin(core, code, mode, opts, timeout)).result()
    if not reads:
        portal.submit(core.type(state.run, b"", True)).result()
    elif not asked:
        threading.Thread(target=_pump, args=(core, state.run), name="meca-stdin", daemon=True).start()
    try:
        while True:
            result = portal.submit(core.follow(state, None, _show, _write)).result()
            if result.status != "waiting-input":
                return result
            _answer(core, state.run, secret=bool((result["options"] or {}).get("is_password")))
    except KeyboardInterrupt:
        _interrupt(core, state, _show, _write)
        raise
    except BrokenPipeError:
        _interrupt(core, state, None, lambda stream, data: None)
        raise


def _interrupt(
    core: KernelCore,
    state: RunState,
    show: Callable[[str, Any], object] | None,
    write: Callable[[str, bytes], object],
) -> None:
    with contextlib.suppress(MecaError, TimeoutError, BrokenPipeError):
        portal.submit(core.ask("interrupt", {"run": state.run})).result(INTERRUPT_S)
        portal.submit(core.follow(state, INTERRUPT_S, show, write)).result(INTERRUPT_S + 1)


def begin_kept(core: KernelCore, code: str, mode: str, opts: Mapping[str, Any], timeout: float | None) -> str:
    """Have something run that goes on without us, and has nothing to read; returns the run's name."""

    async def begin() -> str:
        state = core.begin(code, mode, opts, None, timeout, b"", keep=True)
        await state.exchange.next()  # it is there, or why not
        return state.run

    return portal.submit(begin()).result()


def attached(core: KernelCore, run: str | None, after: int) -> RunResult:
    """Show what a run says, from some entry on, until it ends; returns how it ended. Ctrl-C leaves it alone."""
    result = portal.submit(core.attach(run, after, None, _show, _write)).result()
    while result.status == "waiting-input":  # somebody else answers
        assert core.attached is not None
        result = portal.submit(core.follow(core.attached, None, _show, _write)).result()
    return result


async def _begin(core: KernelCore, code: str, mode: str, opts: Mapping[str, Any], timeout: float | None) -> RunState:
    return core.begin(code, mode, opts, None, timeout)


def _write(stream: str, data: bytes) -> None:
    """In the portal's thread: pass on what was said, as it is."""
    out = sys.stderr if stream == "stderr" else sys.stdout
    out.flush()
    out.buffer.write(data)
    out.buffer.flush()


def _show(kind: str, data: Any) -> None:
    """In the portal's thread: what is shown besides the streams."""
    if kind == "stderr":
        _write("stderr", data.encode())
    elif kind == "html":
        _write("stderr", f"[html, {len(data):,} characters]\n".encode())
    elif kind == "media":
        mime, content = data
        if mime.startswith("text/"):
            _write("stdout", (content + "\n").encode())
        else:
            _write("stderr", f"[{mime}, {len(content):,} characters]\n".encode())


def _answer(core: KernelCore, run: str, *, secret: bool) -> None:
    """Give a kernel that asks one line of ours; the end of input where there is none."""
    line: str | None
    try:
        if secret and sys.stdin.isatty():
            line = getpass.getpass("") + "\n"
        else:
            line = sys.stdin.readline()
    except EOFError:
        line = None
    if line:
        portal.submit(core.type(run, line.encode("utf-8", "surrogateescape"), False)).result()
    else:
        portal.submit(core.type(run, b"", True)).result()


def _pump(core: KernelCore, run: str) -> None:
    """In a thread of its own: what comes on our standard input goes to the program, to its end."""
    with contextlib.suppress(MecaError, OSError, ValueError, RuntimeError):  # it has ended meanwhile
        descriptor = sys.stdin.fileno()
        if os.isatty(descriptor) and os.tcgetpgrp(descriptor) != os.getpgrp():
            return  # in the background: reading would stop us
        while True:
            data = os.read(descriptor, CHUNK)
            portal.submit(core.type(run, data, not data)).result()
            if not data:
                return
