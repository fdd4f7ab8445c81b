"""A user's project whose files the gateway cannot find: its program runs in a folder that is another one elsewhere.

Each process sees its own working directory as `/proc/self/cwd`. A program that is started by that path, and imports
from there, is for a gateway in another folder what a program on another machine is: the same path, and not its files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.helpers.waiting import LIMIT

from .standing import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = "/proc/self/cwd"
CAN_HIDE = Path(HERE).exists()

BEGIN = """
import json, os, sys
sys.path[0] = "/proc/self/cwd"  # Python puts the folder's own path there
from meca_executor import MecaExecutor, UsageError

def tell(*values):
    print(json.dumps(values), flush=True)

def executor(**options):
    return MecaExecutor(os.environ["GATEWAY"], **options)
"""


class Project:
    """A folder with a program in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir()

    def write(self, files: Mapping[str, str]) -> None:
        """Write files: path -> text."""
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    def run(self, program: str, gateway: str) -> list[Any]:
        """Run a program in the folder; return what it told, a list for each call of `tell`."""
        return self.finish(self.begin(program, gateway))

    def begin(self, program: str, gateway: str) -> subprocess.Popen[str]:
        """Start a program in the folder."""
        (self.folder / "main.py").write_text(BEGIN + textwrap.dedent(program))
        return self.start([f"{HERE}/main.py"], gateway)

    def start(self, words: list[str], gateway: str) -> subprocess.Popen[str]:
        """Start Python with these words in the folder."""
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "GATEWAY": gateway},
            stdout=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> list[Any]:
        """Wait for the end of a program, which must be a good one; return the lines of JSON that it printed."""
        with process:
            try:
                told, _ = process.communicate(timeout=3 * LIMIT)
            finally:
                process.kill()
        assert process.returncode == 0
        return [json.loads(line) for line in told.splitlines()]
