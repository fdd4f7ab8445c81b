"""What a client does with kernels, as coroutines in the portal's loop; `Kernel` and `AsyncKernel` are its faces."""

from __future__ import annotations

import asyncio
import codecs
import os
import secrets
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KernelEnded, KernelError, UsageError
from ..wire.kernels import CODE_BYTES, FILE_BYTES, FILES, TOTAL_BYTES
from .kernel_link import KernelLink
from .kernel_request import as_log, listed
from .kernel_result import RunResult
from .portal import aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..settings import KeyPair
    from ..wire.kernels import Note
    from .kernel_link import Exchange

UPLOADS = 8  #: files on their way at once

_links: dict[tuple[asyncio.AbstractEventLoop, str | None, KeyPair | None], KernelLink] = {}


async def hold_link(
    endpoint: str | None, keys: KeyPair | None, connect_timeout: float, resume_window: float
) -> KernelLink:
    """Return the connected link to a gateway, the same one for all kernels there; `let_go` gives it back.

    Raises:
        GatewayError: There is no connection, and why.
    """
    place = (asyncio.get_running_loop(), endpoint, keys)
    link = _links.get(place)
    if link is None or link.failure is not None:
        link = _links[place] = KernelLink(endpoint, keys, connect_timeout, resume_window)
    link.holders += 1
    try:
        await link.start()
    except BaseException:
        await let_go(link)
        raise
    return link


async def let_go(link: KernelLink) -> None:
    """Give a link back; the last one closes it."""
    link.holders -= 1
    if link.holders == 0:
        for place in [place for place, one in _links.items() if one is link]:
            del _links[place]
        await link.close()


class RunState:
    """A run as this client follows it."""

    def __init__(self, exchange: Exchange, run: str) -> None:
        self.exchange = exchange
        self.run = run
        self.position = 0  #: the number of the last thing that came


