"""Retry: the table of (policy, attempt, outcome) -> what happens next."""

from __future__ import annotations

import threading
import time
from dataclasses import FrozenInstanceError

import pytest
import tenacity
import tenacity.asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor import (
    AttemptLost,
    ContainerFailed,
    GatewayLost,
    InitializerFailed,
    NoHostFits,
    TaskFailed,
    TaskKilled,
    TaskTimeout,
    TaskTooLarge,
    UsageError,
    WorkerDied,
)
from meca_executor.policy.retry import DEFAULT_ATTEMPTS, RetryPolicy, is_lost

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)

LOST = [WorkerDied("it died"), AttemptLost("it is lost"), GatewayLost("it is gone")]
NOT_LOST = [
    ValueError("the user's"),
    TimeoutError("the user's"),
    ConnectionError("the user's"),
    TaskTimeout("too long"),
    TaskFailed("refused"),
    TaskKilled("by the user"),
    TaskTooLarge("too large"),
    NoHostFits("nowhere"),
    ContainerFailed("never ready"),
    SystemExit(1),
    KeyboardInterrupt(),
]

AGAIN, STANDS = 0.0, None  #: at once; not again


def container_lost() -> ContainerFailed:
    """Return the failure of a container that had been ready."""
    error = ContainerFailed("ended during the call")
    error.lost = True
    return error


def decide(
    policy: object, attempt: int, outcome: BaseException | None, result: object = None, ago: float = 0.0
) -> float | None:
    """Return the decision of what a user gives as `retry`, `ago` seconds after the first attempt was handed over."""
    return RetryPolicy.of(policy).decide(attempt, time.monotonic() - ago, outcome, result)


# -- what counts as lost


@pytest.mark.parametrize("error", [*LOST, container_lost()], ids=lambda error: type(error).__name__)
def test_lost_with_its_worker_host_or_link(error: BaseException) -> None:
    """These failures are no fault of the task's own."""
    assert is_lost(error)


@pytest.mark.parametrize("error", NOT_LOST, ids=lambda error: type(error).__name__)
def test_not_lost(error: BaseException) -> None:
    """The user's own errors, time limits and refusals are outcomes."""
    assert not is_lost(error)


# -- numbers


@pytest.mark.parametrize("error", [*LOST, container_lost()], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("policy", "attempt", "decision"),
    [
        (None, 1, AGAIN),
        (None, DEFAULT_ATTEMPTS - 1, AGAIN),
        (None, DEFAULT_ATTEMPTS, STANDS),
        (1, 1, STANDS),
        (2, 1, AGAIN),
        (2, 2, STANDS),
        (100, 99, AGAIN),
        (100, 100, STANDS),
    ],
)
def test_a_number_counts_all_attempts(
    policy: int | None, attempt: int, decision: float | None, error: BaseException
) -> None:
    """Lost attempts are made again at once until there have been that many; the default is three."""
    assert decide(policy, attempt, error) == decision


@pytest.mark.parametrize("error", NOT_LOST, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("policy", [None, 5, tenacity.stop_never, tenacity.wait_fixed(1)], ids=str)
def test_without_a_retry_object_only_lost_attempts_are_made_again(policy: object, error: BaseException) -> None:
    """DESIGN rule 3: a number, a stop or a wait changes how often and when, never what is retried."""
    assert decide(policy, 1, error) is STANDS


@pytest.mark.parametrize("policy", [None, 5, tenacity.stop_never, tenacity.wait_fixed(1)], ids=str)
def test_a_success_stands(policy: object) -> None:
    """A result is no reason to try again unless a retry object says so."""
    assert decide(policy, 1, None, "result") is STANDS
    assert not RetryPolicy.of(policy).looks_at_results


# -- tenacity's objects


@pytest.mark.parametrize(
    ("policy", "attempt", "ago", "decision"),
    [
        (tenacity.stop_after_attempt(4), 3, 0.0, AGAIN),
        (tenacity.stop_after_attempt(4), 4, 0.0, STANDS),
        (tenacity.stop_never, 10**6, 1e6, AGAIN),
        (tenacity.stop_after_delay(60), 99, 30.0, AGAIN),
        (tenacity.stop_after_delay(60), 2, 61.0, STANDS),
        (tenacity.stop_after_attempt(9) | tenacity.stop_after_delay(60), 9, 0.0, STANDS),
        (tenacity.stop_after_attempt(9) & tenacity.stop_after_delay(60), 9, 0.0, AGAIN),
        (tenacity.wait_fixed(2.5), 1, 0.0, 2.5),
        (tenacity.wait_fixed(2.5), DEFAULT_ATTEMPTS, 0.0, STANDS),
        (tenacity.wait_exponential(multiplier=4), 2, 0.0, 8.0),
        (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), 1, 0.0, 3.0),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(5)), 2, 0.0, 5.0),
        ((tenacity.stop_after_attempt(9), tenacity.wait_fixed(3)), 8, 0.0, 3.0),
        ([tenacity.wait_fixed(3), tenacity.stop_after_attempt(9)], 9, 0.0, STANDS),
        ((tenacity.stop_before_delay(60), tenacity.wait_fixed(10)), 1, 40.0, 10.0),
        ((tenacity.stop_before_delay(60), tenacity.wait_fixed(10)), 1, 51.0, STANDS),
        ((5, tenacity.wait_fixed(1)), 4, 0.0, 1.0),
        ((5, tenacity.wait_fixed(1)), 5, 0.0, STANDS),
        ((), 1, 0.0, AGAIN),
        ((2,), 2, 0.0, STANDS),
    ],
)
def test_stops_and_waits(policy: object, attempt: int, ago: float, decision: float | None) -> None:
    """They decide for lost attempts when to end and how long to wait, in any order and combination."""
    assert decide(policy, attempt, WorkerDied("lost"), ago=ago) == decision


