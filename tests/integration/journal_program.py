"""A program that has results on their way when it is stopped.

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
    """Submit tasks known to be short, so that all are handed over; say so, and print what came of them."""
    with MecaExecutor(url, retry=1) as ex:
        list(ex.map(stay, [folder] * 50, range(1000, 1050)))
        say("warm")
        sys.stdin.readline()
        futures = [ex.submit(stay, folder, number) for number in range(30)]
        wait_until(lambda: ", 0 queued" in repr(ex), "all are handed over")
        say("sent")
        say([future.result() for future in futures])


if __name__ == "__main__":
    main(*sys.argv[1:])
