"""A task in the client, and what functions and options are called on the link."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import UsageError
from ..settings import OPTIONS_MOST
from ..wire.calls import BY_REFERENCE, NO_DEFINITION, reference_to
from ..wire.payloads import in_frame
from .checks import check_callable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.records import Record
    from .future import MecaFuture
    from .options import TaskOptions

DEFINITIONS_MOST = 10_000  #: importable functions that get a number; any more travel with each call


class Task:
    """One task from `submit` to its outcome. The submitting thread makes it, the ledger owns it."""

    __slots__ = ("attempts", "began", "charge", "decode", "future", "kind", "number", "options", "payload", "reading")

    def __init__(
        self,
        number: int,
        future: MecaFuture[Any],
        payload: bytes,
        kind: tuple[int, int],
        options: TaskOptions,
        decode: Callable[[bytes], Any] | None,
        reading: int = 0,
    ) -> None:
        self.number = number
        self.future = future
        self.payload = payload
        self.kind = kind  #: options id and definition id
        self.options = options
        self.decode = decode  #: reads a container's reply; None for a function
        self.reading = reading  #: how another program can read its outcome: a `Reading`
        self.attempts = 0  #: handed over so far, and taken
        self.began = 0.0  #: when first handed over; since then its future counts as running
        self.charge = 0.0  #: what it counts for in the credit

    def count(self, attempts: int) -> None:
        """There have been so many attempts: the gateway made those that were not handed over by itself."""
        self.future.count_elsewhere(attempts - self.attempts)
        self.attempts = max(self.attempts, attempts)

    @property
    def queued(self) -> int:
        """Tasks that this is, in the queue."""
        return 0 if self.future.cancelled() else 1

    def cancel_queued(self) -> None:
        """Cancel it, for it was not handed over."""
        self.future.cancel()

    def put_into_frames(self) -> None:
        """What of it is in shared memory travels by itself."""
        self.payload = in_frame(self.payload)

    @property
    def last(self) -> tuple[int, bytes]:
        """Number and payload of its last call."""
        return self.number, self.payload

    @property
    def calls(self) -> list[Record]:
        """What travels."""
        return [(self.number, self.attempts - 1, 0, self.payload)]


class Again(NamedTuple):
    """A task that is to be queued once more, after a delay."""

    task: Task
    delay: float  #: seconds


class Registry:
    """Numbers for importable functions and for options: sent once a session, then only the numbers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._functions: dict[Callable[..., Any], int] = {}
        self._options: dict[bytes, int] = {}
        self.references: list[bytes] = [b""]  #: definition id -> pickled reference
        self.options: list[TaskOptions] = []  #: options id -> options
        self.objects: dict[int, bytes] = {}  #: payloads of what was `put`, by the handles' numbers
        self.code: dict[int, bytes] = {}  #: archives of modules that are sent, by their numbers
        self.renew: Callable[[], object] = lambda: None  #: looks whether what is in `code` has changed

    def function_number(self, fn: Callable[..., Any]) -> int:
        """Return the definition id of an importable function; 0 for one that travels with its calls."""
        if type(fn) not in BY_REFERENCE:  # anything else may carry state, or odd ideas of equality
            check_callable(fn)
            return NO_DEFINITION
        number = self._functions.get(fn)
        if number is not None:
            return number
        reference = reference_to(fn)
        if reference is None or len(self.references) > DEFINITIONS_MOST:
            return NO_DEFINITION
        with self._lock:
            if (number := self._functions.get(fn)) is None:
                number = len(self.references)
                self.references.append(reference)
                self._functions[fn] = number
        return number

    def options_number(self, options: TaskOptions) -> int:
        """Return the options id of these options.

        Raises:
            UsageError: There are too many.
        """
        text = options.wire()  # what the gateway cannot tell apart is one: retries are decided here
        with self._lock:
            if text not in self._options and len(self.options) >= OPTIONS_MOST:
                raise UsageError(f"an executor has {OPTIONS_MOST:,} different options at most; make another executor")
            number = self._options.setdefault(text, len(self.options))
            if number == len(self.options):
                self.options.append(options)
        return number
