"""Snippets in kernels of a program's own gateway: state, output, input, interrupts."""

from __future__ import annotations

from concurrent.futures import as_completed
from typing import TYPE_CHECKING

import pytest

from meca_executor import KernelBusy
from meca_executor.kernel import Kernel
from tests.helpers.waiting import wait_until

pytest.importorskip("ipykernel", reason="needs the extra kernels")
pytest.importorskip("jupyter_client", reason="needs the extra kernels")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LIMIT = 60.0


@pytest.fixture(scope="module")
def python() -> Iterator[Kernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_CURRENT_TEST", raising=False)  # ipykernel behaves differently under it
        kernel = Kernel.get_or_create("python3")
    with kernel:
        yield kernel


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
    result = python.execute("import time; time.sleep(600)", timeout=3.0)  # it has to begin in that time
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
    assert {future.result().text for future in as_completed(futures, LIMIT)} == {"0", "2", "4", "6", "8"}


def test_wait_returns_early_and_continue_goes_on(python: Kernel, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    code = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\nprint('done')"
    assert python.execute(code, wait=0.05).status == "continued"
    wait_until(lambda: python.get_info()["run"], "it runs", LIMIT)
    with pytest.raises(KernelBusy, match="completes between runs"):
        python.complete("impo")
    gate.touch()
    result = python.execute(mode="continue")
    assert (result.status, result.stdout) == ("finished", "done\n")


def test_completion(python: Kernel) -> None:
    python.execute("a_long_name = 1")
    assert any("a_long_name" in match for match in python.complete("a_long_n"))
