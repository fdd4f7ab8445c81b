"""On which machine a container call is made."""

from __future__ import annotations

from typing import Any

import pytest

from meca_executor.policy.places import Place, Wish, able, best, why_never
from meca_executor.wire.hosting import Offer

ENGINE = Offer(engine=True)
EXAMPLES = Offer(examples=frozenset({"knn:latest"}))
MINE = Offer(apps=frozenset({"mine:latest"}), examples=frozenset({"knn:latest"}))
KATA = Offer(engine=True, runtimes=frozenset({"microVM"}))


def place(number: int, offer: Offer, slots: int = 2, running: int = 0, **more: Any) -> Place:
    """Return a machine, with two cores unless told otherwise."""
    return Place(number, slots, more.pop("capacity", {"cpu": 2.0}), offer, running=running, **more)


def wish(ref: str = "any:latest", runtime: str | None = None, **resource: float) -> Wish:
    """Return what a call needs."""
    return Wish(ref, runtime, resource)


def numbers(places: list[Place]) -> list[int]:
    """Return which machines these are."""
    return [one.number for one in places]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (wish("any:latest"), [1, 3]),
        (wish("mine:latest"), [2]),
        (wish("knn:latest"), [0, 1, 2, 3]),
        (wish("any:latest", "container"), [1, 3]),
        (wish("any:latest", "microVM"), [3]),
        (wish("knn:latest", "microVM"), [3]),
        (wish("any:latest", "other"), []),
    ],
)
def test_who_can_run_it(wanted: Wish, found: list[int]) -> None:
    """An app is where its operator gave it, and no engine is asked for an image of that name."""
    places = [place(0, EXAMPLES), place(1, ENGINE), place(2, MINE), place(3, KATA)]
    assert numbers(able(places, wanted)) == found


def test_what_fits_nowhere_is_told_with_the_best_there_is() -> None:
    """Of those that have what it asks for."""
    places = [place(0, EXAMPLES, capacity={"cpu": 64.0}), place(1, ENGINE), place(2, ENGINE, capacity={"cpu": 4.0})]
    assert why_never(places, wish(cpu=4)) is None
    assert why_never(places, wish(cpu=8)) == "the task needs 8 cores, and the best host has 4"
    assert why_never(places, wish("knn:latest", cpu=8)) is None
    assert why_never(places, wish("any:latest", gpu=1)) == "the task needs 1 GPUs, and the best host has 0"


def test_a_runtime_that_nobody_has_is_told_with_those_that_there_are() -> None:
    """Unless the gateway's own engine is the only one, which says how it is named there."""
    text = why_never([place(0, EXAMPLES), place(1, KATA)], wish(runtime="gVisor"))
    assert text is not None and "no runtime 'gVisor'" in text and "(known: container, microVM)" in text
    assert why_never([place(0, KATA), place(1, MINE)], wish(runtime="gVisor")) is None
    assert why_never([place(0, EXAMPLES), place(1, MINE)], wish("what:1")) is None


@pytest.mark.parametrize(
    ("running", "chosen"),
    [
        ((0, 0, 0), 0),
        ((1, 0, 0), 1),
        ((1, 1, 0), 2),
        ((1, 1, 1), 2),
        ((1, 1, 2), 0),
        ((2, 1, 3), 1),
        ((2, 2, 3), 2),
        ((2, 2, 4), None),
    ],
)
def test_where_there_is_most_room(running: tuple[int, int, int], chosen: int | None) -> None:
    """By the calls for each slot; the gateway's own machine on a tie, then the one that was here first."""
    places = [place(n, ENGINE, slots, running[n]) for n, slots in enumerate((2, 2, 4))]
    found = best(places, wish())
    assert (None if found is None else found.number) == chosen


def test_what_only_the_gateway_can_run_is_its_own_at_once() -> None:
    """It has a queue of its own, and words for what cannot be had."""
    places = [place(0, ENGINE, 2, 2), place(1, EXAMPLES)]
    assert best(places, wish()) is places[0]
    assert best(places, wish("knn:latest")) is places[1]
    places = [place(0, EXAMPLES), place(1, MINE)]
    assert best(places, wish("what:1")) is places[0]
    assert best(places, wish("what:1"), patient=True) is None
    assert best(places, wish("mine:latest"), patient=True) is places[1]


def test_one_that_is_away_or_full_is_waited_for() -> None:
    """Where no other can run it."""
    for state in ({"open": False}, {"running": 2}, {"slots": 0}):
        places = [place(0, EXAMPLES), place(1, MINE, **state)]
        assert best(places, wish("mine:latest")) is None
    places = [place(0, ENGINE), place(1, ENGINE, open=False, capacity={"cpu": 8.0})]
    assert best(places, wish(cpu=1)) is places[0]
    assert best(places, wish(cpu=4)) is None
