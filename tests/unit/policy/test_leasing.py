"""Which places of a cluster are asked for and given back."""

from __future__ import annotations

from meca_executor.policy.leasing import (
    BACKLOG_LEAST,
    HURRIED_S,
    IDLE_S,
    UNWANTED_S,
    Lease,
    Leases,
    Reminder,
    Use,
    capacity,
    wanted,
)

ONE = (("cpu", 1.0),)
GPU = (("cpu", 1.0), ("gpu", 1.0))


def held(leases: Leases, node: str, count: int, now: float = 0.0) -> list[Lease]:
    """Return leases that have begun on a node."""
    new = leases.ask({ONE: count})
    for lease in new:
        leases.begin(lease, node, now)
    return new


def test_a_place_is_a_core_at_least() -> None:
    assert wanted([((), 3), ((("cpu", 0.5),), 1), ((("gpu", 1.0),), 2)]) == {ONE: 4, GPU: 2}


def test_it_asks_for_what_waits_and_is_not_on_its_way() -> None:
    leases = Leases(places=4)
    assert [lease.shape for lease in leases.ask({ONE: 3})] == [ONE] * 3
    assert leases.ask({ONE: 3}) == []
    assert [lease.shape for lease in leases.ask({ONE: 4, GPU: 1})] == [GPU, ONE]
    assert len({lease.id for lease in leases.all.values()}) == 5


def test_there_is_a_limit() -> None:
    """The operator's, or what the cluster has and a backlog that an autoscaler sees."""
    assert len(Leases(places=4, most=2).ask({ONE: 100})) == 2
    assert len(Leases(places=0).ask({ONE: 100})) == BACKLOG_LEAST
    assert len(Leases(places=20).ask({ONE: 100})) == 40
    full = Leases(places=4, most=2)
    held(full, "n", 2)
    assert full.ask({ONE: 5}) == []


def test_what_nothing_waits_for_any_more_is_taken_back() -> None:
    """Not at once: the next calls may come in a moment."""
    leases = Leases(places=4)
    new = leases.ask({ONE: 2})
    assert leases.unwanted({ONE: 1}, 0.0) == []
    assert leases.unwanted({ONE: 2}, UNWANTED_S) == [], "both are wanted again"
    assert leases.unwanted({ONE: 1}, UNWANTED_S + 1) == []
    assert leases.unwanted({ONE: 1}, 2 * UNWANTED_S + 1) == [new[1]]


def test_idle_places_are_given_back_after_a_while() -> None:
    """As many as were free all the time."""
    leases = Leases(places=4)
    mine = held(leases, "n", 3)
    assert leases.idle({"n": Use(1, {})}, {}, 0.0) == []
    assert leases.idle({"n": Use(1, {})}, {}, IDLE_S) == [], "they have just begun"
    assert leases.idle({"n": Use(2, {})}, {}, IDLE_S + 1) == []
    assert leases.idle({"n": Use(1, {})}, {}, 2 * IDLE_S) == mine[:1]


def test_a_place_whose_resources_are_held_is_kept() -> None:
    leases = Leases(places=4)
    for lease in leases.ask({GPU: 1, ONE: 1}):
        leases.begin(lease, "n", 0.0)
    use = {"n": Use(1, {"gpu": 1.0})}
    leases.idle(use, {}, IDLE_S)
    assert [lease.shape for lease in leases.idle(use, {}, 2 * IDLE_S)] == [ONE]


def test_places_of_no_use_to_what_waits_go_sooner() -> None:
    leases = Leases(places=4)
    mine = held(leases, "n", 1)
    leases.ask({GPU: 1})
    use = {"n": Use(0, {})}
    assert leases.idle(use, {GPU: 1}, 0.0) == []
    assert leases.idle(use, {GPU: 1}, HURRIED_S) == mine


def test_places_of_no_use_go_sooner_while_containers_wait() -> None:
    leases = Leases(places=2)
    free = held(leases, "n", 2)
    use = {"n": Use(0, {})}
    assert leases.idle(use, {}, 0.1, others_wait=True) == []
    assert leases.idle(use, {}, 0.1 + HURRIED_S, others_wait=True) == free


def test_a_node_that_gives_way_takes_fewer_calls_and_gives_a_place_back_when_it_is_free() -> None:
    leases = Leases(places=3)
    held(leases, "n", 2)
    held(leases, "other", 1)
    assert leases.give_way(["n", "unknown"]) == ["n"]
    assert leases.give_way(["n"]) == [], "it does already"
    assert (len(leases.on("n")), len(leases.staying("n")), len(leases.staying("other"))) == (2, 1, 1)
    assert leases.idle({"n": Use(2, {})}, {ONE: 1}, 0.1) == []
    (left,) = leases.idle({"n": Use(1, {})}, {ONE: 1}, 0.2)
    assert left.leaving
    leases.end(left.id)
    assert (len(leases.on("n")), leases.held) == (1, 2)
    assert leases.idle({"n": Use(1, {})}, {ONE: 1}, 0.3) == []


def test_who_waits_is_told_again_and_again_but_less_often() -> None:
    reminder = Reminder()
    moments = [now for now in range(0, 100, 5) if reminder.due(True, float(now))]
    assert moments == [10, 30, 70]
    assert not reminder.due(False, 100.0)
    assert [now for now in range(200, 215, 5) if reminder.due(True, float(now))] == [210]


def test_what_leases_have_together() -> None:
    leases = Leases(places=4)
    held(leases, "n", 2)
    for lease in leases.ask({GPU: 1}):
        leases.begin(lease, "n", 0.0)
    assert capacity(leases.on("n")) == {"cpu": 3.0, "gpu": 1.0}
    assert leases.end("1") is not None
    assert leases.end("1") is None
    assert (len(leases.on("n")), leases.waiting) == (2, [])
