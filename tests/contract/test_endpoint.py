"""An executor at a standing gateway: the same promises, and several of them side by side."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING

import pytest

from meca_executor import MecaExecutor
from tests.helpers import leaks
from tests.helpers.waiting import LIMIT, wait_until
from tests.integration.joined import joined_host
from tests.integration.standing import standing_gateway

from . import tasks
from .kinds import CLUSTER, HOST, SCHEDULER, Kind, only_ours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Executor

    from .rooms import Room

pytestmark = only_ours


@pytest.fixture(scope="module")
def endpoint(kind: Kind, pool: Executor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the URL of a gateway of two workers of that kind, which ends in order after the module."""
    folder = tmp_path_factory.mktemp("gateway")
    with leaks.nothing_left(), contextlib.ExitStack() as stack:
        words = ["--workers", "0" if kind is HOST else "2"]
        if kind is CLUSTER:
            words += ["--cluster", os.environ[SCHEDULER]]
        gateway = stack.enter_context(standing_gateway(folder, *words, "--grace", "5"))
        if kind is HOST:
            # What code it was sent stays there as long as it lives.
            stack.enter_context(joined_host(folder, gateway.url, workers=2, env={"TMPDIR": str(folder)}))
        with MecaExecutor(gateway.url) as first:
            wait_until(lambda: first.slots == 2, "two slots")
        yield gateway.url


@pytest.fixture
def connect(endpoint: str, make: Callable[..., MecaExecutor]) -> Callable[..., MecaExecutor]:
    """Return a function that makes executors at the gateway, shut down after the test."""

    def connect_one(max_workers: int | None = None, **options: object) -> MecaExecutor:
        return make(max_workers=max_workers, endpoint=endpoint, **options)

    return connect_one


def test_functions_and_errors(connect: Callable[..., MecaExecutor], endpoint: str) -> None:
    """Functions run, local ones too, and exceptions come back with their traceback."""
    pool = connect()
    assert (pool.endpoint, pool.slots) == (endpoint, 2)
    assert list(pool.map(lambda x: x + 1, range(50), timeout=LIMIT)) == list(range(1, 51))
    error = pool.submit(tasks.divide, 1, 0).exception(LIMIT)
    assert type(error) is ZeroDivisionError and "in divide" in getattr(error.__cause__, "tb", "")
    assert pool.submit(tasks.echo, b"x" * 3_000_000).result(LIMIT) == b"x" * 3_000_000


def test_the_environment_names_the_endpoint(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument, `MECA_ENDPOINT` says where the gateway is."""
    monkeypatch.setenv("MECA_ENDPOINT", endpoint)
    with MecaExecutor() as pool:
        assert pool.submit(abs, -1).result(LIMIT) == 1
        assert pool.endpoint == endpoint


def test_max_workers_caps_this_executor(connect: Callable[..., MecaExecutor], room: Room) -> None:
    """With an endpoint, `max_workers` is how many tasks of this executor run at once; others may run beside."""
    capped, other = connect(max_workers=1), connect()
    crowds = list(capped.map(tasks.crowd, [str(room.folder)] * 15, range(15), timeout=LIMIT))
    assert max(crowds) == 1
    held = [capped.submit(tasks.stay, str(room.folder), n) for n in range(4)]
    room.await_count(1)
    assert other.submit(abs, -1).result(LIMIT) == 1
    assert room.entered() == ["0"]
    room.open()
    assert [future.result(LIMIT) for future in held] == list(range(4))


def test_initializers_do_not_meet(connect: Callable[..., MecaExecutor]) -> None:
    """A worker serves one initializer: executors at one gateway never see what another's left."""
    pools = [connect(initializer=tasks.install, initargs=(name,)) for name in ("first", "second")]
    pools.append(connect())
    for _ in range(3):
        seen = [pool.submit(tasks.get_installed).result(LIMIT) for pool in pools]
        assert seen == ["first", "second", None]


def test_shutdown_leaves_the_gateway(connect: Callable[..., MecaExecutor]) -> None:
    """The end of one executor ends neither the gateway nor the others at it."""
    first, second = connect(), connect()
    assert first.submit(abs, -1).result(LIMIT) == second.submit(abs, -1).result(LIMIT)
    first.shutdown()
    assert second.submit(abs, -2).result(LIMIT) == 2
    assert connect().submit(abs, -3).result(LIMIT) == 3


def test_a_killer_at_a_shared_gateway(connect: Callable[..., MecaExecutor]) -> None:
    """A task that kills workers fails alone, whoever else is at the gateway."""
    from meca_executor import WorkerDied

    rude, kind_one = connect(retry=2), connect()
    killers = [rude.submit(os._exit, 1) for _ in range(3)]
    fine = [kind_one.submit(tasks.nap, 0.01, n) for n in range(20)]
    assert [future.result(LIMIT) for future in fine] == list(range(20))
    assert all(isinstance(future.exception(LIMIT), WorkerDied) for future in killers)


def test_a_client_that_goes_leaves_no_task(connect: Callable[..., MecaExecutor], room: Room) -> None:
    """`shutdown(cancel_futures=True)` takes back what waits at the gateway; slots are free for others."""
    going, staying = connect(), connect()
    held = [going.submit(tasks.stay, str(room.folder), n) for n in range(20)]
    room.await_count(1)
    closer = threading.Thread(target=going.shutdown, kwargs={"cancel_futures": True})
    closer.start()
    wait_until(lambda: sum(future.cancelled() for future in held) >= 17, "waiting tasks cancelled")
    room.open()
    closer.join(LIMIT)
    assert not closer.is_alive()
    assert staying.submit(abs, -1).result(LIMIT) == 1
    done = [future.result(0) for future in held if not future.cancelled()]
    assert sorted(room.entered()) == sorted(str(n) for n in done)


def test_a_wrong_key_is_refused(connect: Callable[..., MecaExecutor], monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with a key that the gateway does not know is refused in words, and soon."""
    from meca_executor import GatewayRefused

    monkeypatch.setenv("MECA_ACCESS_KEY", "AKIANOBODY")
    monkeypatch.setenv("MECA_SECRET_KEY", "wrong")
    with pytest.raises(GatewayRefused, match="key"):
        connect().submit(abs, -1).result(LIMIT)
