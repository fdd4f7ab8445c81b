"""A process that is forked leaves its parent's executor alone, and may have one of its own.

One program holds all checks, for they share an executor; each check is a test.
"""

from __future__ import annotations

import os
import re

import pytest

from tests.helpers import leaks, scripts

from .kinds import Kind, only_ours

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    only_ours,
]

PROGRAM = r'''
import multiprocessing, os, signal, sys, time, traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)   # of fork with threads, Python 3.12 on
from meca_executor import MecaExecutor

LIMIT = 20

def forked(work):
    """Run `work` in a forked child; return its exit code (negative: a signal, 14 when it hung)."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        code = 1
        try:
            work()
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def check_parent_goes_on():
    """A child that does nothing leaves the parent's executor as it was."""
    assert forked(lambda: None) == 0
    assert ex.submit(abs, -2).result(LIMIT) == 2

def check_child_that_exits_by_itself():
    """A child that ends as programs do, exit handlers included, ends at once and closes nothing of its parent's."""
    held = ex.submit(time.sleep, 0.3)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        sys.exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    assert (held.result(LIMIT), ex.submit(abs, -2).result(LIMIT)) == (None, 2)

def check_child_with_an_executor_of_its_own():
    """A child makes and uses its own executor, while the parent uses the first."""
    def work():
        with MecaExecutor(max_workers=1) as own:
            assert own.submit(abs, -3).result(LIMIT) == 3
    assert forked(work) == 0
    assert ex.submit(abs, -4).result(LIMIT) == 4

def check_child_that_submits_to_its_parents():
    """`submit` in the child is a RuntimeError that says why."""
    def work():
        try:
            ex.submit(abs, -3)
        except RuntimeError as error:
            assert "fork" in str(error), error
        else:
            raise AssertionError("submit was accepted")
    assert forked(work) == 0
    assert ex.submit(abs, -4).result(LIMIT) == 4

def check_child_that_shuts_down_its_parents():
    """`shutdown`, and losing the last reference, do nothing in the child; the parent's executor goes on."""
    held = ex.submit(time.sleep, 0.3)
    assert forked(lambda: ex.shutdown()) == 0
    assert forked(lambda: globals().pop("ex") and None) == 0
    assert (held.result(LIMIT), ex.submit(abs, -4).result(LIMIT)) == (None, 4)

def check_child_and_results_that_arrive():
    """Forking in the midst of traffic takes no result away from the parent."""
    futures = [ex.submit(pow, n, 2) for n in range(2000)]
    assert [forked(lambda: None) for _ in range(5)] == [0] * 5
    assert [future.result(LIMIT) for future in futures] == [n * n for n in range(2000)]

def check_processes_of_multiprocessing():
    """Forked `multiprocessing` processes beside a used executor end, and the executor goes on."""
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=abs, args=(-1,)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(LIMIT)
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert ex.submit(abs, -4).result(LIMIT) == 4

def check_fork_before_the_first_use():
    """A fork between making and using an executor harms neither side."""
    with MecaExecutor(max_workers=1) as fresh:
        assert forked(lambda: None) == 0
        assert fresh.submit(abs, -5).result(LIMIT) == 5

ex = MecaExecutor(max_workers=2)
assert ex.submit(abs, -1).result(LIMIT) == 1
for name, check in [item for item in globals().items() if item[0].startswith("check_")]:
    try:
        check()
    except Exception:
        print("@@", name, "failed\n" + traceback.format_exc(), flush=True)
    else:
        print("@@", name, "ok", flush=True)
'''
CHECKS = re.findall(r"^def (check_\w+)", PROGRAM, re.MULTILINE)


@pytest.fixture(scope="module")
def finished(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> scripts.Finished:
    """Run the program once."""
    with leaks.nothing_left():
        return scripts.run(kind.program(PROGRAM), tmp_path_factory.mktemp("fork")).expect()


@pytest.mark.parametrize("check", CHECKS)
def test_fork(finished: scripts.Finished, check: str) -> None:
    """What a check of the program says holds."""
    assert scripts.outcomes(finished.out).get(check, "never finished") == "ok", finished.err


def test_nothing_is_said(finished: scripts.Finished) -> None:
    """No process of the program writes anything to its error output."""
    assert finished.err == ""
