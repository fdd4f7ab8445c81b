"""Who has to wait because proofs failed. Pure: the time is passed in.

Elsewhere an address is one party: after 5 failed proofs within a minute it is not let in for a second, and with
each further failure for twice as long, up to a minute. A proof that holds clears that. An IPv6 address counts
with its /64, which one party has whole.

On loopback, and behind a proxy that names nobody, all share one address. There nobody is shut out: a hello waits
before it is looked at, up to 4 s, and only one that names an access key under which proofs from there failed. So
one user's old secret slows down those alone who use the same key, and whoever guesses at somebody's key on purpose
can slow its owner down but not keep them out. The wait is the same for right and wrong, so that it tells nothing;
with all places for unproved clients taken it leaves some 64 guesses a second, at secrets of 240 bits.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILURES = 5  #: within `WITHIN_S` are free
WITHIN_S = 60.0
FIRST_S = 1.0  #: the first wait; each further failure doubles it
LONGEST_S = 60.0
LONGEST_SHARED_S = 4.0  #: less than the proof may take, and than clients wait that have little patience
FORGOTTEN_S = 600.0  #: after the last wait, when no failure followed
ENTRIES = 10_000  #: addresses (with keys) that are remembered; the one that failed longest ago gives way


@dataclass
class Entry:
    """What is known about one party."""

    failures: deque[float] = field(default_factory=lambda: deque(maxlen=FAILURES))  #: when
    waits: int = 0  #: that were given
    until: float = 0.0  #: the end of the last one


class Guard:
    """Counts failed proofs and says who has to wait."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, str], Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def refused(self, address: str, now: float) -> float:
        """Return for how many seconds an address is not let in; 0 is not at all."""
        if is_shared(address):
            return 0.0
        entry = self._entries.get((party(address), ""))
        return max(0.0, entry.until - now) if entry is not None else 0.0

    def delay(self, address: str, key: str, now: float) -> float:
        """Return for how many seconds a hello that names `key` waits before it is looked at."""
        entry = self._entries.get((party(address), key)) if is_shared(address) else None
        if entry is None or not entry.waits or now - entry.until >= FORGOTTEN_S:
            return 0.0
        return wait(entry.waits, LONGEST_SHARED_S)

    def failed(self, address: str, key: str, now: float) -> None:
        """A proof did not hold."""
        shared = is_shared(address)
        name = (party(address), key if shared else "")
        entry = self._entries.setdefault(name, Entry())
        self._entries.move_to_end(name)
        if entry.waits and now - entry.until >= FORGOTTEN_S:
            entry.waits = 0
        entry.failures.append(now)
        if entry.waits or (len(entry.failures) == FAILURES and now - entry.failures[0] < WITHIN_S):
            entry.waits += 1
            entry.until = now + wait(entry.waits, LONGEST_SHARED_S if shared else LONGEST_S)
        if len(self._entries) > ENTRIES:
            self._entries.popitem(last=False)

    def passed(self, address: str, key: str) -> None:
        """A proof held."""
        self._entries.pop((party(address), key if is_shared(address) else ""), None)


def wait(number: int, longest: float) -> float:
    """Return the seconds of the wait with this number, from 1 on."""
    return float(min(longest, FIRST_S * 2.0 ** min(number - 1, 32)))


def is_shared(address: str) -> bool:
    """Whether many may be behind an address: loopback, or not known."""
    found = parsed(address)
    return found is None or found.is_loopback


def party(address: str) -> str:
    """Return what an address is counted under: itself, or the /64 that it is in."""
    found = parsed(address)
    if found is None or found.is_loopback:
        return "this machine"
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((found.packed[:8] + bytes(8), 64)))
    return str(found)


def parsed(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address, an IPv4 one as such also where it is written as an IPv6 one; None for what is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    inside = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if inside is None else inside


def last_hop(forwarded: Sequence[str], peer: str) -> str:
    """Return the address that the nearest proxy saw, from the `X-Forwarded-For` headers; else the proxy's own.

    Only the last entry is the proxy's word; those before it are what the client told.
    """
    last = forwarded[-1].rpartition(",")[2].strip() if forwarded else ""
    # Bare, in brackets, with a port after it.
    found = parsed(last) or parsed(last.partition("]")[0].lstrip("[")) or parsed(last.rpartition(":")[0])
    return peer if found is None else str(found)
