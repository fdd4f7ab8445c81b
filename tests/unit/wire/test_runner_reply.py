"""Replies of python-runner containers: what of them is read."""

from __future__ import annotations

import base64
import json
import pickle
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meca_executor import ProtocolMismatch, TaskFailed, UntrustedResult, UsageError, WorkerDied
from meca_executor.wire import runner
from meca_executor.wire.data import encode, encode_error
from meca_executor.wire.runner import decode_reply


class Evil:
    """Its pickle runs something when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import sys; sys.runner_pickle_ran = True",)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


EVIL = b64(pickle.dumps(Evil()))


@pytest.mark.parametrize(
    "outcome",
    [
        {"kind": "value", "pickle": EVIL},
        {"kind": "value", "data": EVIL},
        {"kind": "value", "data": EVIL, "pickle": EVIL},
        {"kind": "error", "pickle": EVIL},
        {"kind": "error", "data": EVIL},
        {"kind": "error", "data": b64(encode(pickle.dumps(Evil()))), "pickle": EVIL},
        {"kind": "error", "data": b64(encode(("ValueError", pickle.dumps(Evil()), "", "")))},
        {"kind": "pickle", "pickle": EVIL},
    ],
    ids=repr,
)
def test_no_pickle_is_read(outcome: dict[str, str]) -> None:
    got = decode_reply(json.dumps({"printed": [], "outcome": outcome}))
    assert type(got.error) is UntrustedResult
    assert got.value is None
    assert not hasattr(sys, "runner_pickle_ran")


def test_a_pickle_in_the_place_of_data_is_explained() -> None:
    error = decode_reply(json.dumps({"outcome": {"kind": "value", "pickle": EVIL}})).error
    assert "came as a pickle" in str(error)
    assert "was not read" in str(error)


def test_it_would_have_run() -> None:
    try:
        decode_reply(json.dumps({"outcome": {"kind": "value", "pickle": EVIL}}), trust="pickle")
        assert vars(sys).pop("runner_pickle_ran") is True
    finally:
        vars(sys).pop("runner_pickle_ran", None)


@pytest.mark.parametrize(
    ("kind", "error"),
    [("mismatch", ProtocolMismatch), ("died", WorkerDied), ("untrusted", UntrustedResult), ("failed", TaskFailed)],
)
def test_what_the_container_says(kind: str, error: type[Exception]) -> None:
    for trust in ("data", "pickle"):
        reply = json.dumps({"printed": [], "outcome": {"kind": kind, "text": "words\x1b[2J"}})
        got = decode_reply(reply, trust=trust)
        assert type(got.error) is error
        assert str(got.error) == "words"


def test_printed() -> None:
    printed = [["stdout", "a\x1b[31m\n"], ["stderr", "b"], ["stdout", "c"]]
    wrong = [["stdin", "d"], ["stdout"], "stdout", ["stdout", 1], None, [["stdout"], "e"], [{}, "f"]]
    reply = json.dumps({"printed": [*printed, *wrong], "outcome": {"kind": "value", "data": b64(encode(None))}})
    assert decode_reply(reply).printed == [("stdout", "a\n"), ("stderr", "b"), ("stdout", "c")]
    assert decode_reply(reply, trust="pickle").printed[0] == ("stdout", "a\n")
    assert decode_reply(reply, escapes=True).printed[0] == ("stdout", "a\x1b[31m\n")
    failed = json.dumps({"printed": printed, "outcome": {"kind": "died", "text": "words"}})
    assert len(decode_reply(failed).printed) == 3
    for other in ("text", 5, {"stdout": "a"}, None):
        assert decode_reply(json.dumps({"printed": other, "outcome": {"kind": "died"}})).printed == []


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"", "something else than the outcome"),
        (b"MECA not enough resources\x1b[2J", "the reply begins: 'MECA not enough resources'"),
        (b"<html>" * 1000, "begins: '<html>"),
        (b"\xff\xfe", "something else"),
        ("[" * 100_000, "something else"),
        ("1" * 5000, "something else"),
        ("[1]", "something else"),
        ("null", "something else"),
        ('{"outcome": [], "printed": []}', "something else"),
        ('{"error": "bad input: no call\\u001b[2J"}', "^the container refused the call: bad input: no call$"),
        ('{"error": 5}', "something else"),
    ],
)
def test_what_is_no_outcome(reply: bytes | str, words: str) -> None:
    outcome = decode_reply(reply)
    assert type(outcome.error) is TaskFailed
    with pytest.raises(TaskFailed, match=words):
        raise outcome.error
    assert len(str(outcome.error)) < 500


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(["value", "error", EVIL, b64(encode(1))]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["kind", "data", "pickle", "text", "printed", "outcome"]), inner)
    ),
    max_leaves=8,
)
outcomes = st.fixed_dictionaries(
    {}, optional={name: json_values for name in ("kind", "data", "pickle", "text")}
) | st.fixed_dictionaries(
    {"kind": st.sampled_from(["value", "error", *runner.FAILURES]), "data": st.binary().map(b64) | json_values}
)


@given(
    st.binary() | st.text() | st.builds(lambda o, p: json.dumps({"outcome": o, "printed": p}), outcomes, json_values)
)
def test_any_reply_is_an_outcome(reply: bytes | str) -> None:
    outcome = decode_reply(reply)
    assert outcome.value is None or outcome.error is None
    assert not hasattr(sys, "runner_pickle_ran")


@pytest.mark.parametrize(
    "content",
    [b"", b"no pickle", pickle.dumps(5), EVIL.encode(), b"\x80\x04\x8c\x0bnot_there_x\x94\x8c\x01f\x94\x93\x94."],
    ids=repr,
)
def test_pickles_that_cannot_be_read(content: bytes) -> None:
    for kind in ("value", "error"):
        data = b64(encode_error(ValueError("a"), "traceback"))
        got = decode_reply(
            json.dumps({"outcome": {"kind": kind, "pickle": b64(content), "data": data}}), trust="pickle"
        )
        if kind == "error":
            assert type(got.error) is ValueError
        elif content != pickle.dumps(5):
            assert type(got.error) is TaskFailed
            assert "cannot be unpickled here" in str(got.error)


def test_base64_that_is_none() -> None:
    for trust in ("data", "pickle"):
        for content in ("*", "a", None, 5, ["YQ=="]):
            reply = json.dumps({"outcome": {"kind": "error", "data": content}})
            error = decode_reply(reply, trust=trust).error
            assert type(error) is UntrustedResult


def test_allow_is_looked_at_first() -> None:
    with pytest.raises(UsageError, match="not a dataclass"):
        decode_reply(b"", allow=[int])
