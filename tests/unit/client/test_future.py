"""The future of a task: cancelled here or handed over, never both."""

from __future__ import annotations

from concurrent.futures import ALL_COMPLETED, CancelledError, Future, wait

import pytest

from meca_executor.client.future import MecaFuture


def test_it_is_made_as_the_stdlibs_is() -> None:
    """No arguments, and the repr of `concurrent.futures`."""
    future: MecaFuture[int] = MecaFuture()
    assert isinstance(future, Future)
    assert repr(future).startswith("<MecaFuture at ")
    assert "state=pending" in repr(future)


def test_its_name_is_the_given_one_or_the_number() -> None:
    """None as long as there is no task."""
    future: MecaFuture[int] = MecaFuture()
    assert future.task_id is None
    future.number = 7
    assert future.task_id == "7"
    future.given_id = "night run"
    assert future.task_id == "night run"


def test_cancel_before_the_claim() -> None:
    """Who cancels first wins: the link cannot claim it any more, and waiters are told at once."""
    future: MecaFuture[int] = MecaFuture()
    called: list[object] = []
    future.add_done_callback(called.append)
    assert future.cancel() is True
    assert future.claim() is False
    assert called == [future]
    assert wait([future], timeout=0, return_when=ALL_COMPLETED).done == {future}
    with pytest.raises(CancelledError):
        future.result(0)


def test_claim_before_cancel() -> None:
    """What was handed over counts as running."""
    future: MecaFuture[int] = MecaFuture()
    assert future.claim() is True
    assert future.running()
    assert future.cancel() is False
    assert future.claim() is False
    future.set_result(1)
    assert future.cancel() is False
    assert future.result(0) == 1


def test_cancel_twice() -> None:
    """It stays cancelled, and callbacks are called once."""
    future: MecaFuture[int] = MecaFuture()
    called: list[object] = []
    future.add_done_callback(called.append)
    assert [future.cancel(), future.cancel()] == [True, True]
    assert called == [future]
    assert future.cancelled()


def test_a_callback_may_ask_the_future() -> None:
    """It runs without the future's lock being in the way."""
    future: MecaFuture[int] = MecaFuture()
    seen: list[object] = []
    future.add_done_callback(lambda done: seen.append((done.cancelled(), done.cancel())))
    future.cancel()
    assert seen == [(True, True)]


@pytest.mark.parametrize("first", ["accept", "ask"])
def test_acceptance_is_told_whoever_is_first(first: str) -> None:
    """The old dialect's word that a task was taken reaches who asked before and who asks after."""
    future: MecaFuture[int] = MecaFuture()
    told: list[str] = []
    if first == "accept":
        future.accept()
    future.when_accepted(lambda: told.append("accepted"))
    if first == "ask":
        future.accept()
    assert told == ["accepted"]
    assert future.accepted
