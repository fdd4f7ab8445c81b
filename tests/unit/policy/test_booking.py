"""Which container calls get which places of a cluster."""

from __future__ import annotations

import pytest

from meca_executor.policy.booking import TURN_S, Booking, Bookings, fits, shape_for, why_no_container
from meca_executor.policy.leasing import BACKLOG_LEAST, HURRIED_S, IDLE_S, UNWANTED_S

PLAIN = (("cpu", 1.0), ("engine", 1.0))
MEMORY = (("cpu", 1.0), ("engine", 1.0), ("memory", 200.0))


def begun(bookings: Bookings, node: str = "n", now: float = 0.0) -> list[Booking]:
    """Ask for what waits, and have it begin."""
    new = bookings.ask()
    for booking in new:
        bookings.begin(booking, node, now)
    return new


@pytest.mark.parametrize(
    ("resource", "shape"),
    [
        ({}, PLAIN),
        ({"cpu": 0.5}, PLAIN),
        ({"cpu": 1, "memory": 200, "gpu": 0}, MEMORY),
        ({"cpu": 3, "gpu": 0.5}, (("cpu", 3.0), ("engine", 1.0), ("gpu", 1.0))),
    ],
)
def test_a_call_needs_an_engine_and_a_core_at_least(resource: dict[str, float], shape: object) -> None:
    assert shape_for(resource) == shape


def test_it_asks_for_what_waits_in_order_and_is_not_on_its_way() -> None:
    bookings = Bookings(places=4)
    bookings.want(1, "knn", {"memory": 200})
    bookings.want(2, "knn", {})
    assert [booking.shape for booking in bookings.ask()] == [MEMORY, PLAIN]
    bookings.want(3, "knn", {})
    assert [booking.shape for booking in bookings.ask()] == [PLAIN]
    assert bookings.ask() == []


@pytest.mark.parametrize(("places", "most", "asked"), [(4, 2, 2), (0, None, BACKLOG_LEAST), (20, None, 40)])
def test_there_is_a_limit(places: int, most: int | None, asked: int) -> None:
    """The operator's, or what the cluster has and a backlog that an autoscaler sees."""
    bookings = Bookings(places, most)
    for call in range(100):
        bookings.want(call, "knn", {})
    assert len(bookings.ask()) == asked
    assert bookings.ask() == []


def test_one_call_at_a_time_has_a_place_and_the_next_gets_it() -> None:
    bookings = Bookings(places=1, most=1)
    bookings.want(1, "knn", {})
    bookings.want(2, "knn", {})
    (booking,) = begun(bookings)
    assert bookings.match([]) == [], "the node takes no calls"
    assert bookings.match(["n"]) == [(1, booking)]
    assert bookings.match(["n"]) == []
    bookings.done(1, 5.0)
    assert bookings.match(["n"]) == [(2, booking)]
    assert bookings.calls == {}


def test_a_place_is_for_calls_that_need_the_same() -> None:
    bookings = Bookings(places=2)
    bookings.want(1, "knn", {"memory": 200})
    begun(bookings)
    bookings.done(1, 0.0)
    bookings.want(2, "knn", {})
    assert bookings.match(["n"]) == []


def test_a_call_goes_where_its_image_was_last() -> None:
    """A warm container may be there."""
    bookings = Bookings(places=2)
    bookings.want(1, "one", {})
    bookings.want(2, "two", {})
    first, second = begun(bookings)
    bookings.match(["n"])
    bookings.done(1, 1.0)
    bookings.done(2, 1.0)
    bookings.want(3, "two", {})
    bookings.want(4, "other", {})
    assert bookings.match(["n"]) == [(3, second), (4, first)]


def test_a_call_that_is_cancelled_waits_no_more_and_its_place_is_free() -> None:
    bookings = Bookings(places=1)
    bookings.want(1, "knn", {})
    bookings.done(1, 0.0)
    assert bookings.ask() == []
    bookings.want(2, "knn", {})
    (booking,) = begun(bookings)
    bookings.match(["n"])
    bookings.done(2, 3.0)
    assert (booking.call, booking.free_since) == (None, 3.0)


def test_what_nothing_waits_for_any_more_is_taken_back() -> None:
    bookings = Bookings(places=4)
    bookings.want(1, "knn", {})
    bookings.want(2, "knn", {})
    _, second = bookings.ask()
    bookings.done(2, 0.0)
    assert bookings.unwanted(0.0) == []
    assert bookings.unwanted(UNWANTED_S) == [second]
    bookings.want(3, "knn", {})
    assert bookings.unwanted(UNWANTED_S + 1) == [], "it is wanted again"
    assert second.unwanted_since is None


def test_a_free_place_is_kept_for_a_while() -> None:
    bookings = Bookings(places=1)
    bookings.want(1, "knn", {})
    (booking,) = begun(bookings)
    bookings.match(["n"])
    assert bookings.idle(0, False, 100.0) == [], "a call has it"
    bookings.done(1, 100.0)
    assert bookings.idle(0, False, 100.0 + IDLE_S - 0.1) == []
    assert bookings.idle(0, False, 100.0 + IDLE_S) == [booking]


@pytest.mark.parametrize(("functions", "given_back"), [(0, True), (1, False)])
def test_a_free_place_goes_sooner_to_functions_that_have_fewer(functions: int, given_back: bool) -> None:
    bookings = Bookings(places=1)
    bookings.want(1, "knn", {})
    (booking,) = begun(bookings)
    bookings.match(["n"])
    assert bookings.idle(functions, True, 0.0) == []
    bookings.done(1, HURRIED_S)
    assert bookings.idle(functions, True, HURRIED_S) == ([booking] if given_back else [])


def test_a_free_place_goes_sooner_to_calls_that_need_others() -> None:
    bookings = Bookings(places=1)
    bookings.want(1, "knn", {})
    (booking,) = begun(bookings)
    bookings.match(["n"])
    bookings.done(1, 0.0)
    bookings.want(2, "knn", {"memory": 200})
    assert bookings.idle(0, False, 0.0) == []
    assert bookings.idle(0, False, HURRIED_S) == [booking]


def test_functions_give_way_to_calls_that_wait_for_long_and_have_fewer_places() -> None:
    bookings = Bookings(places=2)
    bookings.want(1, "knn", {})
    assert not bookings.is_short(2, 0.0)
    bookings.ask()
    assert not bookings.is_short(2, 0.0)
    assert not bookings.is_short(2, TURN_S - 0.1)
    assert bookings.is_short(2, TURN_S)
    assert not bookings.is_short(2, TURN_S + 0.1), "one turn"
    assert bookings.is_short(2, 2 * TURN_S)
    assert not bookings.is_short(0, 4 * TURN_S), "nobody has more"


def test_what_can_never_run() -> None:
    nodes = [{"cpu": 2.0, "memory": 500.0, "engine": 2.0, "meca-python": 1e6}, {"cpu": 1.0, "engine": 1.0}]
    assert why_no_container({"cpu": 2, "memory": 500}, nodes) is None
    assert why_no_container({"memory": 501}, nodes) == "the task needs 501 MiB of memory, and the best host has 500"
    assert fits(PLAIN, nodes[0])
    assert not fits(MEMORY, nodes[1])
