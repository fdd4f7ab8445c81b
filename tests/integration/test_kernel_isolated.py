"""Isolated kernels: each in a container of the engine; and the refusals where there is none."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meca_executor import GatewayLost, KernelEnded, KernelError
from meca_executor.asyncio.kernel import AsyncKernel
from meca_executor.kernel import Kernel
from meca_executor.keys import add_keys
from meca_executor.runtimes.engine import Engine
from meca_executor.runtimes.engine_settings import EngineSettings
from tests.helpers import engine
from tests.helpers.waiting import wait_until

from .standing import standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .standing import Standing

LIMIT = 60.0
ROOT = Path(__file__).resolve().parents[2]
IPYTHON = f"FROM {engine.BASE}\nRUN pip install --no-cache-dir ipykernel\n"
CAGE = """
import os, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def tried(work):
    try:
        work()
    except OSError as error:
        return error.strerror
    return "possible"
print(status["CapEff"].strip().strip("0") == "", status["NoNewPrivs"].strip())
print(tried(lambda: open("/etc/mark", "w")), "|", tried(lambda: open("/work/mine", "w")))
print(tried(lambda: socket.create_connection(("127.0.0.1", PORT), 5)), "|", sorted(os.listdir("/sys/class/net")))
print(sorted(name for name in os.environ if name.startswith(("MECA", "LEAK", "DOCKER"))), os.environ["COLOUR"])
print(os.path.exists(HERE), os.getcwd())
"""


@pytest.fixture(scope="module")
def gateway(images: engine.Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    """A gateway whose containers for Python have ipykernel, and the others only what the base has."""
    pytest.importorskip("jupyter_client", reason="needs the extra kernels")
    named = {"python": images.of_dockerfile("ipython", IPYTHON), "sh": engine.BASE, "c": engine.BASE}
    words = [word for lang, image in named.items() for word in ("--kernel-image", f"{lang}={image}")]
    with standing_gateway(
        tmp_path_factory.mktemp("gateway"), "--workers", "1", "--engine", engine.url(), *words
    ) as standing:
        yield standing


@pytest.fixture(scope="module")
def python(gateway: Standing) -> Iterator[Kernel]:
    with Kernel.get_or_create("python3", endpoint=gateway.url, isolate=True, envs={"COLOUR": "green"}) as kernel:
        yield kernel


@pytest.fixture(scope="module")
def shell(gateway: Standing) -> Iterator[Kernel]:
    with Kernel.get_or_create("sh", endpoint=gateway.url, isolate=True) as kernel:
        yield kernel


def commands_in(kernel: Kernel) -> str:
    """Return what runs in its container, as the engine sees it."""
    folder = kernel.get_info()["folder"]
    with contextlib.closing(Engine(engine.url(), EngineSettings())) as one:
        for each in one._client.containers():
            if any(mount.get("Source") == folder for mount in each["Mounts"]):
                return str(one._client.top(each["Id"])["Processes"])
    return ""


def test_snippets_share_their_state_where_the_image_has_ipykernel(python: Kernel) -> None:
    assert python.stateful
    assert python.get_info()["isolated"]
    assert python.execute("kept = 41; print('hello')").stdout == "hello\n"
    assert python.execute("kept + 1").text == "42"
    assert python.execute("input('who? ')", stdin="joe\n").text == "'joe'"
    failed = python.execute("1 / 0")
    assert (failed.exit_code, failed.error and failed.error.name) == (1, "ZeroDivisionError")
    assert python.execute("import sys; sys.exit(7)").exit_code == 7
    assert python.execute("import time; time.sleep(600)", timeout=5).status == "exec-timeout"
    assert python.execute("kept").text == "41"
    python.restart()
    lost = python.execute("kept").error
    assert lost is not None
    assert lost.name == "NameError"


def test_interrupt_ends_what_runs(python: Kernel) -> None:
    future = python.submit("open('mark', 'w').close(); import time; time.sleep(600)")
    wait_until(lambda: any(file["path"] == "mark" for file in python.list_files()), "it runs", LIMIT)
    python.interrupt()
    assert future.result(LIMIT).status == "interrupted"


def test_it_has_nothing_of_the_machine_but_its_folder(python: Kernel, gateway: Standing, tmp_path: Path) -> None:
    said = python.execute(f"PORT, HERE = {gateway.port}, {str(tmp_path)!r}\n{CAGE}")
    assert said.stdout.splitlines() == [
        "True 1",
        "Read-only file system | possible",
        "Connection refused | ['lo']",
        "[] green",
        "False /work",
    ], said.stderr
    owner = Path(python.get_info()["folder"], "mine").stat().st_uid
    assert owner == os.getuid(), "what it makes is ours"


def test_a_batch_with_steps_input_and_files(shell: Kernel) -> None:
    shell.write("main.sh", b"cat; echo err >&2; cat built > out/made; exit 3")
    opts = {"build": "mkdir -p out; echo yes > built", "exec": "sh main.sh", "clean": "rm built"}
    result = shell.execute(mode="batch", opts=opts, stdin=b"typed\n")
    assert (result.stdout, result.stderr, result.exit_code) == ("typed\n", "err\n", 3)
    assert result.steps == {"build": 0, "exec": 3, "clean": 0}
    assert {"path": "out/made", "size": 4}.items() <= shell.list_files("out")[0].items()
    assert shell.execute(mode="batch", opts={"build": "exit 2"}).exit_code == 127
    assert shell.execute("kill -s SEGV $$").exit_code == 139
    assert shell.execute("no-such-program").exit_code == 127


def test_much_output_arrives_whole(shell: Kernel) -> None:
    assert shell.execute("seq 1 500000").stdout == "".join(f"{number}\n" for number in range(1, 500_001))


def test_what_takes_too_long_ends_with_all_its_children(shell: Kernel) -> None:
    result = shell.execute("sleep 601 & touch begun; sleep 602", timeout=15)
    assert (result.status, result.exit_code) == ("exec-timeout", 124)
    assert any(file["path"] == "begun" for file in shell.list_files())
    wait_until(lambda: "sleep 60" not in commands_in(shell), "its processes are gone", LIMIT)
    shell.execute("sleep 603 & true")
    wait_until(lambda: "sleep 60" not in commands_in(shell), "nor does one stay in the background", LIMIT)


def test_a_shell_in_the_container(gateway: Standing) -> None:
    async def until(pty: object, wanted: bytes) -> bytes:
        seen = b""
        async for data in pty:  # type: ignore[attr-defined]  # a StreamPty
            seen += data
            if wanted in seen:
                break
        return seen

    async def live() -> None:
        async with (
            await AsyncKernel.get_or_create("sh", endpoint=gateway.url, isolate=True) as kernel,
            kernel.stream_pty(30, 100) as pty,
        ):
            await pty.send_stdin("echo $(stty size) $(pwd) and''so\n")
            assert b"30 100 /work andso" in await asyncio.wait_for(until(pty, b"andso"), LIMIT)
            await pty.resize(41, 123)
            await pty.send_stdin("while [ \"$(stty size)\" != '41 123' ]; do sleep 0.05; done; echo fit''s\n")
            await asyncio.wait_for(until(pty, b"fits"), LIMIT)
            await pty.send_stdin("echo be''gun; sleep 600\n")
            await asyncio.wait_for(until(pty, b"begun"), LIMIT)
            await pty.send_stdin(b"\x03")
            await pty.send_stdin("echo a$((1 + 1))b; exit 7\n")
            rest = b"".join([data async for data in pty])
            assert b"a2b" in rest
            assert pty.exit_status == 7

    asyncio.run(live())


def test_out_of_memory_is_told(gateway: Standing) -> None:
    with Kernel.get_or_create("python3", endpoint=gateway.url, isolate=True, limits={"memory_mib": 150}) as kernel:
        assert kernel.execute("1").text == "1"
        with pytest.raises(KernelEnded, match="out of memory"):
            kernel.execute("x = bytearray(600 << 20)")


def test_a_container_that_somebody_removes_is_told(gateway: Standing) -> None:
    with Kernel.get_or_create("sh", endpoint=gateway.url, isolate=True) as kernel:
        kernel.write("mine", b"")
        folder = kernel.get_info()["folder"]
        with contextlib.closing(Engine(engine.url(), EngineSettings())) as one:
            (name,) = (
                each["Id"] for each in one._client.containers() if folder in {m.get("Source") for m in each["Mounts"]}
            )
            one.remove(name)

        def gone() -> bool:
            with contextlib.suppress(KernelError):
                kernel.get_info()
                return False
            return True

        wait_until(gone, "the kernel ends, too", LIMIT)
        with pytest.raises(KernelEnded, match="its container ended"):
            kernel.execute("echo")


def test_a_kept_one_is_found_again_and_is_no_other(gateway: Standing) -> None:
    with Kernel.get_or_create("sh", "iso", endpoint=gateway.url, isolate=True) as first:
        first.write("kept", b"x")
    with Kernel.get_or_create("sh", "iso", endpoint=gateway.url) as again:
        assert not again.created
        assert again.execute("ls").stdout == "kept\n"
        again.destroy()
    with Kernel.get_or_create("sh", "plain", endpoint=gateway.url) as plain:
        with pytest.raises(KernelError, match="runs as processes, and not isolated"):
            Kernel.get_or_create("sh", "plain", endpoint=gateway.url, isolate=True)
        plain.destroy()


def test_what_an_image_lacks_is_said(gateway: Standing) -> None:
    with pytest.raises(KernelError, match=r"the image .* has no gcc or cc or clang, so c cannot run in it"):
        Kernel.get_or_create("c", endpoint=gateway.url, isolate=True)
    with pytest.raises(KernelError, match=r"no image for lua is known here; .*--kernel-image lua=IMAGE"):
        Kernel.get_or_create("lua5", endpoint=gateway.url, isolate=True)
    with pytest.raises(KernelError, match="no language 'ir' runs isolated"):
        Kernel.get_or_create("ir", endpoint=gateway.url, isolate=True)


def test_neither_an_end_nor_a_kill_leaves_a_container(images: engine.Images, tmp_path: Path) -> None:
    """Of this process's gateways: the engine may have others."""
    before, folders = set(engine.ours()), private_folders()
    words = ("--workers", "1", "--engine", engine.url(), "--kernel-image", f"sh={engine.BASE}")
    with standing_gateway(tmp_path, *words) as gateway:
        kernel = Kernel.get_or_create("sh", "kept", endpoint=gateway.url, isolate=True)
        assert kernel.execute("echo $((6 * 7))").stdout == "42\n"
        assert set(engine.ours()) - before
        kernel.close()
    assert not set(engine.ours()) - before
    with standing_gateway(tmp_path, *words, killed=True) as gateway:
        kernel = Kernel.get_or_create("sh", endpoint=gateway.url, isolate=True, resume_window=0.1)
        folder = Path(kernel.get_info()["folder"])
        gateway.process.kill()
        gateway.process.wait(LIMIT)
        with pytest.raises(GatewayLost):
            kernel.close()
        wait_until(lambda: not set(engine.ours()) - before, "its container ends without it", LIMIT)
    with standing_gateway(tmp_path, *words):
        wait_until(lambda: not folder.exists(), "its folder is swept", LIMIT)
        wait_until(lambda: not private_folders() - folders, "all that it had is swept", LIMIT)


