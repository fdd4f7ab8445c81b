"""A program that submits tasks in a session with a name, and ends in one of several ways.

python -m tests.integration.sessions_program URL FOLDER WAY
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from meca_executor import Container, MecaExecutor
from tests.contract.rooms import Room

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "night-run"
TASKS = 40  #: more than are handed over at once elsewhere


def stay(folder: str, number: int) -> int:
    """Stay until the door is open."""
    Room(folder).stay(number)
    return number


def enter(folder: str, number: int) -> int:
    """Leave a mark."""
    Room(folder).enter(number)
    return number


def fail(text: str) -> None:
    """Raise."""
    raise LookupError(text)


def say(what: object) -> None:
    """Print a line, at once."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def die(_: MecaExecutor) -> None:
    """End as no program can prevent."""
    os.kill(os.getpid(), signal.SIGKILL)


def stop(_: MecaExecutor) -> None:
    """Hang: the test ends it, or another program takes the session."""
    time.sleep(600)


def leave_block(ex: MecaExecutor) -> None:
    """Leave a `with` block by an exception."""
    with ex:
        sys.exit("a defect of this program")


WAYS: dict[str, Callable[[MecaExecutor], object]] = {
    "killed": die,
    "stopped": stop,
    "detached": MecaExecutor.detach,
    "raised": leave_block,
    "shut down": lambda ex: ex.shutdown(wait=False),
    "over": lambda ex: None,
}


def main(url: str, folder: str, way: str) -> None:
    """Submit tasks of all kinds; two have been done when it ends."""
    ex = MecaExecutor(url, session=NAME)
    done = ex.submit(enter, folder, 0), ex.submit(fail, "as it should")
    held = [ex.submit(stay, folder, number) for number in range(1, TASKS)]
    ex.offload_task("sampleserver:latest", '{"name": "n"}', task_id="greeting")
    ex.submit(Container("sampleserver:latest"), {"name": "m"})
    data = ex.put([1, 2, 3])
    ex.submit(lambda values, more: sum(values) + more, data, 4)
    assert done[0].result() == 0
    assert isinstance(done[1].exception(), LookupError)
    say(" ".join(str(future.task_id) for future in held))
    WAYS[way](ex)


if __name__ == "__main__":
    main(*sys.argv[1:])
