"""What the environment and the user's state folder say: endpoint, keys, places."""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_PORT = 3001  #: the MECAnywhere desktop app's port, and so ours
DESKTOP_ENDPOINT = f"http://localhost:{DEFAULT_PORT}"
PREFIXES = ("MECA_", "BACKEND_", "SORNA_")  #: read in this order, so that old settings go on working


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
        UsageError: One half is set and the other is not.
    """
    env = os.environ if environ is None else environ
    for prefix in PREFIXES:  # both halves under one name: an old one's secret is not a new one's
        access, secret = env.get(prefix + "ACCESS_KEY"), env.get(prefix + "SECRET_KEY")
        if access and secret:
            return KeyPair(access, secret)
        if access or secret:
            missing = prefix + ("SECRET_KEY" if access else "ACCESS_KEY")
            raise UsageError(f"{missing} is not set, but the other half of the key pair is; set both or neither")
    return None


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


def make_keys() -> KeyPair:
    """Return a fresh pair: `AKIA` and 16 characters of base32, and 40 URL-safe characters."""
    name = base64.b32encode(secrets.token_bytes(10)).decode()
    return KeyPair("AKIA" + name, secrets.token_urlsafe(30))


def read_keys(path: Path) -> list[KeyPair]:
    """Return the pairs of a key file (`ACCESS SECRET` a line, `#` comments); [] when there is no file.

    Raises:
        UsageError: A line is not a pair, or others may read the file.
    """
    try:
        with open(path, encoding="utf-8") as file:
            if hasattr(os, "getuid") and os.fstat(file.fileno()).st_mode & 0o077:
                raise UsageError(f"key file {path} can be read by others; run: chmod 600 {path}")
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    pairs = []
    for number, line in enumerate(lines, 1):
        if (text := line.strip()) and not text.startswith("#"):
            fields = text.split()
            if len(fields) != 2:
                raise UsageError(f"key file {path}, line {number}: expected an access key and a secret key")
            pairs.append(KeyPair(*fields))
    return pairs


def ensure_keys(path: Path) -> list[KeyPair]:
    """Return the pairs of a key file, first making it with one pair (mode 600) when it is not there."""
    if pairs := read_keys(path):
        return pairs
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pair = make_keys()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        # Somebody else was quicker, or the file is there and empty: append to it.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(f"\n{pair.access_key} {pair.secret_key}\n")
    return read_keys(path)


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for tasks and containers: all of it but our own keys."""
    hidden = {prefix + name for prefix in PREFIXES for name in ("ACCESS_KEY", "SECRET_KEY")}
    return {name: value for name, value in environ.items() if name not in hidden}
