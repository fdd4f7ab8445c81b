"""A process that ends with its parent, however the parent ends.

Imported by worker processes, and run as a script by the apps runtime (`lifeline.py PARENT_PID APP.PY`),
so nothing heavy may be imported here.
"""

from __future__ import annotations

import os
import sys

_PR_SET_PDEATHSIG = 1  #: from <linux/prctl.h>
_LOOK_S = 1.0  #: how often the parent is looked for where the kernel does not tell


def die_with_parent(parent_pid: int) -> None:
    """Have this process killed as soon as its parent is gone; return at once.

    On Linux the kernel does it, with SIGKILL, when the *thread* that started this process ends, so
    parents must start their children from a thread that lives as long as they do. Elsewhere a daemon
    thread looks once a second. Children of this process are not covered: each must call it for itself.

    Args:
        parent_pid: What the parent knows as its own process id. When it is already gone, this process exits here.
    """
    told_by_kernel = sys.platform == "linux" and _ask_kernel()
    # After asking, not before: the parent may have died while this process was starting.
    if os.getppid() != parent_pid:
        os._exit(1)
    if not told_by_kernel:
        import threading

        threading.Thread(target=_watch, args=(parent_pid,), name="lifeline", daemon=True).start()


def _ask_kernel() -> bool:
    """Ask Linux for SIGKILL at the parent's death; False where that cannot be asked."""
    import signal

    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def _watch(parent_pid: int) -> None:
    import time

    while os.getppid() == parent_pid:
        time.sleep(_LOOK_S)
    os._exit(1)


def _run_script(path: str) -> None:
    """Run a file as `python FILE` does: as the module `__main__`, its folder first on the path."""
    import builtins
    import io
    import types

    with io.open_code(path) as file:
        source = file.read()
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=path, __builtins__=builtins)
    # Stays there for good (`runpy` takes it back when the file's end is reached), so that threads which
    # go on after that, and children started by `multiprocessing`, still find what the app defined.
    sys.modules["__main__"] = module
    exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)  # nosec B102 # the app that was asked for


def _main() -> None:
    parent_pid, script = int(sys.argv[1]), sys.argv[2]
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # this file's folder, which the app must not import from
    die_with_parent(parent_pid)
    sys.path.insert(0, os.path.dirname(script))
    sys.argv[:] = [script]
    _run_script(script)


if __name__ == "__main__":
    _main()
