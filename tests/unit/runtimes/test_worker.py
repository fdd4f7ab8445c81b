"""What a worker makes of an exception, without a process."""

from __future__ import annotations

import contextlib
import os
import socket
from dataclasses import dataclass

from meca_executor.runtimes.board import Board, make_file
from meca_executor.runtimes.pipe import PREFIX, SUMMARY
from meca_executor.runtimes.printing import Printing
from meca_executor.runtimes.worker import Worker, raised
from meca_executor.wire.calls import NO_DEFINITION, load_exception
from meca_executor.wire.records import Kind, Status, decode


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as again:
        return again


@dataclass(frozen=True)
class Frozen(Exception):
    """An exception that refuses every new attribute, `__traceback__` too."""

    code: int

    def __reduce__(self) -> tuple[type[Frozen], tuple[int]]:
        return Frozen, (self.code,)


def test_an_exception_is_the_outcome_and_lets_go_of_its_frames() -> None:
    """The frames hold the call's arguments, which would else live until the next call."""
    error = caught(ValueError("words"))
    status, payload = raised(error)
    assert status is Status.RAISED
    assert str(load_exception(payload)) == "words"
    assert error.__traceback__ is None


def test_a_frozen_exception_does_not_end_the_worker() -> None:
    """It refuses to have its traceback taken away by assignment; that is no reason to die."""
    status, payload = raised(caught(Frozen(3)))
    assert status is Status.RAISED
    error = load_exception(payload)
    assert isinstance(error, Frozen)
    assert error.code == 3


def test_an_exception_that_cannot_travel_is_a_failure() -> None:
    """Its text is the outcome."""

    class Unpicklable(Exception):
        def __reduce__(self) -> str:
            raise TypeError("no")

    status, payload = raised(caught(Unpicklable("words")))
    assert status is Status.FAILED
    assert b"words" in payload


def test_a_call_of_no_bytes_is_a_failed_call() -> None:
    """A proved client may send anything; it costs that call and not the worker."""
    handle = make_file()
    page = Board.of(handle)
    os.close(handle)
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.closing(page):
        worker = Worker(theirs, page, "", Printing())
        worker._run_group(1, NO_DEFINITION, [(5, 0, 0, b"")])
        _, kind = PREFIX.unpack(ours.recv(PREFIX.size))
        ((task, status, _, _),) = decode(ours.recv(1 << 16)[SUMMARY.size :])
        worker._pipe.close()
    assert (kind, task) == (Kind.RESULTS, 5)
    assert status in (Status.RAISED, Status.FAILED)
