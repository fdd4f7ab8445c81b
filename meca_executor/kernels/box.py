"""What makes containers for kernels, and a container as the engine has it: ports, which a runtime fills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Screen(Protocol):
    """A terminal in a container."""

    #: both its ends for us
    descriptor: int

    async def resize(self, rows: int, columns: int) -> None:
        """Set its size."""

    def close(self) -> None:
        """Close it."""


class Box(Protocol):
    """A container as the engine has it."""

    async def begin(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start a process in it, and wait for nothing."""

    async def begin_screen(self, argv: Sequence[str], environ: Mapping[str, str]) -> Screen:
        """Start one in a terminal."""

    async def close(self) -> None:
        """Remove it, with all that runs in it."""


class Boxes(Protocol):
    """What makes containers; each method may raise a KernelError that says why there is none."""

    async def have(self, image: str) -> None:
        """See to it that an image is there."""

    async def make(
        self,
        image: str,
        first: Sequence[str],
        folders: Mapping[str, str],
        environ: Mapping[str, str],
        memory_mib: float | None,
        open_files: int,
    ) -> Box:
        """Start a container.

        Args:
            image: What it is made from.
            first: Its first process, which gets an input that ends with this process.
            folders: What it has of this machine: here -> there; programs run in the first.
            environ: Of its programs.
            memory_mib: What it may have; None is no limit.
            open_files: That a process may have.
        """
