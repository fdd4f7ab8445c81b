"""Names of sessions and of their tasks."""

from __future__ import annotations

import pytest

from meca_executor import UsageError
from meca_executor.wire.sessions import GENERATIONS, checked_session, first_number, generation_of, task_text


@pytest.mark.parametrize("name", ["a", "night-run", "A.b_c-9", "x" * 64])
def test_names(name: str) -> None:
    assert checked_session(name) == name


@pytest.mark.parametrize("name", ["", "x" * 65, "a b", "a/b", "é", "a\n", None, 3])
def test_what_is_no_name(name: object) -> None:
    with pytest.raises(UsageError, match="1 to 64 characters"):
        checked_session(name)


def test_tasks_of_different_clients_have_different_numbers() -> None:
    """Below the bit that marks items of maps, and with names that tell the clients apart."""
    first, last = first_number(0), first_number(GENERATIONS - 1)
    assert (first, generation_of(last + 5)) == (1, GENERATIONS - 1)
    assert last + (1 << 39) < 1 << 63
    assert [task_text(number) for number in (1, 70, first_number(1), first_number(2) + 6)] == ["1", "70", "2-1", "3-7"]
