"""Local apps as real processes: every way in which they can end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.errors import ContainerFailed
from meca_executor.runtimes import app_process, lifeline
from meca_executor.runtimes.apps import Apps

from ..helpers.processes import is_running
from ..helpers.scripts import started
from ..helpers.waiting import LIMIT
from .app_tools import OBEDIENT, ask, make_app, run, until, until_gone

if TYPE_CHECKING:
    from pathlib import Path


def test_app_that_dies_before_it_is_ready(tmp_path: Path) -> None:
    source = """
        import sys
        for number in range(30):
            print("line", number)
        sys.exit("\\x1b[31mno such model\\x1b[0m\\x07")
    """

    async def test(apps: Apps) -> None:
        with pytest.raises(ContainerFailed, match="exit code 1") as caught:
            await ask(apps, "pid")
        text = str(caught.value)
        assert not caught.value.lost
        assert "app:latest" in text
        assert "  no such model?" in text
        assert "line 29" in text
        assert "line 5\n" not in text

    run(test, {"app": make_app(tmp_path / "app", source)})


def test_app_killed_before_it_is_ready(tmp_path: Path) -> None:
    source = "import os; os.kill(os.getpid(), 9)"

    async def test(apps: Apps) -> None:
        results = await asyncio.gather(*(ask(apps, "pid") for _ in range(3)), return_exceptions=True)
        assert all("SIGKILL" in str(result) and "printed nothing" in str(result) for result in results)

    run(test, {"app": make_app(tmp_path / "app", source)})


def test_app_that_never_gets_ready_is_given_up_and_killed(tmp_path: Path) -> None:
    source = """
        import os, time
        print("pid", os.getpid())
        time.sleep(100)
    """

    async def test(apps: Apps) -> None:
        with pytest.raises(ContainerFailed, match=r"not ready within 5 s.*meca-init-done") as caught:
            await ask(apps, "pid")
        assert not caught.value.lost
        await until_gone(int(str(caught.value).rpartition(" ")[2]))

    run(test, {"app": make_app(tmp_path / "app", source)}, ready_timeout=5)


def test_app_that_ignores_its_port_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_process, "CONNECT_GRACE_S", 0.3)
    source = """
        import time
        print("meca-init-done")
        time.sleep(100)
    """

    async def test(apps: Apps) -> None:
        with pytest.raises(ContainerFailed, match="nothing listens on the port in PORT"):
            await ask(apps, "pid")

    run(test, {"app": make_app(tmp_path / "app", source)})


def test_mark_on_stderr_does_not_count(tmp_path: Path) -> None:
    source = dedent(OBEDIENT).replace('"meca-init-done", flush=True', '"meca-init-done", file=sys.stderr')

    async def test(apps: Apps) -> None:
        with pytest.raises(ContainerFailed, match="on its stdout"):
            await ask(apps, "pid")

    run(test, {"app": make_app(tmp_path / "app", source)}, ready_timeout=1)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"do": "exit", "code": 3}, "exit code 3"),
        ({"do": "signal", "number": int(signal.SIGKILL)}, "SIGKILL"),
        ({"do": "signal", "number": int(signal.SIGSEGV)}, "SIGSEGV"),
        # The child holds the connection and both pipes open, so that nothing but the process itself shows the end.
        ({"do": "leave a child and exit"}, "exit code 7"),
    ],
)
def test_app_that_dies_during_a_call_is_replaced(tmp_path: Path, order: dict[str, Any], words: str) -> None:
    async def test(apps: Apps) -> None:
        pid = (await ask(apps, "pid"))["pid"]
        begin = time.monotonic()
        with pytest.raises(ContainerFailed, match=words) as caught:
            await apps.call("app", json.dumps(order).encode())
        assert time.monotonic() - begin < LIMIT / 2
        assert caught.value.lost
        if order["do"] == "signal":
            assert "last words" in str(caught.value)
        assert (await ask(apps, "pid"))["pid"] != pid

    run(test, {"app": make_app(tmp_path / "app")})


def test_app_that_died_between_calls_is_replaced_unnoticed(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        pid = (await ask(apps, "pid"))["pid"]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not is_running(pid))
        assert (await ask(apps, "pid"))["pid"] != pid

    run(test, {"app": make_app(tmp_path / "app")})


def test_app_that_stops_listening_is_replaced(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        pid = (await ask(apps, "deaf"))["pid"]
        with pytest.raises(ContainerFailed, match=r"no connections|ended") as caught:
            await ask(apps, "pid")
        assert caught.value.lost
        assert (await ask(apps, "pid"))["pid"] != pid

    run(test, {"app": make_app(tmp_path / "app")})


def test_app_that_ends_as_soon_as_it_is_ready_does_not_start_for_ever(tmp_path: Path) -> None:
    source = """
        import os, socket
        server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
        print("meca-init-done")
        server.accept()
    """

    async def test(apps: Apps) -> None:
        with pytest.raises(ContainerFailed):
            await ask(apps, "pid")

    run(test, {"app": make_app(tmp_path / "app", source)})


def test_idle_app_is_removed_and_comes_back(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        pid = (await ask(apps, "pid"))["pid"]
        await until_gone(pid)
        assert (await ask(apps, "pid"))["pid"] != pid

    run(test, {"app": make_app(tmp_path / "app")}, idle_timeout=0.2)


def test_call_longer_than_the_idle_time_is_left_alone(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        call = asyncio.create_task(ask(apps, "wait", file=str(tmp_path / "file"), begun=str(tmp_path / "begun")))
        await asyncio.sleep(0.5)  # what must not happen has time to happen
        (tmp_path / "file").touch()
        assert await call

    run(test, {"app": make_app(tmp_path / "app")}, idle_timeout=0.1)


def test_close_ends_apps_with_their_children_and_calls(tmp_path: Path) -> None:
    async def main() -> None:
        apps = Apps({"app": make_app(tmp_path / "app")})
        answer = await ask(apps, "start a child")
        call = asyncio.create_task(ask(apps, "wait", file=str(tmp_path / "never"), begun=str(tmp_path / "begun")))
        await until((tmp_path / "begun").exists)
        await asyncio.gather(apps.close(), apps.close())
        assert not is_running(answer["pid"])
        await until_gone(answer["child"])
        with pytest.raises(ContainerFailed):
            await call
        await apps.close()
        with pytest.raises(ContainerFailed, match="closing"):
            await ask(apps, "pid")

    asyncio.run(main())


def test_close_during_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        apps = Apps({"app": make_app(tmp_path / "app", "import time; time.sleep(100)")})
        call = asyncio.create_task(ask(apps, "pid"))
        await until(lambda: "running=['app:latest']" in repr(apps))
        await apps.close()
        with pytest.raises(ContainerFailed):
            await call

    asyncio.run(main())


def test_app_that_does_not_listen_to_sigterm_is_killed(tmp_path: Path) -> None:
    source = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + dedent(OBEDIENT)
    pids = []

    async def test(apps: Apps) -> None:
        pids.append((await ask(apps, "pid"))["pid"])

    run(test, {"app": make_app(tmp_path / "app", source)})
    assert not any(map(is_running, pids))


def test_app_dies_with_a_gateway_that_is_killed(tmp_path: Path) -> None:
    folder = make_app(tmp_path / "app")
    gateway = f"""
        import asyncio
        from meca_executor.runtimes.apps import Apps

        async def main():
            print((await Apps({{"app": {str(folder)!r}}}).call("app", b'{{"do": "pid"}}')).decode(), flush=True)
            await asyncio.sleep(100)

        asyncio.run(main())
    """
    with started(gateway, tmp_path) as process:
        assert process.stdout is not None
        pid = json.loads(process.stdout.readline())["pid"]
        assert is_running(pid)
        process.kill()
        asyncio.run(until_gone(pid))


def test_lifeline_of_a_parent_that_is_gone_already() -> None:
    command = [sys.executable, lifeline.__file__, str(os.getpid() + 1), "no such script"]
    assert subprocess.run(command, check=False, timeout=LIMIT).returncode == 1


def test_lifeline_without_the_kernels_help(tmp_path: Path) -> None:
    """Elsewhere than on Linux a thread looks for the parent; it works on Linux too."""
    child = (
        "import os, sys, time; sys.platform = 'other'; from meca_executor.runtimes.lifeline import die_with_parent; "
    )
    child += "die_with_parent(os.getppid()); print(os.getpid(), flush=True); time.sleep(100)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with started(parent, tmp_path) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
        asyncio.run(until_gone(pid))
