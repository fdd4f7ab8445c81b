"""The seed's transcripts, through a real terminal and through pipes; exit codes; the shell in a kernel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meca_executor import background
from tests.helpers.waiting import wait_until

from .kernel_programs import C_PROGRAM, needs_gcc, write_all
from .standing import standing_gateway

pexpect = pytest.importorskip("pexpect", reason="needs pexpect")
pyte = pytest.importorskip("pyte", reason="needs pyte")
pytest.importorskip("ipykernel", reason="needs the extra kernels")
pytest.importorskip("jupyter_client", reason="needs the extra kernels")

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 60.0
ROOT = Path(__file__).resolve().parents[2]
MECA = [sys.executable, "-m", "meca_executor.cli"]
HELLO = """\
∙ Client session token: TOKEN
✔ Kernel (ID: ID) is ready.
hello world
✔ Cleaned up the kernel."""
C_RUN = """\
∙ Client session token: TOKEN
✔ Kernel (ID: ID) is ready.
✔ Uploading done.
myvalue is 42
✔ Cleaned up the kernel."""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}


def normal(text: str) -> str:
    """Return a transcript with its token and its id replaced."""
    text = re.sub(r"token: [0-9a-f]{32}\b", "token: TOKEN", text)
    return re.sub(r"ID: [A-Za-z0-9_-]{22}\)", "ID: ID)", text)


def meca(*words: str, cwd: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MECA, *words],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=False,
    )


class Screen:
    """A command in a terminal, and what a user sees of it."""

    def __init__(self, words: list[str], cwd: Path, rows: int = 24) -> None:
        self.child = pexpect.spawn(
            MECA[0], [*MECA[1:], *words], cwd=str(cwd), env=environment(), dimensions=(rows, 100), timeout=60
        )
        self._screen = pyte.Screen(100, rows)
        self._stream = pyte.ByteStream(self._screen)

    def feed(self, data: bytes) -> None:
        self._stream.feed(data)

    def expect(self, pattern: str) -> None:
        self.child.expect(pattern)
        self.feed(self.child.before + self.child.after)

    def end(self) -> int:
        self.child.expect(pexpect.EOF)
        self.feed(self.child.before)
        self.child.close()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -1)

    @property
    def text(self) -> str:
        return normal("\n".join(line.rstrip() for line in self._screen.display).rstrip())


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway for several tests; without it each command starts its own."""
    with standing_gateway(tmp_path_factory.mktemp("gateway"), "--workers", "1") as gateway:
        yield gateway.url


