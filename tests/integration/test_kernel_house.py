"""The gateway's side of kernels: what several clients ask at once, and what programs do that mean no good."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import KernelError
from meca_executor.kernels import batch, boxed_program, jupyter
from meca_executor.kernels.boxed_program import BoxedProgram
from meca_executor.kernels.house import House
from meca_executor.kernels.own_folder import OwnFolder
from meca_executor.kernels.place import LocalPlace, Size
from meca_executor.kernels.runs import Run
from meca_executor.kernels.service import KernelService
from meca_executor.kernels.tape import Reader, Tape
from meca_executor.kernels.terminal import KEPT_BYTES, Terminal
from meca_executor.wire.kernels import Note, Say
from tests.helpers.processes import CAN_LIST, Process, children

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

needs_jupyter = pytest.mark.skipif(find_spec("jupyter_client") is None, reason="needs the extra kernels")
LIMIT = 60.0
ROOT = Path(__file__).resolve().parents[2]
SILENT = """
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
class Silent(IPythonKernel):
    def _publish_status(self, *words, **more): pass
    def _publish_status_and_flush(self, *words, **more): pass
IPKernelApp.launch_instance(kernel_class=Silent)
"""
LOOKS = """
import sys
from meca_executor.errors import KernelError
from meca_executor.kernels.workfolder import WorkFolder
folder, outside = WorkFolder(), sys.argv[1]
folder.write("in/file", b"x")
(folder.root / "link").symlink_to(outside)
seen = []
sys.addaudithook(lambda name, words: seen.append(str(words)) if name in ("os.scandir", "os.listdir") else None)
for pattern in ("link", "link/*", "link/**/*", "l*/**/*", "**/*.secret"):
    try:
        print(folder.matching([pattern]))
    except KernelError as error:
        print("names no file" in str(error))
print(any("link" in words or outside in words for words in seen), bool(seen))
folder.remove()
"""


class Visitor:
    """A client's session, with what it was told."""

    owner = "me"
    behind = False

    def __init__(self, service: KernelService) -> None:
        self._service = service
        self._numbers = 0
        self.told: dict[int, Note] = {}

    def tell(self, number: int, say: Say, head: Mapping[str, Any], body: bytes = b"") -> None:
        self.told[number] = Note(number, say, dict(head), body)

    async def ask(self, **head: object) -> Note:
        self._numbers += 1
        number = self._numbers
        self._service.ask(self, Note(number, Say.ASK, head, b""))
        await until(lambda: number in self.told and self.told[number].say is not Say.EVENT)
        return self.told[number]


async def until(so: Callable[[], object]) -> None:
    """Return when something holds.

    Raises:
        TimeoutError: It does not within a minute.
    """

    async def look() -> None:
        while not so():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.01)

    await asyncio.wait_for(look(), LIMIT)


def new_children(before: list[Process]) -> list[Process]:
    """Return this process's children since; a cluster of other tests may have some."""
    known = {process.pid for process in before}
    return [process for process in children(os.getpid()) if process.pid not in known]


@needs_jupyter
@pytest.mark.skipif(not CAN_LIST, reason="needs /proc")
def test_two_restarts_at_once_leave_one_process() -> None:
    async def test() -> None:
        before = children(os.getpid())
        house = House(os.environ)
        try:
            kernel, _ = await house.get_or_create("me", "t", "python", {}, {})
            await asyncio.gather(kernel.restart(), kernel.restart())
            run = Run("one", "query", "6 * 7", {}, Tape())
            kernel.submit(run)
            await until(lambda: run.tape.ended)
            assert run.status == "finished"
            kernel.end("it was destroyed")
            await kernel.ended()
            assert new_children(before) == []
        finally:
            await house.close()

    asyncio.run(test())


@needs_jupyter
@pytest.mark.skipif(not CAN_LIST, reason="needs /proc")
@pytest.mark.parametrize("turns", [0, 1, 5, 50])
def test_a_kernel_that_ends_while_it_is_restarted_leaves_nothing(turns: int) -> None:
    async def test() -> None:
        before = children(os.getpid())
        house = House(os.environ)
        try:
            kernel, _ = await house.get_or_create("me", "t", "python", {}, {})
            again = asyncio.create_task(kernel.restart())
            for _ in range(turns):
                await asyncio.sleep(0.001)
            kernel.end("it was destroyed")
            await asyncio.wait_for(kernel.ended(), LIMIT)
            with pytest.raises(KernelError):
                await asyncio.wait_for(again, LIMIT)
            assert new_children(before) == []
        finally:
            await house.close()

    asyncio.run(test())


@needs_jupyter
def test_who_waits_for_a_kernel_that_is_ended_meanwhile_is_told() -> None:
    async def test() -> None:
        service = KernelService(os.environ)
        try:
            first, second = Visitor(service), Visitor(service)
            waiting = asyncio.create_task(first.ask(do="create", lang="python", token="t"))
            await until(lambda: service.count)
            assert (await second.ask(do="destroy", kernel="t")).say is Say.REPLY
            answer = await asyncio.wait_for(waiting, LIMIT)
            assert answer.say is Say.FAILED
            assert "it was destroyed" in answer.head["text"]
        finally:
            await service.close()

    asyncio.run(test())


