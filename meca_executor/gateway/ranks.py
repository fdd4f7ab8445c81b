"""Workers in order, kept up to date as they change, so that who decides need not look at all of them."""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .tasks import BrokerWorker

    Entry = tuple[float, int, int, BrokerWorker]  # rank, number, serial, worker

SPARE = 64  #: entries that are out of date and may stay, besides as many as there are workers


class Ranked:
    """Some workers, the least rank first, and of the same rank the least number.

    A heap whose entries are not taken out when they are out of date, but passed over when their turn comes.
    """

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._heap: list[Entry] = []
        self._serials = itertools.count()  # an entry is out of date also when its worker has the same rank again

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def ranks(self) -> dict[int, float]:
        """The rank of each, by number."""
        return {number: entry[0] for number, entry in self._entries.items()}

    def put(self, worker: BrokerWorker, rank: float) -> None:
        """Add a worker, or give it another rank."""
        before = self._entries.get(worker.id)
        if before is not None and before[0] == rank:
            return
        entry = self._entries[worker.id] = (rank, worker.id, next(self._serials), worker)
        if len(self._heap) < 2 * len(self._entries) + SPARE:
            heapq.heappush(self._heap, entry)
        else:
            self._heap = list(self._entries.values())
            heapq.heapify(self._heap)

    def drop(self, worker: BrokerWorker) -> None:
        """Take a worker out."""
        self._entries.pop(worker.id, None)

    def first(self, usable: Callable[[BrokerWorker], bool]) -> BrokerWorker | None:
        """Return the first worker that is usable; None when none is."""
        heap, aside, found = self._heap, list["Entry"](), None
        while heap and found is None:
            entry = heap[0]
            if self._entries.get(entry[1]) is not entry:
                heapq.heappop(heap)
            elif usable(entry[3]):
                found = entry[3]
            else:
                aside.append(heapq.heappop(heap))
        for entry in aside:
            heapq.heappush(heap, entry)
        return found