class KernelCore:
    """One kernel at one gateway."""

    def __init__(self, link: KernelLink, info: Mapping[str, Any]) -> None:
        self.link = link
        self.id = str(info["kernelId"])
        self.lang = str(info["lang"])
        self.token: str | None = info.get("token")
        self.created = bool(info.get("created"))
        self.stateful = bool(info.get("stateful"))
        self.closed = False
        self._runs: dict[str, RunState] = {}
        self.attached: RunState | None = None  #: the run that was attached to last

    @classmethod
    async def create(cls, link: KernelLink, request: Mapping[str, Any]) -> KernelCore:
        """Get a kernel, or make one.

        Raises:
            KernelError: There is none to be had, and why.
        """
        note = await link.ask({"do": "create", **request})
        return cls(link, note.head)

    async def ask(self, do: str, head: Mapping[str, Any] | None = None, body: bytes = b"") -> Note:
        """Send a request about this kernel, and return the reply.

        Raises:
            KernelError: It failed, and why.
        """
        return await self.link.ask(self._head(do, head), body)

    def _head(self, do: str, head: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if self.closed:
            raise KernelEnded(f"kernel {self.id} was closed or destroyed here; get it again")
        return {"do": do, "kernel": self.id, **(head or {})}

    # -- runs ---------------------------------------------------------------------------------------

    async def execute(
        self,
        code: str,
        mode: str,
        opts: Mapping[str, Any] | None,
        run_id: str | None,
        timeout: float | None,
        stdin: str | bytes | None,
        wait: float | None,
        on_output: Callable[[str, Any], object] | None,
        keep: bool = False,
    ) -> RunResult:
        """As `Kernel.execute`."""
        if mode in ("query", "batch"):
            typed = stdin if stdin is not None or mode == "query" else b""
            state = self.begin(code, mode, opts, run_id, timeout, typed, keep=keep)
        else:
            state = self._known(run_id)
            if mode == "input":
                text = code if code.endswith("\n") else code + "\n"
                await self._type(state.run, text, eof=False)
        try:
            return await self.follow(state, wait, on_output)
        except asyncio.CancelledError:
            await self._give_up(state)
            raise

    async def attach(
        self,
        run_id: str | None,
        after: int,
        wait: float | None,
        on_output: Callable[[str, Any], object] | None,
        on_bytes: Callable[[str, bytes], object] | None = None,
    ) -> RunResult:
        """As `Kernel.attach`."""
        exchange = self.link.open(self._head("attach", {"run": run_id, "after": after}))
        first = await exchange.next()  # which run it is, or why there is none
        run = str(first.head["run"]) if first is not None else str(run_id)
        state = self._runs[run] = self.attached = RunState(exchange, run)
        try:
            return await self.follow(state, wait, on_output, on_bytes)
        except asyncio.CancelledError:
            self._runs.pop(run, None)
            exchange.drop()
            raise

    def begin(
        self,
        code: str,
        mode: str,
        opts: Mapping[str, Any] | None,
        run_id: str | None,
        timeout: float | None,
        stdin: str | bytes | None = None,
        *,
        keep: bool = False,
    ) -> RunState:
        """Have something run; with `stdin` it has that to read, and nothing after it."""
        body = code.encode("utf-8", "surrogateescape")
        if len(body) > CODE_BYTES:
            raise UsageError(f"the code has {len(body):,} bytes, and {CODE_BYTES:,} are allowed; upload a file")
        run = run_id or secrets.token_hex(8)
        head = self._head("execute", {"mode": mode, "run": run, "opts": dict(opts or {}), "timeout": timeout})
        if keep:
            head["keep"] = True
        if stdin is not None:
            typed = stdin.encode() if isinstance(stdin, str) else stdin
            head["stdin"] = len(typed)
            body += typed
        state = self._runs[run] = RunState(self.link.open(head, body), run)
        return state

    def _known(self, run_id: str | None) -> RunState:
        run = run_id or next(reversed(self._runs), None)
        state = self._runs.get(run) if run is not None else None
        if state is None:
            raise KernelError("no run waits or goes on; begin one with mode 'query' or 'batch'")
        return state

    async def follow(
        self,
        state: RunState,
        wait: float | None,
        on_output: Callable[[str, Any], object] | None,
        on_bytes: Callable[[str, bytes], object] | None = None,
    ) -> RunResult:
        """Gather what a run says until it ends, asks for input, or `wait` seconds are over.

        Args:
            on_bytes: Gets what the streams say as it is, in place of the result.
        """
        result = RunResult(state.run)
        loop = asyncio.get_running_loop()
        deadline = None if wait is None else loop.time() + wait
        decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}
        while True:
            left = None if deadline is None else max(0.0, deadline - loop.time())
            try:
                note = await asyncio.wait_for(state.exchange.next(), left)
            except (asyncio.TimeoutError, TimeoutError):
                return result.settle()
            except BaseException:
                self._runs.pop(state.run, None)
                raise
            if note is None:
                break
            result.position = state.position = int(note.head.get("n", state.position))
            if on_bytes is not None and note.head.get("t") in decoders:
                on_bytes(note.head["t"], note.body)
                continue
            decoder = decoders.get(str(note.head.get("t")))
            said = result.take(note, None if decoder is None else decoder.decode(note.body))
            if said is not None and on_output is not None:
                on_output(said[0], said[1])
            if result.status == "waiting-input":
                return result.settle()
        result.settle()
        self._runs.pop(state.run, None)
        if result.status in ("died", "ended"):
            text = result.error.value if result.error is not None else result.status
            error = KernelEnded(f"kernel {self.id} ended during the run: {text}")
            error.result = result
            raise error
        return result

    async def _give_up(self, state: RunState) -> None:
        """Nobody waits any more: the kernel is to do something else."""
        self._runs.pop(state.run, None)
        state.exchange.drop()
        if self.link.failure is None and not self.closed:
            self.link.open(self._head("interrupt", {"run": state.run}))

    async def type(self, run: str | None, data: str | bytes, eof: bool) -> None:
        """Give a run input."""
        await self._type(self._known(run).run, data, eof=eof)

    async def _type(self, run: str, data: str | bytes, *, eof: bool) -> None:
        body = data.encode() if isinstance(data, str) else data
        await self.ask("input", {"run": run, "eof": eof}, body)

    async def complete(self, code: str, opts: Mapping[str, int] | None) -> list[str]:
        """As `Kernel.complete`."""
        cursor = int((opts or {}).get("cursor", len(code)))
        return list((await self.ask("complete", {"cursor": cursor}, code.encode())).head["matches"])

    async def info(self) -> dict[str, Any]:
        """As `Kernel.get_info`."""
        return (await self.ask("info")).head

    async def logs(self) -> str:
        """As `Kernel.get_logs`."""
        return as_log((await self.ask("logs")).head["logs"])

    # -- files --------------------------------------------------------------------------------------

    async def list_files(self, path: str) -> list[dict[str, Any]]:
        """As `Kernel.list_files`."""
        return listed((await self.ask("files", {"path": path})).head["files"])

    async def upload(
        self, files: Iterable[str | os.PathLike[str]], basedir: str | os.PathLike[str] | None
    ) -> list[str]:
        """As `Kernel.upload`."""
        plan = await aside(partial(planned, files, basedir))
        gate = asyncio.Semaphore(UPLOADS)

        async def one(path: str, place: Path) -> None:
            async with gate:
                mode, content = await aside(partial(fetch, place))
                await self.ask("upload", {"path": path, "mode": mode}, content)

        await asyncio.gather(*(one(path, place) for path, place in plan))
        return [path for path, _ in plan]

    async def write(self, path: str, content: bytes) -> None:
        """Put bytes into a file of the kernel's folder."""
        if len(content) > FILE_BYTES:
            raise UsageError(f"{path!r} has {len(content):,} bytes, and {FILE_BYTES:,} are allowed")
        await self.ask("upload", {"path": path}, content)

    async def download(self, patterns: Iterable[str], dest: str | os.PathLike[str]) -> list[Path]:
        """As `Kernel.download`."""
        wanted = [patterns] if isinstance(patterns, str) else list(patterns)
        paths = (await self.ask("match", {"patterns": wanted})).head["paths"]
        root = Path(dest)
        written = []
        for path in map(str, paths):
            parts = Path(path).parts
            if Path(path).is_absolute() or ".." in parts:
                raise KernelError(f"the gateway named {path!r}, which leads elsewhere; nothing of it was written")
            content = (await self.ask("download", {"path": path})).body
            await aside(partial(store, root / path, content))
            written.append(root / path)
        return written


