"""Local apps: container folders run as processes on this machine, without an engine."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp

from ..errors import ContainerFailed, NoHostFits, TaskFailed, TaskTimeout, UsageError
from ..wire.data import printable
from ..wire.printed import Log
from .app_connection import AppConnections, Unreachable
from .app_process import AppProcess
from .engine_settings import full_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .guardian import Guardian

EXCERPT_CHARS = 200  #: of a refusal's body, in the error's text
DEATH_GRACE_S = 1.0  #: after a broken connection, for the app's end to show; without it the fault is the reply's


class Apps:
    """Runs calls of local apps: started at the first call, kept warm, removed when idle.

    Belongs to the event loop of its first call, and to that loop's thread. It starts no threads of its own.
    """

    def __init__(
        self,
        folders: Mapping[str, str | os.PathLike[str]],
        *,
        ready_timeout: float = 30.0,
        idle_timeout: float = 60.0,
        environ: Mapping[str, str] | None = None,
        max_in_flight: int = 16,
        guardian: Guardian | None = None,
    ) -> None:
        """Know apps; nothing is started yet.

        Args:
            folders: Container reference -> folder with `src/app.py`.
            ready_timeout: Seconds that a start may take until `meca-init-done`.
            idle_timeout: Seconds without a call after which an app is ended.
            environ: What apps get, less our secrets; None is this process's environment.
            max_in_flight: Requests that one app gets at once; the others wait.
            guardian: Ends what apps have started if this process is killed; None is nobody.

        Raises:
            UsageError: A folder has no `src/app.py`.
        """
        self._folders: dict[str, Path] = {}
        self._ready_timeout = ready_timeout
        self._idle_timeout = idle_timeout
        self._environ = environ
        self._max_in_flight = max_in_flight
        self._guardian = guardian
        self._current: dict[str, _Instance] = {}  #: what takes new calls, by name
        self._all: set[_Instance] = set()  #: what has not ended, retired ones too
        self._closed = False
        for ref, folder in folders.items():
            self.add(ref, folder)

    def __repr__(self) -> str:
        return f"<Apps known={sorted(self._folders)} running={sorted(self._current)}>"

    @property
    def names(self) -> frozenset[str]:
        """What apps there are, by name with tag."""
        return frozenset(self._folders)

    def knows(self, ref: str) -> bool:
        """Return whether `call` would find this app; a reference without a tag means `:latest`."""
        return full_name(ref) in self._folders

    def add(self, ref: str, folder: str | os.PathLike[str]) -> None:
        """Know one more app, or another folder for a known one (whose calls in flight go on in the old).

        Raises:
            UsageError: The reference is empty, or the folder has no `src/app.py`.
        """
        path = Path(folder).absolute()
        if not ref.strip():
            raise UsageError(f"the app in {str(folder)!r} has an empty name; give one such as 'knn:latest'")
        if not (path / "src" / "app.py").is_file():
            what = "src/app.py in it is missing" if path.is_dir() else "there is no such folder"
            raise UsageError(f"app {ref!r}: {what} ({path}); an app is a container folder with a file src/app.py")
        name = full_name(ref)
        if self._folders.get(name) != path and name in self._current:
            self._retire(self._current[name])
        self._folders[name] = path

    async def call(
        self, ref: str, content: bytes, *, timeout: float | None = None, written: Log | None = None
    ) -> bytes:
        """Return the app's reply to one input.

        Args:
            ref: Container reference, as in `knows`.
            content: Body of the request; its type is given as JSON.
            timeout: Seconds for the request alone, not for waiting or for the app's start. When they are over,
                or when the caller is cancelled, the app is killed as soon as its other calls have ended.
            written: Gets what the app writes meanwhile, that of other calls in it, too; it is ended with the call.

        Raises:
            NoHostFits: No app has this name.
            ContainerFailed: The app did not get ready, or (`lost`) ended during the call.
            TaskFailed: It replied with a status of 400 or more, or with no HTTP at all.
            TaskTimeout: No reply in time.
        """
        name = full_name(ref)
        if name not in self._folders:
            raise NoHostFits(self.why_unknown(ref))
        written = Log() if written is None else written
        try:
            instance = await self._claim(name, written)
            try:
                with instance.process.writing_to(written):
                    return await self._exchange(instance, content, timeout)
            except asyncio.CancelledError:
                self._retire(instance)
                raise
            finally:
                instance.slots.release()
                self._release(instance)
        finally:
            written.end()

    def why_unknown(self, ref: str) -> str:
        """Return what to tell who asked for an app that is not known."""
        known = ", ".join(sorted(self._folders)) or "none"
        return (
            f"no container {ref!r} here (known: {known}); "
            f'add its folder with apps={{"{ref}": "folder"}} or `meca gateway --app {ref}=FOLDER`'
        )

    async def close(self) -> None:
        """End all apps and wait until they are gone; calls in flight fail. May be called again."""
        self._closed = True
        for instance in list(self._all):
            self._retire(instance)
            instance.process.stop()
        if self._all:
            # Every end has a limit of its own (`AppProcess`), and so has this wait.
            await asyncio.wait({instance.process.ended for instance in self._all})

    async def _claim(self, name: str, written: Log) -> _Instance:
        """Return an instance that is ready, with one of its slots taken."""
        while True:
            if self._closed:
                raise ContainerFailed(f"{name} is not started any more: the gateway is closing")
            instance = self._current.get(name)
            if instance is None or not instance.process.usable:
                instance = self._launch(name)
            instance.hold()
            warm = instance.ready and not instance.slots.locked()
            try:
                if not instance.ready:
                    with instance.process.writing_to(written, shared=False):
                        await self._until_ready(instance)
                await instance.slots.acquire()
            except BaseException:
                self._release(instance)
                raise
            if warm or (not instance.retired and instance.process.usable):
                return instance
            # Ended, or lost its right to new calls, while this one waited for its turn; it was not begun.
            instance.slots.release()
            self._release(instance)

    async def _until_ready(self, instance: _Instance) -> None:
        process = instance.process
        first = not process.ready.done()
        # Shielded: the start is shared, one caller that gives up must not end it for the others.
        failure = await asyncio.shield(process.ready)
        if failure is not None:
            raise ContainerFailed(failure)
        instance.ready = True
        if first and not process.usable and not instance.retired:
            raise await self._lost(instance)

    def _launch(self, name: str) -> _Instance:
        environ = os.environ if self._environ is None else self._environ
        process = AppProcess(name, self._folders[name], environ, self._ready_timeout, self._guardian)
        instance = _Instance(process, asyncio.Semaphore(self._max_in_flight))
        self._current[name] = instance
        self._all.add(instance)
        process.ended.add_done_callback(lambda _: self._forget(instance))
        return instance

    def _forget(self, instance: _Instance) -> None:
        instance.stop_clock()
        instance.connections.close()
        self._all.discard(instance)
        if self._current.get(instance.process.name) is instance:
            del self._current[instance.process.name]

    def _retire(self, instance: _Instance) -> None:
        """Give this instance no new calls, and end it when it has none."""
        instance.retired = True
        if self._current.get(instance.process.name) is instance:
            del self._current[instance.process.name]
        if not instance.calls:
            instance.stop_clock()
            instance.process.stop()

    def _release(self, instance: _Instance) -> None:
        instance.calls -= 1
        if instance.calls or instance.process.ended.done():
            return
        if instance.retired:
            instance.process.kill()
        else:
            loop = asyncio.get_running_loop()
            instance.clock = loop.call_later(self._idle_timeout, self._retire, instance)

    async def _exchange(self, instance: _Instance, content: bytes, timeout: float | None) -> bytes:
        """Make the request and return the reply, or say what its failure means."""
        process = instance.process
        try:
            status, reply = await instance.connections.post(process.port, content, timeout)
        except asyncio.TimeoutError:
            self._retire(instance)
            text = f"{process.name} gave no reply within the timeout of {timeout:g} s and is stopped"
            raise TaskTimeout(text) from None
        except Unreachable as error:
            self._retire(instance)
            raise await self._lost(instance, f"takes no connections any more ({error})") from error
        except aiohttp.ClientError as error:
            await asyncio.wait({process.ended}, timeout=DEATH_GRACE_S)
            if process.ended.done():
                raise await self._lost(instance) from error
            reason = printable(str(error)) or type(error).__name__
            raise TaskFailed(f"{process.name} gave no valid reply ({reason}); {process.last_lines()}") from error
        if status >= 400:
            excerpt = printable(reply.decode("utf-8", "replace"))[:EXCERPT_CHARS]
            raise TaskFailed(f"{process.name} refused the task, HTTP status {status}: {excerpt}")
        return reply

    async def _lost(self, instance: _Instance, otherwise: str = "ended") -> ContainerFailed:
        """Return the error for an app that had been ready; waits a moment for its end to show."""
        process = instance.process
        await asyncio.wait({process.ended}, timeout=DEATH_GRACE_S)
        how = f"ended during the call ({process.exit_reason()})" if process.ended.done() else otherwise
        error = ContainerFailed(f"{process.name} {how}; {process.last_lines()}")
        error.lost = True
        return error


class _Instance:
    """One process of an app and the calls that hold on to it, waiting ones too."""

    def __init__(self, process: AppProcess, slots: asyncio.Semaphore) -> None:
        self.process = process
        self.slots = slots
        self.connections = AppConnections()
        self.ready = False  #: has been; whether it still runs is for `AppProcess.usable`
        self.calls = 0
        self.retired = False
        self.clock: asyncio.TimerHandle | None = None

    def hold(self) -> None:
        self.stop_clock()
        self.calls += 1

    def stop_clock(self) -> None:
        if self.clock is not None:
            self.clock.cancel()
            self.clock = None