@pytest.mark.parametrize(
    ("outcome", "result", "decision"),
    [
        (ValueError("bad luck"), None, AGAIN),
        (KeyError("no"), None, STANDS),
        (WorkerDied("lost"), None, AGAIN),
        (container_lost(), None, AGAIN),
        (None, 7, STANDS),
    ],
)
def test_retry_if_exception_type(outcome: BaseException | None, result: object, decision: float | None) -> None:
    """A retry object says what else is tried again; lost attempts always are (DESIGN rule 3)."""
    assert decide(tenacity.retry_if_exception_type(ValueError), 1, outcome, result) == decision


@pytest.mark.parametrize(
    ("policy", "outcome", "result", "decision"),
    [
        (tenacity.retry_if_result(lambda result: result is None), None, None, AGAIN),
        (tenacity.retry_if_result(lambda result: result is None), None, 0, STANDS),
        (tenacity.retry_if_result(lambda result: result is None), ValueError(), None, STANDS),
        (tenacity.retry_if_not_exception_type(ValueError), TaskTimeout("late"), None, AGAIN),
        (tenacity.retry_if_not_exception_type(ValueError), ValueError(), None, STANDS),
        (tenacity.retry_if_exception_message(match="try again"), OSError("try again"), None, AGAIN),
        (tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_result(bool), None, 1, AGAIN),
        (tenacity.retry_if_exception_type(OSError) | tenacity.retry_if_result(bool), OSError(), None, AGAIN),
        (tenacity.retry_always, None, 1, AGAIN),
    ],
)
def test_retry_objects(policy: object, outcome: BaseException | None, result: object, decision: float | None) -> None:
    """Tenacity's conditions over results and exceptions, alone and combined."""
    assert decide(policy, 1, outcome, result) == decision
    assert RetryPolicy.of(policy).looks_at_results


@pytest.mark.parametrize(
    "policy",
    [
        1,
        (1, tenacity.wait_fixed(1), tenacity.retry_always),
        tenacity.stop_after_attempt(1),
        tenacity.stop_after_attempt(0),
        (tenacity.stop_after_attempt(1) | tenacity.stop_after_delay(60), tenacity.retry_always),
        tenacity.retry_never,
        (5, tenacity.retry_never),
        tenacity.Retrying(stop=tenacity.stop_after_attempt(1)),
    ],
    ids=str,
)
def test_never_again(policy: object) -> None:
    """However that is said it is one attempt, for lost ones too, and a gateway can be told so."""
    for outcome in (*LOST, *NOT_LOST, None):
        assert decide(policy, 1, outcome) is STANDS
    assert RetryPolicy.of(policy) == RetryPolicy.of(1)
    assert not RetryPolicy.of(policy).looks_at_results


