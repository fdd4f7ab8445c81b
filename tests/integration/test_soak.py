"""A minute of mixed work with every result checked: an executor of its own, and three programs on one gateway."""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.helpers.scripts import finish, started

from .soak import KINDS, STUCK_S, soak
from .standing import standing_gateway

if TYPE_CHECKING:
    from pathlib import Path

SOAK_S = float(os.environ.get("SOAK_S", "50"))  #: seconds of work; what is open then is finished
END_S = 2 * STUCK_S  #: for that
CLIENTS = 3

CLIENT = """
from pathlib import Path
from tests.integration.soak import soak
print(soak({url!r}, [{name!r}], {seed!r}, {seconds}, Path({folder!r})).total(), "operations")
"""


@pytest.mark.slow
@pytest.mark.timeout(SOAK_S + END_S + 60)
def test_soak(tmp_path: Path) -> None:
    """Nothing is lost, wrong, stuck or run too often, and nothing is left behind. `SOAK_SEED` repeats a run's work."""
    seed = os.environ.get("SOAK_SEED") or str(random.SystemRandom().randrange(10**6))
    with standing_gateway(tmp_path, "--workers", "2") as gateway, contextlib.ExitStack() as stack:
        clients = []
        for number in range(CLIENTS):
            folder = tmp_path / f"client{number}"
            folder.mkdir()
            program = CLIENT.format(url=gateway.url, name=folder.name, seed=seed, seconds=SOAK_S, folder=str(folder))
            clients.append(stack.enter_context(started(program, folder)))
        counts = soak("embedded", ["first", "second"], seed, SOAK_S, tmp_path)
        ends = [finish(client, END_S) for client in clients]
        assert [end.code for end in ends] == [0] * CLIENTS, "\n".join(end.err for end in ends)
        assert all("operations" in end.out for end in ends), ends
        assert "Traceback" not in gateway.log, f"seed {seed}: {gateway.log}"
    assert counts.keys() == KINDS.keys(), f"seed {seed}: {counts}"
