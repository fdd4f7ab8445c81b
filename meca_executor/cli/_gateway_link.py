"""A link to the gateway where kept kernels are, for the time of one command."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ..client.kernels import hold_link, let_go
from ..client.portal import portal
from ..errors import KernelError
from ..kernel import find_place
from ..settings import resolve_endpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from ..client.kernel_link import KernelLink

T = TypeVar("T")
CONNECT_S = 5.0


def with_link(endpoint: str | None, work: Callable[[KernelLink], Coroutine[Any, Any, T]], *, start: bool = False) -> T:
    """Return what some work with the link gives.

    Args:
        start: Start the background gateway when it does not run.

    Raises:
        KernelError: There is no endpoint, and no background gateway runs.
    """
    if resolve_endpoint(endpoint) is None and not start:
        from ..background import running

        if running() is None:
            raise KernelError("no kernel is kept: there is no endpoint, and no background gateway runs")
    url, keys = find_place(endpoint, kept=True)

    async def live() -> T:
        link = await hold_link(url, keys, CONNECT_S, 60.0)
        try:
            return await work(link)
        finally:
            await let_go(link)

    portal.hold()
    try:
        return portal.submit(live()).result()
    finally:
        portal.release()
