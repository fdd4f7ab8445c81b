"""Shipping: which of the user's modules the calls need, so that workers can import them.

A pickle says by name what it refers to. Where the name is that of a module of the user's own, this module, or the
whole package that it is in, is read from its files and sent, with all that it imports of the same kind. Each is known
by its content and sent once a session. What a reload has changed is read again and takes the place of what was sent.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..errors import UsageError
from ..wire.calls import BY_NAME, modules_now
from ..wire.code import number_of, pack
from ..wire.parcels import PACKED, unpack
from ..wire.payloads import is_plain, opened
from . import units

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .driver import LinkSettings
    from .tasks import Registry

log = logging.getLogger("meca.client")

Item = str | os.PathLike[str] | ModuleType
Ship = Literal["auto"] | Item | Sequence[Item] | None


class Sent(NamedTuple):
    """A unit as it was sent."""

    place: units.Place
    number: int


class Shipping:
    """What one executor sends of the user's code; `note` may be called from any thread.

    Args:
        registry: Where archives are put, and where functions' references come from.
        auto: Look for what is needed.
        named: Units that are sent in any case.

    Raises:
        UsageError: A unit is too large or cannot be read.
    """

    def __init__(self, registry: Registry, auto: bool, named: Iterable[units.Place]) -> None:
        self._registry = registry
        self._auto = auto
        self._lock = threading.Lock()
        self._sent: dict[str, Sent] = {}
        self._noted: set[int] = set()  # functions of the registry
        self._modules: tuple[int, str] = (0, "")  # as `modules_now` says, when the names were gathered
        self._names: re.Pattern[bytes] | None = None  # finds what may be a unit's name in a pickle
        self._others: set[str] = set()  # such names that are no unit's
        self._watched: dict[str, Any] = {}  # loaded module of a unit -> its spec, which a reload replaces
        self._watched_at: tuple[int, str] = (0, "")
        self._send(list(named))

    def __repr__(self) -> str:
        return f"<Shipping {', '.join(self._sent) or 'nothing yet'}>"

    # -- any thread -------------------------------------------------------------------------------

    def note(self, payload: bytes, reference: int = 0) -> None:
        """Look at what a payload needs, and the function with this number if the call has one.

        Raises:
            UsageError: It cannot be sent.
        """
        if not self._auto:
            return
        if reference and reference not in self._noted:
            self._note_pickle(self._registry.references[reference])
            self._noted.add(reference)
        self._note_pickle(pickle_of(payload))

    def _note_pickle(self, data: bytes) -> None:
        if BY_NAME not in data:  # plain data: by far the most calls
            return
        if self._names is None or self._modules != modules_now():
            self._gather_names()
        if self._names is None or not (found := self._names.findall(data)):
            return
        if needed := {name.decode() for name in found} - self._sent.keys() - self._others:
            with self._lock:
                places = {name: units.find(name) for name in needed - self._sent.keys()}
                self._send([place for place in places.values() if place is not None])
                self._others.update(name for name, place in places.items() if place is None)

    def _gather_names(self) -> None:
        """Note the names of all modules that would have to be sent, should they be needed."""
        self._modules = modules_now()
        self._others.clear()
        loaded = {name.partition(".")[0] for name in list(sys.modules)}
        places = [place for name in loaded if (place := units.find(name)) is not None]
        folders = {os.path.dirname(path) for place in places for path in place.paths}
        if (project := units.project_folder()) is not None:
            folders.add(project)
        names = {place.name for place in places}
        for folder in folders:
            names.update(units.names_in(folder))
        names -= units.NOT_SHIPPED
        # In a pickle: the length of a string, then a name, and nothing of it or a dot behind that.
        either = b"|".join(re.escape(name.encode()) for name in sorted(names))
        self._names = re.compile(rb"\x8c.(" + either + rb")(?!\w)", re.DOTALL) if names else None

    # -- the link's thread ------------------------------------------------------------------------

    def renew(self) -> None:
        """Send again what was loaded again since; called before tasks are handed over."""
        if not self._sent:
            return
        changed = {
            name.partition(".")[0]
            for name, spec in list(self._watched.items())
            if (module := sys.modules.get(name)) is not None and getattr(module, "__spec__", None) is not spec
        }
        if not changed and self._watched_at == modules_now():
            return
        with self._lock:
            for name in changed & self._sent.keys():
                self._send_again(name)
            self._watch()

    # -- both, under the lock ---------------------------------------------------------------------

    def _send(self, places: list[units.Place]) -> None:
        """Read units and have them sent, and those of the user's own that they import; all of them or none.

        Raises:
            UsageError: One cannot be sent.
        """
        given = {place.name for place in places}
        ready: dict[str, tuple[units.Place, bytes]] = {}
        for place in places:  # grows
            if place.name in ready or (place.name in self._sent and place.name not in given):
                continue
            for name in [name for name in self._watched if name.partition(".")[0] == place.name]:
                del self._watched[name]
            self._watch([place.name])  # before it is read: a reload meanwhile is seen later
            unit = units.read(place)
            ready[place.name] = place, pack(unit)
            if self._auto:
                imported = units.imports_of(unit) - self._sent.keys() - ready.keys()
                places += [found for name in sorted(imported) if (found := units.find(name)) is not None]
        for place, payload in ready.values():
            self._put(place, payload)

    def _send_again(self, name: str) -> None:
        try:
            self._send([self._sent[name].place])
        except UsageError as error:
            log.warning("%s was loaded again and is not sent again: %s", name, error)

    def _put(self, place: units.Place, payload: bytes) -> None:
        number, before = number_of(payload), self._sent.get(place.name)
        self._registry.code[number] = payload
        self._sent[place.name] = Sent(place, number)
        if before is not None and before.number != number:
            self._registry.code.pop(before.number, None)

    def _watch(self, names: Iterable[str] = ()) -> None:
        """Watch the modules of all units that are sent, and of these."""
        watched = {*self._sent, *names}
        self._watched_at = modules_now()
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] in watched:
                self._watched.setdefault(name, getattr(module, "__spec__", None))


def checked_ship(ship: Ship) -> tuple[bool, list[units.Place]]:
    """Return whether to look for what is needed, and the units that are named.

    Raises:
        UsageError: A value is wrong.
    """
    if ship is None:
        return False, []
    if isinstance(ship, (str, os.PathLike, ModuleType)):
        ship = [ship]
    if not isinstance(ship, Sequence):
        raise UsageError(f"ship {ship!r} is not 'auto', None, or a list of paths and modules")
    named = [place for item in ship if item != "auto" for place in units.places_named(item)]
    return "auto" in [item for item in ship if isinstance(item, str)], named


def shipping_for(ship: Ship, registry: Registry, settings: LinkSettings, *, embedded: bool) -> Shipping | None:
    """Return what looks after an executor's code; None when there is nothing to send.

    An embedded gateway's workers are on this machine and find modules where they are: only what is named goes there.

    Raises:
        UsageError: A value is wrong, or a unit cannot be sent.
    """
    auto, named = checked_ship(ship)
    auto = auto and not embedded
    if not auto and not named:
        return None
    shipping = Shipping(registry, auto, named)
    registry.renew = shipping.renew
    if settings.initializer:
        shipping.note(settings.initializer)
    return shipping


def pickle_of(payload: bytes) -> bytes:
    """Return the pickle in a payload, without its large buffers."""
    if is_plain(payload):
        return payload
    return bytes(unpack(payload)[0] if payload[0] == PACKED else opened(payload)[0])
