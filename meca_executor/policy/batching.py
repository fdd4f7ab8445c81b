"""How many tasks a worker gets at once, from how long tasks of that kind have been taking.

Short tasks travel in batches, so that a hand-over costs little for each; a long task travels alone, so
that it does not stand behind another one while a worker is idle.
"""

from __future__ import annotations

TARGET_US = 10_000  #: work that a worker should have before it
REFILL_US = TARGET_US // 2  #: it gets more of it when so much is left: one hand-over for many tasks
OVERHEAD_US = 8  #: what a task costs besides its own run time; keeps a no-op's estimate above zero
MOST = 1_000  #: tasks in a batch, whatever the estimate says
AHEAD_US = 100_000  #: a task up to this long may wait in a worker behind one other, so that no turn-round idles it
STUCK_S = 0.02  #: a batch whose current task runs longer than this, and than thought, gives its other tasks back
WEIGHT = 0.25  #: of the newest run time in the estimate


def updated(estimate: float | None, micros: float, count: int) -> float:
    """Return the new estimate of a kind of task after `count` of them took `micros` together."""
    cost = micros / count + OVERHEAD_US
    if estimate is None:
        return cost
    return estimate + (1 - (1 - WEIGHT) ** count) * (cost - estimate)


def is_stuck(elapsed_s: float, estimate: float) -> bool:
    """Whether a task runs so much longer than thought (microseconds) that those behind it should go elsewhere."""
    return elapsed_s > max(STUCK_S, 2e-6 * estimate)


def batch_size(estimate: float | None, load: float, queued: int, slots: int) -> int:
    """Return how many of `queued` tasks to give to a worker now; 0 is none.

    Args:
        estimate: Microseconds a task of this kind takes; None when none has been measured.
        load: Microseconds of estimated work that the worker has.
        queued: Tasks waiting.
        slots: Workers that share the queue. Each gets a fraction of it, so that they end together.
    """
    if estimate is None:
        return 0 if load else 1
    if load and load + estimate > TARGET_US:
        # Not at the end of the queue: there the task would rather go to the worker that is free first.
        return int(load <= 1.5 * estimate <= 1.5 * AHEAD_US and queued > slots)
    if load > REFILL_US:
        return 0
    share = -(-queued // (2 * slots))
    return max(1, min(int((TARGET_US - load) / estimate), share, MOST))
