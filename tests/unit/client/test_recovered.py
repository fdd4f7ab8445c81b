"""Recovered tasks: futures for what others left, each with one outcome."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import GatewayLost, MecaFuture, ResultGone, TaskFailed, WorkerDied
from meca_executor.client.recovered import Recovered
from meca_executor.wire.records import COUNTED, Record, Status
from meca_executor.wire.sessions import Reading, State, first_number

if TYPE_CHECKING:
    from collections.abc import Iterable

OWN = first_number(1)


class Claimed:
    """What was recovered, and the futures."""

    def __init__(self) -> None:
        self.recovered = Recovered("http://edge", lambda reply, log: ("function", reply))
        self.futures: dict[str, MecaFuture[Any]] = {}
        self.wanted: list[int] = []

    def take(self, records: Iterable[Record], own: dict[int, MecaFuture[Any]] | None = None) -> None:
        self.futures, self.wanted = self.recovered.take([(0, 0, 0, b""), *records], own or {}, 5.0)

    def settle(self, number: int, status: int, payload: bytes, micros: int = 3) -> None:
        self.recovered.settle((number, status, micros, payload), lambda payload: None, 6.0)


def listed(number: int, state: State = State.OPEN, reading: Reading = Reading.CALL, name: bytes = b"") -> Record:
    return number, int(reading), int(state), name


def test_names() -> None:
    """What the user gave, else the number; of those with the same one all are there."""
    claimed = Claimed()
    own: MecaFuture[Any] = MecaFuture()
    own.number, own.given_id = OWN, "a"
    claimed.take([listed(1), listed(2, name=b"a"), listed(3, name=b"1"), listed(OWN, name=b"a")], {OWN: own})
    assert list(claimed.futures) == ["1", "a", "1#3", f"a#{OWN}"]
    assert claimed.futures[f"a#{OWN}"] is own
    assert claimed.wanted == [1, 2, 3]
    assert all(future.running() for name, future in claimed.futures.items() if future is not own)


@pytest.mark.parametrize(
    ("reading", "status", "payload", "value"),
    [
        (Reading.CALL, Status.OK, pickle.dumps([1]), [1]),
        (Reading.TEXT, Status.REPLY, b'{"a": 1}', '{"a": 1}'),
        (Reading.JSON, Status.REPLY, b'{"a": 1}', {"a": 1}),
        (Reading.BYTES, Status.REPLY, b"AAE=", b"\0\1"),
        (Reading.OWN, Status.REPLY, b"text", "text"),
        (Reading.FUNCTION, Status.REPLY, b"reply", ("function", b"reply")),
    ],
)
def test_how_outcomes_are_read(reading: Reading, status: int, payload: bytes, value: object) -> None:
    """As the program that submitted the task would have done, where that is known."""
    claimed = Claimed()
    claimed.take([listed(1, reading=reading)])
    claimed.settle(1, status, payload)
    assert claimed.futures["1"].result(0) == value
    assert len(claimed.recovered) == 0


def test_each_has_one_outcome() -> None:
    """What comes twice, or is of no task, is ignored; asked again, those that somebody holds are the same."""
    claimed = Claimed()
    claimed.take([listed(1), listed(2)])
    first = dict(claimed.futures)
    claimed.settle(1, Status.OK, pickle.dumps("first"))
    claimed.settle(1, Status.OK, pickle.dumps("second"))
    claimed.settle(9, Status.OK, pickle.dumps("nobody's"))
    claimed.take([listed(1, State.DONE), listed(2)])
    assert claimed.futures == first
    assert claimed.wanted == [2]
    assert first["1"].result(0) == "first"
    del first
    claimed.futures.clear()
    claimed.take([listed(1, State.DONE)])
    assert claimed.wanted == [
        1,
    ]


def test_what_is_kept_no_longer() -> None:
    """Said at once, also of what goes after it was listed."""
    claimed = Claimed()
    claimed.take([listed(1, State.GONE), listed(2, State.DONE)])
    assert claimed.wanted == [2]
    claimed.recovered.gone(2, 6.0)
    for name in ("1", "2"):
        with pytest.raises(ResultGone, match=rf"task {name}: .*keeps it no longer"):
            claimed.futures[name].result(0)


def test_failures() -> None:
    """In words that name the task; attempts that the gateway made are counted."""
    claimed = Claimed()
    claimed.take([listed(1), listed(2, reading=Reading.JSON), listed(3)])
    claimed.settle(1, Status.DIED | COUNTED, b"exit code 9", micros=3)
    claimed.settle(2, Status.REPLY, b"no json")
    claimed.recovered.fail_all(lambda: GatewayLost("it ended"), 7.0)
    assert isinstance(claimed.futures["1"].exception(0), WorkerDied)
    assert len(claimed.futures["1"].attempts) == 3
    assert isinstance(claimed.futures["2"].exception(0), TaskFailed)
    with pytest.raises(GatewayLost, match="task 3: it ended"):
        claimed.futures["3"].result(0)
    assert len(claimed.recovered) == 0


def test_kill() -> None:
    """Only of what is open."""
    claimed = Claimed()
    claimed.take([listed(1)])
    assert claimed.recovered.kill(1)
    claimed.settle(1, Status.KILLED, b"ended by kill()")
    assert not claimed.recovered.kill(1)
    assert not claimed.recovered.kill(2)
