"""What is handed over, as it travels."""

from __future__ import annotations

import itertools
from operator import attrgetter
from typing import TYPE_CHECKING

from ..wire.blobs import mention
from ..wire.records import encode
from .chunks import Slice
from .tasks import Task

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..wire.records import Record


def names_of(batch: Iterable[Task | Slice]) -> Iterator[Record]:
    """Yield what another program has to know of tasks, besides their calls."""
    for task in batch:
        if isinstance(task, Task) and (task.reading or task.future.given_id):
            yield task.number, task.reading, 0, (task.future.given_id or "").encode("utf-8", "replace")


def groups(batch: Iterable[Task | Slice]) -> Iterator[Record]:
    """Put tasks of one kind that follow each other into groups."""
    for kind, alike in itertools.groupby(batch, attrgetter("kind")):
        calls = [call for entry in alike for call in entry.calls]
        yield len(calls), *kind, encode(calls)


def large_call(entry: Task | Slice, blob: int) -> Record:
    """Return the group of an entry's last call, which was sent as a blob."""
    number, tag, ref, _ = entry.calls[-1]
    return 1, *entry.kind, encode([(number, tag, ref, mention(blob))])


def without_last(batch: list[Task | Slice]) -> list[Task | Slice]:
    """Return a batch without its last call."""
    last = batch[-1]
    rest = [last._replace(stop=last.stop - 1)] if isinstance(last, Slice) and last.stop - last.start > 1 else []
    return [*batch[:-1], *rest]
