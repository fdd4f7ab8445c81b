"""Programs in kernels: languages without a kernel of their own, batches of files, and the files."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from meca_executor import KernelError, UsageError
from meca_executor.kernel import Kernel
from tests.helpers.processes import descendants
from tests.helpers.waiting import wait_until

from .kernel_programs import C_PROGRAM, needs_gcc, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 60.0


@pytest.fixture(scope="module")
def shell() -> Iterator[Kernel]:
    with Kernel.get_or_create("sh") as kernel:
        yield kernel


# -- other languages


def test_lua_keeps_its_state() -> None:
    pytest.importorskip("lupa", reason="needs the extra kernels")
    with Kernel.get_or_create("lua5") as kernel:
        assert kernel.stateful
        assert kernel.execute('print("hello world"); x = 41')["console"] == [["stdout", "hello world\n"]]
        assert kernel.execute("x + 1").text == "42"
        assert kernel.execute("while true do end", timeout=3.0).status == "exec-timeout"
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
        assert result.exit_code == 0


def test_output_over_the_rate_is_cut_with_a_mark() -> None:
    """What is there and what the mark counts is all of it."""
    with Kernel.get_or_create("sh", limits={"output_mib_s": 0.25}) as kernel:
        result = kernel.execute("head -c 3000000 /dev/zero | tr '\\0' x; echo; exit 3")
        marks = re.findall(r"\n\[([\d,]+) bytes of output are missing here: more than .*output_mib_s", result.stderr)
        assert sum(int(mark.replace(",", "")) for mark in marks) + len(result.stdout) == 3_000_001
        assert len(result.stdout) >= 1 << 20, "four seconds' worth may come at once"
        assert marks
        assert result.exit_code == 3


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


def test_a_named_pipe_is_no_file(shell: Kernel) -> None:
    """Nobody waits for its other end."""
    shell.execute("mkfifo pipe")
    with pytest.raises(KernelError, match="cannot write 'pipe'"):
        shell.write("pipe", b"x")
    with pytest.raises(KernelError, match="cannot read 'pipe': it is no plain file"):
        shell._do(shell._core.ask("download", {"path": "pipe"}))


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
