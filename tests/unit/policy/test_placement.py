"""Whether a host can ever run a task."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meca_executor.policy.placement import UNITS, why_never

HOST = {"cpu": 4, "memory": 1024.0}

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)


@pytest.mark.parametrize("resource", [{}, {"cpu": 4}, {"cpu": 0.5, "memory": 1024}, {"gpu": 0}])
def test_what_fits(resource: dict[str, float]) -> None:
    """Up to exactly what the host has; zero of what it has not."""
    assert why_never(resource, HOST) is None


@pytest.mark.parametrize(
    ("resource", "why"),
    [
        ({"cpu": 5}, "the task needs 5 cores, and this host has 4"),
        ({"cpu": 4.5}, "the task needs 4.5 cores, and this host has 4"),
        ({"cpu": 1, "memory": 2048}, "the task needs 2,048 MiB of memory, and this host has 1,024"),
        ({"gpu": 1}, "the task needs 1 GPUs, and this host has 0"),
        ({"fpga": 2}, "the task needs 2 fpga, and this host has 0"),
    ],
)
def test_what_never_fits_is_told(resource: dict[str, float], why: str) -> None:
    """The text names what is wanted and what there is, in its unit."""
    assert why_never(resource, HOST) == why


def test_a_host_of_unknown_size_refuses_nothing() -> None:
    """A capacity that is not known is infinite."""
    assert why_never({"memory": 10**9}, {"memory": float("inf")}) is None


@quickly
@given(st.dictionaries(st.sampled_from([*UNITS, "other"]), st.integers(0) | st.floats(0)))
def test_any_number_has_an_answer(resource: dict[str, float]) -> None:
    """Numbers of any size come over the wire; none of them is an error."""
    why = why_never(resource, HOST)
    assert (why is None) == all(wanted <= HOST.get(name, 0) for name, wanted in resource.items() if wanted == wanted)


@pytest.mark.parametrize("wanted", [10**400, float("inf"), 1e300])
def test_a_number_of_any_size_has_an_answer(wanted: float) -> None:
    """JSON has integers of any length, and Python's reads Infinity; the gateway goes on."""
    assert why_never({"memory": wanted}, HOST) is not None


@pytest.mark.parametrize(("wanted", "has"), [(1024.4, 1024.0), (4.04, 4), (0.26, 0.25), (1e6 + 0.3, 1e6)])
def test_the_two_numbers_are_not_shown_as_equal(wanted: float, has: float) -> None:
    """Who reads that 1,024 is more than 1,024 learns nothing."""
    why = why_never({"memory": wanted}, {"memory": has})
    assert why is not None
    shown = [word for word in why.split() if word[0].isdigit()]
    assert len(set(shown)) == 2, why
