"""Programs run in an interpreter of their own, in all the ways in which Python is started."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import meca_executor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SCRIPT_LIMIT = 40.0  #: seconds; a program that takes longer hangs
PACKAGE_PARENT = Path(meca_executor.__file__).parent.parent
TESTS_PARENT = Path(__file__).parents[2]  #: for scripts that use modules of the tests
#: file: `python FILE` · module: `python -m NAME` · command: `python -c TEXT` · stdin: `python -` ·
#: cell: as a notebook runs a cell, in a `__main__` that is no file, from an interactive interpreter
WAYS = ("file", "module", "command", "stdin", "cell")


class Finished(NamedTuple):
    """What a program left: its exit code (negative: the signal) and its two outputs."""

    code: int
    out: str
    err: str

    def expect(self, code: int = 0) -> Finished:
        """Return itself.

        Raises:
            AssertionError: The exit code is another; the outputs are in the text.
        """
        assert self.code == code, f"exit code {self.code}, not {code}\n-- stdout\n{self.out}\n-- stderr\n{self.err}"
        return self


def _command(way: str, text: str, path: Path) -> tuple[list[str], str]:
    """Return the command line and what it reads from its standard input."""
    if way == "file":
        return [sys.executable, str(path)], ""
    if way == "module":
        return [sys.executable, "-m", path.stem], ""
    if way == "command":
        return [sys.executable, "-c", text], ""
    if way == "stdin":
        return [sys.executable, "-"], text
    if way == "cell":
        # The code object's file name is not a file, as in a notebook.
        return [sys.executable, "-i", "-q"], f"exec(compile(open({str(path)!r}).read(), '<cell 1>', 'exec'))\n"
    raise ValueError(f"{way!r} is none of {WAYS}")


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT), **(extra or {})}


@contextlib.contextmanager
def started(
    source: str, folder: Path, *, way: str = "file", cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Start a program in a process group of its own; kill the group at the end of the body.

    Args:
        source: The program; common indentation is removed.
        folder: Where it is written to (as `program.py`), next to the modules that it imports.
        way: One of `WAYS`.
        cwd: Working directory; `folder` unless given, and for `module`, which looks for the program there.
        env: Added to the environment.
    """
    text = textwrap.dedent(source)
    path = folder / "program.py"
    path.write_text(text, encoding="utf-8")
    command, stdin = _command(way, text, path)
    process = subprocess.Popen(
        command,
        cwd=folder if way == "module" else cwd or folder,
        env=_environment(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    assert process.stdin
    with process:
        try:
            process.stdin.write(stdin)
            process.stdin.close()
            process.stdin = None
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def finish(process: subprocess.Popen[str], timeout: float = SCRIPT_LIMIT) -> Finished:
    """Wait for the end of the program and of all that hold its outputs.

    Raises:
        AssertionError: It did not end in time; what it wrote until then is in the text.
    """
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        try:
            out, err = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            out = err = "(still held open by a process outside the group)"
        state = "did not end" if process.returncode in (None, -signal.SIGKILL) else "ended, but not what it started"
        raise AssertionError(f"program {state} within {timeout:g} s\n-- stdout\n{out}\n-- stderr\n{err}") from None
    return Finished(process.returncode, out, err)


def run(
    source: str, folder: Path, *, way: str = "file", cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Finished:
    """Run a program to its end; arguments as of `started`."""
    with started(source, folder, way=way, cwd=cwd, env=env) as process:
        return finish(process)


def outcomes(text: str) -> dict[str, str]:
    """Return what a program printed about each of its checks, as lines `@@ check_NAME OUTCOME...`."""
    parts = re.split(r"^@@ (check_\w+) ", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))