@pytest.mark.parametrize(
    ("policy", "attempts", "stops"),
    [
        (tenacity.stop_after_attempt(4), 4, False),
        ((tenacity.stop_after_attempt(4), 9), 4, False),
        (tenacity.stop_after_delay(60) | tenacity.stop_after_attempt(4), 4, True),
        ((tenacity.stop_after_attempt(4), tenacity.stop_after_attempt(3)), 3, False),
        (tenacity.stop_after_delay(60), None, True),
        (tenacity.stop_after_attempt(4) & tenacity.stop_after_delay(60), None, True),
        (tenacity.stop_never, None, True),
    ],
)
def test_a_stop_that_is_a_number_is_known_as_one(policy: object, attempts: int | None, stops: bool) -> None:
    """So that a gateway can count, too."""
    policy = RetryPolicy.of(policy)
    assert (policy.attempts, policy.stop is not None) == (attempts, stops)


@pytest.mark.parametrize("error", [TaskKilled("by the user"), InitializerFailed("it raised")])
@pytest.mark.parametrize("policy", [tenacity.retry_always, tenacity.retry_if_exception_type()], ids=str)
def test_what_was_ended_on_purpose_is_not_tried_again(policy: object, error: BaseException) -> None:
    """`kill()` ends a task, and nothing runs where the initializer raised, whatever a retry object says."""
    assert decide((policy, tenacity.stop_never), 1, error) is STANDS


def test_a_retry_object_alone_keeps_the_number_of_attempts() -> None:
    """What is tried again changes; that there are three attempts does not."""
    always = tenacity.retry_always
    assert decide(always, DEFAULT_ATTEMPTS - 1, None) == AGAIN
    assert decide(always, DEFAULT_ATTEMPTS, None) is STANDS


def test_all_three_together() -> None:
    """A stop, a wait and a retry object each do their part."""
    policy = (
        tenacity.retry_if_exception_type(TaskTimeout),
        tenacity.wait_fixed(7),
        tenacity.stop_after_attempt(10),
    )
    assert decide(policy, 9, TaskTimeout("late")) == 7.0
    assert decide(policy, 10, TaskTimeout("late")) is STANDS
    assert decide(policy, 1, ValueError()) is STANDS


def test_a_number_beside_a_stop_counts_too() -> None:
    """What was given is not dropped: whichever comes first ends it."""
    policy = (3, tenacity.stop_after_delay(60))
    assert decide(policy, 2, WorkerDied("lost")) == AGAIN
    assert decide(policy, 3, WorkerDied("lost")) is STANDS
    assert decide(policy, 2, WorkerDied("lost"), ago=61.0) is STANDS


def test_several_stops_each_end_it() -> None:
    """Whichever comes first, as with tenacity's own `|`."""
    policy = (tenacity.stop_after_delay(60), tenacity.stop_after_attempt(4), tenacity.stop_before_delay(50))
    assert decide(policy, 3, WorkerDied("lost")) == AGAIN
    assert decide(policy, 4, WorkerDied("lost")) is STANDS
    assert decide(policy, 1, WorkerDied("lost"), ago=61.0) is STANDS
    assert decide((*policy, tenacity.wait_fixed(20)), 1, WorkerDied("lost"), ago=31.0) is STANDS
    assert decide((7, *policy, 2), 2, WorkerDied("lost")) is STANDS


def test_several_retry_objects_each_go_on() -> None:
    """As with tenacity's own `|`."""
    policy = (tenacity.retry_if_exception_type(OSError), tenacity.retry_if_result(lambda result: result is None))
    assert decide(policy, 1, OSError()) == decide(policy, 1, None, None) == AGAIN
    assert decide(policy, 1, ValueError()) is STANDS
    assert decide(policy, 1, None, 1) is STANDS


def test_two_waits_are_refused() -> None:
    """They might be meant to be added up or to follow each other; the error tells both ways out."""
    with pytest.raises(UsageError, match=r"has 2 waits; add them up with \+, or use wait_chain"):
        RetryPolicy.of((tenacity.wait_fixed(1), tenacity.wait_random(0, 1)))
    both = tenacity.wait_fixed(1) + tenacity.wait_fixed(2)
    assert decide((both, 5), 4, WorkerDied("lost")) == 3.0


@pytest.mark.parametrize("delay", [-1, float("nan")])
def test_a_wait_is_at_least_none(delay: float) -> None:
    """Whatever a user's own object says."""
    assert decide(tenacity.wait_fixed(delay), 1, WorkerDied("lost")) == AGAIN


def test_an_asynchronous_condition_is_refused() -> None:
    """Nobody would await it, and a coroutine counts as true."""

    async def soon(error: BaseException) -> bool:
        return False

    with pytest.raises(UsageError, match="is asynchronous, and nobody awaits it here"):
        RetryPolicy.of((tenacity.asyncio.retry_if_exception(soon), 5))
    with pytest.raises(UsageError, match="is asynchronous"):
        RetryPolicy.of(tenacity.AsyncRetrying(stop=soon))  # type: ignore[arg-type]


