"""Records: the one unit of which every batch is made, on the link and on the workers' pipes.

A record is a fixed header of four integers and a payload. A batch is records one after the other:

    id    u64   task id (link), or the task's ordinal in its worker (pipe)
    tag   u32   what the kind of message says: options id, status, ...
    ref   u32   a definition's id, or the task's run time in microseconds
    size  u64   bytes of payload that follow

Calls of one kind travel as a group: a record whose payload is a batch of theirs, so that the gateway can
pass on hundreds of them as one slice. It moves payloads from one side to the other without looking into them.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .payloads import Held

RECORD = struct.Struct("<QIIQ")
ITEM = 1 << 63  #: set in the ids of a map's items, beside those of tasks
MICROS_MAX = 0xFFFF_FFFF  #: a run time is cut to what fits in `ref`, 71 minutes

pack_header = RECORD.pack
unpack_header = RECORD.unpack_from
HEADER_BYTES = RECORD.size
SIZE_AT = 16  #: where a record's header has the payload's size
unpack_size = struct.Struct("<Q").unpack_from
unpack_id = unpack_size  #: at a record's start


class MalformedBatch(ValueError):
    """The bytes are not a batch: a record says it is longer than what is there."""


Record = tuple[int, int, int, bytes]
"""`(id, tag, ref, payload)`. A plain tuple: a named one costs half a microsecond more, for each task four times."""


class Kind(IntEnum):
    """What a message is; the comment says what `id`, `tag`, `ref` and the payload are in it."""

    CONTROL = 1  # -, -, -, a JSON object: {"type": ...}
    OPTIONS = 2  # options id, -, -, a JSON object: how tasks with this tag run
    DEFINE = 3  # definition id, Definition, -, what is defined
    TASKS = (
        4  # a group: count, options id, definition id (0: in the calls), batch of (task id, attempts before, 0, call)
    )
    RESULTS = 5  # task id, Status, microseconds, outcome
    KILL = 6  # task id, -, -, nothing
    ACK = 7  # only the header's acknowledgement counts
    SETUP = 8  # -, -, -, what a session's workers are for: JSON, then the pickled initializer or nothing
    SHARED = 12  # as RESULTS: one whose payload refers to shared memory, which is kept until it is released
    RELEASE = 13  # -, Release, -, such a payload
    PIECE = 14  # one record: the number of a blob, 1 in its last piece, 0, some of its content (see `blobs.py`)
    NAMES = 20  # task id, Reading, -, the name that its user gave it; of tasks of a session that has a name itself
    LISTING = 21  # task id, Reading, State, its name: all tasks of such a session
    FETCH = 22  # task id, -, -, nothing: its outcome is wanted, now or when it comes
    KERNEL = 15  # in sessions of kernels only, see wire/kernels.py
    HOSTING = 23  # in sessions of hosts only, see wire/hosting.py
    # On the workers' pipes only:
    CALLS = 9  # one group: its first ordinal, 0, definition number, batch of (task id, 0, 0, call)
    LARGE = 10  # as RESULTS: one that did not fit into the outbox
    SETUP_FAILED = 11  # no records but UTF-8 text: the initializer raised


class Definition(IntEnum):
    """What a `DEFINE` record holds."""

    FUNCTION = 0  # a pickled reference to an importable function
    PATH = 1  # a JSON list: where the client's modules are found, from now on
    OBJECT = 2  # the payload of an object that calls mention by its number, a random one
    FORGET = 3  # nothing: no call mentions that object any more
    CODE = 5  # the archive of a module or package, by a number made of its content; forgotten, workers that have it end
    FREED = 4  # pipe only, the payload of an outcome in shared memory: its reader is done


class Release(IntEnum):
    """What a client says of results in shared memory."""

    MAPPED = 0  # it has mapped this one
    FREED = 1  # nothing of this one is left
    TRIM = 2  # (no payload) it has had no large ones for a while


class Status(IntEnum):
    """How an attempt ended; or what it printed, which comes before that."""

    OK = 0  # pickled result
    RAISED = 1  # pickled (exception, traceback text)
    FAILED = 2  # UTF-8 text: an outcome that no exception object could carry
    TIMEOUT = 3  # UTF-8 text
    DIED = 4  # UTF-8 text: how the worker ended
    LOST = 5  # UTF-8 text: the gateway cannot say whether the attempt ran to its end
    KILLED = 6  # UTF-8 text
    NO_HOST = 7  # UTF-8 text
    REPLY = 8  # a container's reply, as it came
    CONTAINER_FAILED = 9  # UTF-8 text
    CONTAINER_LOST = 10  # UTF-8 text: it had been ready and ended during the call
    TOO_LARGE = 11  # UTF-8 text
    BROKEN = 12  # UTF-8 text: nothing can run in this session (its initializer failed)
    BUSY = 13  # UTF-8 text: not taken, and nothing of it has begun; it may be offered again
    # Of task 0; whose text it is, `ref` and the payload say (`printed.py`):
    STDOUT = 64  # what the session's tasks printed, whole lines where there are
    STDERR = 65
    SKIPPED = 66  # pipe only: the worker left this one alone, as it was told to
    LOGGED = 67  # what a container wrote during a task: for its log only


COUNTED = 0x400
"""Flag of a status: in place of a time stands how many attempts there have been, those that earlier
gateways made of the same call included."""


class Outcomes(NamedTuple):
    """What became of calls that a worker did, in the order in which it had them."""

    batch: bytes  #: records of `Kind.RESULTS`
    total: int  #: how many
    micros: int  #: run time of all
    plain: bool  #: none was skipped
    shared: Held | None = None  #: the payload of the one outcome, when it is in shared memory

    @classmethod
    def of(cls, batch: bytes) -> Outcomes:
        """Count what is in a batch.

        Raises:
            MalformedBatch: The last record is cut short.
        """
        records = decode(batch)
        plain = all(status != Status.SKIPPED for _, status, _, _ in records)
        return cls(batch, len(records), sum(micros for _, _, micros, _ in records), plain)


def encode(records: Iterable[Record]) -> bytes:
    """Return the batch of these records, in their order."""
    return b"".join(
        [part for id_, tag, ref, payload in records for part in (pack_header(id_, tag, ref, len(payload)), payload)]
    )


def decode(batch: bytes) -> list[Record]:
    """Return the records of a batch. Their payloads are copies, so that the batch can be freed.

    Raises:
        MalformedBatch: The last record is cut short.
    """
    records: list[Record] = []
    position, end = 0, len(batch)
    while position < end:
        if end - position < HEADER_BYTES:
            raise MalformedBatch(f"{end - position} bytes left, a record's header has {HEADER_BYTES}")
        id_, tag, ref, size = unpack_header(batch, position)
        start = position + HEADER_BYTES
        position = start + size
        if position > end:
            raise MalformedBatch(f"record {id_} announces {size} bytes, {end - start} are left")
        records.append((id_, tag, ref, batch[start:position]))
    return records


def starts(batch: bytes) -> list[int]:
    """Return where each record of a batch starts, and where the last one ends.

    Raises:
        MalformedBatch: The last record is cut short.
    """
    found = [0]
    position, end = 0, len(batch)
    try:
        while position < end:
            position += HEADER_BYTES + unpack_size(batch, position + SIZE_AT)[0]
            found.append(position)
    except struct.error:
        position = end + 1
    if position != end:
        raise MalformedBatch(f"the last of {len(found)} records is longer than what is left of the batch")
    return found
