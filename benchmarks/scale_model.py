"""What one gateway carries, from measured figures; pure arithmetic.

A gateway is one loop on one core. A task costs it a message of its own where it travels alone, and a part of one where
short tasks travel together (`policy/batching.py`); each byte of payload costs on top, and so does each decision, by how
many sessions wait. Memory goes to workers, sessions, and the tasks that are at the gateway with what they carry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from meca_executor.policy.batching import TARGET_US

if TYPE_CHECKING:
    from collections.abc import Mapping

BUSY = 0.8  #: of the core: above that, queues grow by themselves
MEMORY = 4 << 30  #: bytes that the gateway may have
AHEAD = 2  #: tasks at the gateway for each worker
SESSIONS = 64  #: connected clients
LENGTHS_S = (0.001, 0.01, 0.1, 1.0, 10.0, 60.0)
GOAL = 10_000  #: workers


@dataclass(frozen=True)
class Costs:
    """Measured on one machine; microseconds are the gateway's own processor time."""

    batched_us: float  #: of a no-op among many
    alone_us: float  #: of a task that travels alone
    megabyte_us: float  #: of a megabyte there and back over the link
    decision_us: float  #: of what giving out a batch takes longer among 10,000 workers than among 10
    task_bytes: float  #: of a task that waits, besides what it carries
    worker_bytes: float  #: of a worker in the broker
    session_bytes: float  #: of a connected client
    session_us: float  #: of an idle client, each second

    @classmethod
    def of(cls, figures: Mapping[str, float]) -> Costs:
        """Take them from a run's figures.

        Raises:
            KeyError: One was not measured.
        """
        more = max(0.0, figures["decision_10000"] - figures["decision_10"])
        measured = {field.name for field in fields(cls)} - {"decision_us"}
        return cls(decision_us=more, **{name: max(0.0, figures[name]) for name in measured})


@dataclass(frozen=True)
class Capacity:
    """What one gateway carries of one kind of work."""

    seconds: float  #: length of a task
    tasks_per_s: float  #: at most, by its core
    by_core: float  #: workers that it keeps busy, as far as its core goes
    by_memory: float  #: and its memory

    @property
    def workers(self) -> int:
        """Workers that it keeps busy."""
        return int(min(self.by_core, self.by_memory))

    @property
    def ends_with(self) -> str:
        """What it has too little of for more."""
        return "core" if self.by_core <= self.by_memory else "memory"

    def gateways(self, workers: int = GOAL) -> int:
        """How many gateways so many workers need, each with the keys, and so the sessions, of some of the users."""
        return math.ceil(workers / max(1, self.workers))


def capacity(
    costs: Costs, seconds: float, payload: float = 1_000.0, memory: float = MEMORY, sessions: int = SESSIONS
) -> Capacity:
    """Return what one gateway carries.

    Args:
        costs: As measured.
        seconds: How long a task takes.
        payload: Bytes that go there and back with it.
        memory: Bytes that the gateway may have.
        sessions: Connected clients.
    """
    together = max(1.0, TARGET_US / (seconds * 1e6))
    alone = max(costs.alone_us, costs.batched_us) + costs.decision_us
    cost = costs.batched_us + (alone - costs.batched_us) / together + costs.megabyte_us * payload / 1e6
    core_us = BUSY * 1e6 - costs.session_us * sessions
    tasks_per_s = max(0.0, core_us) / cost
    each = costs.worker_bytes + AHEAD * together * (costs.task_bytes + payload)
    left = memory - sessions * costs.session_bytes
    return Capacity(seconds, tasks_per_s, tasks_per_s * seconds, max(0.0, left) / each)


def report(costs: Costs) -> str:
    """Return the model's answers as a table, and what it was fitted to."""
    lines = [
        f"One gateway: {BUSY:.0%} of a core, {MEMORY >> 30} GiB, {SESSIONS} clients, 1 kB there and back; a task "
        f"costs it {costs.batched_us:.1f} µs among many and {costs.alone_us:.0f} µs alone, a megabyte "
        f"{costs.megabyte_us:,.0f} µs, {costs.decision_us:.0f} µs more among 10,000 workers; a waiting task "
        f"{costs.task_bytes:,.0f} bytes, a worker "
        f"{costs.worker_bytes:,.0f}, a client {costs.session_bytes:,.0f} and {costs.session_us:.0f} µs a second.",
        "",
        "| a task takes | tasks/s | workers kept busy | ends with its | gateways for 10,000 workers |",
        "| ---: | ---: | ---: | :---: | ---: |",
    ]
    for seconds in LENGTHS_S:
        one = capacity(costs, seconds)
        lines.append(
            f"| {seconds:g} s | {one.tasks_per_s:,.0f} | {one.workers:,} | {one.ends_with} | {one.gateways():,} |"
        )
    return "\n".join(lines)