@pytest.fixture
def there(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MECA_ENDPOINT", endpoint)


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("MECA_STATE_DIR", str(tmp_path / "state"))
    yield tmp_path
    background.stop()


# -- the seed's transcripts


def test_hello_world_on_a_terminal(tmp_path: Path) -> None:
    screen = Screen(["run", "python3", "-c", "print('hello world')"], tmp_path)
    assert screen.end() == 0
    assert screen.text == HELLO


def test_hello_world_in_a_pipe_has_no_colour_and_no_carriage_return(there: None, tmp_path: Path) -> None:
    done = meca("run", "python3", "-c", "print('hello world')", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "hello world\n")
    assert normal(done.stderr) == HELLO.replace("hello world\n", "") + "\n"


@needs_gcc
def test_a_c_program_on_a_terminal_and_in_a_pipe(there: None, tmp_path: Path) -> None:
    write_all(tmp_path, C_PROGRAM)
    screen = Screen(["run", "c", *C_PROGRAM], tmp_path)
    assert screen.end() == 0
    assert screen.text == C_RUN
    done = meca("run", "c", *C_PROGRAM, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "myvalue is 42\n")
    assert normal(done.stderr) == C_RUN.replace("myvalue is 42\n", "") + "\n"


@needs_gcc
def test_a_program_asks_at_the_terminal_and_reads_a_pipe(there: None, tmp_path: Path) -> None:
    source = (
        '#include <stdio.h>\nint main(void){int n=0;printf("number? ");scanf("%d",&n);printf("%d\\n",2*n);return n;}'
    )
    (tmp_path / "main.c").write_text(source)
    screen = Screen(["run", "-q", "c", "main.c"], tmp_path)
    screen.expect(r"number\? ")
    screen.child.sendline("21")
    assert screen.end() == 21
    assert screen.text.splitlines() == ["number? 21", "42"]
    done = meca("run", "-q", "c", "main.c", cwd=tmp_path, stdin="4\n")
    assert (done.returncode, done.stdout, done.stderr) == (4, "number? 8\n", "")


def test_python_asks_at_the_terminal(there: None, tmp_path: Path) -> None:
    screen = Screen(["run", "-q", "python3", "-c", "print('hello', input('name? '))"], tmp_path)
    screen.expect(r"name\? ")
    screen.child.sendline("joe")
    assert screen.end() == 0
    assert screen.text.splitlines() == ["name? joe", "hello joe"]


def test_ctrl_c_ends_the_run_and_cleans_up(there: None, tmp_path: Path) -> None:
    code = "print('begun', flush=True); import time; time.sleep(600)"
    screen = Screen(["run", "python3", "-c", code], tmp_path)
    screen.expect("begun")
    screen.child.sendintr()
    assert screen.end() == 130
    assert "✘ interrupted" in screen.text


# -- exit codes


@pytest.mark.parametrize(
    ("words", "stdin", "code", "out", "err"),
    [
        (["python3", "-c", "1 / 0"], "", 1, "", "ZeroDivisionError"),
        (["python3", "-c", "import sys; sys.exit(7)"], "", 7, "", ""),
        (["python3", "--timeout", "0.5", "-c", "import time; time.sleep(600)"], "", 124, "", "timed out"),
        (["cobol74", "-c", "1"], "", 125, "", "no language 'cobol74' here"),
        (["sh", "-c", "exit 9"], "", 9, "", ""),
        (["sh", "-c", "cat"], "from the pipe", 0, "from the pipe", ""),
        (["sh", "-"], "echo script; cat", 0, "script\n", ""),
        (["sh", "-c", "no-such-program"], "", 127, "", "no-such-program"),
        (["python3", "-c", "import os; os._exit(3)"], "", 125, "", "kernel died: it ended with exit code 3"),
        (["sh", "-e", "COLOUR=green", "-c", "echo $COLOUR"], "", 0, "green\n", ""),
    ],
    ids=["raises", "sys.exit", "timeout", "unknown", "exit", "stdin", "script", "not found", "dies", "environment"],
)
def test_exit_codes(words: list[str], stdin: str, code: int, out: str, err: str, there: None, tmp_path: Path) -> None:
    done = meca("run", "-q", *words, cwd=tmp_path, stdin=stdin)
    assert (done.returncode, done.stdout) == (code, out), done.stderr
    assert err in done.stderr
    assert err or not done.stderr


def test_who_reads_no_longer_ends_the_run(there: None, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*MECA, "run", "-q", "sh", "-c", "while :; do echo y; done"],
        cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline() == b"y\n"
            process.stdout.close()
            assert (process.wait(LIMIT), process.stderr.read()) == (1, b"")
        finally:
            process.kill()


@needs_gcc
def test_a_build_that_fails(there: None, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text("int main(void) { return x; }")
    done = meca("run", "-q", "c", "main.c", cwd=tmp_path)
    assert done.returncode == 127
    assert "✘ Build failed (exit code" in done.stderr


def test_bytes_pass_as_they_are_and_files_come_back(there: None, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(
        "import sys; open('made.bin', 'wb').write(bytes(range(256))); sys.stdout.buffer.write(bytes(range(256)))"
    )
    done = subprocess.run(
        [*MECA, "run", "-q", "python3", "main.py", "--download", "*.bin"],
        cwd=tmp_path, capture_output=True, env=environment(), timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, bytes(range(256))), done.stderr
    assert (tmp_path / "made.bin").read_bytes() == bytes(range(256))


# -- kept kernels


def test_a_kept_kernel_from_run_to_run(own_state: Path) -> None:
    assert meca("run", "-q", "python3", "-t", "work", "-c", "x = 41", cwd=own_state).returncode == 0
    done = meca("run", "python3", "-t", "work", "-c", "print(x + 1)", cwd=own_state)
    assert done.stdout == "42\n"
    assert "token: work" in done.stderr
    assert "Cleaned up" not in done.stderr
    assert re.search(r"^work +\S{22} +python3 +idle ", meca("kernel", "ls", cwd=own_state).stdout, re.MULTILINE)
    assert meca("kernel", "exec", "work", "print(x); raise SystemExit(5)", cwd=own_state).returncode == 5
    assert ">>> print(x + 1)\n42\n" in meca("kernel", "logs", "work", cwd=own_state).stdout
    assert meca("kernel", "rm", "work", cwd=own_state).returncode == 0
    gone = meca("kernel", "logs", "work", cwd=own_state)
    assert gone.returncode == 1
    assert "there is no kernel 'work'" in gone.stderr


def test_a_run_goes_on_without_its_command_and_is_followed(own_state: Path) -> None:
    gate = own_state / "gate"
    code = f"echo one; while [ ! -e {gate} ]; do sleep 0.05; done; echo two; exit 4"
    begun = meca("run", "sh", "-t", "bg", "--detach", "-c", code, cwd=own_state)
    assert (begun.returncode, begun.stdout) == (0, "")
    assert "goes on; see it with: meca kernel logs bg --follow" in begun.stderr
    screen = Screen(["kernel", "logs", "bg", "--follow"], own_state)
    screen.expect("one")
    screen.child.sendintr()
    assert screen.end() == 130
    words = re.search(r"--follow --run (\w+) --after (\d+)", " ".join(screen.text.split()))
    assert words
    gate.touch()
    rest = meca("kernel", "logs", "bg", "--follow", "--run", words[1], "--after", words[2], cwd=own_state)
    assert (rest.returncode, rest.stdout) == (4, "two\n")
    assert meca("kernel", "logs", "bg", "--follow", cwd=own_state).stdout == "one\ntwo\n"
    wrong = meca("kernel", "logs", "bg", "--follow", "--run", "none", cwd=own_state)
    assert (wrong.returncode, "has no run 'none' any more" in wrong.stderr) == (125, True)
    assert meca("kernel", "rm", "bg", cwd=own_state).returncode == 0


def test_no_kernel_is_kept_yet(own_state: Path) -> None:
    done = meca("kernel", "ls", cwd=own_state)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no background gateway runs" in done.stderr


def test_the_languages(tmp_path: Path) -> None:
    done = meca("kernels", cwd=tmp_path)
    assert done.returncode == 0
    assert re.search(r"^python +Jupyter kernel", done.stdout, re.MULTILINE)


# -- terminals


def test_a_shell_is_left_and_found_again(own_state: Path) -> None:
    screen = Screen(["pty", "sh", "-t", "term"], own_state, rows=33)
    screen.child.sendline("stty size; x=ke''pt; echo $x-1")
    screen.expect("33 100")
    screen.expect("kept-1")
    screen.child.setwinsize(40, 120)
    screen.child.sendline("while [ \"$(stty size)\" != '40 120' ]; do sleep 0.05; done; echo fit''s")
    screen.expect("fits")
    screen.child.send("\x1d")
    assert screen.end() == 0
    screen = Screen(["pty", "-t", "term"], own_state)
    screen.child.sendline("echo $x-2; exit 6")
    screen.expect("kept-2")
    assert screen.end() == 6
    assert meca("kernel", "rm", "term", cwd=own_state).returncode == 0


def test_the_terminal_is_itself_again_afterwards(there: None, tmp_path: Path) -> None:
    """A shell runs `meca pty`: its own terminal modes are the same before and after."""
    command = " ".join(MECA)
    script = f"stty -g > before; {command} pty sh; echo rc=$?; stty -g > after; echo do''ne"
    child = pexpect.spawn("/bin/sh", ["-c", script], cwd=str(tmp_path), env=environment(), timeout=60)
    child.sendline("echo in''side; exit 3")
    child.expect("inside")
    child.expect("rc=3")
    child.expect("done")
    child.expect(pexpect.EOF)
    child.close()
    wait_until((tmp_path / "after").exists, "it ends")
    assert (tmp_path / "before").read_text() == (tmp_path / "after").read_text()


def test_a_shell_needs_a_terminal(tmp_path: Path) -> None:
    done = meca("pty", cwd=tmp_path)
    assert done.returncode == 2
    assert "needs a terminal" in done.stderr
