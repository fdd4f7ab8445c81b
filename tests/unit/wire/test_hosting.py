"""What gateways and hosts say to each other: it comes out as it went in, and garbage is refused by name."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meca_executor.wire.hosting import (
    APPS_MOST,
    GRACE_MOST_S,
    WORKERS_MOST,
    Introduction,
    Offer,
    pack_end,
    pack_look,
    pack_outcomes,
    pack_piece,
    pack_range,
    pack_records,
    unpack,
    unpack_end,
    unpack_look,
    unpack_outcomes,
    unpack_range,
)
from meca_executor.wire.records import MalformedBatch, Outcomes

WHOLE = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 2**32 - 1)
FIELDS: dict[str, Any] = {"name": "box", "workers": 2, "capacity": {"cpu": 2.5}, "grace": 60, "python": "3.11.2"}


@given(st.lists(st.tuples(WHOLE, SMALL, SMALL, st.binary(max_size=50))))
def test_records_come_out_as_they_went_in(records: list[tuple[int, int, int, bytes]]) -> None:
    """Any numbers and payloads."""
    assert unpack(pack_records(records)) == (records, None)


def test_a_piece_is_no_record() -> None:
    """It is handed on as the body that `blobs.Arriving` takes."""
    assert unpack(pack_piece((b"header", memoryview(b"content")))) == ([], b"headercontent")


@given(WHOLE, WHOLE, st.floats(0, 1e9), st.text(st.characters(codec="utf-8")))
def test_payloads_come_out_as_they_went_in(first: int, second: int, seconds: float, text: str) -> None:
    """Ranges, looks and ends."""
    assert unpack_range(pack_range(first, second)) == (first, second)
    assert unpack_look(pack_look(first, seconds)) == (first, seconds)
    assert unpack_end(pack_end(first, text)) == (first, text)


@given(WHOLE, SMALL, st.booleans(), st.binary(max_size=50))
def test_outcomes_come_out_as_they_went_in(micros: int, total: int, plain: bool, batch: bytes) -> None:
    """But for what is in shared memory, which does not leave the machine."""
    outcomes = Outcomes(batch, total, micros, plain)
    assert unpack_outcomes(pack_outcomes(outcomes)) == outcomes


@pytest.mark.parametrize("unpacked", [unpack_range, unpack_look, unpack_outcomes, unpack_end, unpack])
@pytest.mark.parametrize("garbage", [b"", b"abc"])
def test_garbage_is_refused(unpacked: Any, garbage: bytes) -> None:
    """By one error, which is a ValueError."""
    with pytest.raises(MalformedBatch):
        unpacked(garbage)


def test_a_look_has_a_time_whatever_was_sent() -> None:
    """No number of seconds that would judge a call wrongly."""
    assert unpack_look(pack_look(1, math.nan)) == (1, 0.0)
    assert unpack_look(pack_look(1, -5.0)) == (1, 0.0)


def test_an_introduction_comes_out_as_it_went_in() -> None:
    """By way of the hello, which is JSON."""
    told = Introduction.from_fields(FIELDS)
    assert told == Introduction("box", 2, {"cpu": 2.5}, 60.0, "3.11.2")
    assert Introduction.from_fields(told.fields()) == told


def test_what_a_host_has_for_containers_comes_out_as_it_went_in() -> None:
    """A host of before says nothing of it, and has nothing."""
    offer = Offer(True, frozenset({"mine:latest"}), frozenset({"knn:latest"}), frozenset({"microVM"}))
    told = replace(Introduction.from_fields(FIELDS), containers=offer)
    assert Introduction.from_fields(json.loads(json.dumps(told.fields()))) == told
    assert Introduction.from_fields(FIELDS).containers is None


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {},
        {**Offer().fields(), "engine": 1},
        {**Offer().fields(), "apps": "mine"},
        {**Offer().fields(), "apps": [5]},
        {**Offer().fields(), "examples": ["two words"]},
        {**Offer().fields(), "runtimes": [str(number) for number in range(APPS_MOST + 1)]},
        {"engine": True},
    ],
)
def test_an_offer_that_is_wrong_is_refused(wrong: object) -> None:
    """Whatever it is."""
    with pytest.raises(ValueError, match=r"host|name"):
        Introduction.from_fields({**FIELDS, "containers": wrong})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("name", "", "has 0 characters"),
        ("name", "a b", "space"),
        ("name", "x" * 200, "has 200 characters"),
        ("name", 5, "is not text"),
        ("workers", 0, "1 to 4096 workers"),
        ("workers", WORKERS_MOST + 1, "1 to 4096 workers"),
        ("workers", True, "1 to 4096 workers"),
        ("capacity", [], "capacity"),
        ("capacity", {"cpu": -1}, "capacity"),
        ("capacity", {"cpu": math.inf}, "capacity"),
        ("capacity", {"cpu": 10**400}, "capacity"),
        ("grace", 10**400, "grace"),
        ("grace", None, "grace"),
        ("grace", -1, "grace"),
        ("grace", GRACE_MOST_S + 1, "grace"),
        ("python", None, "Python"),
    ],
)
def test_an_introduction_that_is_wrong_is_refused_by_name(name: str, value: object, text: str) -> None:
    """The text says which value."""
    with pytest.raises(ValueError, match=text):
        Introduction.from_fields({**FIELDS, name: value})
    with pytest.raises(ValueError, match="object"):
        Introduction.from_fields(None)
