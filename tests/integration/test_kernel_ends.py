"""How kernels begin and end: arguments, environment, limits, deaths, and what is left."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from meca_executor import GatewayLost, KernelEnded, KernelError, UsageError
from meca_executor.kernel import Kernel
from tests.helpers.processes import CAN_LIST, children
from tests.helpers.waiting import wait_until

from .standing import standing_gateway

pytest.importorskip("ipykernel", reason="needs the extra kernels")
pytest.importorskip("jupyter_client", reason="needs the extra kernels")

LIMIT = 60.0
ROOT = Path(__file__).resolve().parents[2]


def test_restart_forgets_the_state_and_keeps_files() -> None:
    with Kernel.get_or_create("python3") as kernel:
        kernel.execute("kept = 1")
        kernel.write("kept.txt", b"file")
        kernel.restart()
        result = kernel.execute("print(open('kept.txt').read()); kept")
        assert result.stdout == "file\n"
        assert result.error is not None
        assert result.error.name == "NameError"


def test_killed_in_a_cell_it_says_so_at_once(tmp_path: Path) -> None:
    with Kernel.get_or_create("python3") as kernel:
        with pytest.raises(KernelEnded, match=r"kernel died: signal 9 \(SIGKILL\)") as caught:
            kernel.execute("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
        assert isinstance(caught.value.result, dict)
        with pytest.raises(KernelEnded, match="kernel died"):
            kernel.execute("1")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_out_of_memory_is_told() -> None:
    with Kernel.get_or_create("python3", limits={"memory_mib": 300}) as kernel:
        assert kernel.execute("1").text == "1"
        with pytest.raises(KernelEnded, match=r"out of memory: it used .* its limit is 300 MiB"):
            kernel.execute("x = b'x' * (600 << 20)\nimport time; time.sleep(60)")


def test_a_gateway_that_is_killed_leaves_no_process_of_its_kernels(tmp_path: Path) -> None:
    """The suite's own check sees to it: neither kernels nor what a run has started live on."""
    mark = tmp_path / "mark"
    script = f"""
import os, signal
from meca_executor.kernel import Kernel

shell, python = Kernel.get_or_create("sh"), Kernel.get_or_create("python3")
future = shell.submit("sleep 600 & touch {mark}; sleep 600")
while not os.path.exists({str(mark)!r}):
    pass
os.kill(shell._core.link._gateway._popen.pid, signal.SIGKILL)
try:
    future.result(30)
except Exception as error:
    print(error)
"""
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert "host lost: the embedded gateway died" in finished.stdout, finished.stderr


@pytest.mark.timeout(300)
@pytest.mark.skipif(not CAN_LIST, reason="needs /proc")
def test_a_hundred_kernels_come_and_go_and_leave_nothing(tmp_path: Path) -> None:
    """Of the gateway, which stays, as it is then: processes, threads, descriptors, folders. And nothing of ours."""
    with standing_gateway(tmp_path, "--workers", "1") as gateway:

        def some(langs: list[str]) -> None:
            kernels = [Kernel.get_or_create(lang, endpoint=gateway.url) for lang in langs]
            assert len({kernel.kernel_id for kernel in kernels}) == len(langs)
            for number, kernel in enumerate(kernels):
                code = "print(42)" if kernel.stateful else "echo $((6 * 7))"
                if kernel.stateful or number % 5 == 0:
                    assert kernel.execute(code).stdout == "42\n"
                kernel.destroy()

        def there() -> tuple[int, int, int, list[str]]:
            pid = gateway.process.pid
            here = Path("/proc", str(pid))
            folders = sorted(name for name in os.listdir(tempfile.gettempdir()) if name.startswith("meca-k"))
            return len(children(pid)), len(os.listdir(here / "task")), len(os.listdir(here / "fd")), folders

        some(["sh"] * 15 + ["python3"])  # threads for files are there from now on
        wait_until(lambda: not there()[3], "the first ones are gone", LIMIT)
        before = there()
        for langs in (["sh"] * 33, ["sh"] * 32 + ["python3"], ["sh"] * 33 + ["python3"]):
            some(langs)
        wait_until(lambda: there() <= before, f"as it was: {before}", LIMIT)