def test_a_kernel_that_was_got_twice_is_idle_when_it_was_left_twice() -> None:
    async def test() -> None:
        service = KernelService(os.environ)
        try:
            visitor = Visitor(service)
            found = [await visitor.ask(do="create", lang="sh", token="t") for _ in range(2)]
            (kernel,) = service.house.of("me")
            name = found[0].head["kernelId"]
            await visitor.ask(do="leave", kernel=name)
            assert kernel.users == 1, "the other one is there"
            await visitor.ask(do="leave", kernel=name)
            assert kernel.users == 0
            await visitor.ask(do="create", lang="sh", token="t")
            await visitor.ask(do="create", lang="sh", token="t")
            service.gone(visitor)
            assert kernel.users == 0
        finally:
            await service.close()

    asyncio.run(test())


def test_a_run_ends_though_what_it_left_goes_on_printing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in a session of its own, so that nobody ends it; and it holds the pipe."""
    monkeypatch.setattr(batch, "DRAIN_S", 0.3)
    monkeypatch.setattr(batch, "DRAIN_MOST_S", 0.6)
    gate, begun = tmp_path / "gate", tmp_path / "begun"
    gate.touch()
    loop = f"touch {begun}; while [ -e {gate} ]; do echo x; sleep 0.05; done; rm {begun}"
    code = f"setsid sh -c '{loop}' & while [ ! -e {begun} ]; do sleep 0.01; done; exit 3"

    async def test() -> None:
        house = House(os.environ)
        try:
            kernel, _ = await house.get_or_create("me", None, "sh", {}, {})
            run = Run("one", "query", code, {}, Tape())
            kernel.submit(run)
            await until(lambda: run.tape.ended)
            assert begun.exists(), "it still goes on"
            assert list(run.tape.after(0))[-1].head["code"] == 3
        finally:
            gate.unlink()
            await until(lambda: not begun.exists())
            await house.close()

    asyncio.run(test())


def test_what_a_terminal_showed_last_waits_for_who_is_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from meca_executor.kernels import terminal

    monkeypatch.setattr(terminal, "DRAIN_S", 0.3)

    async def test() -> None:
        place = LocalPlace(tmp_path, os.environ, 1024)
        try:
            shown = Terminal(place, Size(), ["echo", "last"])
            reader = Reader()
            shown.tape.readers.append(reader)
            shown.tape.say({"t": "out"}, b"x" * (KEPT_BYTES + 1))
            await shown.begin()
            program = shown.program
            assert program is not None
            await until(lambda: not program.running)
            await asyncio.sleep(1.0)  # as long as it might give up in
            reader.number = shown.tape.last
            shown.tape.trim()
            await until(lambda: shown.tape.ended)
            assert [entry.body for entry in shown.tape.after(reader.number)] == [b"last\r\n", b""]
        finally:
            await place.close()

    asyncio.run(test())


@needs_jupyter
def test_a_kernel_without_a_word_on_its_output_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_client.kernelspec import KernelSpec

    monkeypatch.setattr(jupyter, "OUTPUT_S", 1.0)
    (tmp_path / "silent.py").write_text(SILENT)
    spec = KernelSpec(
        argv=[sys.executable, str(tmp_path / "silent.py"), "-f", "{connection_file}"], display_name="Silent"
    )

    async def test() -> None:
        place = LocalPlace(tmp_path, os.environ, 1024)
        try:
            with pytest.raises(KernelError, match="'Silent' says nothing on its channel for output"):
                await asyncio.wait_for(jupyter.JupyterEngine(spec, place, lambda *words: None).start(), LIMIT)
        finally:
            await place.close()

    asyncio.run(test())


def test_a_program_whose_engine_is_gone_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boxed_program, "END_S", 0.1)
    monkeypatch.setattr(boxed_program, "TERM_S", 0.1)

    class Gone:
        """A place whose engine does not answer any more; its container may still run."""

        died: str | None = None
        oom_kills = 0
        over: asyncio.Future[Any]

        def __init__(self) -> None:
            self.private = OwnFolder("meca-k-")

        async def kill(self, number: int, group: int) -> None:
            raise KernelError("no answer")

        async def end(self, why: str) -> None:
            self.died = why

    async def test() -> None:
        place = Gone()
        program = BoxedProgram(place, "p")  # type: ignore[arg-type]
        says = place.private.writer("p.x")
        try:
            os.write(says, b"7\n")
            waiting = asyncio.create_task(program.ended())
            await asyncio.wait_for(program.end(), LIMIT)
            assert await asyncio.wait_for(waiting, LIMIT) == -9
        finally:
            program.close()
            await asyncio.gather(program._watching, return_exceptions=True)
            os.close(says)
            place.private.remove()

    asyncio.run(test())


def test_nothing_is_looked_for_outside_of_the_folder(tmp_path: Path) -> None:
    """A link of a kernel's to the whole machine must not have the gateway read the whole machine."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x.secret").touch()
    done = subprocess.run(
        [sys.executable, "-c", LOOKS, str(tmp_path)], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert done.stdout.split("\n") == ["True"] * 5 + ["False True", ""], done.stderr
