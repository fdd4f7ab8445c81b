"""How much sooner are tasks done on a MECAnywhere desktop app than the original SDK's way?

    python -m benchmarks.old_dialect [--rounds N] [--tasks N] [--peers A,B] [--json FILE]

run from the checkout root with the package's dependencies installed, and Node.js 18 or later with npm. All
peers use the same desktop app, the one of the tests (`tests/peers/desktop_app`, Socket.IO 4.7.1), whose
container `sleep-20ms:latest` answers each task with its content after 20 ms, any number at once.

| peer | its way |
|---|---|
| original | `offload_task`, then `join`, task by task: several at once hang there (`tests/peers/old_sdk.py`) |
| bare Socket.IO | all tasks emitted in one go by python-socketio, results counted: what the link itself costs |
| MecaExecutor | `list(ex.map(Container("sleep-20ms:latest"), texts))` |

Timed is all tasks from the first offer to the last result, in one connection that has already done one task.
The goal is 5 x the original's rate.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import sys
from time import perf_counter
from typing import TYPE_CHECKING

from . import harness
from .peers import MECA, SOCKET_IO, Peer
from .questions import Figures, Limit, Options, Part, Question, Script

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

CONTAINER = "sleep-20ms:latest"
PORT = "OLD_SDK_PORT"  #: in the environment of each peer's process: where the desktop app listens
LIMIT_S = 120.0  #: for all tasks of one peer

ORIGINAL = Peer("original", "tests.peers.old_sdk", "offload_task", packages=SOCKET_IO)
BARE = Peer("bare Socket.IO", "socketio", "AsyncClient", packages=SOCKET_IO)

QUESTIONS = (
    Question("rate", "20 ms tasks", "tasks/s", "higher", goal=(Limit(ORIGINAL.name, 5),)),
    Question("elapsed", "all tasks", "s", "lower"),
)


def measure(peer: Peer, options: Options) -> Figures:
    """Answer both questions for one peer."""
    texts = [f"task {number}" for number in range(options.tasks)]
    way = {ORIGINAL.name: original, BARE.name: bare, MECA.name: ours}[peer.name]
    answers, elapsed_s = way(texts, int(os.environ[PORT]))
    if answers != texts:
        raise RuntimeError(f"{peer.name} gave wrong answers; its figures would mean nothing")
    return {"rate": len(texts) / elapsed_s, "elapsed": elapsed_s}


def original(texts: Sequence[str], port: int) -> tuple[list[str], float]:
    """Return the answers and the seconds of the old SDK, used as its users had to."""
    from tests.peers import old_sdk

    answers: dict[str, str] = {}

    def callback(task_id: str, status: int, response: str, error: str, transaction_id: str) -> None:
        answers[task_id] = response

    async def one(task_id: str, text: str) -> None:
        await old_sdk.offload_task(task_id, CONTAINER, text, callback)
        await old_sdk.join()

    async def all_of_them() -> None:
        for number, text in enumerate(texts):
            await one(str(number), text)

    async def main() -> float:
        await old_sdk.initiate_connection()
        await one("first", "")
        elapsed_s = await timed(all_of_them)
        await old_sdk.disconnect()
        return elapsed_s

    with contextlib.redirect_stdout(io.StringIO()):  # it prints every payload
        elapsed_s = asyncio.run(main())
    return [answers[str(number)] for number in range(len(texts))], elapsed_s


def bare(texts: Sequence[str], port: int) -> tuple[list[str], float]:
    """Return the answers and the seconds of the link alone."""
    import socketio

    answers: dict[str, str] = {}

    async def main() -> float:
        client = socketio.AsyncClient()
        registered, done = asyncio.Event(), asyncio.Event()

        def on_registered(ok: bool) -> None:
            registered.set()

        def on_results(status: int, response: str, error: str, task_id: str, transaction_id: str) -> None:
            answers[task_id] = response
            if len(answers) == len(texts):
                done.set()

        client.on("registered", on_registered)
        client.on("job_results_received", on_results)

        async def all_of_them() -> None:
            for number, text in enumerate(texts):
                job = {"task_id": str(number), "container_reference": CONTAINER, "content": text}
                await client.emit("offload", json.dumps(job))
            await done.wait()

        await client.connect(f"http://localhost:{port}")
        await asyncio.wait_for(registered.wait(), LIMIT_S)
        elapsed_s = await timed(all_of_them)
        await client.disconnect()
        return elapsed_s

    elapsed_s = asyncio.run(main())
    return [answers[str(number)] for number in range(len(texts))], elapsed_s


def ours(texts: Sequence[str], port: int) -> tuple[list[str], float]:
    """Return the answers and the seconds of the executor."""
    from meca_executor import Container, MecaExecutor

    sleeper = Container(CONTAINER, codec="text")
    with MecaExecutor(f"http://localhost:{port}") as executor:
        executor.submit(sleeper, "").result(LIMIT_S)
        began = perf_counter()
        answers = list(executor.map(sleeper, texts, timeout=LIMIT_S))
        elapsed_s = perf_counter() - began
    return answers, elapsed_s


async def timed(work: Callable[[], Awaitable[None]]) -> float:
    """Return the seconds that `work` takes."""
    began = perf_counter()
    await asyncio.wait_for(work(), LIMIT_S)
    return perf_counter() - began


SCRIPT = Script(
    name="old_dialect",
    purpose="Tasks of 20 ms on a MECAnywhere desktop app: the original SDK's way, and MecaExecutor's.",
    parts=(Part("old_dialect", QUESTIONS, (ORIGINAL, BARE, MECA), measure),),
    controls=(ORIGINAL,),
    tasks=200,
)


def main(argv: Sequence[str]) -> int:
    """Start the desktop app and run the script against it."""
    args, _ = harness.parse(SCRIPT, argv)
    if args.child:
        return harness.main(SCRIPT, argv)
    from tests.peers.cache import Unavailable
    from tests.peers.desktop import DesktopApp

    try:
        app = DesktopApp()
    except Unavailable as error:
        print(f"old_dialect: {error}", file=sys.stderr)
        return 1
    try:
        app.start()
        os.environ[PORT] = str(app.port)
        return harness.main(SCRIPT, argv)
    finally:
        app.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
