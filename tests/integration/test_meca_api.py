"""`meca_api`: the old SDK's four coroutines without its defects, on a desktop app and on a gateway of ours."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import (
    TaskFailed,
    TaskTooLarge,
    UsageError,
    meca_api,
)
from tests.helpers.waiting import LIMIT
from tests.peers.desktop import DesktopApp, desktop_app
from tests.peers.programs import container

from .standing import standing_gateway

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

TEMPLATE = "python-template:latest"  #: replies with its input, which is JSON

Got = tuple[Any, ...]


@pytest.fixture(scope="module")
def shared() -> Iterator[DesktopApp]:
    """A desktop app with a real container."""
    with container("python-template") as url, desktop_app(apps={TEMPLATE: url}) as app:
        yield app


@pytest.fixture
def desktop(shared: DesktopApp, monkeypatch: pytest.MonkeyPatch) -> Iterator[DesktopApp]:
    """The app, named by the environment."""
    monkeypatch.setenv("MECA_ENDPOINT", shared.url)
    yield shared
    shared.tell("release")


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a gateway of ours."""
    with standing_gateway(tmp_path_factory.mktemp("gateway"), "--workers", "2") as gateway:
        yield gateway.url


@pytest.fixture(params=["desktop", "gateway"])
def endpoint(request: pytest.FixtureRequest, shared: DesktopApp, gateway: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """One of the two, named by the environment."""
    monkeypatch.setenv("MECA_ENDPOINT", shared.url if request.param == "desktop" else gateway)
    return str(request.param)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a program: connect, do this, disconnect."""

    async def program() -> None:
        await meca_api.initiate_connection()
        try:
            await main()
        finally:
            await meca_api.disconnect()

    asyncio.run(asyncio.wait_for(program(), 2 * LIMIT))


def collector(got: list[Got]) -> Callable[[str, int, str, str, str], None]:
    """Return a callback of five arguments that keeps them."""
    return lambda task_id, status, response, error, transaction_id: got.append(
        (task_id, status, response, error, transaction_id)
    )


def without_transactions(got: list[Got]) -> list[Got]:
    """Return the first four of each, sorted."""
    return sorted(entry[:4] for entry in got)


def test_each_task_calls_its_own_callback_once(endpoint: str) -> None:
    """Offloaded side by side; the original gave everything to the last callback, and hung."""
    got: list[list[Got]] = [[] for _ in range(20)]

    async def main() -> None:
        offloads = (meca_api.offload_task(str(n), TEMPLATE, str(n), collector(got[n])) for n in range(20))
        assert await asyncio.gather(*offloads) == [str(n) for n in range(20)]
        await meca_api.join(LIMIT, LIMIT)
        assert [without_transactions(calls) for calls in got] == [[(str(n), 1, str(n), None)] for n in range(20)]

    run(main)
    assert all(len(calls) == 1 for calls in got)
    assert {len(calls[0][4]) for calls in got} == ({36} if endpoint == "desktop" else {0})


def test_callbacks_of_every_kind(endpoint: str) -> None:
    """Five arguments or one, sync or async, functions, methods, lambdas and builtins."""
    got: list[object] = []

    async def five(task_id: str, status: int, response: str, error: str, transaction_id: str) -> None:
        await asyncio.sleep(0)
        got.append(["async five", task_id, status, response, error])

    async def one(response: str) -> None:
        await asyncio.sleep(0)
        got.append(["async one", response])

    def optional(task_id: str, status: int = 0, response: str = "", error: str = "", transaction_id: str = "") -> None:
        got.append(["optional", task_id, status, response, error])

    async def main() -> None:
        callbacks: list[Callable[..., object]] = [
            five,
            one,
            optional,
            got.append,
            lambda response, more=0: got.append(response),
        ]
        for number, callback in enumerate(callbacks):
            await meca_api.offload_task(str(number), TEMPLATE, str(number), callback)
            await meca_api.join(LIMIT, LIMIT)

    run(main)
    assert got == [
        ["async five", "0", 1, "0", None],
        ["async one", "1"],
        ["optional", "2", 1, "2", None],
        "3",
        "4",
    ]


@pytest.mark.parametrize("callback", [lambda: None, lambda one, two: None, lambda *, response: None, "text", None])
def test_a_callback_that_takes_neither_is_refused(desktop: DesktopApp, callback: Any) -> None:
    """Before anything is sent."""
    before = len(desktop.jobs())

    async def main() -> None:
        with pytest.raises(UsageError, match="takes neither"):
            await meca_api.offload_task("1", TEMPLATE, "1", callback)

    run(main)
    assert len(desktop.jobs()) == before


@pytest.mark.parametrize(
    ("ref", "told"), [("nohost:latest", "No host available."), ("fails:latest", "MECA not enough resources")]
)
def test_failures_reach_the_callback(endpoint: str, caplog: pytest.LogCaptureFixture, ref: str, told: str) -> None:
    """Status 0 and the text for five arguments, also where the app says 1; a warning with the task's id for one."""
    got: list[Got] = []

    async def main() -> None:
        await meca_api.offload_task("five", ref, "x", collector(got))
        await meca_api.offload_task("one", ref, "x", got.append)
        await meca_api.join(LIMIT, LIMIT)

    with caplog.at_level(logging.WARNING, "meca_api"):
        run(main)
    ((task_id, status, response, error, _),) = got
    assert (task_id, status, response) == ("five", 0, "")
    why = told if endpoint == "desktop" else f"no container {ref!r}"
    assert why in error
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "task one failed" in record.getMessage() and why in record.getMessage()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_callback_that_fails_is_logged_and_disturbs_nobody(
    endpoint: str, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """The original left `join` waiting, and out of step from then on."""
    got: list[Got] = []

    def fails(response: str) -> None:
        raise KeyError(response)

    async def fails_later(response: str) -> None:
        raise KeyError(response)

    async def main() -> None:
        await meca_api.offload_task("1", TEMPLATE, "1", fails if kind == "sync" else fails_later)
        await meca_api.join(LIMIT, LIMIT)
        await meca_api.offload_task("2", TEMPLATE, "2", collector(got))
        await meca_api.join(LIMIT, LIMIT)
        assert without_transactions(got) == [("2", 1, "2", None)]

    run(main)
    (record,) = [record for record in caplog.records if record.name == "meca_api"]
    assert "callback of task 1 failed" in record.getMessage()
    assert record.exc_info is not None


def test_ids_are_text_and_used_again_only_when_free(desktop: DesktopApp) -> None:
    """An int comes back as text, as on the original; two tasks of one name cannot be told apart."""
    got: list[Got] = []

    async def main() -> None:
        number: Any = 5
        assert await meca_api.offload_task(number, "hold:latest", "first", collector(got)) == "5"
        with pytest.raises(UsageError, match="'5' is still under way"):
            await meca_api.offload_task("5", "echo:latest", "second", collector(got))
        desktop.tell("release")
        await meca_api.join(LIMIT, LIMIT)
        await meca_api.offload_task("5", "echo:latest", "third", collector(got))
        await meca_api.join(LIMIT, LIMIT)

    run(main)
    assert [entry[:4] for entry in got] == [("5", 1, "first", None), ("5", 1, "third", None)]


def test_join_waits_for_these_tasks_and_logs_the_late_ones(
    desktop: DesktopApp, caplog: pytest.LogCaptureFixture
) -> None:
    """What is lost shifts nothing; a later `join` waits for it again, as it may still come."""
    got: list[Got] = []

    async def main() -> None:
        await meca_api.join(LIMIT, LIMIT)  # of nothing
        await meca_api.offload_task("lost", "hold:latest", "x", collector(got))
        await meca_api.join(0.1, LIMIT)
        for name in "ab":
            await meca_api.offload_task(name, "sleep-50ms:latest", name, collector(got))
        await meca_api.join(0.3, LIMIT)
        assert [entry[0] for entry in got] == ["a", "b"]
        desktop.tell("release x")
        await meca_api.join(LIMIT, LIMIT)
        assert [entry[0] for entry in got] == ["a", "b", "lost"]
        for name in ("late 1", "late 2"):
            await meca_api.offload_task(name, "silent:latest", "x", collector(got))
        began = asyncio.get_running_loop().time()
        await meca_api.join(LIMIT, 0.2)  # for both
        assert asyncio.get_running_loop().time() - began < LIMIT

    run(main)
    texts = [record.getMessage() for record in caplog.records if record.name == "meca_api"]
    assert texts == [
        "join: not done in time: task lost",
        "join: not done in time: task lost",
        "join: not done in time: task late 1, task late 2",
    ]


def test_join_is_not_satisfied_by_somebody_elses_results(desktop: DesktopApp) -> None:
    """All results go to everybody, also those of a program that calls its tasks by the same names."""
    from meca_executor import Container, MecaExecutor

    got: list[Got] = []

    async def main() -> None:
        await meca_api.offload_task("1", "hold:latest", "mine", collector(got))
        with MecaExecutor(desktop.url) as other:
            assert other.offload_task("echo:latest", "theirs", task_id="1").result(LIMIT) == "theirs"
            assert other.submit(Container("stray:latest"), "x").result(LIMIT) == "x"
        await meca_api.join(0.1, LIMIT)
        assert got == []
        desktop.tell("release mine")
        await meca_api.join(LIMIT, LIMIT)
        assert without_transactions(got) == [("1", 1, "mine", None)]

    run(main)


def test_a_failed_offload_raises(desktop: DesktopApp) -> None:
    """Nothing hangs, and the callback is not called."""
    got: list[Got] = []

    async def main() -> None:
        with pytest.raises(TaskFailed, match="did not take the task"):
            await meca_api.offload_task("1", "refused:latest", "x", collector(got))
        with pytest.raises(TaskTooLarge, match="1,000,000"):
            await meca_api.offload_task("1", "echo:latest", "x" * 1_000_000, collector(got))
        with pytest.raises(UsageError, match="str"):
            data: Any = {"k": 2}
            await meca_api.offload_task("1", "echo:latest", data, collector(got))
        await meca_api.join(LIMIT, LIMIT)
        await meca_api.offload_task("1", "echo:latest", "x", collector(got))
        await meca_api.join(LIMIT, LIMIT)

    run(main)
    assert without_transactions(got) == [("1", 1, "x", None)]
