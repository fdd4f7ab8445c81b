"""Kernel: a code session that keeps its state, on a gateway.

from meca_executor.kernel import Kernel

with Kernel.get_or_create("python3") as kern:
    print(kern.execute("1 + 1").text)
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from .client.kernel_request import check_attach, check_execute, kernel_request
from .client.kernels import KernelCore, hold_link, let_go
from .client.portal import portal
from .errors import KernelEnded, UsageError
from .keys import read_keys
from .settings import default_key_file, given_keys, resolve_endpoint

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Coroutine, Iterable, Mapping
    from concurrent.futures import Future
    from pathlib import Path

    from .client.kernel_link import KernelLink
    from .client.kernel_result import RunResult
    from .settings import KeyPair

T = TypeVar("T")

__all__ = ["Kernel"]

_open: set[KernelBase] = set()  #: what the interpreter's end has to close


class KernelBase:
    """What `Kernel` and `AsyncKernel` share: which kernel it is."""

    def __init__(self, core: KernelCore) -> None:
        self._core = core
        _open.add(self)

    def __repr__(self) -> str:
        name = f"token {self.client_token!r}" if self.client_token is not None else "temporary"
        state = ", closed" if self._core.closed else ""
        return f"<{type(self).__name__} {self.lang} {self.kernel_id} {name} at {self._core.link.endpoint}{state}>"

    @property
    def kernel_id(self) -> str:
        """Its id, 22 characters."""
        return self._core.id

    @property
    def lang(self) -> str:
        """The language that it runs."""
        return self._core.lang

    @property
    def client_token(self) -> str | None:
        """Its name; None for a temporary one."""
        return self._core.token

    @property
    def created(self) -> bool:
        """Whether it was made for this object; False when it was there before."""
        return self._core.created

    @property
    def stateful(self) -> bool:
        """Whether a snippet knows what those before it did; else each is a program of its own."""
        return self._core.stateful

    async def _leave(self, *, destroy: bool) -> dict[str, Any]:
        """In the portal: let go of the kernel, or end it."""
        core = self._core
        stats: dict[str, Any] = {}
        try:
            if core.link.failure is None:
                with contextlib.suppress(KernelEnded):  # by itself, before
                    stats = (await core.ask("destroy" if destroy else "leave")).head
        finally:
            core.closed = True
            await let_go(core.link)
        return stats

    def _released(self) -> None:
        _open.discard(self)
        portal.release()

    def _close_at_exit(self) -> None:
        with contextlib.suppress(Exception):
            portal.submit(self._leave(destroy=self.client_token is None)).result(10.0)
        self._released()


class Kernel(KernelBase):
    """A kernel, from any thread. `destroy()` ends it; in a `with` block a temporary one is ended by itself."""

    @classmethod
    def get_or_create(
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
    ) -> Kernel:
        """Return the kernel of that token, or a new one.

        Without an endpoint, here or in `MECA_ENDPOINT`, a temporary kernel lives on a gateway of this process's own,
        and one with a token on the user's background gateway, which is started when it is needed.

        Args:
            lang: A language (`meca kernels` lists them) or a Jupyter kernelspec's name.
            client_token: Its name, 1 to 64 of `[A-Za-z0-9_.-]`, of its access key alone; such a kernel is kept. None
                makes a temporary one, which ends with this object.
            mounts: There are no virtual folders; upload files.
            max_mem: KiB of memory, as in Sorna; 0 is no limit.
            exec_timeout: Milliseconds that a run may take, as in Sorna; 0 is no limit.
            envs: Environment of a new kernel, besides the gateway's.
            endpoint: URL of a gateway, or `"embedded"`.
            limits: Of a new kernel: `memory_mib`, `timeout_s` (of a run), `idle_s` (3600), `lifetime_s`, `open_files`
                (1024), `output_mib` (256, of a run), `output_mib_s` (64, of a run in a second, four times that at
                once). None is no limit.
            isolate: It runs in a container of the gateway's engine, with nothing of the machine but its folder.
            connect_timeout: Seconds in which the gateway must answer.
            resume_window: Seconds for which a connection that dropped is tried again.

        Raises:
            UsageError: An argument is wrong.
            KernelError: The language cannot be had, the token's kernel has another one, or there is no engine.
            GatewayError: There is no gateway, and why.
        """
        request = kernel_request(
            lang, client_token, mounts, max_mem, exec_timeout, envs, limits, isolate, connect_timeout, resume_window
        )
        url, keys = find_place(endpoint, kept=client_token is not None)
        portal.hold()
        try:
            return cls(portal.submit(make(url, keys, request, connect_timeout, resume_window)).result())
        except BaseException:
            portal.release()
            raise

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        future = portal.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def execute(
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
        """Run code and return what came of it; see `RunResult`.

        Args:
            code: What to run (`query`), what to answer (`input`); nothing for `batch` and `continue`.
            mode: `query` runs a snippet. `batch` builds and runs the files in the kernel's folder. `input` answers a
                run that waits for input. `continue` goes on following a run.
            opts: For `batch`: `build`, `exec` and `clean`, each a shell command, `"*"` for the language's own (the
                default of the first two) or None; `main`, the file to start with.
            run_id: A name for the run; with `input` and `continue` the run that is meant (the last one).
            timeout: Seconds that the run may take; then it is interrupted, and the status is `exec-timeout`.
            stdin: What the program reads, and nothing after it. Without it a query that wants input is
                `waiting-input`, and a batch has none.
            wait: Seconds after which this returns with status `continued`, and the run goes on.
            on_output: Called with (kind, data) of each piece of the console as it comes, on another thread.
            keep: The run goes on when this program has gone (needs a `client_token`), and `attach` finds it. Else it
                is interrupted when nobody follows it any more.

        Raises:
            UsageError: An argument is wrong.
            KernelEnded: The kernel died or was ended; the text says why, and `result` is what came before.
        """
        check_execute(code, mode, keep, self.client_token)
        return self._do(self._core.execute(code or "", mode, opts, run_id, timeout, stdin, wait, on_output, keep))

    def submit(
        self,
        code: str,
        *,
        run_id: str | None = None,
        timeout: float | None = None,
        stdin: str | bytes | None = None,
        keep: bool = False,
    ) -> Future[RunResult]:
        """Run a snippet, after those before it; returns a future, for `as_completed` and `wait`.

        Cancelling the future interrupts the run. What the snippet raises is in the result's `error`. Arguments are
        as of `execute`.
        """
        check_execute(code, "query", keep, self.client_token)
        return portal.submit(self._core.execute(code, "query", None, run_id, timeout, stdin, None, None, keep))

    def attach(
        self,
        run_id: str | None = None,
        *,
        after: int = 0,
        wait: float | None = None,
        on_output: Callable[[str, Any], object] | None = None,
    ) -> RunResult:
        """Follow a run that another program began, or this one before; returns what it said and how it ended.

        Its last 16 MiB of output are there, and what is missing before them is counted. Leaving it does not end it.

        Args:
            run_id: Which one (`get_info()["runs"]` has them); None is the one that goes on, or else the last one.
            after: What was said from here on; 0 is all, a result's `position` goes on where that result ends.
            wait: Seconds after which this returns with status `continued`.
            on_output: As of `execute`.

        Raises:
            KernelError: There is no such run any more; the last 16 that ended are known.
            KernelEnded: As of `execute`.
        """
        check_attach(after, wait)
        return self._do(self._core.attach(run_id, after, wait, on_output))

    def interrupt(self) -> None:
        """Interrupt what runs; the kernel keeps its state."""
        self._do(self._core.ask("interrupt"))

    def restart(self) -> None:
        """Begin with a fresh state; files stay."""
        self._do(self._core.ask("restart"))

    def complete(self, code: str, opts: Mapping[str, int] | None = None) -> list[str]:
        """Return completions of the code at `opts["cursor"]` (its end).

        Raises:
            KernelBusy: Something runs, or the language completes nothing.
        """
        return self._do(self._core.complete(code, opts))

    def upload(
        self, files: Iterable[str | os.PathLike[str]], basedir: str | os.PathLike[str] | None = None
    ) -> list[str]:
        """Send files and folders, 1,000 files of 256 MiB at most; returns their paths in the kernel's folder.

        Args:
            files: Where they are, inside of `basedir`.
            basedir: What their paths in the kernel's folder are relative to; None is the working directory.

        Raises:
            UsageError: One is missing, outside of the base folder, or too large.
        """
        return self._do(self._core.upload(files, basedir))

    def write(self, path: str, content: bytes) -> None:
        """Put these bytes into a file of the kernel's folder."""
        self._do(self._core.write(path, content))

    def download(self, patterns: Iterable[str], dest: str | os.PathLike[str] = ".") -> list[Path]:
        """Fetch the files that patterns such as `*.txt` or `out/**` name; returns where they were written.

        Raises:
            KernelError: A pattern names nothing, or leads out of the kernel's folder.
        """
        return self._do(self._core.download(patterns, dest))

    def list_files(self, path: str = ".") -> list[dict[str, Any]]:
        """Return the files below a path of the kernel's folder: `path`, `size` (bytes) and `modified` (time)."""
        return self._do(self._core.list_files(path))

    def get_info(self) -> dict[str, Any]:
        """Return language, age, idle seconds, status, limits and more."""
        return self._do(self._core.info())

    def get_logs(self) -> str:
        """Return the last of what was printed, also while nobody listened."""
        return self._do(self._core.logs())

    def destroy(self) -> dict[str, Any]:
        """End the kernel and delete its folder; returns `{"stats": get_info()}`. Once more does nothing."""
        return self._end(destroy=True)

    def close(self) -> None:
        """Let go of it: one with a token goes on without us, a temporary one ends."""
        self._end(destroy=self.client_token is None)

    def _end(self, *, destroy: bool) -> dict[str, Any]:
        if self not in _open:
            return {}
        try:
            return portal.submit(self._leave(destroy=destroy)).result()
        finally:
            self._released()

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def make(
    url: str | None, keys: KeyPair | None, request: Mapping[str, Any], connect_timeout: float, resume_window: float
) -> KernelCore:
    """In the portal: connect, and get the kernel."""
    link: KernelLink = await hold_link(url, keys, connect_timeout, resume_window)
    try:
        return await KernelCore.create(link, request)
    except BaseException:
        await let_go(link)
        raise


def find_place(endpoint: str | None, *, kept: bool) -> tuple[str | None, KeyPair | None]:
    """Return the gateway that a kernel lives on (None: one of this process's own), and the keys for it.

    Raises:
        UsageError: The endpoint is none, or there are no keys for it; the text says which variable is missing.
        GatewayUnreachable: The background gateway does not start.
    """
    url = resolve_endpoint(endpoint)
    if url is None:
        if not kept or endpoint == "embedded":
            return None, None
        from .background import ensure

        return ensure().url, next(iter(read_keys(default_key_file())), None)
    keys = given_keys() or next(iter(read_keys(default_key_file())), None)
    if keys is None:
        raise UsageError(
            f"MECA_ACCESS_KEY and MECA_SECRET_KEY are not set, and there is no key file {default_key_file()}; the "
            f"gateway at {url} wants a pair (meca keys create)"
        )
    return url, keys


def _close_all() -> None:
    for one in list(_open):
        one._close_at_exit()


portal.at_exit.append(_close_all)
