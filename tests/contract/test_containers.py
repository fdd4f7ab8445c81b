"""What a runtime of containers promises: local apps and those of an engine, run with the same programs."""

from __future__ import annotations

import asyncio
import json
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.errors import ContainerFailed, MecaError, TaskFailed, TaskTimeout
from meca_executor.runtimes.apps import Apps
from meca_executor.runtimes.containers import Containers
from meca_executor.runtimes.engine_settings import EngineSettings
from meca_executor.wire.printed import Log
from tests.helpers import engine
from tests.helpers.waiting import POLL_S
from tests.integration.app_tools import OBEDIENT, make_app, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

LIMIT = 60.0
SILENT = """
    import time
    print("nothing to say but this", flush=True)
    time.sleep(100)
"""
DYING = """
    import sys
    for number in range(30):
        print("line", number)
    sys.exit("\\x1b[31mno such model\\x1b[0m\\x07")
"""
EARLY = 'import sys, time\nfor c in "... meca-init-done":\n    sys.stdout.write(c)\n    sys.stdout.flush()\n' + (
    "time.sleep(0.3)\n" + dedent(OBEDIENT).replace('print("meca-init-done", flush=True)', "")
)
SOURCES = {"obedient": OBEDIENT, "silent": SILENT, "dying": DYING, "early": EARLY}


class Place:
    """A runtime with these programs as containers."""

    def __init__(self, runtime: Apps | Containers, refs: dict[str, str]) -> None:
        self.runtime = runtime
        self._refs = refs

    async def post(self, name: str, content: bytes, timeout: float | None = None, written: Log | None = None) -> bytes:
        """Call a container."""
        ref = self._refs[name]
        if isinstance(self.runtime, Apps):
            return await self.runtime.call(ref, content, timeout=timeout, written=written)
        shape = self.runtime.shape_of(ref, None, {})
        return await self.runtime.call(shape, content, timeout=timeout, written=written)

    async def ask(
        self, do: str, timeout: float | None = None, written: Log | None = None, **more: Any
    ) -> dict[str, Any]:
        """Have the obedient one do something."""
        answer: dict[str, Any] = json.loads(
            await self.post("obedient", json.dumps({"do": do, **more}).encode(), timeout, written)
        )
        return answer

    async def born(self) -> str:
        """Return what tells one life of the obedient container from another."""
        return str((await self.ask("pid"))["born"])


Run = "Callable[..., None]"


