"""AsyncKernel: as `Kernel`, and each method is a coroutine; and the kernel's terminal."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..client.kernel_pty import PtyCore
from ..client.kernel_request import check_attach, check_execute, kernel_request
from ..client.portal import aside, portal
from ..kernel import KernelBase, _open, find_place, make

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from pathlib import Path

    from ..client.kernel_result import RunResult
    from ..settings import KeyPair

T = TypeVar("T")

__all__ = ["AsyncKernel", "StreamPty"]


async def _in_portal(work: Coroutine[Any, Any, T]) -> T:
    return await asyncio.wrap_future(portal.submit(work))


def _here(on_output: Callable[[str, Any], object] | None) -> Callable[[str, Any], object] | None:
    """Return what calls a function in the loop that runs now."""
    if on_output is None:
        return None
    loop = asyncio.get_running_loop()
    return lambda kind, data: loop.call_soon_threadsafe(on_output, kind, data)


async def _place(endpoint: str | None, kept: bool) -> tuple[str | None, KeyPair | None]:
    """A background gateway may have to be started: not in the user's loop."""
    return await aside(partial(find_place, endpoint, kept=kept))


class AsyncKernel(KernelBase):
    """A kernel, for coroutines of any loop; see `Kernel` for what the methods do."""

    @classmethod
    async def get_or_create(
        cls,
        lang: str,
        client_token: str | None = None,
        mounts: Iterable[str] | None = None,
        max_mem: int = 0,
        exec_timeout: int = 0,
        envs: Mapping[str, str] | None = None,
        *,
        endpoint: str | None = None,
        limits: Mapping[str, float | None] | None = None,
        isolate: bool = False,
        connect_timeout: float = 10.0,
        resume_window: float = 600.0,
    ) -> AsyncKernel:
        """As `Kernel.get_or_create`."""
        request = kernel_request(
            lang, client_token, mounts, max_mem, exec_timeout, envs, limits, isolate, connect_timeout, resume_window
        )
        portal.hold()
        try:
            url, keys = await _in_portal(_place(endpoint, client_token is not None))
            return cls(await _in_portal(make(url, keys, request, connect_timeout, resume_window)))
        except BaseException:
            portal.release()
            raise

    async def execute(
        self,
        code: str | None = None,
        mode: str = "query",
        opts: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        timeout: float | None = None,
        stdin: str | bytes | None = None,
        wait: float | None = None,
        on_output: Callable[[str, Any], object] | None = None,
        keep: bool = False,
    ) -> RunResult:
        """As `Kernel.execute`; a cancelled one interrupts the run. `on_output` is called in this loop."""
        check_execute(code, mode, keep, self.client_token)
        sink = _here(on_output)
        return await _in_portal(self._core.execute(code or "", mode, opts, run_id, timeout, stdin, wait, sink, keep))

    async def attach(
        self,
        run_id: str | None = None,
        *,
        after: int = 0,
        wait: float | None = None,
        on_output: Callable[[str, Any], object] | None = None,
    ) -> RunResult:
        """As `Kernel.attach`; a cancelled one leaves the run alone. `on_output` is called in this loop."""
        check_attach(after, wait)
        return await _in_portal(self._core.attach(run_id, after, wait, _here(on_output)))

    async def interrupt(self) -> None:
        """As `Kernel.interrupt`."""
        await _in_portal(self._core.ask("interrupt"))

    async def restart(self) -> None:
        """As `Kernel.restart`."""
        await _in_portal(self._core.ask("restart"))

    async def complete(self, code: str, opts: Mapping[str, int] | None = None) -> list[str]:
        """As `Kernel.complete`."""
        return await _in_portal(self._core.complete(code, opts))

    async def upload(
        self, files: Iterable[str | os.PathLike[str]], basedir: str | os.PathLike[str] | None = None
    ) -> list[str]:
        """As `Kernel.upload`."""
        return await _in_portal(self._core.upload(files, basedir))

    async def write(self, path: str, content: bytes) -> None:
        """As `Kernel.write`."""
        await _in_portal(self._core.write(path, content))

    async def download(self, patterns: Iterable[str], dest: str | os.PathLike[str] = ".") -> list[Path]:
        """As `Kernel.download`."""
        return await _in_portal(self._core.download(patterns, dest))

    async def list_files(self, path: str = ".") -> list[dict[str, Any]]:
        """As `Kernel.list_files`."""
        return await _in_portal(self._core.list_files(path))

    async def get_info(self) -> dict[str, Any]:
        """As `Kernel.get_info`."""
        return await _in_portal(self._core.info())

    async def get_logs(self) -> str:
        """As `Kernel.get_logs`."""
        return await _in_portal(self._core.logs())

    def stream_pty(
        self,
        rows: int | None = None,
        cols: int | None = None,
        *,
        command: Sequence[str] = (),
        name: str | None = None,
    ) -> StreamPty:
        """Return a terminal with a shell in the kernel's folder; `async with` or `await` opens it.

        Args:
            rows: Its size; None is this terminal's own, or 24 by 80.
            cols: As above.
            command: What runs in it; nothing is the shell.
            name: Of a terminal that can be found again: one of that name that is open is taken. None is a new one.
        """
        size = shutil.get_terminal_size()
        core = PtyCore(self._core, name or secrets.token_hex(8))
        return StreamPty(core, rows or size.lines, cols or size.columns, list(command))

    async def destroy(self) -> dict[str, Any]:
        """As `Kernel.destroy`."""
        return await self._end(destroy=True)

    async def close(self) -> None:
        """As `Kernel.close`."""
        await self._end(destroy=self.client_token is None)

    async def _end(self, *, destroy: bool) -> dict[str, Any]:
        if self not in _open:
            return {}
        try:
            return await _in_portal(self._leave(destroy=destroy))
        finally:
            self._released()

    async def __aenter__(self) -> AsyncKernel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class StreamPty:
    """A terminal: an asynchronous iterator of bytes, until its program ends, and a context manager that closes it.

    What comes while the connection is down is there after it: nothing is missed.
    """

    def __init__(self, core: PtyCore, rows: int, cols: int, command: list[str]) -> None:
        self._core = core
        self._size = rows, cols
        self._command = command
        self._opened = False

    def __repr__(self) -> str:
        return f"<StreamPty {self._core.name} {'closed' if self.closed else 'open'}>"

    @property
    def closed(self) -> bool:
        """Whether it was closed here."""
        return self._core.closed

    @property
    def exit_status(self) -> int | None:
        """Its program's exit code, once the iterator has ended; 128 and the number for a signal."""
        return self._core.exit_status

    async def open(self, after: int = 0) -> StreamPty:
        """Begin; or with a name, go on with what was shown after entry `after`."""
        if not self._opened:
            self._opened = True
            await _in_portal(self._core.open(*self._size, self._command, after))
        return self

    def __await__(self) -> Any:
        return self.open().__await__()

    async def __aenter__(self) -> StreamPty:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> StreamPty:
        return self

    async def __anext__(self) -> bytes:
        await self.open()
        data = await _in_portal(self._core.read())
        if data is None:
            raise StopAsyncIteration
        return data

    async def send_stdin(self, data: str | bytes) -> None:
        """Type this."""
        await self.open()
        await _in_portal(self._core.type(data.encode() if isinstance(data, str) else data))

    send_str = send_stdin

    async def resize(self, rows: int, cols: int) -> None:
        """Set its size; the program is told."""
        await self.open()
        await _in_portal(self._core.resize(rows, cols))

    async def restart(self) -> None:
        """End its program and begin it again; the iterator goes on."""
        await self.open()
        await _in_portal(self._core.restart())

    async def detach(self) -> None:
        """Let go of it: its program goes on, and its name finds it again."""
        await _in_portal(self._core.close(detach=True))

    async def close(self) -> None:
        """End it, and what runs in it."""
        if self._opened:
            await _in_portal(self._core.close())
