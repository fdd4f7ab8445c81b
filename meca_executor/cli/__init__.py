"""The command `meca`: one file a verb, each with `SUMMARY`, `add_arguments(parser)` and `run(args, out)`.

A new verb is a file here and a name in `VERBS`. Verb files import nothing heavy at their top, so that
`meca --help` is quick; and this file imports nothing at all, because workers that run the demo's
functions import it on the way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: in the order of `meca --help`
VERBS = ("demo", "run", "pty", "kernel", "kernels", "offload", "gateway", "host", "ps", "image", "keys", "doctor")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one `meca` command and return its exit code.

    Args:
        argv: The words after `meca`; None takes those of this process.

    Returns:
        0 when all went well, 1 when the work failed, 2 for wrong arguments, 3 when no gateway could be
        used, 130 after Ctrl-C. What went wrong is one line on stderr; `--debug` adds the traceback.
    """
    from ._main import run_command

    return run_command(argv)
