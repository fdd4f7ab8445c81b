"""Workers in order, kept up to date as they change, so that who decides need not look at all of them."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .tasks import BrokerWorker

SPARE = 64  #: entries that are out of date and may stay, besides as many as there are workers


class Ranked:
    """Some workers, the least rank first, and of the same rank the least number.

    A heap whose entries are not taken out when they are out of date, but passed over when their turn comes.
    """

    def __init__(self) -> None:
        self._ranks: dict[int, float] = {}
        self._heap: list[tuple[float, int, BrokerWorker]] = []

    def __len__(self) -> int:
        return len(self._ranks)

    def put(self, worker: BrokerWorker, rank: float) -> None:
        """Add a worker, or give it another rank."""
        if self._ranks.get(worker.id) == rank:
            return
        self._ranks[worker.id] = rank
        heapq.heappush(self._heap, (rank, worker.id, worker))
        if len(self._heap) > 2 * len(self._ranks) + SPARE:
            self._heap = [entry for entry in self._heap if self._ranks.get(entry[1]) == entry[0]]
            heapq.heapify(self._heap)

    def drop(self, worker: BrokerWorker) -> None:
        """Take a worker out."""
        self._ranks.pop(worker.id, None)

    def first(self, usable: Callable[[BrokerWorker], bool]) -> BrokerWorker | None:
        """Return the first worker that is usable; None when none is."""
        heap, aside, found = self._heap, list[tuple[float, int, "BrokerWorker"]](), None
        while heap and found is None:
            rank, number, worker = heap[0]
            if self._ranks.get(number) != rank:
                heapq.heappop(heap)
            elif usable(worker):
                found = worker
            else:
                aside.append(heapq.heappop(heap))
        for entry in aside:
            heapq.heappush(heap, entry)
        return found
