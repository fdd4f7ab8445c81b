"""Functions that run in a container: how the call travels, and how its reply is read."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from ..wire.runner import decode_reply, encode_call

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .driver import LinkSettings


class FunctionCodec:
    """What turns a call into a python-runner container's input, and its reply into a result.

    Args:
        settings: Of the link: whether results may be pickles, which dataclasses may come, where prints go.
        proved: Says whether the other side has proved itself. Escapes in what strangers print are taken out, and so
            are those of hosts that `trust="data"` calls strangers.
    """

    def __init__(self, settings: LinkSettings, proved: Callable[[], bool]) -> None:
        # Where the old dialect may be spoken the other side has not proved itself: plain data only (DESIGN 6).
        self._trust = settings.trust or ("data" if settings.may_fall_back else "pickle")
        self._allow = settings.allow
        self._on_output = settings.on_output
        self._proved = proved
        self._strangers = settings.trust == "data"

    def encode(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Return the container's input.

        Raises:
            Exception: What pickling the call raises.
        """
        return encode_call(fn, args, kwargs, result=self._trust)

    def decode(self, reply: bytes, log: Callable[[bytes], object] = lambda text: None) -> Any:
        """Return what the call returned; what it printed goes where prints go, and to `log`.

        Raises:
            Exception: What the call raised, or why it has no result.
        """
        escapes = self._proved() and not self._strangers
        outcome = decode_reply(reply, trust=self._trust, allow=self._allow, escapes=escapes)
        log("".join(text for _, text in outcome.printed).encode("utf-8", "surrogatepass"))
        if self._on_output is not None:
            for stream, text in outcome.printed:
                with contextlib.suppress(Exception):  # a broken sink must not cost a result
                    self._on_output(text, stream)
        if outcome.error is not None:
            raise outcome.error
        return outcome.value
