"""Whether a host can ever run a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

UNITS = {"cpu": "cores", "memory": "MiB of memory", "gpu": "GPUs"}


def why_never(resource: Mapping[str, float], capacity: Mapping[str, float]) -> str | None:
    """Return why a task with these needs can never run here, or None when it can.

    Args:
        resource: What the task needs: `cpu`, `memory` (MiB), `gpu`.
        capacity: What the host has of each; what is not named is not there.
    """
    for name, wanted in resource.items():
        has = capacity.get(name, 0)
        if wanted > has:
            return f"the task needs {_amount(wanted)} {UNITS.get(name, name)}, and this host has {_amount(has)}"
    return None


def _amount(number: float) -> str:
    """A number as people write it; no digit that makes a difference is left out."""
    return f"{number:,}".removesuffix(".0")
