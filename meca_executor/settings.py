"""What the environment says: endpoint, keys, places; and limits that both sides check."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT = 3001  #: the MECAnywhere desktop app's port, and so ours
DESKTOP_ENDPOINT = f"http://localhost:{DEFAULT_PORT}"
PREFIXES = ("MECA_", "BACKEND_", "SORNA_")  #: read in this order, so that old settings go on working
KEY_LIMIT = 128  #: characters of an access key, and of a secret
NAME_LIMIT = 128  #: characters of a session's name, and of a container runtime's
REF_LIMIT = 512  #: characters of a container's name; Docker's own are shorter
TASK_ID_LIMIT = 1024  #: characters of a task's name
HELLO_LIMIT = 64 << 10  #: characters of all that a client says before it has proved itself
TOLD_LIMIT = 64 << 10  #: bytes of one JSON text after that
MESSAGE_LIMIT = 4 << 30  #: bytes of one call, result or object that is not in shared memory
NODES_MOST = 256  #: of a Dask cluster that is started for trying out
OPTIONS_MOST = 100_000  #: different options of one session


class KeyPair(NamedTuple):
    """An access key (public name) and its secret."""

    access_key: str
    secret_key: str


def setting(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the value of `MECA_<name>`, else `BACKEND_<name>`, else `SORNA_<name>`; empty is absent."""
    env = os.environ if environ is None else environ
    return next((value for prefix in PREFIXES if (value := env.get(prefix + name))), None)


def resolve_endpoint(endpoint: object, environ: Mapping[str, str] | None = None) -> str | None:
    """Return the URL to connect to, or None for an embedded gateway.

    Args:
        endpoint: A URL, `"desktop"`, `"embedded"`, or None to ask the environment (`MECA_ENDPOINT`).

    Raises:
        UsageError: Not a URL with `http://` or `https://` and a host.
    """
    value = endpoint if endpoint is not None else setting("ENDPOINT", environ)
    if value is None or value == "embedded":
        return None
    if not isinstance(value, str):
        raise UsageError(f"endpoint {value!r} is not a URL (an int alone is max_workers)")
    if value == "desktop":
        return DESKTOP_ENDPOINT
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(
            f"endpoint {value!r} is not a URL; give http://HOST:PORT, 'desktop' for the MECAnywhere desktop app, "
            "or nothing for a gateway of this process's own"
        )
    return value.rstrip("/")


def given_keys(environ: Mapping[str, str] | None = None) -> KeyPair | None:
    """Return the key pair of the environment, or None.

    Raises:
        UsageError: One half is set and the other is not, or one cannot be a key.
    """
    env = os.environ if environ is None else environ
    for prefix in PREFIXES:  # both halves under one name: an old one's secret is not a new one's
        access, secret = env.get(prefix + "ACCESS_KEY"), env.get(prefix + "SECRET_KEY")
        if access and secret:
            for name, value in (("ACCESS_KEY", access), ("SECRET_KEY", secret)):
                if (why := why_no_key(value)) is not None:
                    raise UsageError(f"{prefix}{name} {why}; take it as `meca keys create` printed it")
            return KeyPair(access, secret)
        if access or secret:
            missing = prefix + ("SECRET_KEY" if access else "ACCESS_KEY")
            raise UsageError(f"{missing} is not set, but the other half of the key pair is; set both or neither")
    return None


def why_no_key(text: str) -> str | None:
    """Return why a text can be neither an access key nor a secret, without the text itself; None when it can."""
    if len(text) > KEY_LIMIT:
        return f"has {len(text):,} characters, and {KEY_LIMIT} are allowed"
    if not text.isprintable() or any(letter.isspace() for letter in text):
        return "has a space or an unprintable character in it"
    return None


def why_no_ref(text: str) -> str | None:
    """Return why a text cannot be a container's name; None when it can."""
    if len(text) > REF_LIMIT:
        return f"container name {text[:40]!r}... has {len(text):,} characters, and {REF_LIMIT} are allowed"
    if not text or any(letter.isspace() for letter in text):
        return f"container name {text!r} is not an image name such as 'knn:latest'"
    return None


def why_no_runtime(text: str) -> str | None:
    """Return why a text cannot be a container runtime's name; None when it can."""
    if len(text) > NAME_LIMIT:
        return f"runtime {text[:40]!r}... has {len(text):,} characters, and {NAME_LIMIT} are allowed"
    return None


def why_no_task_id(text: str) -> str | None:
    """Return why a text cannot be a task's name; None when it can."""
    if len(text) > TASK_ID_LIMIT:
        return f"task id {text[:40]!r}... has {len(text):,} characters, and {TASK_ID_LIMIT:,} are allowed"
    return None


def given_ca_file(environ: Mapping[str, str] | None = None) -> str | None:
    """Return the file of certificates that `https://` gateways are checked with (`MECA_CA_FILE`), or None."""
    return setting("CA_FILE", environ)


def state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """Return the folder for what outlives a process (keys), `MECA_STATE_DIR` or the platform's usual place."""
    env = os.environ if environ is None else environ
    if chosen := env.get("MECA_STATE_DIR"):
        return Path(chosen)
    if sys.platform == "win32":
        return Path(env.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "meca"
    return Path(env.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "meca"


def default_key_file(environ: Mapping[str, str] | None = None) -> Path:
    """Return where the user's own key pairs are kept (mode 600)."""
    return state_dir(environ) / "keys"


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for tasks and containers: all of it but our own keys."""
    hidden = {prefix + name for prefix in PREFIXES for name in ("ACCESS_KEY", "SECRET_KEY")}
    return {name: value for name, value in environ.items() if name not in hidden}


CLUSTER_EXTRA = (
    'a Dask cluster needs the packages `distributed` and `cryptography`: pip install "meca-executor[cluster]"'
)


def why_no_cluster(address: object) -> str | None:
    """Return why this is no cluster's address; None when it is one."""
    found = re.fullmatch(r"local:(\d+)", address) if isinstance(address, str) else None
    if found is not None and not 1 <= int(found[1]) <= NODES_MOST:
        return f"cluster {address!r}: a local one has 1 to {NODES_MOST} nodes"
    if found is None and not (isinstance(address, str) and re.fullmatch(r"(tcp|tls)://[^\s/]+:\d+", address)):
        return f"cluster {address!r} is not tcp://HOST:PORT or tls://HOST:PORT of a Dask scheduler, nor local:N"
    return None
