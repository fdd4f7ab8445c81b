"""A module that is missing where a call ran: the error says how to get it there."""

from __future__ import annotations

import functools
import shlex
import sys
from importlib import metadata

from .units import find


def advise(error: ModuleNotFoundError) -> None:
    """Add to an error from a worker what would help: to install a package there, or to send a module along."""
    python = getattr(error, "worker_python", None)
    if not isinstance(python, str) or not error.name:
        return
    name = error.name.partition(".")[0]
    if name in sys.stdlib_module_names:
        advice = "it is a part of the standard library that this Python was built without"
    elif (place := find(name)) is not None:  # never the name of a stranger's package for one's own module
        advice = f"it is a module of yours, in {place.paths[0]}: MecaExecutor(ship=[{place.paths[0]!r}]) sends it along"
    elif packages := _packages().get(name):
        advice = f"there: {shlex.quote(python)} -m pip install {packages[0]}=={metadata.version(packages[0])}"
    elif name in sys.modules:
        advice = f"this program has it from {getattr(sys.modules[name], '__file__', None)}, which cannot be sent"
    else:
        advice = f"there: {shlex.quote(python)} -m pip install {name} (if the package is called as the module is)"
    error.msg = f"{error.msg}; {advice}"
    error.args = (error.msg, *error.args[1:])


@functools.cache
def _packages() -> dict[str, list[str]]:
    """Return installed packages by the modules that they bring."""
    return {name: list(packages) for name, packages in metadata.packages_distributions().items()}
