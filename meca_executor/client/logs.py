"""Where what tasks print goes: to `output`, and to the futures' logs."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from ..wire.data import printable
from ..wire.printed import LAST, MIXED, owner
from ..wire.records import Status

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..wire.records import Record
    from .driver import LinkSettings
    from .ledger import Ledger


def share_out(records: Iterable[Record], ledger: Ledger, settings: LinkSettings) -> None:
    """Hand on printed text, in order; that of tasks which stand together goes to `output` in one piece."""
    said: list[tuple[int, list[bytes]]] = []
    for _, status, flags, payload in records:
        number, text = owner(flags, payload)
        if status != Status.LOGGED:
            if not said or said[-1][0] != status:
                said.append((status, []))
            said[-1][1].append(text)
        elif settings.trust == "data":
            text = printable(text.decode("utf-8", "replace")).encode()
        if number and (future := ledger.future(number)) is not None:
            future.printed(text, mixed=bool(flags & MIXED), last=bool(flags & LAST))
    if settings.on_output is not None:
        for status, texts in said:
            with contextlib.suppress(Exception):  # a broken sink must not cost a result
                settings.on_output(b"".join(texts).decode("utf-8", "replace"), _NAMES.get(status, "stdout"))


_NAMES: dict[int, str] = {Status.STDOUT: "stdout", Status.STDERR: "stderr"}
