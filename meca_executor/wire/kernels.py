"""What is said about kernels: requests, replies and events, each a record of `Kind.KERNEL`.

    id    u64   the request's number, chosen by the client; what answers it has the same
    tag   u32   Say: what this is
    ref   u32   bytes of the head: a JSON object at the start of the payload
    rest        bytes: code, what was printed, a file's content

A request has one reply, or one failure. Before that come the events of the run or the terminal that it opened.
The stream below delivers each once and in order, over any number of connections.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import UsageError
from .proof import from_text, to_text
from .records import MalformedBatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .records import Record

PURPOSE = "kernels"  #: field of the hello: what the session is for
TOKEN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
FILE_BYTES = 256 << 20  #: a file that is sent or fetched may have
FILES = 1000  #: in one call
TOTAL_BYTES = 1 << 30  #: of all of them
CODE_BYTES = 16 << 20  #: of a cell


class Say(IntEnum):
    """What a record is."""

    ASK = 0
    REPLY = 1
    FAILED = 2
    EVENT = 3


class Note(NamedTuple):
    """One record, taken apart."""

    number: int
    say: Say
    head: dict[str, Any]
    body: bytes


def pack(number: int, say: Say, head: Mapping[str, Any], body: bytes = b"") -> Record:
    """Return the record of a note."""
    text = to_text(head).encode()
    return number, int(say), len(text), text + body


def unpack(record: Record) -> Note:
    """Return what a record says.

    Raises:
        ValueError: It is no note.
    """
    number, tag, size, payload = record
    if size > len(payload):
        raise MalformedBatch(f"a head of {size} bytes in a payload of {len(payload)}")
    return Note(number, Say(tag), from_text(payload[:size].decode()), payload[size:])


def checked_token(token: object) -> str:
    """Return a client token.

    Raises:
        UsageError: It is no text of 1 to 64 letters, digits, `_`, `.` or `-`.
    """
    if not isinstance(token, str) or TOKEN.fullmatch(token) is None:
        raise UsageError(f"client_token {str(token)[:80]!r} is not 1 to 64 of A-Z a-z 0-9 _ . -")
    return token
