"""Query mode on the Jupyter protocol; the only file that knows `jupyter_client`.

Three tasks read the kernel's channels all the time, so that nothing is lost and everything is given to the run that
it belongs to. Whatever is waited for is raced against the kernel's death, of which the channels say nothing
(jupyter/jupyter_client#7).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import signal
import string
import sys
from typing import TYPE_CHECKING, Any

from ..errors import KernelBusy, KernelError
from .batch import chunks
from .preparation import PREPARE
from .process import how_it_ended
from .runs import INTERRUPTED, OURS, TIMEOUT, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from .place import Place, Program
    from .runs import Run

START_S = 60.0  #: a kernel on a busy machine may take long, not for ever
OUTPUT_S = 30.0  #: from its first answer until its output can be heard
ANSWER_S = 10.0  #: an interrupted run may take this long to say so
COMPLETE_S = 20.0
END_S = 1.0
WORDS_BYTES = 500  #: of the end of its stderr, for why it died
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
WANTED = re.compile(r"\{([A-Za-z0-9_]+)\}")
PYTHONS = {"python", "python3", f"python3.{sys.version_info[1]}"}


class JupyterEngine:
    """One Jupyter kernel.

    Args:
        spec: Its kernelspec.
        place: Where it runs.
        log: Gets what belongs to no run.
    """

    def __init__(self, spec: Any, place: Place, log: Callable[[str, str], None]) -> None:
        self._spec = spec
        self._place = place
        self._log = log
        self._name = secrets.token_hex(6)  # of its files in the place's private folder
        self._program: Program | None = None
        self._words = b""
        self._context: Any = None
        self._client: Any = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._dead: asyncio.Event = asyncio.Event()
        self._death: str | None = None
        self._run: Run | None = None
        self._message = ""  # the id of the request whose answers belong to the run
        self._idle = asyncio.Event()
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._stopping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """As `Engine`."""
        import zmq.asyncio
        from jupyter_client.asynchronous import AsyncKernelClient

        private, key = self._place.private, secrets.token_hex(32)
        ports: dict[str, Any] = {f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)}
        facts = {"transport": "ipc", "key": key, "signature_scheme": "hmac-sha256", "kernel_name": "", **ports}
        try:
            inside = f"{self._place.private_inside}/{self._name}"
            private.write(f"{self._name}.json", json.dumps({**facts, "ip": f"{inside}-s"}).encode())
            environ = self._environ(inside)
            program = self._program = await self._place.start(self._argv(f"{inside}.json"), environ)
            self._tasks.append(asyncio.create_task(self._watch(program)))
            self._tasks.append(asyncio.create_task(self._drain(program.out)))
            self._tasks.append(asyncio.create_task(self._listen(program.err)))
            context = self._context = zmq.asyncio.Context()
            client = self._client = AsyncKernelClient(context=context)
            client.load_connection_info({**facts, "ip": f"{private.path}/{self._name}-s"})
            client.start_channels(hb=False)  # its process is watched
            client.iopub_channel.socket.rcvhwm = 0  # nothing is dropped on its way
            await self._until_ready()
        except KernelError:
            await self.stop()
            raise
        except (OSError, RuntimeError) as error:
            await self.stop()
            raise KernelError(f"the kernel {self._spec.display_name!r} does not start: {error}") from error
        except BaseException:
            await self.stop()
            raise

    def _argv(self, file: str) -> list[str]:
        """Return its command line, as jupyter_client makes it."""
        values = {"connection_file": file, "prefix": sys.prefix, "resource_dir": self._spec.resource_dir}
        argv = [WANTED.sub(lambda found: values.get(found[1], found[0]), word) for word in self._spec.argv]
        if argv[0] in PYTHONS and self._place.here:
            argv[0] = sys.executable  # this one, and not what is first on PATH
        return argv

    def _environ(self, inside: str) -> dict[str, str]:
        """Return what its environment has besides the place's."""
        given = {name: string.Template(value).safe_substitute(os.environ) for name, value in self._spec.env.items()}
        # Where the system does not do it, a kernel looks itself whether its parent is there.
        parent = {"JPY_PARENT_PID": str(os.getpid())} if self._place.here else {}
        return {"PYDEVD_DISABLE_FILE_VALIDATION": "1", **parent, **given}  # else debugpy has advice for us

    async def _drain(self, descriptor: int) -> None:
        async for _ in chunks(descriptor):
            pass  # what it has to say comes by the protocol

    async def _listen(self, descriptor: int) -> None:
        """Read what it says past the protocol, such as a loader's complaint; the end of it is kept."""
        async for data in chunks(descriptor):
            self._words = (self._words + data)[-WORDS_BYTES:]

    async def _until_ready(self) -> None:
        for get, take in (
            (self._client.get_iopub_msg, self._on_iopub),
            (self._client.get_shell_msg, self._on_reply),
            (self._client.get_control_msg, self._on_reply),
            (self._client.get_stdin_msg, self._on_question),
        ):
            self._tasks.append(asyncio.create_task(self._read(get, take)))
        if await self._answer(self._ask(self._client.kernel_info), START_S) is None:
            how = self._death or f"it does not answer within {START_S:g} s"
            raise KernelError(f"the kernel {self._spec.display_name!r} does not get ready: {how}")
        # A subscription may take effect later than the first answer: no output may be missed.
        latest = asyncio.get_running_loop().time() + OUTPUT_S
        while not self._idle.is_set() and self._death is None:
            if asyncio.get_running_loop().time() > latest:
                raise KernelError(f"the kernel {self._spec.display_name!r} says nothing on its channel for output")
            self._message = self._ask(self._client.kernel_info)
            reply = asyncio.get_running_loop().create_future()
            self._replies[self._message] = reply
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(self._idle.wait(), 0.2)
        if self._spec.language == "python":
            await self._answer(self._ask(self._client.execute, PREPARE, silent=True, store_history=False), START_S)

    # -- a run ------------------------------------------------------------------------------------

    async def run(self, run: Run) -> Outcome:
        """As `Engine`."""
        if self._death is not None:
            return Outcome("died", OURS)
        self._idle.clear()
        self._run = run
        self._message = self._ask(
            self._client.execute, run.code, store_history=True, allow_stdin=True, stop_on_error=False
        )
        try:
            reply = await self._answer(self._message, run.timeout_s)
            timed_out = reply is None and self._death is None
            if timed_out:
                self.interrupt()
                reply = await self._answer(self._message, ANSWER_S)
            if reply is None and self._death is None:
                self._death = f"it did not answer an interrupt within {ANSWER_S:g} s, and was ended"
                await self.stop()
            if self._death is not None:
                return Outcome("exec-timeout" if timed_out else "died", TIMEOUT if timed_out else OURS)
            await self._race(self._idle.wait(), ANSWER_S)  # all that it printed is before that
        finally:
            self._run = None
            self._replies.clear()
        return outcome_of(reply or {}, run, timed_out)

    def _ask(self, send: Callable[..., Any], *words: Any, **more: Any) -> Any:
        """Send something, and have what has come meanwhile read.

        jupyter_client sends past the asynchronous socket; that takes the sign away that there is something to read
        (a socket of ZeroMQ gives it once), and the reader would sleep on.
        """
        sent = send(*words, **more)
        for channel in (self._client.shell_channel, self._client.stdin_channel, self._client.control_channel):
            channel.socket._schedule_remaining_events()
        return sent

    async def _answer(self, message: str, timeout: float | None) -> dict[str, Any] | None:
        """Wait for the reply to a request; None when it does not come in time, or the kernel is dead."""
        reply = self._replies.setdefault(message, asyncio.get_running_loop().create_future())
        if not await self._race(asyncio.shield(reply), timeout):
            return None
        self._replies.pop(message, None)
        return reply.result()

    async def _race(self, awaited: Any, timeout: float | None) -> bool:
        """Wait for something, for the time to be up, or for the kernel's death; whether it was the first."""
        one, dead = asyncio.ensure_future(awaited), asyncio.ensure_future(self._dead.wait())
        try:
            await asyncio.wait((one, dead), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            return one.done() and not one.cancelled()
        finally:
            one.cancel()
            dead.cancel()

    def interrupt(self) -> None:
        """As `Engine`."""
        if self._program is None or self._death is not None:
            return
        if self._spec.interrupt_mode == "message":
            self._client.control_channel.send(self._client.session.msg("interrupt_request", {}))
        else:
            self._program.signal(signal.SIGINT)

    async def complete(self, code: str, cursor: int) -> dict[str, Any]:
        """As `Engine`."""
        if self._run is not None:
            raise KernelBusy(f"the kernel is busy with run {self._run.id}; it completes between runs")
        message = self._ask(self._client.complete, code, cursor)
        content = await self._answer(message, COMPLETE_S)
        if content is None:
            raise KernelBusy(f"the kernel does not answer within {COMPLETE_S:g} s")
        keys = ("matches", "cursor_start", "cursor_end")
        return {key: content["content"].get(key) for key in keys}

    # -- what the kernel says -----------------------------------------------------------------------

    async def _read(self, get: Callable[[], Coroutine[Any, Any, dict[str, Any]]], take: Callable[[Any], None]) -> None:
        while True:
            message = await get()
            try:
                take(message)
            except (KeyError, TypeError, ValueError) as error:
                self._log("stderr", f"the kernel said what cannot be read: {error!r}\n")

    def _on_reply(self, message: dict[str, Any]) -> None:
        reply = self._replies.get(message["parent_header"].get("msg_id", ""))
        if reply is not None and not reply.done():
            reply.set_result(message)

    def _on_question(self, message: dict[str, Any]) -> None:
        run, content = self._run, message["content"]
        if run is None:
            self._ask(self._client.input, "")
            return
        prompt = str(content.get("prompt", ""))
        if prompt:
            run.tape.tell({"t": "stdout"}, prompt.encode())
        if not run.has_input:
            run.status = "waiting-input"
            run.tape.tell({"t": "input", "password": bool(content.get("password"))})
        self._tasks = [task for task in self._tasks if not task.done()]
        self._tasks.append(asyncio.create_task(self._give(run)))

    async def _give(self, run: Run) -> None:
        """Answer a question with a line of what was typed."""
        line = await run.line()
        if self._run is run:
            run.status = "running"
            # The protocol has no end of input: ipykernel takes this character for one.
            self._ask(self._client.input, "\x04" if line is None else line.decode("utf-8", "replace"))

    def _on_iopub(self, message: dict[str, Any]) -> None:
        kind, content = message["msg_type"], message["content"]
        if self._run is None or message["parent_header"].get("msg_id") != self._message:
            if kind == "status" and message["parent_header"].get("msg_id") == self._message:
                self._idle.set()
            elif kind == "stream":
                self._log(str(content["name"]), str(content["text"]))
            return
        if kind == "status":
            if content["execution_state"] == "idle":
                self._idle.set()
        else:
            self._say(self._run, kind, content)

    def _say(self, run: Run, kind: str, content: dict[str, Any]) -> None:
        tape = run.tape
        if kind == "stream":
            stream = "stderr" if content["name"] == "stderr" else "stdout"
            tape.offer({"t": stream}, str(content["text"]).encode("utf-8", "replace"))
        elif kind == "error" and content.get("ename") != "SystemExit":
            text = ESCAPES.sub("", "\n".join(map(str, content.get("traceback", []))))
            tape.offer({"t": "stderr"}, (text + "\n").encode("utf-8", "replace"))
        elif kind in ("display_data", "execute_result", "update_display_data"):
            data = content.get("data", {})
            best = next((mime for mime in MEDIA if mime in data), next(iter(data), None))
            if best is not None:
                shown = {mime: value if isinstance(value, str) else json.dumps(value) for mime, value in data.items()}
                head = {
                    "t": "html" if best == "text/html" else "media",
                    "mime": best,
                    "result": kind == "execute_result",
                }
                tape.offer(head, json.dumps(shown).encode())

    # -- its end ------------------------------------------------------------------------------------

    async def _watch(self, program: Program) -> None:
        code = await program.ended()
        await asyncio.sleep(0.01)  # for its last words
        if self._death is None:
            self._death = self._place.died or how_it_ended(code, program.out_of_memory) + self._last_words()
        await asyncio.sleep(0)
        # What it said before may still be on its way to us; an idle channel has none.
        for _ in range(100):
            if self._client is None or self._stopping or not await self._client.iopub_channel.msg_ready():
                break
            await asyncio.sleep(0.01)
        self._dead.set()

    def _last_words(self) -> str:
        words = self._words.decode("utf-8", "replace").strip()
        return f"; its last words: {words}" if words else ""

    @property
    def program(self) -> Program | None:
        """As `Engine`."""
        return self._program

    @property
    def died(self) -> str | None:
        """As `Engine`."""
        return self._death

    async def stop(self) -> None:
        """As `Engine`."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)  # whoever waits for it may be cancelled

    async def _stop(self) -> None:
        client, program = self._client, self._program
        if program is not None:
            if program.running and client is not None and self._run is None:
                client.shutdown()  # so that it can do what is to be done at its exit
                with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(program.ended(), END_S)
            program.signal(signal.SIGKILL)
            with contextlib.suppress(asyncio.TimeoutError, TimeoutError):
                await asyncio.wait_for(program.ended(), ANSWER_S)
            await program.end()
        self._death = self._death or "it was ended"
        self._dead.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if client is not None:
            client.stop_channels()
        if self._context is not None:
            self._context.destroy(linger=0)
        if program is not None:
            program.close()
        self._place.private.drop(self._name)


MEDIA = ("image/svg+xml", "image/png", "image/jpeg", "text/html", "text/markdown", "text/latex", "text/plain")


def outcome_of(reply: dict[str, Any], run: Run, timed_out: bool) -> Outcome:
    """Return what a reply to `execute` means."""
    content = reply.get("content", {})
    error = None
    if content.get("status") in ("error", "aborted"):
        traceback = ESCAPES.sub("", "\n".join(map(str, content.get("traceback", []))))
        error = {"name": content.get("ename", "aborted"), "value": content.get("evalue", ""), "traceback": traceback}
    if timed_out:
        return Outcome("exec-timeout", TIMEOUT, error)
    if error is None:
        return Outcome("finished", 0)
    if error["name"] == "KeyboardInterrupt":
        return (
            Outcome("interrupted", INTERRUPTED, error) if run.interrupted else Outcome("finished", INTERRUPTED, error)
        )
    if error["name"] == "SystemExit":
        code = exit_code(str(error["value"]))
        if code is None:
            run.tape.offer({"t": "stderr"}, f"{error['value']}\n".encode())
        return Outcome("finished", 1 if code is None else code)
    return Outcome("finished", 1, error)


def exit_code(value: str) -> int | None:
    """Return the exit code of `SystemExit`; None for a text, which is printed and means 1."""
    if value in ("", "None"):
        return 0
    if value in ("True", "False"):
        return int(value == "True")
    try:
        return int(value) & 0xFF
    except ValueError:
        return None
