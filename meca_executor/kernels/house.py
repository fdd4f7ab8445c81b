"""The house of kernels: all of a gateway's, by owner and token; looks now and then what has to end."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from ..errors import KernelEnded, KernelError
from .boxed import BoxedPlace
from .hosted import HostedKernel
from .languages import boxed, find
from .own_folder import sweep
from .process import resident_bytes, signal_group
from .runs import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .box import Boxes
    from .hosted import Groups
    from .languages import Found
    from .place import Place

LOOK_S = 0.5
PER_OWNER = 64  #: kernels that one access key may have at once
REMEMBERED = 1000  #: ended kernels of which it is known why

log = logging.getLogger("meca.gateway")


class House:
    """All kernels; make it inside the loop.

    Args:
        environ: The environment that kernels begin with; those in containers have the image's.
        groups: Ends their processes if this one is killed; None is nobody.
        boxes: Makes containers for those that are to be isolated; None is none.
        images: Language -> the image of its containers, where it is not the usual one.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        groups: Groups | None = None,
        boxes: Boxes | None = None,
        images: Mapping[str, str] | None = None,
    ) -> None:
        self._environ = dict(environ)
        self._groups = groups
        self._boxes = boxes
        self._images = dict(images or {})
        self._swept: asyncio.Future[None] | None = None
        self._kernels: dict[str, HostedKernel] = {}
        self._named: dict[tuple[str, str], HostedKernel] = {}
        self._ended: OrderedDict[str, tuple[str, str]] = OrderedDict()  # id -> (owner, why)
        self._looking: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        """How many kernels there are."""
        return len(self._kernels)

    def sweep(self) -> asyncio.Future[None]:
        """Remove, once, what killed gateways have left; returns when that is done."""
        if self._swept is None:
            self._swept = asyncio.get_running_loop().run_in_executor(None, sweep)
        return self._swept

    async def get_or_create(
        self,
        owner: str,
        token: str | None,
        lang: str,
        env: Mapping[str, str],
        limits: Mapping[str, Any],
        isolate: bool = False,
    ) -> tuple[HostedKernel, bool]:
        """Return the owner's kernel of that token, or a new one; and whether it is new. It is ready.

        Raises:
            KernelError: The language cannot be had, the token's kernel has another one, there are too many, it
                is to be isolated and cannot, or it does not start.
        """
        await asyncio.shield(self.sweep())
        there = self._named.get((owner, token)) if token is not None else None
        if there is not None:
            there.check_death()
        if there is not None and there.why is not None:
            await there.ended()
            return await self.get_or_create(owner, token, lang, env, limits, isolate)
        if there is not None:
            self._check_same(there, lang, isolate)
            there.used = time.monotonic()
            await there.start()
            return there, False
        found, box = find(lang) if not isolate else None, None
        if found is None:
            found, box = await self._boxed(lang, env)
            if token is not None and (owner, token) in self._named:  # it was made meanwhile
                return await self.get_or_create(owner, token, lang, env, limits, isolate)
        if sum(kernel.owner == owner for kernel in self._kernels.values()) >= PER_OWNER:
            raise KernelError(f"access key {owner} has {PER_OWNER} kernels already; destroy one")
        environ = {**self._environ, **env}
        kernel = HostedKernel(owner, token, found, Limits.of(limits), environ, self._on_end, self._groups, box)
        self._kernels[kernel.id] = kernel
        if token is not None:
            self._named[owner, token] = kernel
        if self._looking is None:
            self._look()
        await kernel.start()
        return kernel, True

    def _check_same(self, there: HostedKernel, lang: str, isolate: bool) -> None:
        """Check that a kernel that is there is what is wanted under its token.

        Raises:
            KernelError: It has another language, or is not isolated.
        """
        ways = f"give another token, or destroy it first (meca kernel rm {there.token})"
        if isolate and not there.isolated:
            raise KernelError(f"the kernel of token {there.token!r} runs as processes, and not isolated; {ways}")
        found = boxed(lang, self._images)[0] if there.isolated else find(lang)
        if found.name != there.found.name and (found.language is None or found.language is not there.found.language):
            raise KernelError(f"the kernel of token {there.token!r} is a {there.found.name} kernel, not {lang}; {ways}")

    async def _boxed(self, lang: str, env: Mapping[str, str]) -> tuple[Found, Callable[[HostedKernel], Place]]:
        """Return the language, and what makes the container for a kernel; nothing is made before it can be."""
        boxes = self._boxes
        if boxes is None:
            raise KernelError("no kernel is isolated here: this gateway runs no containers")
        found, image = boxed(lang, self._images)
        await boxes.have(image)

        def make(kernel: HostedKernel) -> BoxedPlace:
            limits = kernel.limits
            return BoxedPlace(boxes, image, kernel.folder.root, env, limits.memory_mib, limits.open_files)

        return found, make

    def find(self, owner: str, name: str) -> HostedKernel:
        """Return a kernel by its id or token.

        Raises:
            KernelEnded: It is no more, and why.
            KernelError: The owner never had one of that name.
        """
        kernel = self._kernels.get(name)
        if kernel is None or kernel.owner != owner:
            kernel = self._named.get((owner, name))
        if kernel is not None:
            kernel.check_death()
            if kernel.why is None:
                return kernel
            raise KernelEnded(f"kernel {name} ended: {kernel.why}")
        of, why = self._ended.get(name, ("", ""))
        if why and of == owner:
            raise KernelEnded(f"kernel {name} ended: {why}")
        raise KernelError(f"there is no kernel {name[:80]!r} (see: meca kernel ls)")

    def of(self, owner: str) -> list[HostedKernel]:
        """Return an owner's kernels."""
        return [kernel for kernel in self._kernels.values() if kernel.owner == owner]

    def keep_owners(self, known: set[str]) -> None:
        """End the kernels of everybody else: their keys were revoked."""
        for kernel in list(self._kernels.values()):
            if kernel.owner not in known:
                kernel.end("its access key was revoked")

    def _on_end(self, kernel: HostedKernel) -> None:
        self._kernels.pop(kernel.id, None)
        if kernel.token is not None and self._named.get((kernel.owner, kernel.token)) is kernel:
            del self._named[kernel.owner, kernel.token]
        self._ended[kernel.id] = kernel.owner, kernel.why or ""
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
        log.info("kernel %s ended: %s", kernel.id, kernel.why)

    def _look(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(LOOK_S, self._look) if self._kernels else None
        now = time.monotonic()
        kernels = list(self._kernels.values())
        used = resident_bytes() if any(kernel.limits.memory_mib is not None for kernel in kernels) else {}
        for kernel in kernels:
            for pid in kernel.out_of_memory(used):
                signal_group(pid, signal.SIGKILL)
            kernel.check_death()
            if kernel.why is None and (why := kernel.overdue(now)) is not None:
                kernel.end(why)

    async def close(self) -> None:
        """End all kernels, and wait until they are gone."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        kernels = list(self._kernels.values())
        for kernel in kernels:
            kernel.end("the gateway ended")
        await asyncio.gather(*(kernel.ended() for kernel in kernels))
