"""A kernel's terminal as its client sees it, in the portal's loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import KernelEnded

if TYPE_CHECKING:
    from .kernel_link import Exchange
    from .kernels import KernelCore


class PtyCore:
    """One terminal; the link brings back what was missed after a drop."""

    def __init__(self, kernel: KernelCore, name: str) -> None:
        self.name = name
        self.exit_status: int | None = None
        self.closed = False
        self._kernel = kernel
        self._exchange: Exchange | None = None

    async def open(self, rows: int, cols: int, command: list[str], after: int) -> None:
        """Begin it, or find it again; output goes on after entry `after`."""
        head = {"name": self.name, "rows": rows, "cols": cols, "command": command, "after": after}
        self._exchange = self._kernel.link.open(self._kernel._head("pty", head))
        await self._exchange.next()  # it is open, or why not

    async def read(self) -> bytes | None:
        """Return what comes next; None at the end."""
        if self._exchange is None or self.closed:
            return None
        while (note := await self._exchange.next()) is not None:
            kind = note.head.get("t")
            if kind == "out":
                return note.body
            if kind == "missed":
                most = "up to " if note.head.get("most") else ""
                return f"\r\n[{most}{int(note.head['bytes']):,} bytes before this are not kept]\r\n".encode()
            if kind == "exit":
                self.exit_status = int(note.head["code"])
            elif kind == "restarted":
                self.exit_status = None
        return None

    async def type(self, data: bytes) -> None:
        """Give it input."""
        await self._ask({}, data)

    async def resize(self, rows: int, cols: int) -> None:
        """Set its size."""
        await self._ask({"rows": rows, "cols": cols})

    async def restart(self) -> None:
        """End its program and begin it again."""
        await self._ask({"restart": True})

    async def _ask(self, head: dict[str, object], body: bytes = b"") -> None:
        if self.closed:
            raise KernelEnded("the terminal was closed here")
        await self._kernel.ask("type", {"name": self.name, **head}, body)

    async def close(self, *, detach: bool = False) -> None:
        """End it; with `detach` it goes on without us."""
        if self.closed:
            return
        self.closed = True
        if not detach and not self._kernel.closed and self._kernel.link.failure is None:
            await self._kernel.ask("close_pty", {"name": self.name})
        if self._exchange is not None:
            self._exchange.drop()
