"""How a container runs on one machine: as a local app if its folder was named here, else by the engine.

A shipped example is a local app only while the engine has no image of its name.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import NoHostFits
from ..wire.hosting import Offer
from .engine_settings import NO_ENGINE, PLAIN_RUNTIME, full_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ..wire.printed import Log
    from .apps import Apps
    from .containers import Containers

LOOK_AGAIN_S = 10.0  #: an image that was built since is found after this time


class AppsAndContainers:
    """The containers of one machine.

    Args:
        apps: Local apps.
        containers: Those of the engine.
        examples: Names of local apps that nobody asked for: an image of that name goes before.
        why_not: Says why a local app, which is a process of this user's, is not run; None when it is.
    """

    def __init__(
        self,
        apps: Apps,
        containers: Containers,
        examples: Iterable[str],
        why_not: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._apps = apps
        self._why_not = why_not
        self._containers = containers
        self._examples = {full_name(ref) for ref in examples}
        self._looked: dict[str, tuple[bool, float]] = {}  #: example -> whether it is an image, until when
        self._offer: Offer | None = None

    async def call(
        self,
        ref: str,
        content: bytes,
        *,
        timeout: float | None = None,
        runtime: str | None = None,
        resource: Mapping[str, float] | None = None,
        owner: str = "",
        written: Log | None = None,
    ) -> bytes:
        """Return a container's reply, as `agent_calls.ContainerRuntime` has it."""
        if self._apps.knows(ref) and not await self._is_image(ref):
            if (why := self._why_not(ref)) is not None:
                raise NoHostFits(why)
            if runtime not in (None, PLAIN_RUNTIME):
                raise NoHostFits(
                    f"{ref} is a local app here, which has no runtime {runtime!r}; that is for containers of an engine"
                )
            return await self._apps.call(ref, content, timeout=timeout, written=written)
        if self._containers.url is None:
            raise NoHostFits(f"{self._apps.why_unknown(ref)}; {NO_ENGINE}")
        shape = self._containers.shape_of(ref, runtime, resource or {}, owner)
        return await self._containers.call(shape, content, timeout=timeout, written=written)

    def offer(self, ref: str = "") -> Offer:
        """Return what there is for calls, or for those of one container: a local app that is not run is not there."""
        if self._offer is None:
            runtimes = frozenset(self._containers.settings.runtimes)
            engine, examples = self._containers.url is not None, frozenset(self._examples)
            self._offer = Offer(engine, self._apps.names - examples, examples, runtimes)
        if self._why_not(ref) is None:
            return self._offer
        name = frozenset((full_name(ref),))
        return replace(self._offer, apps=self._offer.apps - name, examples=self._offer.examples - name)

    async def _is_image(self, ref: str) -> bool:
        name = full_name(ref)
        if name not in self._examples or self._containers.url is None:
            return False
        now = asyncio.get_running_loop().time()
        has, until = self._looked.get(name, (False, now))
        if until <= now:
            has = await self._containers.has_image(ref)
            self._looked[name] = has, now + LOOK_AGAIN_S
        return has

    def add(self, ref: str, folder: str) -> None:
        """Learn where a local app's folder is.

        Raises:
            UsageError: It is no such folder.
        """
        self._apps.add(ref, folder)
        self._examples.discard(full_name(ref))
        self._offer = None

    async def close(self) -> None:
        """End all apps and containers and wait until they are gone."""
        await asyncio.gather(self._apps.close(), self._containers.close())