def planned(files: Iterable[str | os.PathLike[str]], basedir: str | os.PathLike[str] | None) -> list[tuple[str, Path]]:
    """Return (path in the kernel's folder, file here) of files and folders.

    Raises:
        UsageError: One is not there, is outside of the base folder, or all are too much.
    """
    base = Path(os.path.realpath(basedir or "."))
    plan: dict[str, Path] = {}
    for name in [files] if isinstance(files, (str, os.PathLike)) else files:
        place = base / name if basedir is not None and not Path(name).is_absolute() else Path(name)
        if not place.exists():
            raise UsageError(f"there is no file {str(place)!r}")
        found = sorted(one for one in place.rglob("*") if one.is_file()) if place.is_dir() else [place]
        for one in found:
            real = Path(os.path.realpath(one))
            if not real.is_relative_to(base):
                raise UsageError(f"{str(one)!r} is outside of {base}; give --basedir (basedir=) a folder that has it")
            plan[real.relative_to(base).as_posix()] = real
    total = 0
    for path, place in plan.items():
        size = place.stat().st_size
        total += size
        if size > FILE_BYTES:
            raise UsageError(f"{path!r} has {size:,} bytes, and {FILE_BYTES:,} are allowed for a file")
    if len(plan) > FILES or total > TOTAL_BYTES:
        raise UsageError(
            f"{len(plan):,} files with {total:,} bytes are too much; {FILES:,} with {TOTAL_BYTES:,} are allowed"
        )
    return list(plan.items())


def store(place: Path, content: bytes) -> None:
    """Write a file, and the folders above it."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


def fetch(place: Path) -> tuple[int, bytes]:
    """Return a file's rights and content."""
    return place.stat().st_mode & 0o777, place.read_bytes()