@pytest.mark.skipif(not CAN_LIST, reason="needs /proc")
def test_what_a_killed_gateway_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    with standing_gateway(tmp_path, "--workers", "1", killed=True) as gateway:
        kernels = [Kernel.get_or_create(lang, endpoint=gateway.url, resume_window=0.1) for lang in ("sh", "python3")]
        left = [Path(kernel.get_info()["folder"]) for kernel in kernels]
        kernels[0].write("a/file", b"x")
        gateway.process.kill()
        gateway.process.wait(LIMIT)
        for kernel in kernels:
            with pytest.raises(GatewayLost):
                kernel.execute("1")
            kernel.close()
    assert all(folder.is_dir() for folder in left)
    with standing_gateway(tmp_path, "--workers", "1") as gateway:
        with Kernel.get_or_create("sh", endpoint=gateway.url) as kernel:
            mine = Path(kernel.get_info()["folder"])
            assert not any(folder.exists() for folder in left)
            with Kernel.get_or_create("sh") as other:  # on a gateway of its own: it leaves what is in use alone
                assert mine.is_dir()
                assert other.list_files() == []
        ours = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("meca-k")]
        wait_until(lambda: not any(Path(tempfile.gettempdir(), name).exists() for name in ours), "nothing is left")


def test_the_environment_is_the_kernels_own_and_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MECA_SECRET_KEY", "hidden")
    monkeypatch.setenv("MECA_ACCESS_KEY", "known")
    with Kernel.get_or_create("sh", envs={"COLOUR": "green"}) as kernel:
        assert kernel.execute('echo "$COLOUR $MECA_SECRET_KEY"').stdout == "green \n"


def test_a_lifetime_that_is_over_is_told() -> None:
    with Kernel.get_or_create("sh", limits={"lifetime_s": 4.0}) as kernel:
        folder = Path(kernel.get_info()["folder"])
        wait_until(lambda: not folder.exists(), "the kernel ends", LIMIT)
        with pytest.raises(KernelEnded, match="lifetime: it may live for"):
            kernel.execute("echo")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"lang": ""}, "is not a language's name"),
        ({"lang": "sh", "client_token": "a b"}, "client_token 'a b'"),
        ({"lang": "sh", "mounts": ["x"]}, "no virtual folders"),
        ({"lang": "sh", "envs": {"A=": "x"}}, "is no environment variable"),
        ({"lang": "sh", "max_mem": -1}, "max_mem -1"),
    ],
)
def test_a_wrong_argument_is_refused(arguments: dict[str, object], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Kernel.get_or_create(**arguments)  # type: ignore[arg-type]


def test_a_wrong_mode_and_no_code() -> None:
    with Kernel.get_or_create("sh") as shell:
        with pytest.raises(UsageError, match="mode 'fast' is not one of"):
            shell.execute("echo", mode="fast")
        with pytest.raises(UsageError, match="needs code"):
            shell.execute()
        with pytest.raises(UsageError, match="keep=True is for a run of a kernel that is kept"):
            shell.submit("echo", keep=True)
        with pytest.raises(UsageError, match="after -1 is not a whole number"):
            shell.attach(after=-1)
        with pytest.raises(KernelError, match="no run waits"):
            shell.execute("x", mode="input")
        with pytest.raises(KernelError, match="has run nothing yet"):
            shell.attach()


def test_a_destroyed_kernel_says_so_and_again_is_no_error() -> None:
    kernel = Kernel.get_or_create("sh")
    assert kernel.destroy()["stats"]["lang"] == "sh"
    assert kernel.destroy() == {}
    with pytest.raises((KernelEnded, RuntimeError), match="closed"):
        kernel.execute("echo")