@pytest.fixture(params=["apps", "docker"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., None]:
    """Return a function that runs a test at a place, which is closed after it."""
    if request.param == "apps":
        refs = {name: f"{name}:latest" for name in SOURCES}
    else:
        images: engine.Images = request.getfixturevalue("images")
        refs = {name: images.of_source(name, source) for name, source in SOURCES.items()}

    def place(ready_s: float, idle_s: float) -> Apps | Containers:
        if request.param == "docker":
            settings = EngineSettings(url=engine.url(), pull="never", ready_s=ready_s, idle_s=idle_s)
            return Containers(settings, 2, {"cpu": 2, "memory": 1000})
        folders = {ref: tmp_path / name for name, ref in refs.items()}
        for name, source in SOURCES.items():
            make_app(tmp_path / name, source)
        return Apps(folders, ready_timeout=ready_s, idle_timeout=idle_s)

    def run_test(test: Callable[[Place], Awaitable[None]], ready_s: float = LIMIT, idle_s: float = LIMIT) -> None:
        async def main() -> None:
            runtime = place(ready_s, idle_s)
            try:
                await asyncio.wait_for(test(Place(runtime, refs)), LIMIT)
            finally:
                await runtime.close()

        asyncio.run(main())

    return run_test


def test_it_is_started_once_and_stays_warm(run: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        assert len({await place.born() for _ in range(5)}) == 1

    run(test)


def test_any_size_of_request_and_reply(run: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        for size in (0, 300_000, 20_000_000):
            answer = await place.ask("measure", back=size, padding="p" * size)
            assert answer["length"] >= size
            assert len(answer["back"]) == size

    run(test)


def test_the_mark_may_come_before_it_listens(run: Callable[..., None]) -> None:
    """Also in pieces, and without the end of a line."""

    async def test(place: Place) -> None:
        assert json.loads(await place.post("early", b'{"do": "pid"}'))["pid"]

    run(test)


def test_a_refusal_has_status_and_begin_of_the_body(run: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        born = await place.born()
        with pytest.raises(TaskFailed, match=r"HTTP status 418: .*no no no"):
            await place.ask("refuse")
        with pytest.raises(TaskFailed, match="no valid reply"):
            await place.ask("hang up")
        assert await place.born() == born  # neither is its end

    run(test)


def test_one_that_never_gets_ready_is_given_up(run: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        with pytest.raises(ContainerFailed, match=r"silent.* not ready within 6 s \(no meca-init-done") as caught:
            await place.post("silent", b"")
        assert "nothing to say but this" in str(caught.value)
        assert not caught.value.lost

    run(test, ready_s=6.0)


def test_one_that_ends_before_it_is_ready(run: Callable[..., None]) -> None:
    """At once, with its exit code and its last lines, which steer no terminal."""

    async def test(place: Place) -> None:
        with pytest.raises(ContainerFailed, match=r"dying.* ended before it was ready \(exit code 1\)") as caught:
            await place.post("dying", b"")
        text = str(caught.value)
        assert "line 29" in text and "line 5\n" not in text
        assert "no such model?" in text
        assert not caught.value.lost

    run(test)


def test_one_that_ends_during_a_call(run: Callable[..., None]) -> None:
    """That may be tried again, and the next call gets a fresh one."""

    async def test(place: Place) -> None:
        born = await place.born()
        with pytest.raises(ContainerFailed, match=r"ended during the call \(exit code 3\)") as caught:
            await place.ask("exit", code=3)
        assert caught.value.lost
        assert await place.born() != born

    run(test)


def test_one_that_is_given_up_is_ended(run: Callable[..., None]) -> None:
    """By its limit, or by whoever asked; its work ends with it."""

    async def test(place: Place) -> None:
        lives = [await place.born()]
        with pytest.raises(TaskTimeout, match=r"within the timeout of 0\.5 s"):
            await place.ask("sleep", timeout=0.5)
        lives.append(await place.born())
        call = asyncio.ensure_future(place.ask("sleep"))
        await asyncio.sleep(POLL_S)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        lives.append(await place.born())
        assert len(set(lives)) == 3

    run(test)


def test_one_that_is_idle_is_ended(run: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        born = await place.born()
        await until(lambda: "running=[]" in repr(place.runtime) or "running=0" in repr(place.runtime))
        assert await place.born() != born

    run(test, idle_s=0.2)


def test_the_end_fails_what_is_under_way(run: Callable[..., None]) -> None:
    async def test(place: Place) -> None:
        await place.born()
        call = asyncio.ensure_future(place.ask("sleep"))
        await asyncio.sleep(0.1)
        await place.runtime.close()
        with pytest.raises(MecaError):
            await call
        with pytest.raises(ContainerFailed, match="the gateway is closing"):
            await place.born()

    run(test)


def test_what_it_writes_during_a_call(run: Callable[..., None]) -> None:
    """Is in the call's log, the start of one that was started for it too; and in no other call's."""

    async def test(place: Place) -> None:
        first, second, silent = Log(), Log(), Log()
        await place.ask("chat", lines=2, written=first)
        await until(lambda: "err 1" in first.text() and "out 1" in first.text())
        first.end()  # as the gateway does a moment later
        await place.ask("chat", lines=200, written=second)
        await until(lambda: second.text().count("\n") == 400)
        second.end()
        await place.ask("pid", written=silent)
        assert first.text().count("\n") == 5
        assert "meca-init-done\n" in first.text()
        assert silent.text() == ""
        assert not (first.mixed or second.mixed or silent.mixed)

    run(test)


def test_what_one_wrote_that_failed(run: Callable[..., None]) -> None:
    """It never got ready, or ended during the call."""

    async def test(place: Place) -> None:
        logs = {"dying": Log(), "exit": Log()}
        with pytest.raises(ContainerFailed):
            await place.post("dying", b"", written=logs["dying"])
        await until(lambda: "no such model" in logs["dying"].text())  # the two streams come by two ways
        await until(lambda: "line 0\n" in logs["dying"].text())  # all of it, not its last lines
        await place.ask("chat", lines=1)
        with pytest.raises(ContainerFailed):
            await place.ask("exit", code=3, written=logs["exit"])
        assert "line" not in logs["exit"].text()

    run(test)


def test_calls_that_follow_each_other_at_once(run: Callable[..., None]) -> None:
    """Nothing is lost between them; where it is not certain whose a line is, that is said."""

    async def test(place: Place) -> None:
        before, *logs = [Log() for _ in range(21)]
        await place.ask("pid", written=before)
        for log in logs:
            await place.ask("chat", lines=1, written=log)
        # What comes very soon after a call began may count as written by the one before.
        await until(lambda: sum(log.text().count("\n") for log in [before, *logs]) == 41)  # one is the mark
        for log in logs:
            assert log.mixed or log.text().count("\n") == 2

    run(test)
