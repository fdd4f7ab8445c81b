"""Gateways as processes of their own, one after another on one port, which may be killed."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

from meca_executor.gateway.books import OUTCOMES, ids_of, ids_of_tasks
from meca_executor.wire.records import Kind

from .standing import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 60.0  #: seconds for a result that has a gateway's restart and the client's return before it


class Gateways:
    """One gateway after another, on one port and one journal."""

    def __init__(self, folder: Path, journaled: bool = True) -> None:
        self.folder = folder
        self.journaled = journaled
        self.journal = folder / "journal.db"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[str] | None = None

    def start(self, *words: str, limit_bytes: int | None = None) -> None:
        """Start one; with `limit_bytes`, it can make no file longer than that."""

        def limited() -> None:
            assert limit_bytes is not None
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

        with (self.folder / "gateway.log").open("a") as log:
            self.process = subprocess.Popen(
                self.command(*words),
                env=self.environ(),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                preexec_fn=None if limit_bytes is None else limited,
            )
        assert self.process.stdout
        ready = self.process.stdout.readline()
        assert "is ready, 2 workers, " in ready, ready + self.log
        assert (f", journal in {self.journal};" in ready) == self.journaled

    def command(self, *words: str) -> list[str]:
        """The command of a gateway with this journal."""
        own = ["--port", str(self.port), "--workers", "2", "--grace", "20"]
        journal = ["--journal", str(self.journal)] if self.journaled else []
        return [sys.executable, "-m", "meca_executor.cli", "gateway", *own, *journal, *words]

    def environ(self) -> dict[str, str]:
        """Its environment."""
        return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    @property
    def log(self) -> str:
        """What all of them wrote to their standard error."""
        return (self.folder / "gateway.log").read_text(errors="replace")

    def outcomes(self) -> int:
        """How many outcomes nobody has fetched."""
        return sum(len(ids_of(batch)) for batch in self.entries(OUTCOMES))

    def tasks(self) -> int:
        """How many tasks have come."""
        return sum(len(ids_of_tasks(body)) for body in self.entries(Kind.TASKS))

    def entries(self, what: int) -> list[bytes]:
        """What is written down of one kind."""
        with contextlib.closing(sqlite3.connect(self.journal)) as base:
            return [body for (body,) in base.execute("SELECT body FROM entries WHERE what=?", (int(what),))]

    def rows(self) -> dict[str, int]:
        """How much is in the journal."""
        with contextlib.closing(sqlite3.connect(self.journal)) as base:
            tables = ("sessions", "entries")
            return {table: base.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}

    def kill(self) -> None:
        """End it as no program can prevent."""
        self.end(signal.SIGKILL)

    def end(self, how: signal.Signals) -> int:
        """End it; returns the exit code."""
        assert self.process is not None
        self.process.send_signal(how)
        return self.ended()

    def ended(self) -> int:
        """Wait until it has ended; returns the exit code."""
        assert self.process is not None
        code = self.process.wait(PATIENCE)
        assert self.process.stdout
        self.process.stdout.close()
        self.process = None
        return code
