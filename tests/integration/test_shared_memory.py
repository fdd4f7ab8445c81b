"""Shared memory as a whole: how much there is, who has it, when it goes, and gateways that cannot read it."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import MecaExecutor, SharedMemoryFull
from meca_executor.wire.segments import MOST_OPEN, available
from tests.contract.rooms import Room
from tests.helpers.memory import open_segments, segments_of
from tests.helpers.processes import children, command, descendants, is_running
from tests.helpers.proxy import proxy
from tests.helpers.scripts import finish, run, started
from tests.helpers.waiting import LIMIT, wait_until

from .standing import ROOT, standing_gateway

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

np: Any = pytest.importorskip("numpy", reason="numpy is not installed")
pytestmark = pytest.mark.skipif(not available(), reason="no memory files (memfd) or no /proc on this system")

MEGABYTE = 1_000_000


def filled(number: float, size: int = MEGABYTE) -> Any:
    """Return an array of so many bytes, all of one number."""
    return np.full(size // 8, float(number))


def twice(array: Any) -> Any:
    """Return an array twice as large in every element."""
    return array * 2


def total(array: Any) -> float:
    """Return the sum."""
    return float(array.sum())


def stay_with(room: Room, *arrays: Any) -> float:
    """Stay in the room with arrays; return their sum."""
    room.stay(0)
    return sum(map(total, arrays))


def port_url(port: int) -> str:
    """Return where a gateway of this machine is."""
    return f"http://127.0.0.1:{port}"


kept: list[Any] = []  #: in a worker


def keep(array: Any) -> int:
    """Keep the argument in this process; return how many there are."""
    kept.append(array)
    return len(kept)


def kept_totals() -> list[float]:
    """Return the sums of what was kept."""
    return [total(array) for array in kept]


def all_memory() -> dict[int, tuple[list[int], int]]:
    """Return what this process and those below it have."""
    return segments_of([os.getpid(), *(process.pid for process in descendants(os.getpid()))])


def check_large_values(executor: MecaExecutor) -> None:
    """Assert that arrays go there and back, and that objects that were put come to tasks."""
    for size in (100_000, 300_000, MEGABYTE, 20 * MEGABYTE):
        sent = filled(size, size)
        back = executor.submit(twice, sent).result(LIMIT)
        back += 1
        assert (back == size * 2 + 1).all() and (sent == size).all()
        handle = executor.put(sent)
        assert list(executor.map(total, [handle] * 3, timeout=LIMIT)) == [total(sent)] * 3
    assert executor.submit(len, b"x" * 20 * MEGABYTE).result(LIMIT) == 20 * MEGABYTE


# -- how much


def test_more_calls_are_outstanding_than_segments(tmp_path: Path) -> None:
    """What gets none travels in frames."""
    room = Room(tmp_path / "room")
    with MecaExecutor(max_workers=2) as executor:
        held = [executor.submit(room.stay, n) for n in range(2)]
        room.await_count(2)
        futures = [executor.submit(total, filled(number)) for number in range(400)]
        assert 200 <= len(open_segments(os.getpid())) <= MOST_OPEN
        room.open()
        assert [future.result(LIMIT) for future in futures] == [number * 125_000 for number in range(400)]
        assert [future.result(LIMIT) for future in held] == [None, None]


def test_many_results_are_held_and_let_go() -> None:
    """More than this process may have descriptors for; when they are gone, so is the memory, everywhere."""
    with MecaExecutor(max_workers=2) as executor:
        held = list(executor.map(twice, (filled(number, 300_000) for number in range(300)), timeout=LIMIT))
        assert all((array == 2 * number).all() for number, array in enumerate(held))
        assert len(open_segments(os.getpid())) <= MOST_OPEN + len("some idle")
        wait_until(lambda: all_memory().keys() <= {os.getpid()}, "only the one who has the results keeps memory")
        assert all((array == 2 * number).all() for number, array in enumerate(held))
        held.clear()
        gc.collect()
        wait_until(lambda: not all_memory(), "all memory is let go")
        check_large_values(executor)
        wait_until(lambda: not all_memory(), "all memory is let go again")


def test_memory_that_a_task_keeps_is_let_go_here() -> None:
    """It is the worker's alone from then on."""
    with MecaExecutor(max_workers=1) as executor:
        assert [executor.submit(keep, filled(n)).result(LIMIT) for n in range(20)] == list(range(1, 21))
        wait_until(lambda: not open_segments(os.getpid()), "the client has none")
        assert executor.submit(kept_totals).result(LIMIT) == [number * 125_000 for number in range(20)]


