"""64 clients at one gateway, one of them greedy: nobody waits for another's whole backlog."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from meca_executor import MecaExecutor

from .standing import standing_gateway

if TYPE_CHECKING:
    from pathlib import Path

SMALL, EACH = 63, 3
BACKLOG = 4_000
PATIENCE = 60.0


def work(place: int) -> int:
    """Take a moment."""
    time.sleep(0.002)
    return place


def test_small_clients_do_not_wait_for_a_greedy_ones_backlog(tmp_path: Path) -> None:
    """When all of theirs is done, most of the backlog is not; and in the end that is done, too."""
    with standing_gateway(tmp_path, "--workers", "2") as gateway, contextlib.ExitStack() as stack:
        greedy, *small = [stack.enter_context(MecaExecutor(gateway.url)) for _ in range(1 + SMALL)]
        assert [ex.submit(work, -1).result(PATIENCE) for ex in small] == [-1] * SMALL  # all are there, and known
        backlog = [greedy.submit(work, number) for number in range(BACKLOG)]
        backlog[100].result(PATIENCE)  # known to be short: many are at the gateway, and at the workers
        futures = [ex.submit(work, number) for number in range(EACH) for ex in small]
        assert [future.result(PATIENCE) for future in futures] == [n for n in range(EACH) for _ in small]
        before = sum(future.done() for future in backlog)
        assert before < BACKLOG // 2, f"{before} of the greedy client's {BACKLOG} tasks came before"
        assert [future.result(PATIENCE) for future in backlog] == list(range(BACKLOG))
