"""Options of tasks: checked, combined, compared and written for the gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tenacity

from meca_executor import UsageError
from meca_executor.client.options import TaskOptions
from meca_executor.policy.retry import RetryPolicy


def test_what_is_given_is_put_in_and_the_rest_stays() -> None:
    """A view changes only what it names; None is a value."""
    first = TaskOptions().changed(timeout=5, retry=2, resource={"cpu": 1}, container_ref="knn:latest", runtime="runc")
    second = first.changed(timeout=None, resource=None)
    assert (first.timeout, first.retry, first.resource) == (5.0, RetryPolicy(2), (("cpu", 1),))
    assert (second.timeout, second.resource) == (None, ())
    assert (second.retry, second.container_ref, second.runtime) == (first.retry, "knn:latest", "runc")
    assert first.changed() is first


def test_equal_options_are_equal() -> None:
    """Whatever they were made of; so they share a number on the link."""
    one = TaskOptions().changed(timeout=5, resource={"memory": 1, "cpu": 2}, retry=3)
    same = TaskOptions().changed(resource={"cpu": 2, "mem": 1}).changed(timeout=5.0, retry=None)
    assert one == same
    assert hash(one) == hash(same)
    assert one != one.changed(timeout=6)


@pytest.mark.parametrize("timeout", [0, -1, 0.0, True, "5", float("nan"), [], object()])
def test_a_wrong_timeout_is_refused(timeout: object) -> None:
    """The error names the value and what is accepted."""
    with pytest.raises(UsageError, match="is not a positive number of seconds, or None for no limit") as caught:
        TaskOptions().changed(timeout=timeout)
    assert repr(timeout) in str(caught.value)


@pytest.mark.parametrize(("timeout", "stored"), [(1, 1.0), (0.001, 0.001), (None, None), (float("inf"), None)])
def test_a_timeout_is_seconds(timeout: float | None, stored: float | None) -> None:
    """Infinity is no limit."""
    assert TaskOptions().changed(timeout=timeout).timeout == stored


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"resource": 3}, "resource 3 is not a mapping"),
        ({"resource": {"ram": 1}}, "resource 'ram' is unknown; there are cpu"),
        ({"resource": {"cpu": -1}}, "resource cpu=-1 is not a number of at least 0"),
        ({"resource": {"cpu": True}}, "resource cpu=True"),
        ({"resource": {"cpu": float("nan")}}, "resource cpu=nan"),
        ({"resource": {"gpu": float("inf")}}, "resource gpu=inf"),
        ({"resource": {"cpu": "1"}}, "resource cpu='1'"),
        ({"container_ref": ""}, "container name '' is not an image name"),
        ({"container_ref": "two words"}, "container name 'two words'"),
        ({"container_ref": 7}, "container name 7"),
        ({"runtime": 7}, "runtime 7 is not a name"),
        ({"retry": 0}, "retry is 0"),
        ({"retry": "often"}, "retry='often' is not understood"),
    ],
)
def test_wrong_values_are_refused_in_words(given: dict[str, Any], words: str) -> None:
    """Each error names the value."""
    with pytest.raises(UsageError) as caught:
        TaskOptions().changed(**given)
    assert words in str(caught.value)


def test_a_container_counts_before_the_executor() -> None:
    """Its own resource and runtime, where it has them; else the executor's."""
    options = TaskOptions().changed(resource={"cpu": 1}, runtime="runc", timeout=3)
    own = options.calling("knn:latest", {"memory": 5}, "runsc")
    assert (own.resource, own.runtime, own.timeout) == ((("memory", 5),), "runsc", 3.0)
    plain = options.calling("knn:latest", {}, None)
    assert (plain.resource, plain.runtime) == ((("cpu", 1),), "runc")
    assert (plain.container_ref, plain.called) == ("knn:latest", True)


def test_the_gateway_is_told_what_it_has_to_know() -> None:
    """What is not set is not sent; of retries only a number is; an image of functions is not a call of it."""
    assert json.loads(TaskOptions().wire()) == {"attempts": 3}
    options = TaskOptions().changed(timeout=2, retry=tenacity.wait_fixed(1), resource={"cpu": 1, "gpu": 0})
    assert json.loads(options.wire()) == {"timeout": 2.0, "resource": {"cpu": 1, "gpu": 0}, "attempts": 3}
    assert json.loads(options.changed(container_ref="knn:latest").wire()) == json.loads(options.wire())
    called = options.calling("knn:latest", {}, "runsc")
    assert json.loads(called.wire()) == {
        **json.loads(options.wire()),
        "container_ref": "knn:latest",
        "runtime": "runsc",
    }


def test_variables_of_a_view_add_to_those_before_and_none_ends_them() -> None:
    """A later value of a name counts; a folder is replaced."""
    first = TaskOptions().changed(env={"A": "1", "B": "2"}, cwd=Path("/tmp"))
    second = first.changed(env={"B": "3"})
    assert (dict(second.env), second.cwd, second.surrounds) == ({"A": "1", "B": "3"}, "/tmp", True)
    assert first.changed(env=None, cwd=None) == TaskOptions()
    assert not TaskOptions().surrounds
    assert first.wire() == TaskOptions().wire(), "they travel with the calls"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"env": "A=1"}, "env 'A=1' is not a mapping of names to texts"),
        ({"env": {1: "x"}}, "env 1 is not a variable's name"),
        ({"env": {"": "x"}}, "env '' is not a variable's name"),
        ({"env": {"A=B": "x"}}, "env 'A=B' is not a variable's name"),
        ({"env": {"A": 1}}, "env A: its value is int, not text; give a str"),
        ({"env": {"A": "x\0y"}}, "env A: its value has a zero byte"),
        ({"env": {"MECA_SECRET_KEY": "x"}}, "env MECA_SECRET_KEY: the settings of this package"),
        ({"env": {"SORNA_X": "x"}}, "env SORNA_X: the settings of this package"),
        ({"cwd": 3}, "cwd 3 is not the path of a folder"),
        ({"cwd": ""}, "cwd '' is not the path of a folder"),
        ({"cwd": b"/tmp"}, "cwd b'/tmp' is not the path of a folder"),
    ],
)
def test_wrong_surroundings_are_refused(given: dict[str, Any], words: str) -> None:
    """Each with its name, and without values of variables, which may be secret."""
    with pytest.raises(UsageError) as caught:
        TaskOptions().changed(**given)
    assert str(caught.value).startswith(words)
