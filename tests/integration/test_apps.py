"""Local apps as real processes: their start and their calls."""

from __future__ import annotations

import asyncio
import os
import threading
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from meca_executor.errors import NoHostFits, TaskFailed, TaskTimeout, UsageError
from meca_executor.runtimes.apps import Apps

from .app_tools import OBEDIENT, ask, make_app, run, until, until_gone

if TYPE_CHECKING:
    from pathlib import Path


def test_app_runs_as_a_script_of_its_folder(tmp_path: Path) -> None:
    folder = make_app(tmp_path / "app")
    environ = {**os.environ, "MECA_SECRET_KEY": "s", "BACKEND_ACCESS_KEY": "a", "MINE": "yes"}

    async def test(apps: Apps) -> None:
        told = await ask(apps, "tell")
        script = str(folder / "src" / "app.py")
        assert told["argv"] == [script]
        assert told["file"] == script
        assert told["path"] == told["cwd"] == str(folder / "src")
        assert told["name"] == "__main__"
        assert told["type"] == "application/json"
        assert told["url"] == "/"
        assert told["env"]["MINE"] == "yes"
        assert not {"MECA_SECRET_KEY", "BACKEND_ACCESS_KEY"} & set(told["env"])

    run(test, {"app": folder}, environ=environ)


def test_names(tmp_path: Path) -> None:
    folder = make_app(tmp_path / "app")
    apps = Apps({"knn": folder, "host:5000/other": folder, "third:v2": folder})
    assert all(map(apps.knows, ("knn", "knn:latest", "host:5000/other:latest", "host:5000/other", "third:v2")))
    assert not any(map(apps.knows, ("knn:v2", "third", "kn", "", "other")))
    apps.add("later:latest", folder)
    assert apps.knows("later")


def test_add_says_what_is_missing(tmp_path: Path) -> None:
    apps = Apps({})
    with pytest.raises(UsageError, match="no such folder"):
        apps.add("app", tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"src/app\.py"):
        apps.add("app", tmp_path)
    with pytest.raises(UsageError, match="empty name"):
        apps.add(" ", make_app(tmp_path / "app"))
    with pytest.raises(UsageError, match=r"src/app\.py"):
        Apps({"app": tmp_path})