# -- who keeps it


FORK = """
    import gc, os, sys, warnings
    import numpy as np
    from meca_executor import MecaExecutor

    warnings.simplefilter("ignore", DeprecationWarning)
    with MecaExecutor(max_workers=1) as executor:
        kept = executor.submit(np.full, 500_000, 7.0).result(20)
        waits, tells = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(tells)
            os.read(waits, 1)
            os._exit(0 if (kept == 7).all() else 1)
        os.close(waits)
        del kept
        gc.collect()
        for number in range(50):
            assert (executor.submit(np.full, 500_000, float(number)).result(20) == number).all()
        os.close(tells)
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_keeps_a_result_that_its_parent_drops(tmp_path: Path) -> None:
    """It is unchanged after many more calls of the parent."""
    assert run(FORK, tmp_path).expect().err == ""


KILLED = """
    import os, sys, time
    import numpy as np
    from meca_executor import MecaExecutor
    from tests.helpers.processes import descendants

    def work(array, seconds):
        time.sleep(seconds)
        return array

    executor = MecaExecutor(max_workers=2)
    handle = executor.put(np.ones(1_000_000))
    results = list(executor.map(work, [np.ones(1_000_000)] * 6, [0] * 6))
    futures = [executor.submit(work, [handle, np.ones(1_000_000)], 30) for _ in range(10)]
    while not futures[1].running():
        time.sleep(0.005)
    print(*(process.pid for process in descendants(os.getpid())), flush=True)
    futures[0].result()
