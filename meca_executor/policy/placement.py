"""Whether a host can ever run a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UNITS = {"cpu": "cores", "memory": "MiB of memory", "gpu": "GPUs"}


def why_never(resource: Mapping[str, float], capacity: Mapping[str, float]) -> str | None:
    """Return why a task with these needs can never run here, or None when it can.

    Args:
        resource: What the task needs: `cpu`, `memory` (MiB), `gpu`.
        capacity: What the host has of each; what is not named is not there.
    """
    return why_nowhere(resource, [capacity])


def why_nowhere(resource: Mapping[str, float], capacities: Sequence[Mapping[str, float]]) -> str | None:
    """Return why no host can ever run a task with these needs, with the best there is; None when one can.

    Args:
        resource: As `why_never`.
        capacities: What each host has; one at least.
    """
    if any(all(wanted <= has.get(name, 0) for name, wanted in resource.items()) for has in capacities):
        return None
    whose = "this host has" if len(capacities) == 1 else "the best host has"
    for name, wanted in resource.items():
        best = max(has.get(name, 0) for has in capacities)
        if wanted > best:
            return f"the task needs {_told(name, wanted)}, and {whose} {_amount(best)}"
    together = " and ".join(_told(name, wanted) for name, wanted in resource.items())
    return f"the task needs {together}, and none of {len(capacities)} hosts has all of that"


def _told(name: str, number: float) -> str:
    return f"{_amount(number)} {UNITS.get(name, name)}"


def _amount(number: float) -> str:
    """A number as people write it; no digit that makes a difference is left out."""
    return f"{number:,}".removesuffix(".0")
