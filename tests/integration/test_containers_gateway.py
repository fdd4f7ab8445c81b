"""Containers of an engine, as programs use them: through the embedded gateway and the standing one."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import Container, ContainerFailed, MecaExecutor, NoHostFits, TaskKilled, WorkerDied
from meca_executor.keys import read_keys
from meca_executor.runtimes.engine import Engine
from meca_executor.runtimes.engine_settings import LABEL, EngineSettings
from meca_executor.settings import default_key_file
from tests.helpers import engine
from tests.helpers.processes import children
from tests.helpers.scripts import run, started
from tests.helpers.waiting import wait_until
from tests.peers.programs import run_program

from .app_tools import OBEDIENT
from .standing import EXAMPLES, Standing, standing_gateway

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 60.0


@pytest.fixture
def engine_url(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let programs find the engine."""
    url = engine.url()
    monkeypatch.setenv("MECA_ENGINE", url)
    return url


@pytest.fixture
def runner(images: engine.Images, engine_url: str) -> str:
    """The image that runs functions."""
    return images.of_example("python-runner")


def of_process(pid: int) -> list[str]:
    """Return the containers that a process made."""
    with contextlib.closing(Engine(engine.url(), EngineSettings())) as one:
        found = one._client.containers(all=True, filters={"label": LABEL})
    return [each["Id"] for each in found if f"/{pid}/" in each["Labels"][LABEL]]


def networks_of_process(pid: int) -> list[str]:
    """Return the names of the networks that a process has made."""
    with contextlib.closing(Engine(engine.url(), EngineSettings())) as one:
        found = one._client.networks(filters={"label": LABEL})
    return [each["Name"] for each in found if f"/{pid}/" in each["Labels"][LABEL]]


def facts() -> dict[str, Any]:
    """What a function in a container sees of its cage."""
    with open("/proc/self/status", encoding="utf-8") as file:
        status = dict(line.split(":\t", 1) for line in file.read().splitlines())
    try:
        open("/etc/mark", "w", encoding="utf-8").close()
        write = "possible"
    except OSError as error:
        write = str(error.strerror)
    with open("/tmp/mark", "w", encoding="utf-8") as file:
        file.write("here it is")
    kept = {name: value for name, value in os.environ.items() if name.startswith(("MECA", "LEAK", "DOCKER"))}
    return {"caps": status["CapEff"], "more": status["NoNewPrivs"], "write": write, "env": kept}


def test_functions_in_a_container(runner: str) -> None:
    """Values, closures and exceptions; what it prints; and what its cage is like."""
    printed: list[str] = []
    with MecaExecutor(2, output=lambda text, _: printed.append(text)) as ex:
        inside = ex.options(container_ref=runner)
        offset = 3
        assert list(inside.map(lambda x: x + offset, range(4), timeout=LIMIT)) == [3, 4, 5, 6]
        assert isinstance(inside.submit(int, "no number").exception(LIMIT), ValueError)
        inside.submit(print, "hello").result(LIMIT)
        assert "hello\n" in printed
        assert isinstance(inside.submit(exec, "import os; os._exit(3)").exception(LIMIT), WorkerDied)
        seen = inside.submit(facts).result(LIMIT)
    assert seen["caps"].strip("0") == "" and seen["more"] == "1"
    assert seen["write"] == "Read-only file system"
    assert seen["env"] == {}


def test_kill_ends_what_runs_inside(images: engine.Images, engine_url: str) -> None:
    """At once; the container is gone, and the next call has another."""
    obedient = Container(images.of_source("obedient", OBEDIENT))
    with MecaExecutor(1) as ex, contextlib.closing(Engine(engine_url, EngineSettings())) as one:
        born = ex.submit(obedient, {"do": "pid"}).result(LIMIT)["born"]
        (name,) = (each["Id"] for each in one._client.containers(filters={"ancestor": obedient.ref}))
        future = ex.submit(obedient, {"do": "sleep"})
        wait_until(lambda: b"asleep" in one._client.logs(name), "it runs", LIMIT)
        assert ex.kill(future)
        assert isinstance(future.exception(LIMIT), TaskKilled)
        assert ex.submit(obedient, {"do": "pid"}).result(LIMIT)["born"] != born
        wait_until(lambda: not one._client.containers(filters={"id": name}), "it is gone", LIMIT)