"""


def test_nothing_is_left_of_a_killed_client(tmp_path: Path) -> None:
    """Its gateway, workers and guardian end with it; memory without a name goes with them."""
    names = os.listdir("/dev/shm")
    with started(KILLED, tmp_path, env={"PYTHONPATH": str(ROOT)}) as process:
        assert process.stdout
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 4 and segments_of([process.pid, *pids])
        process.kill()
        finish(process)
    wait_until(lambda: not any(map(is_running, pids)), "the gateway and the workers have ended")
    assert segments_of([process.pid, *pids]) == {}
    assert set(os.listdir("/dev/shm")) <= set(names)


def test_nothing_is_left_of_killed_gateways_and_workers(tmp_path: Path) -> None:
    """What the client has it can still read; what they had is gone, and it all goes on."""
    with MecaExecutor(max_workers=2) as executor:
        handle = executor.put(filled(3))
        results = [executor.submit(twice, handle).result(LIMIT) for _ in range(4)]
        worker = executor.submit(os.getpid).result(LIMIT)
        # Not the last child: helper processes of multiprocessing's own may be there, too.
        gateway = next(p for p in children(os.getpid()) if worker in {child.pid for child in children(p.pid)})
        workers = [one for one in children(gateway.pid) if "runtimes.worker" in command(one.pid)]
        assert len(workers) == 2
        os.kill(workers[0].pid, signal.SIGKILL)
        results += executor.map(twice, [handle, filled(3)] * 4, timeout=LIMIT)
        os.kill(gateway.pid, signal.SIGKILL)
        results += executor.map(twice, [handle, filled(3)] * 4, timeout=LIMIT)
        assert len(results) == 20 and all((array == 6).all() for array in results)
        wait_until(lambda: not any(is_running(one.pid) for one in (gateway, *workers)), "they have ended")
        del handle
        results.clear()
        gc.collect()
        wait_until(lambda: not all_memory(), "all memory is let go")


# -- standing gateways


def test_a_gateway_of_the_same_user_shares(tmp_path: Path) -> None:
    """A standing one as an embedded one."""
    with standing_gateway(tmp_path, "--workers", "2") as gateway:
        with MecaExecutor(gateway.url) as executor:
            assert executor.slots == 2
            assert executor._link.shares
            check_large_values(executor)
            result = executor.submit(twice, filled(1)).result(LIMIT)
            assert open_segments(os.getpid()) and result[0] == 2
        assert (result == 2).all()
        del result
        wait_until(lambda: not all_memory(), "all memory is let go")


def test_connections_that_break_lose_no_memory(tmp_path: Path) -> None:
    """Large calls and results over a link that is cut again and again."""
    with standing_gateway(tmp_path, "--workers", "2") as gateway, proxy(gateway.port) as between:
        with MecaExecutor(between.url) as executor:
            assert executor.slots == 2 and executor._link.shares
            handle, kept = executor.put(filled(1000)), list[Any]()
            for turn in range(5):
                futures = [executor.submit(twice, filled(number)) for number in range(12)]
                futures += [executor.submit(twice, handle)]
                between.cut()
                results = [future.result(LIMIT) for future in futures]
                assert all((array == 2 * n).all() for n, array in enumerate(results[:-1])), turn
                assert (results[-1] == 2000).all()
                kept += results[turn : turn + 1]
            assert [array[0] for array in kept] == [array[-1] for array in kept] == [0, 2, 4, 6, 8]
            assert between.connections > 5
            del results, futures, handle
            kept.clear()
            gc.collect()
            wait_until(lambda: not all_memory(), "all memory is let go")


#: ways to start a gateway that cannot read this process's memory: as another user; as root, with few of its rights
STRANGERS = {
    "another user": ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
    "less rights": ["setpriv", "--bounding-set=-all,+dac_override,+dac_read_search"],
}


def can_run(prefix: list[str]) -> bool:
    """Whether this checkout and its interpreter can be used like this."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        return False
    # Through a child: setpriv itself may still reach files that what it starts may not.
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import meca_executor, numpy'], check=True)"
    command = [*prefix, sys.executable, "-c", child]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd="/", env=environ, capture_output=True, timeout=30).returncode == 0


@contextlib.contextmanager
def gateway_of(prefix: list[str], folder: str, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Give a gateway that is started with these words before its command, and its port."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-m", "meca_executor.cli", "gateway", "--port", str(port), "--grace", "2"],
        cwd=folder,
        env={**os.environ, "HOME": folder, "TMPDIR": folder, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout
            ready = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)", ready)
            assert found, ready
            yield process, int(found[1])
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT)
        finally:
            process.kill()


