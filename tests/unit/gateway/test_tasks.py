"""What the gateway reads of a client's options, and what it keeps of a session."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meca_executor.client.options import TaskOptions
from meca_executor.gateway.tasks import DEFINITIONS_MOST, BrokerSession, Options, Pool


def test_nothing_is_the_default() -> None:
    """No field is no limit, no container, no runtime and no needs."""
    assert Options.from_fields({}) == Options(None, None, None, {})


def test_every_field_is_read() -> None:
    """All that a client may say."""
    fields = {"timeout": 2.5, "container_ref": "knn:latest", "runtime": "runsc", "resource": {"cpu": 1, "memory": 256}}
    assert Options.from_fields(fields) == Options(2.5, "knn:latest", "runsc", {"cpu": 1, "memory": 256})


@pytest.mark.parametrize("timeout", [0, -1, "3", [], float("nan")])
def test_a_timeout_that_is_no_positive_number_is_refused(timeout: object) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match="is not a positive number of seconds"):
        Options.from_fields({"timeout": timeout})


@pytest.mark.parametrize("resource", ["cpu", [1], {"cpu": "1"}, {"cpu": None}])
def test_a_resource_that_is_no_object_of_numbers_is_refused(resource: object) -> None:
    """The error names the value."""
    with pytest.raises(ValueError, match="is not an object of numbers"):
        Options.from_fields({"resource": resource})


@pytest.mark.parametrize("fields", [{"container_ref": 7}, {"container_ref": ["knn"]}, {"runtime": 7}, {"runtime": {}}])
def test_a_name_that_is_no_text_is_refused(fields: dict[str, Any]) -> None:
    """Names come from outside too: only text is one."""
    with pytest.raises(ValueError):
        Options.from_fields(fields)


@pytest.mark.parametrize("value", [[], 7, "text", None])
def test_what_is_no_object_is_refused(value: Any) -> None:
    """The JSON of an options record may be anything; the server catches a ValueError and nothing else."""
    with pytest.raises(ValueError):
        Options.from_fields(value)


def test_what_the_client_writes_the_gateway_reads() -> None:
    """The two sides of the wire agree."""
    options = TaskOptions().changed(timeout=4, resource={"cpu": 2, "mem": 512}, runtime="runc")
    called = options.calling("knn:latest", {"gpu": 1}, None)
    assert Options.from_fields(json.loads(options.wire())) == Options(4.0, None, "runc", {"cpu": 2, "memory": 512}, 3)
    assert Options.from_fields(json.loads(called.wire())) == Options(4.0, "knn:latest", "runc", {"gpu": 1}, 3)
    assert Options.from_fields(json.loads(TaskOptions().wire())) == Options(attempts=3)


def test_a_session_has_so_many_functions_and_no_more() -> None:
    """A client cannot fill the gateway's memory with them."""
    session = BrokerSession("s", Pool("p", b""), 1)
    for number in range(DEFINITIONS_MOST):
        session.define(number, number)
    with pytest.raises(ValueError, match="a session has 100,000 functions at most"):
        session.define(DEFINITIONS_MOST, 1)
