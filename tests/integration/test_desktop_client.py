"""The executor on the desktop app of the tests: what a program sees that knows nothing of the old dialect."""

from __future__ import annotations

import contextlib
import itertools
import json
from concurrent.futures import as_completed
from typing import TYPE_CHECKING

import pytest

from meca_executor import Container, MecaExecutor, NoHostFits, TaskFailed, TaskKilled, TaskTimeout, UsageError
from meca_executor.wire import desktop as old
from tests.helpers.scripts import finish, started
from tests.helpers.waiting import LIMIT, wait_until
from tests.peers.desktop import DesktopApp, desktop_app
from tests.peers.programs import started_program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ECHO, HOLD = Container("echo:latest"), Container("hold:latest")
numbers = itertools.count()


@pytest.fixture(scope="module")
def shared() -> Iterator[DesktopApp]:
    """An app for all tests that leave it as it was."""
    with desktop_app() as app:
        yield app


@pytest.fixture
def app(shared: DesktopApp) -> Iterator[DesktopApp]:
    """The same, with nothing held afterwards."""
    yield shared
    shared.tell("release")


@pytest.fixture
def ex(app: DesktopApp) -> Iterator[MecaExecutor]:
    """An executor on it."""
    with MecaExecutor(app.url) as executor:
        yield executor
        app.tell("release")  # before its end, which waits for its tasks


@pytest.fixture
def word() -> str:
    """A text that no other test sends."""
    return f"word {next(numbers)}"


def offers(app: DesktopApp, word: str) -> list[str]:
    """Return the contents offered until now that begin with `word`, in order."""
    return [job["content"] for job in app.jobs() if job["content"].startswith(word)]


def test_the_dialect_is_found_by_itself(ex: MecaExecutor, app: DesktopApp) -> None:
    """No argument says that it is a desktop app."""
    assert ex.submit(ECHO, "x").result(LIMIT) == "x"
    assert (ex.dialect, ex.state, ex.endpoint, ex.slots) == ("desktop", "connected", app.url, 64)
    assert "desktop dialect (the server has no namespace /meca)" in repr(ex)


def test_inputs_and_replies(ex: MecaExecutor) -> None:
    """A text goes as it is; anything else as JSON, both ways; no letter is lost."""
    texts = ["", "a\nb", '{"k": "\\"2\\""}', "é漢🎉\x00\u2028}", " }\n"]
    assert list(ex.map(ECHO, texts, timeout=LIMIT)) == texts
    values = [[1, 2.5, None], {"ключ": ["é", '"']}, 7]
    assert list(ex.map(ECHO, values, timeout=LIMIT)) == values
    assert ex.submit(Container("echo:latest", codec="bytes"), b"\xff\x00").result(LIMIT) == b"\xff\x00"


def test_what_is_sent(ex: MecaExecutor, app: DesktopApp, word: str) -> None:
    """The keys of the wire; what nobody asked for is left out, and `mem` is `memory`."""
    ex.offload_task("echo:latest", word).result(LIMIT)
    ex.options(resource={"cpu": 0.5, "mem": 256}, runtime="microVM").submit(ECHO, word).result(LIMIT)
    ex.offload_task("echo:latest", word, use_gpu=True).result(LIMIT)
    jobs = [job for job in app.jobs() if job["content"] == word]
    assert len({job.pop("task_id") for job in jobs}) == 3
    base = {"container_reference": "echo:latest", "content": word}
    assert jobs == [
        base,
        {**base, "resource": {"cpu": 1, "memory": 256}, "runtime": "microVM"},
        {**base, "use_gpu": True, "gpu_count": 1},
    ]


def test_many_are_in_flight_and_come_back_as_they_end(ex: MecaExecutor, app: DesktopApp, word: str) -> None:
    """None waits for another; each result finds its own future."""
    texts = [f"{word}, {number}" for number in range(50)]
    futures = {text: ex.submit(HOLD, text) for text in texts}
    for text in texts:
        app.wait_for("held", content=text)
    for text in reversed(texts[-3:]):
        app.tell(f"release {text}")
        assert next(as_completed([futures[text]], LIMIT)).result() == text
        assert not futures[texts[0]].done()
    app.tell("release")
    assert {text: future.result(LIMIT) for text, future in futures.items()} == {text: text for text in texts}


def test_several_executors_with_the_same_task_ids(app: DesktopApp, word: str) -> None:
    """All results go to everybody; whose each is, only the wire's own ids tell."""
    with contextlib.ExitStack() as stack:
        executors = [stack.enter_context(MecaExecutor(app.url)) for _ in range(3)]
        futures = {
            (who, task): executor.offload_task("sleep-5ms:latest", f"{word} of {who}, {task}", task_id=str(task))
            for task in range(20)
            for who, executor in enumerate(executors)
        }
        for (who, task), future in futures.items():
            assert (future.result(LIMIT), future.task_id) == (f"{word} of {who}, {task}", str(task))
            assert len(future.transaction_id) == 36
    assert len({job["task_id"] for job in app.jobs() if job["content"].startswith(word)}) == 60


