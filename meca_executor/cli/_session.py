"""An executor for the time of one command."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..client.executor import MecaExecutor


CONNECT_S = (
    5.0  #: for a gateway that was only just started; whoever waits at a terminal has less patience than a program
)


@contextmanager
def session(endpoint: str | None, **options: Any) -> Iterator[MecaExecutor]:
    """Give an executor, and close it so that an error or Ctrl-C does not wait for work that nobody wants any more.

    Args:
        endpoint: As `MecaExecutor` takes it.
        options: Further keyword arguments of `MecaExecutor`.
    """
    from ..client.executor import MecaExecutor

    executor = MecaExecutor(endpoint, connect_timeout=CONNECT_S, **options)
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=True, cancel_futures=True)
        raise
    executor.shutdown(wait=True)
