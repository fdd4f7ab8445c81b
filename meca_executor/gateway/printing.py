"""Whose text it is that a worker wrote. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..wire.printed import parts, record
from ..wire.records import ITEM

if TYPE_CHECKING:
    from ..wire.records import Record, Status
    from .tasks import BrokerWorker

ALONE_US = 3_000.0  #: calls that take longer are told of before the next one begins (`FLUSH_S` of a worker)


def attributed(worker: BrokerWorker, stream: Status, text: bytes) -> list[Record]:
    """Return the records of what a worker wrote.

    What Python printed has marks that say whose it is. What a subprocess or a C library wrote is the running
    call's, where it is clear which one that is; else it is nobody's.
    """
    found: list[tuple[int, bytes]] = []
    for task, part in parts(text, worker.printing.get(stream, 0)):
        worker.printing[stream] = task
        if part:
            whose = task or running(worker)
            if found and found[-1][0] == whose:
                found[-1] = whose, found[-1][1] + part
            else:
                found.append((whose, part))
    return [record(whose, stream, part) for whose, part in found]


def running(worker: BrokerWorker) -> int:
    """Return the id of the call that a worker is running; 0 when it may as well be another one."""
    first = next(iter(worker.in_flight), None)
    if first is None or first.session is not worker.session:
        return 0
    if len(worker.in_flight) > 1 and first.charge < ALONE_US:
        return 0
    id_ = first.part(0, 1).ids[0]
    return id_ if id_ < ITEM else 0