PROGRAM = """
    import sys
    from meca_executor import MecaExecutor

    with MecaExecutor(sys.stdin.read() or {url!r}) as ex:
        futures = [ex.offload_task("sleep-5ms:latest", f"{who} {{n}}", task_id=str(n)) for n in range(30)]
        print([future.result(20) for future in futures] == [f"{who} {{n}}" for n in range(30)])
"""
OLD_PROGRAM = """
import asyncio
from tests.peers import old_sdk as meca_api

async def main():
    await meca_api.initiate_connection()
    for number in range(5):
        await meca_api.offload_task(str(number), "sleep-5ms:latest", "old", lambda *got: print("got", got[2]))
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


def test_several_programs_with_the_same_task_ids(app: DesktopApp, tmp_path: Path) -> None:
    """Two of ours and one on the original SDK, whose ids are bare numbers and go to everybody."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(started_program("current", OLD_PROGRAM, port=app.port))
        programs = []
        for who in ("first", "second"):
            (tmp_path / who).mkdir()
            source = PROGRAM.format(url=app.url, who=who)
            programs.append(stack.enter_context(started(source, tmp_path / who)))
        for program in programs:
            done = finish(program).expect(0)
            assert (done.out, done.err) == ("True\n", "")


@pytest.mark.parametrize("ref", ["double", "stray", "hasty", "implied", "recording"])
def test_odd_answers_change_nothing(ex: MecaExecutor, app: DesktopApp, word: str, ref: str) -> None:
    """Twice, somebody else's, before `offloaded` or without it, with an error beside: each task has its own result."""
    texts = [f"{word}, {number}" for number in range(10)]
    assert list(ex.map(Container(f"{ref}:latest"), texts, timeout=LIMIT)) == texts
    app.tell("stray")
    assert ex.submit(ECHO, word).result(LIMIT) == word
    assert len(offers(app, word)) == 11


FAILURES = {
    "fails": "MECA not enough resources",
    "fails-gpu": "not enough GPU available",
    "fails-paused": "meca executor not started",
    "fails-start": "container failed to start in time",
    "fails-limit": "resource limit exceeds the maximum",
    "fails-invalid": "invalid resource limit",
    "fails-dial": 'Post "http://meca_fails-dial_latest_c1-m0:8080": dial tcp',
    "fails-network": "Error: Network response was not ok",
    "fails-page": "500 Internal Server Error",
    "no-such-image": "Error response from daemon: No such image",
}


@pytest.mark.parametrize("ref", FAILURES)
def test_failures_that_claim_success(ex: MecaExecutor, app: DesktopApp, ref: str) -> None:
    """Status 1 with a known failure text is a `TaskFailed` with that text, unless `strict=False`."""
    failed = ex.offload_task(f"{ref}:latest", "x", task_id="mine").exception(LIMIT)
    assert isinstance(failed, TaskFailed)
    assert str(failed).startswith("task mine: ")
    assert FAILURES[ref] in str(failed)
    with MecaExecutor(app.url, strict=False) as lenient:
        assert FAILURES[ref] in lenient.offload_task(f"{ref}:latest", "x").result(LIMIT)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("ref", "why"),
    [("nohost", "No host available."), ("timeout", "Time out."), ("refused", "did not take the task")],
)
def test_failures_that_say_so(app: DesktopApp, ref: str, why: str, strict: bool) -> None:
    """Status 0 with its text, and an error that arrives as `{}`; the next task is not affected."""
    with MecaExecutor(app.url, strict=strict) as ex:
        futures = [ex.submit(Container(f"{name}:latest"), "x") for name in (ref, "echo", ref, "echo")]
        for future in futures[::2]:
            with pytest.raises(TaskFailed, match=why):
                future.result(LIMIT)
        assert [future.result(LIMIT) for future in futures[1::2]] == ["x", "x"]


def test_silence_is_ended_by_the_timeout(ex: MecaExecutor, app: DesktopApp, word: str) -> None:
    """A task that vanished (a refused token) has a deadline, and is not tried again."""
    silent = ex.options(timeout=0.2).submit(Container("silent:latest"), word)
    assert ex.submit(ECHO, "x").result(LIMIT) == "x"
    with pytest.raises(TaskTimeout, match=r"no answer .* within 0\.2 s"):
        silent.result(LIMIT)
    assert offers(app, word) == [word]


