"""What a gateway says of its hosts. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..wire.sessions import task_text
from .hosts import HERE

if TYPE_CHECKING:
    from .broker import Broker
    from .hosts import BrokerHost
    from .ports import ContainerCall, ContainerPlaces
    from .tasks import BrokerWorker


def census(broker: Broker, places: ContainerPlaces, owner: str, now: float) -> list[dict[str, Any]]:
    """Return what an owner may know of each host that runs its calls, the gateway's own machine first.

    Of other owners' calls only how many run. Slots, free ones and resources in use are those of functions; calls that
    run are of functions and containers. A host takes as many container calls besides as it has slots.
    """
    hosts = [host for host in broker.hosts.all.values() if host.id == HERE or host.serves(owner)]
    return [_told(broker, places, host, owner, now) for host in hosts]


def _told(broker: Broker, places: ContainerPlaces, host: BrokerHost, owner: str, now: float) -> dict[str, Any]:
    busy = [worker for worker in broker.workers.values() if worker.host is host and worker.in_flight]
    mine = [worker for worker in busy if worker.pool is not None and worker.pool.owner == owner]
    calls = places.running(host.id)
    ours = [call for call in calls if call.owner == owner]
    return {
        "name": host.name,
        "here": host.id == HERE,
        "state": state_of(host),
        "slots": host.slots,
        "free": max(0, host.slots - len(busy)) if host.open else 0,
        "resource": {name: amount for name, amount in (host.capacity or {}).items() if amount != float("inf")},
        "in_use": broker.hosts.in_use(host),
        "engine": places.has_engine(host.id),
        "running": [_call(worker, now) for worker in mine] + [_container(call, now) for call in ours],
        "others": len(busy) - len(mine) + len(calls) - len(ours),
    }


def _container(call: ContainerCall, now: float) -> dict[str, Any]:
    seconds = round(max(0.0, now - call.since), 3)
    return {"task": task_text(call.task), "seconds": seconds, "waiting": 0, "container": call.ref}


def state_of(host: BrokerHost) -> str:
    """Return `"connected"`, `"away"` or `"draining"`."""
    if host.draining:
        return "draining"
    return "connected" if host.connected else "away"


def _call(worker: BrokerWorker, now: float) -> dict[str, Any]:
    """What a worker runs; as long as that was not seen, its first call and no time."""
    seen = worker.in_flight.at(worker.started - 1)
    if seen is not None:
        task, seconds = seen.ids[worker.started - 1 - seen.ordinal], round(max(0.0, now - worker.since), 3)
    else:
        task, seconds = next(iter(worker.in_flight)).ids[0], 0.0
    return {"task": task_text(task), "seconds": seconds, "waiting": len(worker.in_flight) - 1}
