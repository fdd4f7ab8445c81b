"""Kernels as a program uses them, on a gateway of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import as_completed
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meca_executor import KernelBusy, KernelEnded, KernelError, UsageError
from meca_executor.kernel import Kernel
from tests.helpers.processes import descendants
from tests.helpers.waiting import wait_until

pytest.importorskip("ipykernel", reason="needs the extra kernels")
pytest.importorskip("jupyter_client", reason="needs the extra kernels")

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 60.0
ROOT = Path(__file__).resolve().parents[2]
C_PROGRAM = {
    "main.c": '#include <stdio.h>\n#include "mylib.h"\nint main(void) { printf("myvalue is %d\\n", value()); }\n',
    "mylib.c": '#include "mylib.h"\nint value(void) { return 42; }\n',
    "mylib.h": "int value(void);\n",
}
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(scope="module")
def python() -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST", raising=False)  # ipykernel behaves differently under it
        kernel = Kernel.get_or_create("python3")
    with kernel:
        yield kernel


@pytest.fixture(scope="module")
def shell() -> Iterator[Kernel]:
    with Kernel.get_or_create("sh") as kernel:
        yield kernel


def write_all(folder: Path, files: dict[str, str]) -> list[Path]:
    for name, text in files.items():
        (folder / name).write_text(text)
    return [folder / name for name in files]


# -- query mode


def test_a_snippet_knows_what_those_before_it_did(python: Kernel) -> None:
    assert python.stateful
    python.execute("kept = 41")
    result = python.execute("print('hello world'); kept + 1", mode="query")
    assert result["console"] == [["stdout", "hello world\n"], ["media", ["text/plain", "42"]]]
    assert (result["status"], result["exitCode"], result.text) == ("finished", 0, "42")


def test_an_error_of_the_users_is_a_result(python: Kernel) -> None:
    result = python.execute("import sys; print('before', file=sys.stderr); 1 / 0")
    assert (result.status, result.exit_code) == ("finished", 1)
    assert result.error is not None
    assert (result.error.name, result.error.value) == ("ZeroDivisionError", "division by zero")
    assert result.stderr.startswith("before\n")
    assert "ZeroDivisionError" in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(("code", "exit_code"), [("sys.exit(7)", 7), ("sys.exit()", 0), ("sys.exit('why')", 1)])
def test_sys_exit_ends_the_snippet_and_not_the_kernel(python: Kernel, code: str, exit_code: int) -> None:
    result = python.execute(f"import sys; alive = 1; {code}")
    assert (result.exit_code, result.stderr) == (exit_code, "why\n" if "why" in code else "")
    assert python.execute("alive").text == "1"


def test_input_is_asked_for_and_given(python: Kernel) -> None:
    asked = python.execute("name = input('who? ')")
    assert (asked.status, asked["options"], asked.stdout) == ("waiting-input", {"is_password": False}, "who? ")
    assert python.execute("joe", mode="input").status == "finished"
    assert python.execute("name").text == "'joe'"
    asked = python.execute("import getpass; getpass.getpass('secret: ')")
    assert asked["options"] == {"is_password": True}
    assert python.execute("x", mode="input").text == "'x'"
    assert python.execute("[input(), input()]", stdin="a\nb\n").text == "['a', 'b']"


def test_output_comes_while_the_code_runs(python: Kernel, tmp_path: Path) -> None:
    gate, seen = tmp_path / "gate", []

    def sink(kind: str, data: object) -> None:
        seen.append((kind, data))
        gate.touch()

    code = f"import os, time\nprint('first', flush=True)\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    result = python.execute(code + "print('second')", on_output=sink, timeout=LIMIT)
    assert (result.status, result.stdout) == ("finished", "first\nsecond\n")
    assert seen[0] == ("stdout", "first\n")


def test_what_a_child_process_prints_is_there(python: Kernel) -> None:
    assert "from a child" in python.execute("import os; _ = os.system('echo from a child')").stdout


def test_a_run_that_takes_too_long_is_interrupted_and_the_state_stays(python: Kernel) -> None:
    python.execute("kept = 5")
    result = python.execute("import time; time.sleep(600)", timeout=0.3)
    assert (result.status, result.exit_code) == ("exec-timeout", 124)
    assert python.execute("kept").text == "5"


def test_interrupt_ends_what_runs(python: Kernel, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    future = python.submit(f"open({str(mark)!r}, 'w').close(); import time; time.sleep(600)")
    wait_until(mark.exists, "it runs", LIMIT)
    python.interrupt()
    assert future.result(LIMIT).status == "interrupted"
    assert python.execute("1").text == "1"


def test_a_cancelled_future_makes_room_for_the_next(python: Kernel, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    future = python.submit(f"open({str(mark)!r}, 'w').close(); import time; time.sleep(600)")
    wait_until(mark.exists, "it runs", LIMIT)
    assert future.cancel()
    assert python.execute("'next'", timeout=LIMIT).text == "'next'"


def test_futures_of_a_kernel_in_as_completed(python: Kernel) -> None:
    futures = [python.submit(f"{number} * 2") for number in range(5)]
    assert [future.result().text for future in as_completed(futures, LIMIT)] == ["0", "2", "4", "6", "8"]


def test_wait_returns_early_and_continue_goes_on(python: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    code = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\nprint('done')"
    assert python.execute(code, wait=0.05).status == "continued"
    with pytest.raises(KernelBusy, match="completes between runs"):
        python.complete("impo")
    gate.touch()
    result = python.execute(mode="continue")
    assert (result.status, result.stdout) == ("finished", "done\n")


def test_completion(python: Kernel) -> None:
    python.execute("a_long_name = 1")
    assert any("a_long_name" in match for match in python.complete("a_long_n"))


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


# -- other languages


def test_lua_keeps_its_state() -> None:
    pytest.importorskip("lupa", reason="needs the extra kernels")
    with Kernel.get_or_create("lua5") as kernel:
        assert kernel.stateful
        assert kernel.execute('print("hello world"); x = 41')["console"] == [["stdout", "hello world\n"]]
        assert kernel.execute("x + 1").text == "42"
        assert kernel.execute("while true do end", timeout=0.3).status == "exec-timeout"
        assert kernel.execute("print(x, io.read())", stdin="typed\n").stdout == "41\ttyped\n"
        failed = kernel.execute('error("oh")')
        assert failed.exit_code == 1
        assert "oh" in failed.stderr
        assert kernel.execute("os.exit(3)").exit_code == 3


@pytest.mark.parametrize(
    ("lang", "program", "code"),
    [
        ("c", "gcc", '#include <stdio.h>\nint main(void) { puts("hello"); return 3; }'),
        ("cpp", "g++", '#include <iostream>\nint main() { std::cout << "hello\\n"; return 3; }'),
        ("node", "node", "console.log('hello'); process.exit(3)"),
        ("sh", "sh", "echo hello; exit 3"),
    ],
)
def test_a_language_without_a_kernel_runs_each_snippet_as_a_program(lang: str, program: str, code: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    with Kernel.get_or_create(lang) as kernel:
        assert not kernel.stateful
        result = kernel.execute(code)
        assert (result["console"], result.exit_code) == ([["stdout", "hello\n"]], 3)
        assert kernel.list_files() == []


# -- batch mode


@needs_gcc
def test_a_c_program_of_three_files(tmp_path: Path) -> None:
    with Kernel.get_or_create("c") as kernel:
        assert kernel.upload(write_all(tmp_path, C_PROGRAM), tmp_path) == ["main.c", "mylib.c", "mylib.h"]
        result = kernel.execute(mode="batch", opts={"build": "*", "exec": "*"})
        assert (result.stdout, result.exit_code) == ("myvalue is 42\n", 0)
        assert result.steps == {"build": 0, "exec": 0}
        assert result["files"] == ["main"]


@needs_gcc
def test_a_program_that_reads_and_a_build_that_fails() -> None:
    with Kernel.get_or_create("c") as kernel:
        kernel.write(
            "main.c", b'#include <stdio.h>\nint main(void){int n;scanf("%d",&n);printf("%d\\n",2*n);return n;}'
        )
        result = kernel.execute(mode="batch", stdin="21\n")
        assert (result.stdout, result.exit_code) == ("42\n", 21)
        kernel.write("main.c", b"int main(void) { return x; }")
        result = kernel.execute(mode="batch")
        assert (result.exit_code, result.steps["build"] != 0, result.steps["exec"]) == (127, True, 127)
        assert "undeclared" in result.stderr


def test_steps_of_ones_own(shell: Kernel) -> None:
    opts = {"build": "echo building >&2", "exec": "cat; echo run; exit 4", "clean": "echo cleaned; exit 5"}
    result = shell.execute(mode="batch", opts=opts, stdin=b"typed\n")
    assert result["console"] == [["stderr", "building\n"], ["stdout", "typed\nrun\ncleaned\n"]]
    assert (result.exit_code, result.steps) == (4, {"build": 0, "exec": 4, "clean": 5})


def test_a_batch_that_takes_too_long_ends_with_all_its_children(shell: Kernel, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    before = len(descendants(os.getpid()))
    opts = {"build": None, "exec": f"sleep 600 & echo $! > {mark}; sleep 600"}
    result = shell.execute(mode="batch", opts=opts, timeout=3.0)
    assert (result.status, result.exit_code) == ("exec-timeout", 124)
    wait_until(lambda: len(descendants(os.getpid())) <= before, "its processes are gone", LIMIT)


def test_a_program_that_is_not_there(shell: Kernel) -> None:
    result = shell.execute(mode="batch", opts={"build": None, "exec": "no-such-program"})
    assert result.exit_code == 127


def test_output_over_the_limit_is_cut_with_a_mark() -> None:
    with Kernel.get_or_create("sh", limits={"output_mib": 1}) as kernel:
        result = kernel.execute("head -c 3000000 /dev/zero | tr '\\0' x")
        cut = 3_000_000 - len(result.stdout)
        assert 0 < len(result.stdout) <= 1 << 20
        assert f"{cut:,} bytes of output are missing here" in result.stderr


def test_much_output_arrives_whole(shell: Kernel) -> None:
    result = shell.execute("seq 1 2000000")
    assert result.stdout == "".join(f"{number}\n" for number in range(1, 2_000_001))


def test_a_character_that_comes_in_two_pieces_is_whole(shell: Kernel) -> None:
    assert shell.execute(r"printf '\342\234'; sleep 0.2; printf '\224 ok'").stdout == "✔ ok"


# -- files


def test_files_go_there_and_come_back(shell: Kernel, tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"file{number}").write_bytes(bytes([number]) * (1 << 20))
    assert len(shell.upload([tmp_path], tmp_path)) == 20
    assert shell.execute("mkdir -p out; wc -c file7; cp file7 out/seven; chmod u+x out/seven").exit_code == 0
    (place,) = shell.download(["out/*"], tmp_path / "back")
    assert place == tmp_path / "back" / "out" / "seven"
    assert place.read_bytes() == bytes([7]) * (1 << 20)
    assert {"path": "out/seven", "size": 1 << 20}.items() <= shell.list_files("out")[0].items()


@pytest.mark.parametrize("path", ["../x", "/tmp/x", "a/../../x", "link/x", "", "a\0b"])
def test_no_path_leads_out_of_the_folder(shell: Kernel, path: str) -> None:
    shell.execute("ln -sfn /tmp link")
    with pytest.raises(KernelError):
        shell.write(path, b"x")
    with pytest.raises(KernelError):
        shell.download([path or "nothing"])


def test_a_file_outside_of_the_base_folder_is_not_sent(shell: Kernel, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "secret").touch()
    (tmp_path / "inside" / "link").symlink_to(tmp_path / "secret")
    for name in (tmp_path / "secret", tmp_path / "inside" / "link"):
        with pytest.raises(UsageError, match="is outside of"):
            shell.upload([name], tmp_path / "inside")


# -- the kernel itself


def test_many_kernels_come_and_go() -> None:
    """The suite's own check sees to it that nothing is left."""
    with Kernel.get_or_create("sh") as first:
        for _ in range(3):
            others = [Kernel.get_or_create("sh") for _ in range(33)]
            assert len({first.kernel_id, *(other.kernel_id for other in others)}) == 34
            assert others[-1].execute("echo $((6 * 7))").stdout == "42\n"
            for other in others:
                other.destroy()


def test_the_environment_is_the_kernels_own_and_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MECA_SECRET_KEY", "hidden")
    monkeypatch.setenv("MECA_ACCESS_KEY", "known")
    with Kernel.get_or_create("sh", envs={"COLOUR": "green"}) as kernel:
        assert kernel.execute('echo "$COLOUR $MECA_SECRET_KEY"').stdout == "green \n"


def test_a_lifetime_that_is_over_is_told() -> None:
    with Kernel.get_or_create("sh", limits={"lifetime_s": 0.1}) as kernel:
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


def test_a_wrong_mode_and_no_code(shell: Kernel) -> None:
    with pytest.raises(UsageError, match="mode 'fast' is not one of"):
        shell.execute("echo", mode="fast")
    with pytest.raises(UsageError, match="needs code"):
        shell.execute()
    with pytest.raises(KernelError, match="no run waits"):
        shell.execute("x", mode="input")


def test_a_destroyed_kernel_says_so_and_again_is_no_error() -> None:
    kernel = Kernel.get_or_create("sh")
    assert kernel.destroy()["stats"]["lang"] == "sh"
    assert kernel.destroy() == {}
    with pytest.raises((KernelEnded, RuntimeError), match="closed"):
        kernel.execute("echo")
