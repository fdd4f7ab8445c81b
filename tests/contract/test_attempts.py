"""`future.attempts`: each attempt's host, start, end and error, as a program sees them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import tenacity

from meca_executor import Attempt, Container, TaskKilled, TaskTimeout, WorkerDied
from tests.helpers.waiting import wait_until

from .kinds import HOST, Kind, only_ours
from .tasks import echo, fail, multiply, stay

if TYPE_CHECKING:
    from meca_executor import MecaExecutor

    from .rooms import Room

pytestmark = only_ours
LIMIT = 60.0


def die_until(folder: str, attempt: int) -> int:
    """End this process, but not in that attempt; return its number."""
    marks = Path(folder)
    number = len(list(marks.iterdir())) + 1
    (marks / str(number)).touch()
    if number < attempt:
        os._exit(7)
    return number


def fail_until(folder: str, attempt: int) -> int:
    """Raise, but not in that attempt; return its number."""
    marks = Path(folder)
    number = len(list(marks.iterdir())) + 1
    (marks / str(number)).touch()
    if number < attempt:
        raise ConnectionError(f"attempt {number}")
    return number


def check_order(attempts: tuple[Attempt, ...], before: float) -> None:
    """Each began after the one before it had ended, and all between `before` and now."""
    times = [moment for attempt in attempts for moment in (attempt.start, attempt.end) if moment is not None]
    assert len(times) == 2 * len(attempts)
    in_order = [before, *times, time.time()]
    assert in_order == sorted(in_order)


def test_a_call_that_succeeds_has_one(ours: MecaExecutor, kind: Kind) -> None:
    """It is told to whom the call was handed: the gateway's address, where it is not the program's own."""
    before = time.time()
    future = ours.submit(multiply, 6, 7)
    assert future.result(LIMIT) == 42
    (attempt,) = future.attempts
    assert (attempt.host, attempt.error) == (ours.endpoint if kind is HOST else "embedded", None)
    check_order(future.attempts, before)
    assert future.attempts == future.attempts


def test_a_call_that_raises_has_one_with_its_exception(ours: MecaExecutor) -> None:
    """The very one; it was not tried again, for it is the user's."""
    future = ours.submit(fail, ValueError("the user's"))
    error = future.exception(LIMIT)
    assert [attempt.error for attempt in future.attempts] == [error]


def test_what_waits_has_none_and_what_runs_has_no_end(ours: MecaExecutor, room: Room) -> None:
    running = [ours.submit(stay, str(room.folder), number) for number in range(2)]
    room.await_count(2)
    futures = [ours.submit(stay, str(room.folder), number) for number in range(2, 8)]
    cancelled = futures[-1]
    assert cancelled.cancel()
    assert cancelled.attempts == futures[-2].attempts == ()
    for future in running:
        (attempt,) = future.attempts
        assert attempt.start is not None and attempt[2:] == (None, None)
    room.open()
    assert [future.result(LIMIT) for future in futures[:-1]] == list(range(2, 7))
    assert all(len(future.attempts) == 1 for future in futures[:-1])


def test_lost_workers_are_told_with_their_errors(ours: MecaExecutor, tmp_path: Path) -> None:
    """The third attempt succeeds."""
    before = time.time()
    future = ours.submit(die_until, str(tmp_path), 3)
    assert future.result(LIMIT) == 3
    first, second, third = future.attempts
    assert (type(first.error), type(second.error), third.error) == (WorkerDied, WorkerDied, None)
    assert "code 7" in str(first.error)
    check_order(future.attempts, before)


def test_the_last_error_is_the_futures(ours: MecaExecutor, tmp_path: Path) -> None:
    future = ours.options(retry=2).submit(die_until, str(tmp_path), 9)
    error = future.exception(LIMIT)
    assert type(error) is WorkerDied
    first, last = future.attempts
    assert last.error is error and first.error is not error


def test_what_a_retry_object_tries_again_is_told(ours: MecaExecutor, tmp_path: Path) -> None:
    """And the wait between two attempts belongs to neither."""
    again = (
        tenacity.retry_if_exception_type(ConnectionError),
        tenacity.wait_fixed(0.3),
        tenacity.stop_after_attempt(9),
    )
    before = time.time()
    future = ours.options(retry=again).submit(fail_until, str(tmp_path), 3)
    assert future.result(LIMIT) == 3
    assert [str(attempt.error) for attempt in future.attempts] == ["attempt 1", "attempt 2", "None"]
    check_order(future.attempts, before)
    first, second, _ = future.attempts
    assert first.end is not None and second.start is not None
    assert second.start - first.end > 0.25


def test_lost_attempts_are_made_again_beside_what_a_retry_object_says(ours: MecaExecutor, tmp_path: Path) -> None:
    """DESIGN rule 3: it adds to what is tried again."""
    again = ours.options(retry=tenacity.retry_if_exception_type(ConnectionError))
    assert again.submit(die_until, str(tmp_path), 2).result(LIMIT) == 2


def test_a_time_limit_is_told(ours: MecaExecutor, room: Room) -> None:
    future = ours.options(timeout=0.2).submit(stay, str(room.folder), "late")
    assert type(future.exception(LIMIT)) is TaskTimeout
    assert [type(attempt.error) for attempt in future.attempts] == [TaskTimeout]


def test_a_killed_call_has_one_attempt(ours: MecaExecutor, room: Room) -> None:
    """Even where everything else would be tried again."""
    again = ours.options(retry=(tenacity.retry_always, tenacity.stop_never))
    future = again.submit(stay, str(room.folder), "killed")
    room.await_count(1)
    assert ours.kill(future)
    assert type(future.exception(LIMIT)) is TaskKilled
    assert [type(attempt.error) for attempt in future.attempts] == [TaskKilled]
    assert room.entered() == ["killed"]


def test_a_call_that_could_not_be_sent_has_none(ours: MecaExecutor) -> None:
    future = ours.submit(echo, (number for number in range(3)))
    assert future.exception(LIMIT) is not None
    assert future.attempts == ()


def test_a_containers_call_has_attempts_too(ours: MecaExecutor, kind: Kind) -> None:
    future = ours.submit(Container("sampleserver:latest"), {"name": "meca dev 0"})
    assert "message" in future.result(LIMIT)
    (attempt,) = future.attempts
    assert (attempt.host, attempt.error) == (ours.endpoint if kind is HOST else "embedded", None)


def test_they_can_be_read_at_any_moment(ours: MecaExecutor, tmp_path: Path) -> None:
    """While the link counts: never one twice, never an end before it came."""
    future = ours.submit(die_until, str(tmp_path), 3)
    seen: set[int] = set()

    def look() -> bool:
        attempts = future.attempts
        seen.add(len(attempts))
        assert all(attempt.end is not None and attempt.error for attempt in attempts[:-1])
        assert len({attempt.start for attempt in attempts}) == len(attempts)
        return future.done()

    wait_until(look, "it is done", LIMIT)
    assert seen <= {0, 1, 2, 3} and len(future.attempts) == 3