def test_unknown_app_is_told_what_is_known(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        with pytest.raises(NoHostFits, match=r"knn:latest") as caught:
            await apps.call("nobody:v1", b"{}")
        assert "nobody:v1" in str(caught.value)
        assert "apps={" in str(caught.value)
        assert "meca gateway --app nobody:v1=FOLDER" in str(caught.value)

    run(test, {"knn": make_app(tmp_path / "app")})


def test_first_calls_share_one_start_and_the_app_stays_warm(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        threads = threading.active_count()
        answers = await asyncio.gather(*(ask(apps, "pid") for _ in range(20)))
        answers.append(await ask(apps, "pid"))
        assert len({answer["pid"] for answer in answers}) == 1
        assert threading.active_count() == threads

    run(test, {"app": make_app(tmp_path / "app")})


def test_cancelled_first_caller_leaves_the_start_to_the_others(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        calls = [asyncio.create_task(ask(apps, "pid")) for _ in range(3)]
        await asyncio.sleep(0)
        calls[0].cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(answers[0], asyncio.CancelledError)
        assert answers[1] == answers[2] == await ask(apps, "pid")

    run(test, {"app": make_app(tmp_path / "app")})


def test_requests_run_at_once_up_to_the_limit(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        # The app lets them go in pairs only, so one at a time would never end.
        answers = await asyncio.gather(*(ask(apps, "pair") for _ in range(8)))
        assert {answer["peak"] for answer in answers} == {2}

    run(test, {"app": make_app(tmp_path / "app")}, max_in_flight=2)


def test_timeout_counts_the_request_alone(tmp_path: Path) -> None:
    source = "import time\ntime.sleep(1)\n" + dedent(OBEDIENT)

    async def test(apps: Apps) -> None:
        assert await ask(apps, "pid", timeout=0.9)

    run(test, {"app": make_app(tmp_path / "app", source)})


def test_timeout_retires_the_app_and_spares_its_other_calls(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        file = str(tmp_path / "file")
        patient = asyncio.create_task(ask(apps, "wait", file=file, begun=str(tmp_path / "one")))
        await until((tmp_path / "one").exists)
        with pytest.raises(TaskTimeout, match=r"0\.2 s"):
            await ask(apps, "wait", timeout=0.2, file=file, begun=str(tmp_path / "two"))
        fresh = (await ask(apps, "pid"))["pid"]
        (tmp_path / "file").touch()
        old = (await patient)["pid"]
        assert old != fresh
        await until_gone(old)
        assert (await ask(apps, "pid"))["pid"] == fresh

    run(test, {"app": make_app(tmp_path / "app")})


@pytest.mark.parametrize("how", ["timeout", "cancel"])
def test_call_that_is_given_up_ends_an_app_without_other_calls(tmp_path: Path, how: str) -> None:
    async def test(apps: Apps) -> None:
        pid = (await ask(apps, "pid"))["pid"]
        begun = tmp_path / "begun"
        call = asyncio.create_task(
            ask(apps, "wait", timeout=0.2 if how == "timeout" else None, file=str(tmp_path / "never"), begun=str(begun))
        )
        if how == "cancel":
            await until(begun.exists)
            call.cancel()
        with pytest.raises(TaskTimeout if how == "timeout" else asyncio.CancelledError):
            await call
        await until_gone(pid)
        assert (await ask(apps, "pid"))["pid"] != pid

    run(test, {"app": make_app(tmp_path / "app")})


def test_waiting_calls_move_to_the_fresh_app(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        file = str(tmp_path / "file")
        stuck = [asyncio.create_task(ask(apps, "wait", file=file, begun=str(tmp_path / "one")))]
        await until((tmp_path / "one").exists)
        stuck.append(asyncio.create_task(ask(apps, "wait", timeout=0.3, file=file, begun=str(tmp_path / "two"))))
        await until((tmp_path / "two").exists)
        waiting = [asyncio.create_task(ask(apps, "pid")) for _ in range(5)]
        with pytest.raises(TaskTimeout):
            await stuck[1]
        moved = {answer["pid"] for answer in await asyncio.gather(*waiting)}
        (tmp_path / "file").touch()
        assert (await stuck[0])["pid"] not in moved
        assert len(moved) == 1

    run(test, {"app": make_app(tmp_path / "app")}, max_in_flight=2)


def test_mark_may_come_before_listening_in_pieces_and_without_a_newline(tmp_path: Path) -> None:
    source = 'import sys, time\nfor c in "... meca-init-done":\n    sys.stdout.write(c)\ntime.sleep(0.3)\n' + dedent(
        OBEDIENT
    ).replace('print("meca-init-done", flush=True)', "")

    async def test(apps: Apps) -> None:
        assert await ask(apps, "pid")

    run(test, {"app": make_app(tmp_path / "app", source)})


def test_port_that_was_taken_meanwhile_is_replaced(tmp_path: Path) -> None:
    source = 'from pathlib import Path\nif not Path("tried").exists():\n    Path("tried").touch()\n' + (
        '    raise OSError(98, "Address already in use")\n' + dedent(OBEDIENT)
    )

    async def test(apps: Apps) -> None:
        assert await ask(apps, "pid")

    run(test, {"app": make_app(tmp_path / "app", source)})


def test_refusal_has_status_and_begin_of_the_body(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        with pytest.raises(TaskFailed, match="418") as caught:
            await ask(apps, "refuse")
        assert "no no no" in str(caught.value)
        assert len(str(caught.value)) < 300

    run(test, {"app": make_app(tmp_path / "app")})


def test_connection_closed_without_a_reply_is_the_tasks_failure(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        pid = (await ask(apps, "pid"))["pid"]
        with pytest.raises(TaskFailed, match="no valid reply"):
            await ask(apps, "hang up")
        assert (await ask(apps, "pid"))["pid"] == pid

    run(test, {"app": make_app(tmp_path / "app")})


@pytest.mark.parametrize("size", [0, 300_000, 20_000_000])
def test_any_size_of_request_and_reply(tmp_path: Path, size: int) -> None:
    async def test(apps: Apps) -> None:
        answer = await ask(apps, "measure", back=size, padding="p" * size)
        assert answer["length"] >= size
        assert len(answer["back"]) == size

    run(test, {"app": make_app(tmp_path / "app")})


def test_output_is_always_read(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        await ask(apps, "chat", lines=20_000)

    run(test, {"app": make_app(tmp_path / "app")})


def test_new_folder_for_a_known_name(tmp_path: Path) -> None:
    async def test(apps: Apps) -> None:
        old = await ask(apps, "tell")
        apps.add("app:latest", make_app(tmp_path / "other"))
        new = await ask(apps, "tell")
        assert old["cwd"] != new["cwd"]

    run(test, {"app": make_app(tmp_path / "app")})


def test_app_may_use_multiprocessing_with_its_own_functions(tmp_path: Path) -> None:
    source = dedent(OBEDIENT).replace("if __name__", "def job():\n    return 41 + 1\n\nif __name__")
    source = source.replace("os.getpid()}, 200", "pool.submit(job).result()}, 200")
    pool = "    pool = ProcessPoolExecutor(1, get_context('spawn'))\n"
    source = source.replace("    server = Thr", f"{pool}    server = Thr")
    source = "from concurrent.futures import ProcessPoolExecutor\nfrom multiprocessing import get_context\n" + source

    async def test(apps: Apps) -> None:
        assert (await ask(apps, "pid"))["pid"] == 42

    run(test, {"app": make_app(tmp_path / "app", source)})