def test_an_image_goes_before_a_shipped_example(images: engine.Images, engine_url: str) -> None:
    """Which is a local app only as long as the engine has no image of its name."""
    tag = "python-template:latest"
    with contextlib.closing(Engine(engine_url, EngineSettings())) as one:
        if one.has_image(tag):
            pytest.skip(f"this engine has an image {tag} of its own")
        with MecaExecutor(1) as ex:
            assert ex.offload_task(tag, '{"a": 1}').result(LIMIT) == '{"a": 1}'
            error = ex.offload_task(tag, "{}", runtime="microVM").exception(LIMIT)
            assert isinstance(error, NoHostFits) and "local app" in str(error)
        one._client.tag(images.of_source("obedient", OBEDIENT), "python-template", "latest")
        try:
            with MecaExecutor(1) as ex:
                assert ex.submit(Container(tag), {"do": "pid"}).result(LIMIT)["pid"] == 1
        finally:
            one._client.remove_image(tag)


def test_shutdown_returns_after_the_last_container(images: engine.Images, engine_url: str) -> None:
    before = engine.ours()
    with MecaExecutor(2) as ex:
        ex.submit(Container(images.of_example("sampleserver")), {"name": "you"}).result(LIMIT)
        assert len(engine.ours()) > len(before)
    assert set(engine.ours()) <= set(before)


PROGRAM = """
    import sys, time
    from meca_executor import Container, MecaExecutor

    ex = MecaExecutor(1)
    ex.submit(Container(sys.argv[1] if sys.argv[1:] else {ref!r}), {{"do": "pid"}}).result(60)
    print("ready", flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["time.sleep(1)", "time.sleep(600)"])
def test_containers_end_with_the_program(images: engine.Images, engine_url: str, tmp_path: Path, end: str) -> None:
    """Also one that never shuts its executor down, and one that is killed."""
    ref = images.of_source("obedient", OBEDIENT)
    with started(PROGRAM.format(ref=ref, end=end), tmp_path) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        (gateway,) = (one.pid for one in children(process.pid) if of_process(one.pid))
        process.send_signal(signal.SIGKILL if "600" in end else 0)
        process.wait(LIMIT)
        wait_until(lambda: not of_process(gateway), "its containers are gone", LIMIT)


def client_of(gateway: Standing) -> MecaExecutor:
    """Return an executor on a gateway."""
    assert read_keys(default_key_file())
    return MecaExecutor(gateway.url, retry=1)


def test_what_a_killed_gateway_left_is_swept(images: engine.Images, engine_url: str, tmp_path: Path) -> None:
    """By the next one, when it starts; what a living one has stays."""
    greet = Container(images.of_example("sampleserver"))
    with contextlib.ExitStack() as stack:
        folders = [tmp_path / name for name in ("one", "two", "three")]
        for folder in folders:
            folder.mkdir()
        living = stack.enter_context(standing_gateway(folders[0], "--workers", "1"))
        with pytest.raises(AssertionError), standing_gateway(folders[1], "--workers", "1") as doomed:
            for gateway in (living, doomed):
                with client_of(gateway) as ex:
                    ex.submit(greet, {"name": "you"}).result(LIMIT)
                assert of_process(gateway.process.pid)
            doomed.process.send_signal(signal.SIGKILL)
            doomed.process.wait(LIMIT)
        assert of_process(doomed.process.pid) and networks_of_process(doomed.process.pid)
        third = stack.enter_context(standing_gateway(folders[2], "--workers", "1"))
        third.await_log("removed 1 containers of gateways that are gone")
        assert not of_process(doomed.process.pid)
        wait_until(lambda: not networks_of_process(doomed.process.pid), "its network is gone", LIMIT)
        assert of_process(living.process.pid) and networks_of_process(living.process.pid)
    wait_until(lambda: not of_process(living.process.pid), "its containers are gone", LIMIT)


def test_the_operators_words(images: engine.Images, engine_url: str, tmp_path: Path) -> None:
    """What `meca gateway` is told holds for its containers, and pulls are told on its terminal."""
    ref = images.of_example("sampleserver")
    words = ["--runtime", "plain=runc", "--container-idle", "0.2", "--image", ref, "--pull-limit", "30"]
    with standing_gateway(tmp_path, "--workers", "1", *words) as gateway:
        with client_of(gateway) as ex:
            answer = ex.submit(Container(ref, runtime="plain"), {"name": "you"}).result(LIMIT)
            assert answer == {"message": "hello you"}
            wait_until(lambda: not of_process(gateway.process.pid), "the idle container is removed", LIMIT)
            error = ex.submit(Container(ref, runtime="microVM"), {}).exception(LIMIT)
            assert isinstance(error, NoHostFits) and "--runtime microVM=" in str(error)
            error = ex.submit(Container("127.0.0.1:1/nothing"), {}).exception(LIMIT)
            assert isinstance(error, ContainerFailed) and "127.0.0.1:1/nothing:latest could not be had" in str(error)
        gateway.await_log("pulling 127.0.0.1:1/nothing:latest")


OLD = """
import asyncio
from tests.peers import old_sdk as meca_api

