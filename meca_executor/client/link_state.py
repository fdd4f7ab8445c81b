"""The state of a link, as its user sees it, and who is told when it changes."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    OnLink = Callable[[str, str], object]

LAST_WORD_S = 1.0  #: how long an end waits for a callback that is still busy
ENDS = ("closed", "lost")

log = logging.getLogger("meca")


class LinkState:
    """In which state a link is.

    Attributes:
        word: `"connecting"`, `"connected"`, `"resuming"`, or, at the end, `"closed"` or `"lost"`.
        attempts: How often a connection that dropped was tried again so far.
        since: When it dropped, `time.monotonic()`.
        reason: Why it dropped, as the gateway said; empty when it said nothing.
    """

    def __init__(self, on_link: OnLink | None = None, name: str = "MecaExecutor-link") -> None:
        self.word = "connecting"
        self.attempts = 0
        self.since = 0.0
        self.reason = ""
        self._telling = None if on_link is None else Telling(on_link, f"{name}-state")

    def __str__(self) -> str:
        word = self.word
        if word != "resuming":
            return word
        reason = f": {self.reason}" if self.reason else ""
        return f"resuming ({int(time.monotonic() - self.since)} s, attempt {self.attempts}){reason}"

    def change(self, word: str, why: str) -> None:
        """It is another one now; ends are for good."""
        if word == self.word or self.word in ENDS:
            return
        if word == "resuming":
            self.attempts, self.since = 0, time.monotonic()
        self.word = word
        if self._telling is not None:
            self._telling.tell(word, why)

    def end_here(self) -> None:
        """In a forked child: it is the parent's, and nobody is told."""
        self.word, self._telling = "closed", None

    def told(self) -> None:
        """Wait until the callback has heard of the end, a second at most."""
        if self._telling is not None:
            self._telling.wait()


class Telling:
    """Calls a user's function about each change, in order, on a thread of its own that ends with the link."""

    def __init__(self, on_link: OnLink, name: str) -> None:
        self._on_link = on_link
        self._changes: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        # A daemon: a callback that never returns must not keep the interpreter.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def tell(self, word: str, why: str) -> None:
        """Never waits."""
        self._changes.put((word, why))

    def wait(self) -> None:
        """Wait for the thread's end, but not on itself."""
        if threading.current_thread() is not self._thread:
            self._thread.join(LAST_WORD_S)

    def _run(self) -> None:
        word = ""
        while word not in ENDS:
            word, why = self._changes.get()
            try:
                self._on_link(word, why)
            except BaseException:  # also a SystemExit: the next change is told all the same
                log.exception("on_link raised when it was told %r", word)
