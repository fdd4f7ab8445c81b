"""The ledger: tasks that the gateway would not take are offered again, and that is no attempt."""

from __future__ import annotations

import pytest
import tenacity

from meca_executor import GatewayRefused, TaskKilled
from meca_executor.policy.refusals import FIRST_S, LIMIT_S, Refusals
from meca_executor.wire.calls import dumps
from meca_executor.wire.records import Record, Status

from .clients import Client, gone, nothing_is_out, numbers_of

FULL = b"the journal is full"


class Refusing(Client):
    """A client whose time for pauses is set by hand."""

    def __init__(self, slots: int = 2) -> None:
        super().__init__(slots)
        self.now = 1000.0
        self.ledger.refused.policy = Refusals(lambda: self.now)

    def wait(self) -> None:
        """Let the pause pass."""
        self.now += self.ledger.refused.policy.wait()


def busy(number: int | None) -> Record:
    """Return the record of a refusal."""
    assert number is not None
    return number, int(Status.BUSY), 0, FULL


def test_it_is_offered_again_after_a_pause_and_that_is_no_attempt() -> None:
    """Also with `retry=1`: nothing of it has begun."""
    client = Refusing()
    future, behind = client.out(retry=1), client.add()
    for _ in range(10):
        assert client.settle(future, Status.BUSY, FULL) == []
        assert future.running() and future.attempts == ()
        assert client.hand_over() == []
        client.wait()
        assert client.hand_over() == [future.number, behind.number]
        client.settle(behind, Status.BUSY, FULL)
    assert client.hand_over() == []
    client.done(future, 7)
    assert future.result(0) == 7
    assert len(future.attempts) == 1


def test_the_order_stays() -> None:
    client = Refusing(slots=5)
    futures = [client.add() for _ in range(6)]
    assert client.hand_over() == [future.number for future in futures]
    client.ledger.settle([busy(future.number) for future in futures[:4]])
    client.wait()
    assert client.hand_over() == [future.number for future in futures[:4]]


def test_items_of_a_map() -> None:
    """They are offered as tasks of their own; what was taken goes on in its chunk."""
    client = Refusing(slots=5)
    chunk = client.add_chunk(3)
    numbers = numbers_of(chunk)
    assert client.hand_over() == numbers
    client.ledger.settle([busy(numbers[0]), (numbers[1], int(Status.OK), 5, dumps("one")), busy(numbers[2])])
    client.wait()
    again = client.hand_over()
    assert len(again) == 2 and not set(again) & set(numbers)
    client.settle_numbers(again, "again")
    assert [getattr(value, "future", value) for value in chunk.values][1] == "one"
    assert [chunk.values[index].future.result(0) for index in (0, 2)] == ["again", "again"]
    assert client.ledger.idle and nothing_is_out(client)


def test_after_a_minute_it_is_an_error_that_says_so() -> None:
    """The rest of the queue does not wait another minute each."""
    client = Refusing(slots=1)
    futures = [client.add() for _ in range(10)]
    began = client.now
    while not all(future.done() for future in futures):
        client.wait()
        client.ledger.settle([busy(number) for number in client.hand_over()])
    assert LIMIT_S < client.now - began < LIMIT_S + 10.0
    for future in futures:
        with pytest.raises(GatewayRefused, match=rf"task {future.number}: .* full \(it has taken nothing for 60 s\)"):
            future.result(0)


def test_a_stop_of_the_task() -> None:
    client = Refusing()
    future = client.out(retry=tenacity.stop_after_delay(0.0))
    client.settle(future, Status.BUSY, FULL)
    with pytest.raises(GatewayRefused, match="retry= says that it is enough"):
        future.result(0)


def test_no_cancelled_one_is_offered_and_a_refused_one_cannot_be_cancelled() -> None:
    """It counted as running before; `kill` ends it in the queue."""
    client = Refusing()
    future, behind = client.out(), client.add()
    client.settle(future, Status.BUSY, FULL)
    assert not future.cancel() and behind.cancel()
    assert future.number is not None
    assert not client.ledger.kill(future.number)
    assert isinstance(future.exception(0), TaskKilled)
    client.wait()
    assert client.hand_over() == []
    assert client.ledger.idle


def test_one_that_was_to_be_ended_is_not_offered_again() -> None:
    client = Refusing()
    future = client.out()
    assert future.number is not None
    assert client.ledger.kill(future.number)
    client.settle(future, Status.BUSY, FULL)
    assert isinstance(future.exception(0), TaskKilled)
    assert client.ledger.idle


def test_an_end_that_cancels_does_not_wait() -> None:
    """`shutdown(cancel_futures=True)`: the next refusal is an error."""
    client = Refusing()
    future = client.out()
    client.settle(future, Status.BUSY, FULL)
    client.ledger.cancel_queued()
    client.wait()
    assert client.hand_over() == [future.number]
    client.settle(future, Status.BUSY, FULL)
    with pytest.raises(GatewayRefused, match="the executor is shut down"):
        future.result(0)


def test_when_nothing_more_will_come_they_fail_too() -> None:
    client = Refusing()
    future = client.out()
    client.settle(future, Status.BUSY, FULL)
    client.ledger.fail_all(gone)
    assert type(future.exception(0)) is type(gone())


def test_outcomes_of_others_keep_it_waiting() -> None:
    """As long as there are any, there may soon be room."""
    client = Refusing(slots=1)
    first, second = client.add(), client.add()
    client.hand_over()
    for _ in range(40):
        client.settle(second, Status.BUSY, FULL)
        client.done(first)
        first = client.add()
        client.now += max(5.0, client.ledger.refused.policy.wait())
        assert client.hand_over() == [second.number, first.number]
    assert not second.done()
    assert client.ledger.refused.policy.wait() <= max(FIRST_S, 5.0)
