"""What is set around a call where it runs: environment variables and the working directory."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Variables = tuple[tuple[str, str], ...]


class Surrounded:
    """A function with what is set around its calls; pickled in the function's place.

    Args:
        fn: What is called.
        env: Variables that are set for the time of the call.
        cwd: Folder in which the call runs; None leaves that as it is.
    """

    def __init__(self, fn: Callable[..., Any], env: Variables, cwd: str | None) -> None:
        self.fn = fn
        self.env = env
        self.cwd = cwd

    def __repr__(self) -> str:
        return f"<{self.fn!r} with {len(self.env)} variables in {self.cwd or 'its own folder'}>"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        with variables(self.env), folder(self.cwd):
            return self.fn(*args, **kwargs)


@contextlib.contextmanager
def variables(env: Variables) -> Iterator[None]:
    """Set environment variables; afterwards these are as they were before."""
    before = {name: os.environ.get(name) for name, _ in env}
    os.environ.update(env)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def folder(path: str | None) -> Iterator[None]:
    """Change to a folder; afterwards the working directory is that of before, also when it has moved.

    Raises:
        OSError: It cannot be entered, as the class that says why; its text names this machine.
    """
    if path is None:
        yield
        return
    before = os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC)
    try:
        try:
            os.chdir(path)
        except OSError as error:
            told = (
                f"cwd= of the call cannot be entered on {os.uname().nodename}: {os.strerror(error.errno or errno.EIO)}"
            )
            raise type(error)(error.errno, told, path) from None
        try:
            yield
        finally:
            os.fchdir(before)
    finally:
        os.close(before)
