"""On which machine a container call is made. Pure.

An app that an operator gave by name is that operator's program, so its calls go only where it is; all other names are
images, which any engine may get, or shipped examples. Slots are counted for container calls alone, apart from those of
functions, and resources not at all: each machine's engine holds its containers to them, and lets them wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .placement import why_nowhere

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..wire.hosting import Offer

PLAIN_RUNTIME = "container"  #: every engine has it


class Wish(NamedTuple):
    """What a call needs; the name with its tag."""

    ref: str
    runtime: str | None
    resource: Mapping[str, float]


@dataclass(eq=False)
class Place:
    """One machine that a call's owner may have containers on, as it is now.

    Attributes:
        number: 0 is the gateway's own.
        slots: Calls that it is given at once; of the gateway's own as soon as there are others.
        capacity: What it has of each resource.
        offer: What it has for container calls.
        open: Whether it takes calls now; one that is away may do so later.
        running: Calls that it has.
    """

    number: int
    slots: int
    capacity: Mapping[str, float]
    offer: Offer
    open: bool = True
    running: int = 0


def with_ref(places: Iterable[Place], wish: Wish) -> list[Place]:
    """Return those that have what a call asks for, whether it fits there or not."""
    found = list(places)
    if any(wish.ref in place.offer.apps for place in found):
        return [place for place in found if wish.ref in place.offer.apps]
    plain = wish.runtime in (None, PLAIN_RUNTIME)
    return [
        place
        for place in found
        if (place.offer.engine and (plain or wish.runtime in place.offer.runtimes))
        or (plain and wish.ref in place.offer.examples)
    ]


def why_never(places: Sequence[Place], wish: Wish) -> str | None:
    """Return why a call fits on no machine, with the best there is.

    None when it fits on one; and when only the gateway's own, the first, has words for what is missing.
    """
    if found := with_ref(places, wish):
        return why_nowhere(wish.resource, [place.capacity for place in found])
    if any(place is not places[0] for place in with_ref(places, wish._replace(runtime=None))):
        known = ", ".join(sorted({PLAIN_RUNTIME}.union(*(place.offer.runtimes for place in places))))
        return (
            f"no runtime {wish.runtime!r} on any host that could run {wish.ref} (known: {known}); it is named by "
            f"meca host --runtime {wish.runtime}=ENGINE_RUNTIME, for images of an engine"
        )
    return None


def able(places: Iterable[Place], wish: Wish) -> list[Place]:
    """Return those on which a call can run, now or later."""
    return [place for place in with_ref(places, wish) if why_nowhere(wish.resource, [place.capacity]) is None]


def best(places: Sequence[Place], wish: Wish, patient: bool = False) -> Place | None:
    """Return where a call is made now: where there is most room, the gateway's own machine on a tie.

    None: it waits. What no other machine can run is the gateway's own at once, which lets it wait by itself or says in
    words why it cannot run.

    Args:
        places: All; the gateway's own is the first.
        wish: What the call needs.
        patient: What none of them can run waits, too.
    """
    here = places[0]
    found = able(places, wish)
    if found == [here] or not (found or patient):
        return here
    free = [place for place in found if place.open and place.running < place.slots]
    return min(free, key=lambda place: (place.running / place.slots, place.number), default=None)
