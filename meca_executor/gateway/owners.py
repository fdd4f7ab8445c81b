"""Whose an access key is, and whether functions may run here.

All worker processes are one system user's, so what one owner's function does, no other owner's is safe from. With
several owners functions are refused, unless the operator trusts them all; containers run for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .desktop import with_tag

if TYPE_CHECKING:
    from collections.abc import Collection

    from ..keys import KeyFile

THE_USER = "the user"  #: owner of all pairs in the user's own key file


class Owners:
    """The access keys of one gateway.

    Args:
        keys: Access key -> secret of those who may connect, each an owner; or where that is written.
        trusted: Functions of all owners may run as the gateway's user.
        runners: Apps that run functions as the gateway's user, too, by name with tag.
    """

    def __init__(
        self, keys: Mapping[str, str] | KeyFile, trusted: bool = False, runners: Collection[str] = frozenset()
    ) -> None:
        self._keys = keys
        self._trusted = trusted
        self._runners = runners
        self._known = self.secrets()

    def __str__(self) -> str:
        count = 1 if self._one else len(self._known)
        return f"{count} owner{'s; --trust-all-keys lets them run, all as this user' if count > 1 else ''}"

    def secrets(self) -> Mapping[str, str]:
        """Return access key -> secret, as it is now."""
        self._known = self._keys if isinstance(self._keys, Mapping) else self._keys.secrets()
        return self._known

    def settled(self) -> Mapping[str, str] | None:
        """As `secrets`, but None while somebody seems to be changing them, or when they never change."""
        return None if isinstance(self._keys, Mapping) else self._keys.settled()

    def owner(self, access_key: str) -> str:
        """Return whom a key's sessions belong to."""
        return THE_USER if self._one else access_key

    @property
    def _one(self) -> bool:
        return not isinstance(self._keys, Mapping) and self._keys.one_owner

    def why_not(self, container_ref: str | None = None) -> str | None:
        """Return why a function is not run here, or not by this container, and the ways out; None when it is.

        It goes by the keys that were read last: whoever comes with a new one has had them read.
        """
        if self._trusted or self._one or len(self._known) < 2:
            return None
        if container_ref is not None and with_tag(container_ref) not in self._runners:
            return None
        if container_ref is None:
            what, way = "functions are not run here", "submit a Container(...), let a host of yours join (meca host)"
        else:
            what, way = f"{container_ref} is not run here", "submit another Container(...)"
        return (
            f"{what}: the gateway's key file has {len(self._known)} owners, and all their functions would run as one "
            f"system user; {way}, or have the operator start the gateway with --trust-all-keys"
        )

    def why_no_kernels(self) -> str | None:
        """Return why no kernel runs here, and the way out; None when they do. As for functions."""
        if self.why_not() is None:
            return None
        return (
            f"kernels are not run here: the gateway's key file has {len(self._known)} owners, and all their kernels "
            "would run as one system user; give isolate=True (--isolate), so that they run in containers, or have the "
            "operator start the gateway with --trust-all-keys"
        )