def told(task_id, status, response, error, transaction_id):
    print("told", task_id, status, response, error)

async def main():
    await meca_api.initiate_connection()
    await meca_api.offload_task("7", {ref!r}, '{{"do": "refuse"}}', told, {{"cpu": 1, "memory": 256}})
    await meca_api.join(60, 60)
    await meca_api.offload_task("8", "python:3.11-slim", "", told)
    await meca_api.join(60, 60)
    await meca_api.disconnect()

asyncio.run(main())
"""


def test_the_original_sdk_runs_images_that_were_named(images: engine.Images, engine_url: str, tmp_path: Path) -> None:
    ref = images.of_source("obedient", OBEDIENT)
    with standing_gateway(tmp_path, "--workers", "1", "--image", ref) as gateway:
        out = run_program("current", OLD.format(ref=ref), port=gateway.port).expect(0).out
    told = [line for line in out.splitlines() if line.startswith("told")]
    assert told[0].startswith(f"told 7 0  {ref} refused the task, HTTP status 418")
    assert "may not be run here; the operator named: " in told[1]


def test_meca_image(engine_url: str, tmp_path: Path) -> None:
    """`new`, `test` and `build` with a folder from the template; the diff of an example that is wrong."""
    tag = f"meca-test-folder:run-{os.getpid()}"

    def meca(*words: str) -> Any:
        return run(f"from meca_executor.cli import main; raise SystemExit(main({list(words)}))", tmp_path)

    try:
        meca("image", "new", "greeter").expect(0)
        assert (tmp_path / "greeter" / "name.txt").read_text() == "greeter\n"
        assert "as it should be" in meca("image", "test", "greeter", "--tag", tag).expect(0).out
        assert meca("image", "build", "greeter", "--tag", tag).expect(0).out == f"{tag} is built\n"
        (tmp_path / "greeter" / "example_output.bin").write_text('{"greeting": "bye"}')
        out = meca("image", "test", "greeter", "--tag", tag).expect(1).out
        assert '-  "greeting": "bye"' in out and '+  "greeting": "hello",' in out
        with open(tmp_path / "greeter" / "Dockerfile", "a", encoding="utf-8") as file:
            file.write("RUN exit 3\n")
        assert "returned a non-zero code: 3" in meca("image", "build", "greeter", "--tag", tag).expect(1).err
    finally:
        with contextlib.closing(Engine(engine_url, EngineSettings())) as one:
            one._client.remove_image(tag, force=True)


@pytest.mark.parametrize("name", ["knn", "python-runner", "sampleserver"])
def test_examples_are_built_and_answer(engine_url: str, tmp_path: Path, name: str) -> None:
    """Each with the Dockerfile, the resources and the example in its folder."""
    tag = f"meca-test-example-{name}:run-{os.getpid()}"
    shutil.copytree(EXAMPLES / name, tmp_path / name)
    program = (
        f"from meca_executor.cli import main; raise SystemExit(main(['image', 'test', {name!r}, '--tag', {tag!r}]))"
    )
    try:
        assert "as it should be" in run(program, tmp_path).expect(0).out
    finally:
        with contextlib.closing(Engine(engine_url, EngineSettings())) as one:
            one._client.remove_image(tag, force=True)
