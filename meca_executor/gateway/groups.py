"""Groups: calls of one kind that travel together, and what of them a worker has.

A group is a slice of a batch as the client sent it. Handing some of it to a worker, taking back what that has
not begun, and looking for one call are done by positions in the batch: no object and no copy is made per call.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..wire.records import MalformedBatch, starts, unpack_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .tasks import BrokerSession, Options


class Group:
    """Calls low .. high - 1 of a batch.

    Attributes:
        session: Whose they are; None once their outcomes are settled.
        kind: Options id and definition id: calls of one kind share an estimate.
        options: How they run.
        charge: Microseconds that each adds to its worker's load.
        ordinal: The number that the first of them has in its worker.
    """

    __slots__ = ("_batch", "_high", "_low", "_starts", "charge", "kind", "options", "ordinal", "session")

    def __init__(
        self, session: BrokerSession, kind: tuple[int, int], options: Options, batch: bytes, places: list[int]
    ) -> None:
        self.session: BrokerSession | None = session
        self.kind = kind
        self.options = options
        self.charge = 0.0
        self.ordinal = 0
        self._batch = batch
        self._starts = places
        self._low, self._high = 0, len(places) - 1

    def __len__(self) -> int:
        return self._high - self._low

    def __repr__(self) -> str:
        return f"<Group of {len(self)}, ordinals from {self.ordinal}>"

    @property
    def end(self) -> int:
        """The ordinal behind the last one."""
        return self.ordinal + self._high - self._low

    @property
    def data(self) -> bytes:
        """The records."""
        return self._batch[self._starts[self._low] : self._starts[self._high]]

    @property
    def ids(self) -> list[int]:
        """The task ids."""
        return [unpack_id(self._batch, at)[0] for at in self._starts[self._low : self._high]]

    def part(self, start: int, stop: int) -> Group:
        """Return calls `start` .. `stop - 1` of this group as a group of their own."""
        part = Group.__new__(Group)
        part.session, part.kind, part.options, part.charge = self.session, self.kind, self.options, self.charge
        part.ordinal = self.ordinal + start
        part._batch, part._starts = self._batch, self._starts
        part._low, part._high = self._low + start, self._low + stop
        return part

    def cut(self, count: int) -> Group:
        """Take the first `count` calls off this group and return them."""
        first = self.part(0, count)
        self._low += count
        self.ordinal += count
        return first


def group_of(session: BrokerSession, kind: tuple[int, int], options: Options, batch: bytes, count: int) -> Group:
    """Return the group of a batch of `count` records.

    Raises:
        MalformedBatch: It is not that.
    """
    places = starts(batch)
    if len(places) != count + 1:
        raise MalformedBatch(f"a group of {count} calls has {len(places) - 1}")
    return Group(session, kind, options, batch, places)


class Flight:
    """The calls that a worker has, in the order of their ordinals; some may have been taken out."""

    def __init__(self) -> None:
        self._groups: deque[Group] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups)

    def add(self, group: Group) -> None:
        """Add calls behind those that are here."""
        self._groups.append(group)
        self._count += len(group)

    def at(self, ordinal: int) -> Group | None:
        """Return the group that a call is in; None when it is not here."""
        return next((group for group in self._groups if group.ordinal <= ordinal < group.end), None)

    def find(self, session: BrokerSession, task_id: int) -> int | None:
        """Return the ordinal of a session's task; None when it is not here."""
        for group in self._groups:
            if group.session is session and task_id in (ids := group.ids):
                return group.ordinal + ids.index(task_id)
        return None

    def take(self, start: int, stop: int) -> list[Group]:
        """Take the calls with these ordinals out, as far as they are here."""
        groups = self._groups
        taken: list[Group] = []
        if groups and groups[0].ordinal >= start:  # as nearly always: from the front
            while groups and groups[0].ordinal < stop:
                first = groups[0]
                taken.append(groups.popleft() if first.end <= stop else first.cut(stop - first.ordinal))
        else:
            self._groups = deque(part for group in groups for part in _without(group, start, stop, taken))
        self._count -= sum(map(len, taken))
        return taken

    def take_all(self) -> list[Group]:
        """Take everything out."""
        taken = list(self._groups)
        self._groups.clear()
        self._count = 0
        return taken


def _without(group: Group, start: int, stop: int, taken: list[Group]) -> Iterable[Group]:
    """What is left of a group when a range of ordinals goes to `taken`."""
    low, high = max(start, group.ordinal), min(stop, group.end)
    if low >= high:
        return [group]
    taken.append(group.part(low - group.ordinal, high - group.ordinal))
    rests = group.part(0, low - group.ordinal), group.part(high - group.ordinal, len(group))
    return [rest for rest in rests if len(rest)]


def are_alike(groups: list[Group], count: int, session: BrokerSession | None) -> bool:
    """Whether these are `count` calls of one kind, all of this session."""
    return (
        session is not None
        and sum(map(len, groups)) == count > 0
        and all(group.session is session and group.kind == groups[0].kind for group in groups)
    )