def test_a_whole_retrying_object_is_taken_apart() -> None:
    """Its stop, wait and retry count, with tenacity's own defaults; lost attempts are made again all the same."""
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(2),
        wait=tenacity.wait_fixed(4),
        retry=tenacity.retry_if_exception_type(OSError),
    )
    assert decide(retrying, 1, OSError()) == 4.0
    assert decide(retrying, 2, OSError()) is STANDS
    assert decide(retrying, 1, ValueError()) is STANDS
    assert decide(retrying, 1, WorkerDied("lost")) == 4.0
    assert decide(retrying, 2, WorkerDied("lost")) is STANDS
    assert decide(tenacity.Retrying(), 10**6, ValueError()) == AGAIN


def test_a_stop_event_ends_it() -> None:
    """Tenacity's event object is asked at each decision."""
    event = threading.Event()
    policy = RetryPolicy.of(tenacity.stop_when_event_set(event))
    assert policy.decide(1, 0.0, WorkerDied("lost")) == AGAIN
    event.set()
    assert policy.decide(1, 0.0, WorkerDied("lost")) is STANDS


def test_the_users_condition_sees_what_tenacity_shows() -> None:
    """Attempt number, outcome and the time since the first attempt are in the state."""
    seen: list[tenacity.RetryCallState] = []

    class Watches(tenacity.retry_base):
        def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
            seen.append(retry_state)
            return True

    error = ValueError("seen")
    assert decide(Watches(), 2, error, ago=50.0) == AGAIN
    (state,) = seen
    assert state.outcome is not None
    assert state.attempt_number == 2
    assert state.outcome.exception() is error
    assert state.seconds_since_start is not None
    assert 50.0 <= state.seconds_since_start < 60.0


def test_what_the_users_condition_raises_comes_out() -> None:
    """A defect in the user's own object is not hidden; the ledger makes it the task's."""

    def broken(result: object) -> bool:
        raise LookupError("in the user's condition")

    with pytest.raises(LookupError, match="in the user's condition"):
        decide(tenacity.retry_if_result(broken), 1, None)


@quickly
@given(st.integers(1, 50), st.sampled_from(LOST + NOT_LOST))
def test_a_number_is_the_number_of_attempts(attempts: int, error: BaseException) -> None:
    """Counting on as long as the decision says again, a task has exactly so many attempts; one when it is not lost."""
    attempt = 1
    while decide(attempts, attempt, error) is not None:
        attempt += 1
    assert attempt == (attempts if is_lost(error) else 1)


# -- values


@pytest.mark.parametrize("value", [0, -1, -(10**9)])
def test_no_attempts_is_refused(value: int) -> None:
    """The number counts the first attempt too, and the error says so."""
    with pytest.raises(UsageError, match=rf"retry is {value}; it counts all attempts, so it is 1"):
        RetryPolicy.of(value)
    with pytest.raises(UsageError, match="counts all attempts"):
        RetryPolicy.of((tenacity.wait_fixed(1), value))


@pytest.mark.parametrize(
    "value", [True, False, 2.0, "3", object(), ("3",), (3, None), [tenacity.stop_never, "soon"], {"attempts": 3}, len]
)
def test_what_is_no_policy_is_refused(value: object) -> None:
    """The error names the part that is not understood, and what may be given."""
    part = (
        next((part for part in value if not isinstance(part, (int, tenacity.stop.stop_base))), value)
        if (isinstance(value, (list, tuple)))
        else value
    )
    with pytest.raises(UsageError) as caught:
        RetryPolicy.of(value)
    assert str(caught.value).startswith(f"retry={part!r} is not understood; give a number of attempts")
    assert "stop_*" in str(caught.value)


def test_a_policy_is_a_policy_already() -> None:
    """What was read once is taken as it is."""
    policy = RetryPolicy.of(5)
    assert RetryPolicy.of(policy) is policy


def test_equal_policies_are_equal() -> None:
    """Policies of the same number are one dictionary key, and cannot be changed."""
    assert RetryPolicy.of(None) == RetryPolicy.of(DEFAULT_ATTEMPTS) == RetryPolicy()
    assert hash(RetryPolicy.of(2)) == hash(RetryPolicy.of(2))
    assert RetryPolicy.of(2) != RetryPolicy.of(3)
    with pytest.raises(FrozenInstanceError):
        RetryPolicy().attempts = 7  # type: ignore[misc]
