"""Workers in order: always as a look at all of them would have it."""

from __future__ import annotations

import random

from meca_executor.gateway.hosts import BrokerHost
from meca_executor.gateway.ranks import SPARE, Ranked
from meca_executor.gateway.tasks import BrokerWorker

HERE = BrokerHost(0, "here", 20)


def test_the_least_usable_one_comes_first() -> None:
    """By rank, and of the same rank by number; what cannot be used is passed over, and is there the next time."""
    ranked = Ranked()
    workers = {number: BrokerWorker(number, HERE) for number in range(1, 6)}
    assert ranked.first(lambda _: True) is None
    for number, rank in ((3, 0.0), (2, 0.0), (1, 5.0), (4, 9.0)):
        ranked.put(workers[number], rank)
    assert ranked.first(lambda _: True) is workers[2]
    assert ranked.first(lambda worker: worker.id in (1, 4)) is workers[1]
    assert ranked.first(lambda worker: worker.id == 5) is None
    assert ranked.first(lambda _: True) is workers[2]
    ranked.drop(workers[2])
    ranked.put(workers[1], -1.0)
    assert ranked.first(lambda _: True) is workers[1]
    assert len(ranked) == 3


def test_it_is_as_a_look_at_all_and_stays_small() -> None:
    """However often ranks change, back to earlier ones too."""
    ranked, chance = Ranked(), random.Random(5)
    workers = [BrokerWorker(number, HERE) for number in range(20)]
    ranks: dict[int, float] = {}
    for _ in range(20_000):
        worker = chance.choice(workers)
        if chance.random() < 0.2:
            ranked.drop(worker)
            ranks.pop(worker.id, None)
        else:
            ranks[worker.id] = float(chance.randrange(10))
            ranked.put(worker, ranks[worker.id])
        odd = chance.random() < 0.5
        best = min(((rank, id_) for id_, rank in ranks.items() if not odd or id_ % 2), default=None)
        found = ranked.first(lambda worker, odd=odd: not odd or worker.id % 2 == 1)  # type: ignore[misc]
        assert (None if found is None else found.id) == (None if best is None else best[1])
        assert len(ranked._heap) <= 2 * len(workers) + SPARE + 1


def test_a_rank_that_comes_and_goes_takes_no_place() -> None:
    """As that of a worker that gets one call after the other."""
    ranked, worker = Ranked(), BrokerWorker(1, HERE)
    for _ in range(1_000):
        ranked.put(worker, 0.0)
        ranked.put(worker, 5.0)
        ranked.drop(worker)
    ranked.put(worker, 0.0)
    assert ranked.first(lambda _: True) is worker and len(ranked._heap) <= SPARE + 2
