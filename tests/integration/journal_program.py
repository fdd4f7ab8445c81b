"""A program that has three tasks at a gateway of two workers when it is stopped, and more to come.

python -m tests.integration.journal_program URL FOLDER
"""

from __future__ import annotations

import sys

from meca_executor import MecaExecutor
from tests.contract.rooms import Room
from tests.helpers.waiting import wait_until


def stay(folder: str, number: int) -> int:
    """Stay until the door is open."""
    Room(folder).stay(number)
    return number


def say(what: object) -> None:
    """Print a line, at once."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main(url: str, folder: str) -> None:
    """Submit tasks of unknown length, so that three are handed over; say so, and print what came of all."""
    with MecaExecutor(url, retry=1) as ex:
        futures = [ex.submit(stay, folder, number) for number in range(30)]
        wait_until(lambda: ", 27 queued" in repr(ex), "three are handed over")
        say("sent")
        say([future.result() for future in futures])


if __name__ == "__main__":
    main(*sys.argv[1:])
