"""What the operator says about containers, and what image names and owners are."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import UsageError
from ..settings import setting

if TYPE_CHECKING:
    from collections.abc import Mapping

PULLS = ("missing", "always", "never")
#: what the operator can allow -> what holds otherwise
ALLOWED = {
    "network": "no way out to any network",
    "writes": "the image's files are read-only, /tmp alone can be written to",
    "capabilities": "no Linux capability",
    "privileges": "no gain of privileges by setuid programs",
    "processes": "512 processes and threads at most",
}
NONE = "none"  #: in place of an engine's URL: there is to be none
DEFAULT_SOCKETS = ("/var/run/docker.sock", "{XDG_RUNTIME_DIR}/docker.sock")
LABEL = "meca-executor.owner"  #: on everything that we make in an engine: who is to remove it
NO_ENGINE = "there is no container engine here (no DOCKER_HOST, no /var/run/docker.sock)"
PLAIN_RUNTIME = "container"  #: what the first MECAnywhere calls the engine's own runtime


@dataclass(frozen=True)
class EngineSettings:
    """How containers run here.

    Attributes:
        url: Where the engine is, as in DOCKER_HOST, or "none"; None looks into MECA_ENGINE and DOCKER_HOST, and for
            Docker's socket.
        runtimes: A runtime's name, as callers give it -> the engine's name for it.
        pull: When images are pulled: `"missing"`, `"always"` (at each container's start) or `"never"`.
        allow: Names of `ALLOWED` that containers may have after all.
        idle_s: Seconds without a call after which a container is removed.
        ready_s: Seconds that a container may take until `meca-init-done`.
        pull_s: Seconds that a pull may take.
        part: Whose containers these are, if not all of this process's; the others are left alone.
    """

    url: str | None = None
    runtimes: Mapping[str, str] = field(default_factory=dict)
    pull: str = "missing"
    allow: frozenset[str] = frozenset()
    idle_s: float = 60.0
    ready_s: float = 60.0
    pull_s: float = 1800.0
    part: str = ""

    def __post_init__(self) -> None:
        """Check what was given.

        Raises:
            UsageError: A name is none of those that there are.
        """
        if self.pull not in PULLS:
            raise UsageError(f"pull {self.pull!r} is none of {', '.join(PULLS)}")
        for name in self.allow:
            if name not in ALLOWED:
                raise UsageError(f"{name!r} cannot be allowed to containers; there are {', '.join(ALLOWED)}")

    def fields(self) -> dict[str, Any]:
        """Return what a gateway says of containers to a node, whose engine is the node's own to know."""
        return {
            "runtimes": dict(self.runtimes),
            "pull": self.pull,
            "allow": sorted(self.allow),
            "idle_s": self.idle_s,
            "ready_s": self.ready_s,
            "pull_s": self.pull_s,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> EngineSettings:
        """Read what a gateway said.

        Raises:
            UsageError: A name is none of those that there are.
        """
        return cls(**{**fields, "allow": frozenset(fields.get("allow", ()))})

    def engine_runtime(self, name: str | None) -> str | None:
        """Return the engine's name for a runtime; None is its own default.

        Raises:
            KeyError: The operator named no such runtime.
        """
        if name is None or (name == PLAIN_RUNTIME and name not in self.runtimes):
            return None
        return self.runtimes[name]


def find_engine(environ: Mapping[str, str], settings: EngineSettings) -> str | None:
    """Return the URL of the engine that is said to be there, or None; nobody is asked whether it answers."""
    url = settings.url or setting("ENGINE", environ) or environ.get("DOCKER_HOST")
    if url:
        return None if url == NONE else url
    for pattern in DEFAULT_SOCKETS:
        path = pattern.format_map({"XDG_RUNTIME_DIR": environ.get("XDG_RUNTIME_DIR", "/nowhere")})
        if Path(path).is_socket():
            return f"unix://{path}"
    return None


def full_name(ref: str) -> str:
    """Return the reference with its tag; a registry's port is not one, and a digest needs none."""
    last = ref.rpartition("/")[2]
    return ref if ":" in last or "@" in ref else f"{ref}:latest"


def split_name(ref: str) -> tuple[str, str]:
    """Return repository and tag, or repository and digest, of an image name.

    A name with both is pulled by its digest: that is the more exact one.
    """
    name = full_name(ref)
    repository, at, digest = name.partition("@")
    if at:
        head, colon, tail = repository.rpartition(":")
        return (head if colon and "/" not in tail else repository), digest
    repository, _, tag = name.rpartition(":")
    return repository, tag


def container_name(ref: str, suffix: str) -> str:
    """Return a name that the engine takes, and that tells people which image it is."""
    plain = re.sub(r"[^a-zA-Z0-9]+", "-", split_name(ref)[0].rpartition("/")[2]).strip("-")[:40]
    return f"meca-{plain or 'image'}-{suffix}"


class Owner(NamedTuple):
    """A process that made things in an engine, and that is known again after it is gone."""

    machine: str
    boot: str
    space: str  #: of process ids
    pid: str
    started: str
    part: str = ""  #: of the process, where it does this for several gateways

    def __str__(self) -> str:
        return "/".join(self if self.part else self[:-1])

    @classmethod
    def of(cls, text: str) -> Owner | None:
        """Read a label; None when it is none of ours."""
        parts = text.split("/")
        return cls(*parts) if len(parts) in (len(cls._fields) - 1, len(cls._fields)) else None

    def is_gone(self, here: Owner, start: str) -> bool:
        """Whether this process has surely ended.

        Args:
            here: The process that asks; what another machine or another space of process ids has cannot be told.
            start: When the process that has this id here started; "" when there is none.
        """
        if self.machine != here.machine:
            return False
        if self.boot != here.boot:
            return True
        if self.space != here.space:
            return False
        return start != self.started


def this_process(part: str = "") -> Owner:
    """Return the owner that this process is, or a part of it."""
    boot, pid = _read("/proc/sys/kernel/random/boot_id"), os.getpid()
    return Owner(_machine(), boot, _space(), str(pid), start_of(pid), part)


def start_of(pid: int) -> str:
    """Return when a process started, in a form that only compares; "" when there is none (or it cannot be told)."""
    stat = _read(f"/proc/{pid}/stat")
    fields = stat.rpartition(")")[2].split()
    if len(fields) > 19:
        return "" if fields[0] in ("Z", "X") else fields[19]
    if sys.platform == "linux":
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "runs"


def _machine() -> str:
    known = _read("/etc/machine-id") or _read("/var/lib/dbus/machine-id") or socket.gethostname()
    return hashlib.sha256(known.encode()).hexdigest()[:16]  # the id itself is not for others to see


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