@pytest.fixture
def state(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give a folder for keys that any user can reach."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        monkeypatch.setenv("MECA_STATE_DIR", folder)
        yield folder


@pytest.fixture(params=STRANGERS)
def stranger(request: pytest.FixtureRequest, state: str) -> list[str]:
    """Return how to start a gateway that cannot read what this process has, but may use the same keys."""
    prefix = STRANGERS[request.param]
    if not can_run(prefix):
        pytest.skip("not root, no setpriv, or another user cannot read this checkout or its interpreter")
    if request.param == "another user":
        os.chown(state, 65534, 65534)
    return prefix


def test_a_gateway_that_cannot_read_ours_gets_blobs(stranger: list[str], state: str) -> None:
    """The same values travel by themselves, those of the time before it was known, too; it keeps none for long."""
    with gateway_of(stranger, state) as (_, port), MecaExecutor(port_url(port)) as executor:
        early = executor.put(filled(5)), executor.submit(twice, filled(6))
        assert executor.slots
        assert not executor._link.shares
        check_large_values(executor)
        assert (executor.submit(twice, early[0]).result(LIMIT) == 10).all()
        assert (early[1].result(LIMIT) == 12).all()
        results = list(executor.map(twice, map(filled, range(40)), timeout=LIMIT))
        assert all((array == 2 * number).all() for number, array in enumerate(results))
        del early
        wait_until(lambda: not all_memory(), "all memory is let go")


def test_blobs_over_connections_that_break(stranger: list[str], state: str) -> None:
    """Calls, objects and results that are half sent go on where they were."""
    with gateway_of(stranger, state) as (_, port), proxy(port) as between:
        with MecaExecutor(between.url) as executor:
            assert executor.slots and not executor._link.shares
            handle = executor.put(filled(1000, 8 * MEGABYTE))
            for turn in range(5):
                futures = [executor.submit(twice, filled(number, 8 * MEGABYTE)) for number in range(6)]
                futures += [executor.submit(twice, handle)]
                between.cut()
                results = [future.result(LIMIT) for future in futures]
                assert all((array == 2 * n).all() for n, array in enumerate(results[:-1])), turn
                assert (results[-1] == 2000).all()
            assert between.connections > 5
            del handle
            wait_until(lambda: not all_memory(), "all memory is let go")


def test_a_gateway_that_could_is_followed_by_one_that_cannot(stranger: list[str], state: str, tmp_path: Path) -> None:
    """What had been shared with the first one travels to the second: objects, and tasks that are tried again."""
    room = Room(tmp_path / "room")
    with contextlib.ExitStack() as stack:
        first, port = stack.enter_context(gateway_of([], state))
        executor = stack.enter_context(MecaExecutor(port_url(port), max_workers=1))
        assert executor.slots and executor._link.shares
        handle = executor.put(filled(5))
        running = executor.submit(stay_with, room, filled(6), handle)
        room.await_count(1)
        queued = [executor.submit(stay_with, room, filled(n), handle) for n in range(200)]
        results = executor.map(total, [filled(n) for n in range(200)])
        first.kill()
        first.wait()
        stack.enter_context(gateway_of(stranger, state, port))
        stack.callback(executor.kill_workers)  # before that one ends: what is left of a failed test would wait for it
        room.open()
        assert running.result(LIMIT) == 11 * 125_000
        assert [future.result(LIMIT) for future in queued] == [(n + 5) * 125_000 for n in range(200)]
        assert list(results) == [n * 125_000 for n in range(200)]
        assert not executor._link.shares
        check_large_values(executor)


# -- no room


FULL = """
    import os, resource
    import numpy as np
    import pytest
    from meca_executor import MecaExecutor, SharedMemoryFull

    LIMIT = 20
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    with MecaExecutor(max_workers=1) as executor:
        small = [executor.submit(np.sum, np.ones(100_000)) for _ in range(5)]
        large = executor.submit(np.sum, np.ones(1_000_000))
        back = executor.submit(np.ones, 1_000_000)
        small += [executor.submit(np.sum, np.ones(100_000)) for _ in range(5)]
        for future in (large, back):
            with pytest.raises(SharedMemoryFull, match="8000.* bytes does not fit into shared memory"):
                future.result(LIMIT)
        with pytest.raises(SharedMemoryFull):
            executor.put(np.ones(1_000_000))
        results = executor.map(np.sum, [np.ones(100_000), np.ones(1_000_000), np.ones(100_000)])
        assert next(results) == 100_000
        with pytest.raises(SharedMemoryFull):
            next(results)
        assert [future.result(LIMIT) for future in small] == [100_000] * 10
        handle = executor.put(np.ones(100_000))
        assert executor.submit(np.sum, handle).result(LIMIT) == 100_000
    print("done")
"""


def test_a_value_for_which_there_is_no_room_fails_alone(tmp_path: Path) -> None:
    """An argument, a result, a map's item and an object to put; what is beside them goes on."""
    ran = run(FULL, tmp_path).expect()
    assert (ran.out.strip(), ran.err) == ("done", "")
    assert issubclass(SharedMemoryFull, Exception)