def private_folders() -> set[str]:
    """Return the names of those that gateways have for themselves; other kernels of this module have theirs."""
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("meca-k-")}


def test_meca_run_isolated(images: engine.Images, tmp_path: Path) -> None:
    """On a gateway of the command's own, with the language's own image."""
    if sys.version_info[:2] != (3, 11):
        pytest.skip(f"the usual image is another one than {engine.BASE} here")
    (tmp_path / "main.py").write_text("import os; print(os.getcwd(), input()); open('made', 'w').write('x')")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "MECA_ENGINE": engine.url()}
    words = ["run", "-q", "--isolate", "python3", "main.py", "--download", "made"]
    done = subprocess.run(
        [sys.executable, "-m", "meca_executor.cli", *words],
        cwd=tmp_path, input="typed\n", capture_output=True, text=True, env=environ, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "/work typed\n", "")
    assert (tmp_path / "made").read_text() == "x"


def test_several_owners_have_isolated_kernels(
    images: engine.Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    pair, _ = add_keys(keys), add_keys(keys)
    monkeypatch.setenv("MECA_ACCESS_KEY", pair.access_key)
    monkeypatch.setenv("MECA_SECRET_KEY", pair.secret_key)
    words = ("--key-file", str(keys), "--workers", "1", "--engine", engine.url(), "--kernel-image", f"sh={engine.BASE}")
    with standing_gateway(tmp_path, *words) as gateway:
        with pytest.raises(KernelError, match=r"2 owners.*isolate=True"):
            Kernel.get_or_create("sh", endpoint=gateway.url)
        with Kernel.get_or_create("sh", endpoint=gateway.url, isolate=True) as kernel:
            assert kernel.execute("echo $((6 * 7))").stdout == "42\n"


def test_without_an_engine_nothing_is_made() -> None:
    before = set(os.listdir(tempfile.gettempdir()))
    with pytest.raises(KernelError, match="no kernel is isolated here: there is no container engine"):
        Kernel.get_or_create("sh", isolate=True)
    assert not {name for name in set(os.listdir(tempfile.gettempdir())) - before if name.startswith("meca-k")}
