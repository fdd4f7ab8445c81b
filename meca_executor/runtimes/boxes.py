"""Containers of kernels: one each, for as long as the kernel lives; as `kernels.boxed.Boxes` and `Box` have them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import KernelError, UsageError
from .container import LIMIT_S, Failure
from .engine import BoxPlan, Engine, EngineError, Plan, in_thread
from .engine_boxes import execute, execute_in_terminal, hold, resize
from .engine_settings import NO_ENGINE, container_name, full_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .containers import Containers
    from .engine_boxes import Held

log = logging.getLogger("meca.containers")


class Boxes:
    """Makes containers for kernels.

    Args:
        containers: Those of the engine, with its images.
    """

    def __init__(self, containers: Containers) -> None:
        self._containers = containers

    async def have(self, image: str) -> None:
        """See to it that an image is there.

        Raises:
            KernelError: There is no engine, or it cannot get the image.
        """
        await self._engine(image)

    async def _engine(self, image: str) -> Engine:
        if self._containers.url is None:
            raise KernelError(f"no kernel is isolated here: {NO_ENGINE}")
        engine = await asyncio.shield(self._containers.prepared(full_name(image)))
        if isinstance(engine, Failure):
            raise KernelError(f"no kernel is isolated here: the image {image} {engine.text}")
        return engine

    async def make(
        self,
        image: str,
        first: Sequence[str],
        folders: Mapping[str, str],
        environ: Mapping[str, str],
        memory_mib: float | None,
        open_files: int,
    ) -> EngineBox:
        """Start a container.

        Args:
            image: What it is made from.
            first: Its first process, which gets an input that ends with this process.
            folders: What it has of this machine: here -> there; programs run in the first.
            environ: Of its programs.
            memory_mib: What it may have; None is no limit.
            open_files: That a process may have.

        Raises:
            KernelError: The engine does not start it.
        """
        engine = await self._engine(image)
        resource = {} if memory_mib is None else {"memory": float(memory_mib)}
        box = BoxPlan(tuple(first), dict(folders), next(iter(folders.values())), dict(environ), open_files)
        name = container_name(image, f"kernel-{secrets.token_hex(6)}")
        plan = Plan(name, image, None, resource, box=box)
        made = EngineBox(engine, name)
        try:
            await asked(partial(engine.create, plan), "create a container")
            await made.hold()
            await asked(partial(engine.start, name), "start a container")
        except BaseException:
            await asyncio.shield(made.close())
            raise
        return made


class EngineBox:
    """One container."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._held: Held | None = None

    async def hold(self) -> None:
        """Keep its input open."""
        self._held = await asked(partial(hold, self._engine, self._name), "attach to a container")

    async def begin(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start a program in it, and wait for nothing.

        Raises:
            KernelError: The engine does not.
        """
        await asked(partial(execute, self._engine, self._name, argv, environ), "start a program")

    async def begin_screen(self, argv: Sequence[str], environ: Mapping[str, str]) -> EngineScreen:
        """Start a program in a terminal.

        Raises:
            KernelError: The engine does not.
        """
        work = partial(execute_in_terminal, self._engine, self._name, argv, environ)
        return EngineScreen(self._engine, await asked(work, "start a terminal"))

    async def close(self) -> None:
        """Remove it, with all that runs in it."""
        try:
            await asked(partial(self._engine.remove, self._name), "remove a container")
        except KernelError as error:
            log.error("container %s could not be removed: %s", self._name, error)
        finally:
            if self._held is not None:
                self._held.close()
                self._held = None


class EngineScreen:
    """A terminal in a container."""

    def __init__(self, engine: Engine, held: Held) -> None:
        self._engine = engine
        self._held = held
        self.descriptor = held.descriptor

    async def resize(self, rows: int, columns: int) -> None:
        """Set its size."""
        with contextlib.suppress(KernelError):  # it has ended meanwhile
            await asked(partial(resize, self._engine, self._held.number, rows, columns), "resize a terminal")

    def close(self) -> None:
        """Close it."""
        self._held.close()


async def asked(work: Callable[[], Any], what: str) -> Any:
    """Return what the engine answers.

    Raises:
        KernelError: It refused, or does not answer.
    """
    try:
        return await in_thread(work, LIMIT_S, what)
    except (EngineError, UsageError) as error:
        raise KernelError(f"the container engine could not {what}: {error}") from error