def test_silence_has_a_limit_of_its_own(ex: MecaExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a `timeout`: a little longer than the app's backend waits."""
    assert old.BACKEND_LIMIT_S == 630
    monkeypatch.setattr(old, "BACKEND_LIMIT_S", 0.2)
    with pytest.raises(TaskTimeout):
        ex.submit(Container("silent:latest"), "x").result(LIMIT)


def test_time_counts_from_offloaded(app: DesktopApp) -> None:
    """What waits for its turn in the client uses up nothing of its timeout."""
    with MecaExecutor(app.url, max_workers=1, timeout=1.0) as ex:
        assert list(ex.map(Container("sleep-400ms:latest"), "abcd", timeout=LIMIT)) == list("abcd")


def test_an_answer_after_the_timeout_is_ignored(app: DesktopApp, word: str) -> None:
    """It belongs to nobody any more, and disturbs nobody."""
    with MecaExecutor(app.url) as ex:
        late = ex.options(timeout=0.1).submit(HOLD, word)
        app.wait_for("held", content=word)
        assert isinstance(late.exception(LIMIT), TaskTimeout)
        app.tell(f"release {word}")
        assert ex.submit(ECHO, word).result(LIMIT) == word
        assert isinstance(late.exception(0), TaskTimeout)


def test_max_workers_caps_what_is_offered_at_once(app: DesktopApp, word: str) -> None:
    """The rest stays in the client until an answer came."""
    texts = [f"{word}, {number}" for number in range(6)]
    with MecaExecutor(app.url, max_workers=2) as ex:
        assert ex.slots == 2
        futures = [ex.submit(HOLD, text) for text in texts]
        for turn, text in enumerate(texts):
            app.wait_for("held", content=text)
            assert len(offers(app, word)) <= turn + 2
            app.tell(f"release {text}")
            assert futures[turn].result(LIMIT) == text
    assert offers(app, word) == texts


def test_what_is_still_here_can_be_cancelled(app: DesktopApp, word: str) -> None:
    """At most slots + 1 tasks count as running; the rest is cancelled and never offered."""
    texts = [f"{word}, {number}" for number in range(6)]
    with MecaExecutor(app.url, max_workers=1) as ex:
        futures = [ex.submit(HOLD, text) for text in texts]
        app.wait_for("held", content=texts[0])
        assert [future.cancel() for future in futures] == [False, False, True, True, True, True]
        for text in texts[:2]:
            app.wait_for("held", content=text)
            app.tell(f"release {text}")
        assert [future.result(LIMIT) for future in futures[:2]] == texts[:2]
    assert offers(app, word) == texts[:2]


def test_kill_lets_go(app: DesktopApp, word: str) -> None:
    """The app cannot end a task: its answer is ignored. A task that waits is never offered."""
    with MecaExecutor(app.url, max_workers=1) as ex:
        held, waiting = ex.submit(HOLD, word), ex.submit(ECHO, f"{word}, not offered")
        app.wait_for("held", content=word)
        wait_until(waiting.running, "handed over")
        assert ex.kill(waiting) and ex.kill(held)
        for future in (held, waiting):
            assert isinstance(future.exception(LIMIT), TaskKilled)
        app.tell(f"release {word}")
        assert ex.submit(ECHO, f"{word} again").result(LIMIT) == f"{word} again"
        assert not ex.kill(held)
    assert offers(app, word) == [word, f"{word} again"]


@pytest.mark.parametrize("end", ["kill", "refused", "timeout", "too large"])
def test_shutdown_returns_when_the_last_task_fails(app: DesktopApp, word: str, end: str) -> None:
    """However its last task ends."""
    ref = {"kill": "hold", "timeout": "silent"}.get(end, "refused")
    ex = MecaExecutor(app.url, timeout=0.2 if end == "timeout" else None)
    future = ex.offload_task(f"{ref}:latest", "x" * 1_000_001 if end == "too large" else word)
    if end == "kill":
        app.wait_for("held", content=word)
        ex.kill(future)
    ex.shutdown()
    assert future.exception(0) is not None
    assert ex.state == "closed"


def test_kill_workers_ends_at_once(app: DesktopApp, word: str) -> None:
    """Open futures fail; nothing waits for the app."""
    ex = MecaExecutor(app.url, max_workers=2)
    futures = [ex.submit(HOLD, f"{word}, {number}") for number in range(5)]
    app.wait_for("held", content=f"{word}, 1")
    ex.kill_workers()
    assert all("kill_workers" in str(future.exception(0)) for future in futures)


def test_functions_are_refused_in_words(ex: MecaExecutor) -> None:
    """The app runs containers only; the error says what to do."""
    with pytest.raises(NoHostFits, match=r"runs containers only.*container_ref="):
        ex.submit(abs, -1).result(LIMIT)
    with pytest.raises(UsageError):
        ex.offload_task("echo:latest", json.loads("{}"))
    assert ex.submit(ECHO, "x").result(LIMIT) == "x"
