"""What a run of code gave: a dictionary as Sorna's clients know it, and attributes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..wire.kernels import Note


class RunError(NamedTuple):
    """Why a run failed: the user's exception, or what happened to the kernel."""

    name: str  #: the exception's class
    value: str
    traceback: str


class Media(NamedTuple):
    """Something shown that is no text of a stream."""

    mime: str  #: of the richest form
    data: dict[str, str]  #: MIME type -> content, each form that there is; pictures in base64
    result: bool  #: the value of the last expression, rather than something displayed


CUTS = {
    "rate": "more than limits={'output_mib_s': ...} allows in a second",
    "total": "more than limits={'output_mib': ...} allows a run",
    "behind": "it came faster than it was fetched, or the link was down for long",
}  #: why output was cut


def missing(head: Mapping[str, Any]) -> str:
    """Return the mark that stands in place of output that is not there."""
    most = "up to " if head.get("most") else ""
    why = "nobody fetched it" if head["t"] == "missed" else CUTS.get(str(head.get("why")), "a limit of the gateway")
    return f"\n[{most}{int(head['bytes']):,} bytes of output are missing here: {why}]\n"


class RunResult(dict[str, Any]):
    """What a run gave so far.

    Keys: `status` (`finished`, `waiting-input`, `continued`, `exec-timeout`, `interrupted`), `console` (a list of
    `[kind, data]` in order; kinds `stdout`, `stderr`, `media`, `html`, `log`), `options` (`{"is_password": bool}` while
    waiting for input), `files` (new or changed ones), `exitCode` (None until the end) and `runId`.
    """

    def __init__(self, run: str) -> None:
        super().__init__(status="continued", console=[], options=None, files=[], exitCode=None, runId=run)
        self._parts: list[str] = []  # of the last console entry: they are joined when somebody looks
        self.error: RunError | None = None  #: why it failed
        self.media: list[Media] = []  #: what was shown
        self.steps: dict[str, int] = {}  #: exit codes of `build`, `exec` and `clean`
        self.seconds = 0.0  #: how long it took
        self.position = 0  #: the number of the last thing that was said, for `Kernel.attach(after=...)`

    @property
    def stdout(self) -> str:
        """All of its standard output."""
        return self._text("stdout")

    @property
    def stderr(self) -> str:
        """All of its standard error; tracebacks are there, too."""
        return self._text("stderr")

    @property
    def status(self) -> str:
        """How it stands."""
        return str(self["status"])

    @property
    def exit_code(self) -> int | None:
        """Exit code; None until the end."""
        code: int | None = self["exitCode"]
        return code

    @property
    def text(self) -> str | None:
        """The value of the last expression, as text; None when there is none."""
        return next((shown.data.get("text/plain") for shown in reversed(self.media) if shown.result), None)

    def _text(self, stream: str) -> str:
        return "".join(data for kind, data in self["console"] if kind == stream)

    def take(self, note: Note, text: str | None = None) -> list[Any] | None:
        """Add an event; returns the console entry that it is, if it is one.

        Args:
            text: What a stream says, where a character may have come in two pieces.
        """
        head, kind = note.head, note.head.get("t")
        if kind in ("stdout", "stderr"):
            return self._say(str(kind), note.body.decode("utf-8", "replace") if text is None else text)
        if kind in ("media", "html"):
            data = json.loads(note.body)
            shown = Media(str(head["mime"]), data, bool(head.get("result")))
            self.media.append(shown)
            body = data[shown.mime]
            self.settle()
            entry = ["html", body] if kind == "html" else ["media", [shown.mime, body]]
            self["console"].append(entry)
            return entry
        if kind in ("cut", "missed"):
            return self._say("stderr", missing(head))
        if kind == "step":
            self.steps[str(head["name"])] = int(head["code"])
        elif kind == "input":
            self.update(status="waiting-input", options={"is_password": bool(head.get("password"))})
        elif kind == "end":
            self.update(status=head["status"], exitCode=head["code"], files=head.get("files", []), options=None)
            self.seconds = float(head.get("seconds", 0.0))
            if (error := head.get("error")) is not None:
                self.error = RunError(error["name"], error["value"], error["traceback"])
        return None

    def _say(self, stream: str, text: str) -> list[Any] | None:
        if not text:
            return None
        console = self["console"]
        if not (self._parts and console[-1][0] == stream):
            self.settle()
            console.append([stream, ""])
        self._parts.append(text)
        return [stream, text]

    def settle(self) -> RunResult:
        """Return itself, with all that was said in its console."""
        if self._parts:
            self["console"][-1][1] = "".join(self._parts)
            self._parts = []
        return self
