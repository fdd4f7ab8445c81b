"""A backlog: the calls of one session that no worker has yet, in a lane for each amount of resources they need.

Those of one lane begin in the order in which they came; lanes take turns, so that calls which wait for a GPU do not
hold up those that need none. Pure.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .groups import Group

Shape = tuple[tuple[str, float], ...]
"""What a call holds while a worker has it: sorted `(resource, amount)`; most hold nothing."""


class Lane:
    """Calls that need the same.

    Attributes:
        shape: What each of them needs.
        groups: The calls.
        count: How many.
        blocked_since: Since when the first one waits for resources that others hold; None when it does not.
    """

    __slots__ = ("blocked_since", "count", "groups", "shape")

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.groups: deque[Group] = deque()
        self.count = 0
        self.blocked_since: float | None = None

    def __repr__(self) -> str:
        return f"<Lane of {self.count} that need {dict(self.shape) or 'nothing'}>"

    @property
    def kind(self) -> tuple[int, int]:
        """The kind of the first call."""
        return self.groups[0].kind

    def take(self, size: int) -> Iterator[Group]:
        """Take out up to `size` calls from the front, all of one kind."""
        kind = self.kind
        while size and self.groups and self.groups[0].kind == kind:
            group = self.groups[0].cut(size) if len(self.groups[0]) > size else self.groups.popleft()
            self.count -= len(group)
            size -= len(group)
            yield group


class Backlog:
    """All lanes of a session."""

    def __init__(self) -> None:
        self._lanes: dict[Shape, Lane] = {}

    def __iter__(self) -> Iterator[Group]:
        return (group for lane in self._lanes.values() for group in lane.groups)

    def __bool__(self) -> bool:
        for lane in self._lanes.values():  # asked for each session in each turn
            if lane.groups:
                return True
        return False

    @property
    def count(self) -> int:
        """How many calls there are."""
        return sum(lane.count for lane in self._lanes.values())

    @property
    def lanes(self) -> list[Lane]:
        """Those with calls in them; the one whose turn it is comes first."""
        return [lane for lane in self._lanes.values() if lane.groups]

    def _lane(self, shape: Shape) -> Lane:
        if (lane := self._lanes.get(shape)) is None:
            lane = self._lanes[shape] = Lane(shape)
        return lane

    def append(self, group: Group) -> None:
        """Put calls behind those of their lane."""
        lane = self._lane(group.options.shape)
        lane.groups.append(group)
        lane.count += len(group)

    def put_back(self, groups: Iterable[Group]) -> None:
        """Put calls, in their order, before those of their lanes: they were there already."""
        for group in reversed(list(groups)):
            lane = self._lane(group.options.shape)
            lane.groups.appendleft(group)
            lane.count += len(group)

    def served(self, lane: Lane) -> None:
        """Calls of a lane were given out: it stands behind the others now, and is gone when it is empty."""
        lane.blocked_since = None
        if len(self._lanes) == 1:
            return  # as nearly always
        del self._lanes[lane.shape]
        if lane.groups:
            self._lanes[lane.shape] = lane

    def take_out(self, task_id: int) -> bool:
        """Take one call out; whether it was here."""
        for lane in self._lanes.values():
            for place, group in enumerate(lane.groups):
                if task_id in (ids := group.ids):
                    at = ids.index(task_id)
                    rests = group.part(0, at), group.part(at + 1, len(group))
                    lane.groups.remove(group)
                    for rest in reversed(rests):
                        if len(rest):
                            lane.groups.insert(place, rest)
                    lane.count -= 1
                    return True
        return False

    def take_all(self) -> list[Group]:
        """Take everything out."""
        groups = list(self)
        for lane in self._lanes.values():  # who holds one sees that it is empty
            lane.groups.clear()
            lane.count = 0
        self._lanes.clear()
        return groups
