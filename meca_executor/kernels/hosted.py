"""A kernel on this host: its folder, its engine, its runs one after the other, its terminals, and why it ended."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import KernelEnded, KernelError
from .batch import SnippetEngine, Steps
from .jupyter import JupyterEngine
from .log import Log
from .place import LocalPlace, Size
from .runs import INTERRUPTED, OURS, Engine, Outcome, Run
from .terminal import Terminal
from .workfolder import WorkFolder, changed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .languages import Found
    from .place import Place, Program
    from .runs import Limits

RUNS_KEPT = 16  #: finished runs whose output can be had again
QUEUED = 1000  #: runs that may wait
TERMINALS = 16


class Groups(Protocol):
    """Whoever ends process groups with the gateway, also when it is killed."""

    def watch(self, group: int) -> None:
        """There is one."""

    def done(self, group: int) -> None:
        """It has ended."""


class HostedKernel:
    """One kernel; `start` makes it ready, `end` takes it away.

    Args:
        owner: The access key that it belongs to.
        token: Its name; None for a temporary one.
        found: Its language.
        limits: What it may use.
        environ: The environment of its processes.
        on_end: Told when it ended, by whatever.
        groups: Told the process groups that have to end with the gateway.
        box: Makes the container that it runs in, given it; None is no container.
    """

    def __init__(
        self,
        owner: str,
        token: str | None,
        found: Found,
        limits: Limits,
        environ: Mapping[str, str],
        on_end: Callable[[HostedKernel], object],
        groups: Groups | None = None,
        box: Callable[[HostedKernel], Place] | None = None,
    ) -> None:
        self.id = secrets.token_urlsafe(16)
        self.owner, self.token, self.found, self.limits = owner, token, found, limits
        self.folder = WorkFolder()
        self.environ = dict(environ)
        self.isolated = box is not None
        self.runs: dict[str, Run] = {}
        self.terminals: dict[str, Terminal] = {}
        self.born = self.used = time.monotonic()
        self.finished = 0
        self.why: str | None = None  #: it ended
        self.users = 0  #: clients that are there
        self._on_end = on_end
        self._groups = groups
        self._group: int | None = None  # of the engine
        self.log = Log()
        self._queue: asyncio.Queue[Run] = asyncio.Queue(QUEUED)
        self._current: Run | None = None
        self._memory: str | None = None  # why a process was killed
        self._step: Program | None = None
        self._place: Place = LocalPlace(self.folder.root, self.environ, limits.open_files) if box is None else box(self)
        self._steps = Steps(self._place, self._watch_step)
        self._engine = self._make_engine()
        self._worker: asyncio.Task[None] | None = None
        self._ready: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._restarting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<HostedKernel {self.id} {self.found.name} {self.state}>"

    def _make_engine(self) -> Engine:
        if self.found.spec is None:
            return SnippetEngine(self.found, self.folder, self._steps)
        return JupyterEngine(self.found.spec, self._place, self.log.say)

    @property
    def state(self) -> str:
        """`starting`, `idle`, `busy` or `ended`."""
        if self.why is not None:
            return "ended"
        if self._ready is None or not self._ready.done():
            return "starting"
        return "idle" if self._current is None else "busy"

    async def start(self) -> None:
        """Wait until it is ready; many may wait.

        Raises:
            KernelError: It does not start, and why; it is gone then.
        """
        if self._ready is None:
            self._ready = asyncio.create_task(self._begin())
            self._ready.add_done_callback(self._on_ready)
        try:
            await asyncio.shield(self._ready)
        except asyncio.CancelledError:
            if self.why is None or not self._ready.cancelled():
                raise
            raise KernelEnded(f"kernel {self.id} ended: {self.why}") from None

    async def _begin(self) -> None:
        found = await self._place.prepare(self.found)
        if found is not self.found:
            self.found = found
            self._engine = self._make_engine()
        await self._engine.start()

    def _on_ready(self, ready: asyncio.Task[None]) -> None:
        if ready.cancelled() or ready.exception() is not None:
            self.end("it did not start")
        else:
            program = self._engine.program
            self._group = None if program is None else program.pid
            if self._groups is not None and self._group is not None:
                self._groups.watch(self._group)
            self._worker = asyncio.create_task(self._work())

    async def _stop_engine(self) -> None:
        await self._engine.stop()
        if self._groups is not None and self._group is not None:
            self._groups.done(self._group)
        self._group = None

    # -- runs ---------------------------------------------------------------------------------------

    def submit(self, run: Run) -> None:
        """Have something run, after what was submitted before.

        Raises:
            KernelError: Too much waits, the run's name is taken, or the kernel has ended.
        """
        if self.why is not None:
            raise KernelEnded(f"kernel {self.id} ended: {self.why}")
        if run.id in self.runs:
            raise KernelError(f"run {run.id!r} is there already; give another run_id, or none")
        if self._queue.full():
            raise KernelError(f"{QUEUED} runs wait for this kernel already")
        run.timeout_s = self.limits.timeout_s if run.timeout_s is None else run.timeout_s
        self.runs[run.id] = run
        self._queue.put_nowait(run)
        self.used = time.monotonic()

    async def _work(self) -> None:
        while True:
            run = await self._queue.get()
            if run.abandoned or run.interrupted:
                run.end("interrupted", INTERRUPTED)
            else:
                self._current = run
                try:
                    await self._do(run)
                finally:
                    self._current = None
                    self.finished += 1
                    self.used = time.monotonic()
            self._forget_old()
            if self._engine.died is not None:
                self.end(f"kernel died: {self._memory or self._engine.died}")
                return

    async def _do(self, run: Run) -> None:
        run.status, run.begun = "running", time.time()
        self.log.say("in", f"[{run.mode} {run.id}]\n{run.code}\n" if run.code else f"[{run.mode} {run.id}]\n")
        run.tape.copy = self.log.add_entry
        before = self.folder.state()
        try:
            outcome = await (self._engine.run(run) if run.mode == "query" else self._steps.batch(run, self.found))
        except KernelError as error:
            run.tape.tell({"t": "stderr"}, f"{error}\n".encode())
            outcome = Outcome("finished", OURS, {"name": "KernelError", "value": str(error), "traceback": ""})
        except OSError as error:
            outcome = Outcome("finished", OURS, {"name": "OSError", "value": str(error), "traceback": ""})
        status, error_ = outcome.status, outcome.error
        if status == "died":
            why = self._memory or (error_ or {}).get("value") or self._engine.died or "nobody knows why"
            error_ = {"name": "KernelDied", "value": f"kernel died: {why}", "traceback": ""}
        elif status == "exec-timeout":
            text = f"the run took longer than {run.timeout_s:g} s"
            died = f"; {self._engine.died}" if self._engine.died else ""
            error_ = {"name": "TaskTimeout", "value": text + died, "traceback": ""}
        run.end(status, outcome.code, error_, changed(before, self.folder.state()))

    def interrupt(self, run: Run) -> None:
        """End a run, now or when its turn comes; the kernel's state is kept."""
        run.interrupted = True
        if run is self._current:
            if run.mode == "query":
                self._engine.interrupt()
            else:
                self._steps.interrupt()

    def abandon(self, run: Run) -> None:
        """Nobody waits for a run any more: it is interrupted before the next begins."""
        if not run.tape.ended:
            run.abandoned = True
            self.interrupt(run)

    @property
    def current(self) -> Run | None:
        """The run that is under way."""
        return self._current

    @property
    def latest(self) -> Run | None:
        """The run that came last, as long as it is known."""
        return next(reversed(self.runs.values()), None)

    def _forget_old(self) -> None:
        done = [run for run in self.runs.values() if run.tape.ended]
        for run in done[:-RUNS_KEPT]:
            del self.runs[run.id]

    async def complete(self, code: str, cursor: int) -> dict[str, Any]:
        """As `Engine`."""
        self.used = time.monotonic()
        return await self._engine.complete(code, cursor)

    async def restart(self) -> None:
        """Begin with a fresh state; files stay.

        Raises:
            KernelError: It does not start again; the kernel has ended then.
        """
        async with self._restarting:
            await self._restart()

    async def _restart(self) -> None:
        await self.start()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        await self._stop_engine()
        for run in list(self.runs.values()):
            run.end(
                "interrupted", INTERRUPTED, {"name": "Restarted", "value": "the kernel was restarted", "traceback": ""}
            )
        if self.why is not None:  # meanwhile
            raise KernelEnded(f"kernel {self.id} ended: {self.why}")
        self._queue = asyncio.Queue(QUEUED)
        self._memory = None
        self._engine = self._make_engine()
        self._ready = None
        self.used = time.monotonic()
        await self.start()

    # -- terminals ------------------------------------------------------------------------------------

    async def terminal(self, name: str, size: Size, command: list[str]) -> Terminal:
        """Return the terminal of that name; a new one when there is none, or its program has ended."""
        if self.why is not None:
            raise KernelEnded(f"kernel {self.id} ended: {self.why}")
        there = self.terminals.get(name)
        if there is not None and not there.tape.ended:
            there.resize(size)
            return there
        if there is None and len(self.terminals) >= TERMINALS:
            raise KernelError(f"the kernel has {TERMINALS} terminals already; close one")
        there = self.terminals[name] = Terminal(self._place, size, command)
        try:
            await there.begin()
        except BaseException:
            if self.terminals.get(name) is there:
                del self.terminals[name]
            raise
        if self.terminals.get(name) is not there:  # closed meanwhile
            await there.close()
            raise KernelEnded("the terminal is closed")
        return there

    async def close_terminal(self, name: str) -> None:
        """End a terminal and what runs in it."""
        if (there := self.terminals.pop(name, None)) is not None:
            await there.close()

    # -- limits and the end -----------------------------------------------------------------------------

    def _watch_step(self, program: Program | None) -> str | None:
        if self._groups is not None and program is not None and program.pid is not None:
            self._groups.watch(program.pid)
        elif self._groups is not None and self._step is not None and self._step.pid is not None:
            self._groups.done(self._step.pid)
        why = self._memory
        if self._step is not None and self._step.out_of_memory:
            why = f"out of memory: its container may have {self.limits.memory_mib or 0:g} MiB"
        self._step = program
        self._memory = None if program is None else why
        return why

    def out_of_memory(self, used: Mapping[int, int]) -> list[int]:
        """Return the process groups to kill, given what the sessions use; says so when they are gone."""
        limit = self.limits.memory_mib
        if limit is None:
            return []
        programs = [self._engine.program, self._step, *(one.program for one in self.terminals.values())]
        mine = [one.pid for one in programs if one is not None and one.pid is not None]
        total = sum(used.get(pid, 0) for pid in mine)
        if total <= limit * (1 << 20):
            return []
        self._memory = f"out of memory: it used {total >> 20} MiB, and its limit is {limit:g} MiB"
        return [max(mine, key=lambda pid: used.get(pid, 0))]

    def overdue(self, now: float) -> str | None:
        """Return why it should end by its limits; None as long as it may stay."""
        limits = self.limits
        if limits.lifetime_s is not None and now - self.born >= limits.lifetime_s:
            return f"lifetime: it may live for {limits.lifetime_s:g} s"
        quiet = self._current is None and self._queue.empty() and self.users == 0
        open_terminals = any(not terminal.tape.ended for terminal in self.terminals.values())
        if limits.idle_s is not None and quiet and not open_terminals and now - self.used >= limits.idle_s:
            return f"idle: nobody used it for {limits.idle_s:g} s"
        return None

    def check_death(self) -> None:
        """Notice a kernel that died between runs."""
        if self.state == "idle" and self._queue.empty() and self._engine.died is not None:
            self.end(f"kernel died: {self._memory or self._engine.died}")

    def end(self, why: str) -> None:
        """End it; what runs is told so."""
        if self.why is None:
            self.why = why
            self._ending = asyncio.create_task(self._end(why))

    async def _end(self, why: str) -> None:
        for task in (self._ready, self._worker):
            if task is not None:
                task.cancel()
        await asyncio.gather(*(task for task in (self._ready, self._worker) if task), return_exceptions=True)
        error = {"name": "KernelEnded", "value": why, "traceback": ""}
        await self._stop_engine()
        for run in self.runs.values():
            run.end("ended", OURS, error)
        for name in list(self.terminals):
            await self.close_terminal(name)
        await self._place.close()
        await asyncio.get_running_loop().run_in_executor(None, self.folder.remove)
        self._on_end(self)

    async def ended(self) -> None:
        """Wait until all of it is gone, after `end`."""
        if self._ending is not None:
            await asyncio.shield(self._ending)

    # -- what there is to know ------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Return what there is to know about it."""
        now = time.monotonic()
        return {
            "kernelId": self.id,
            "token": self.token,
            "lang": self.found.name,
            "how": self.found.how,
            "stateful": self.found.stateful,
            "isolated": self.isolated,
            "status": self.state,
            "age": round(now - self.born, 3),
            "idle": 0.0 if self._current is not None else round(now - self.used, 3),
            "numQueriesExecuted": self.finished,
            "folder": str(self.folder.root),
            "limits": {name: getattr(self.limits, name) for name in self.limits.__dataclass_fields__},
            "terminals": sorted(name for name, one in self.terminals.items() if not one.tape.ended),
            "run": None if self._current is None else self._current.id,
            "runs": [{"run": run.id, "status": run.status, "position": run.tape.last} for run in self.runs.values()],
            "why": self.why,
        }
