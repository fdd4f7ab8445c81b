"""A reliable stream of messages over a link that may drop.

Each side of a session has one. Messages are cut into numbered frames; the sender keeps a frame until
the other side acknowledges it, and after a reconnect sends again what the other side has not had. So
each message arrives once and in order, however often the link drops. No I/O happens here.

A side that writes down what arrives (`hold`) acknowledges it when that is done: what it has not
acknowledged, the other side sends again, also to the process that takes its place.

    frame   kind u8, flags u8, zero u16, zero u32, number u64, acknowledged u64, then the message (or a part)
"""

from __future__ import annotations

import struct
from collections import deque
from typing import NamedTuple

from .records import Kind

FRAME = struct.Struct("<BBHIQQ")
MORE = 1  #: flag: the message goes on in the next frame
FRAME_LIMIT = 4 << 20  #: bytes a frame may have; aiohttp's default for a websocket message
PART_BYTES = 1 << 20  #: where a message is cut; 64 parts of 1 MB pass several times faster than one of 64 MB
ACK_FRAMES = 16  #: an acknowledgement is due after so many frames
ACK_BYTES = 256 << 10  #: or so many bytes


Piece = tuple[bytes, "bytes | memoryview"]  #: a record's header and its payload: the body of one frame


class StreamBroken(ValueError):
    """A frame that cannot be: garbage, a gap in the numbers, or more than may be sent."""


class Message(NamedTuple):
    """One whole message."""

    kind: Kind
    body: bytes


class Stream:
    """One side's numbers, unacknowledged frames and half-received message.

    Args:
        max_message: Bytes that a message from the other side may have.
        hold: Acknowledge only what `commit` was told.
        received: The other side's last frame, where this process takes another one's place.
        sent: The last frame that the other process had made.
    """

    def __init__(self, max_message: int | None = None, *, hold: bool = False, received: int = 0, sent: int = 0) -> None:
        self._next = sent + 1
        self._hold = hold
        self._committed = received
        self._unacked: deque[tuple[int, bytes]] = deque()
        self._parts: list[bytes] = []
        self._parts_kind: Kind | None = None  # None: no message is half received
        self._parts_bytes = 0
        self._max_message = max_message
        self._owed_frames = 0
        self._owed_bytes = 0
        self.received = received  #: the last frame number that arrived in order
        self.unacked_bytes = 0  #: what the other side has not acknowledged yet

    def __repr__(self) -> str:
        return f"<Stream sent {self._next - 1} received {self.received} unacknowledged {len(self._unacked)}>"

    def send(self, kind: Kind, body: bytes) -> list[bytes]:
        """Return the frames to transmit, in order; they are kept until acknowledged."""
        if len(body) <= PART_BYTES:
            return [self._frame(kind, 0, body)]
        view = memoryview(body)
        starts = range(0, len(body), PART_BYTES)
        return [self._frame(kind, MORE if at != starts[-1] else 0, view[at : at + PART_BYTES]) for at in starts]

    def send_piece(self, piece: Piece) -> bytes:
        """Return the frame of a blob's piece; all else as `send`."""
        return self._frame(Kind.PIECE, 0, *piece)

    def _frame(self, kind: Kind, flags: int, *parts: bytes | memoryview) -> bytes:
        number = self._next
        self._next = number + 1
        self._owed_frames = self._owed_bytes = 0
        frame = b"".join((FRAME.pack(kind, flags, 0, 0, number, self.acknowledgeable), *parts))
        self._unacked.append((number, frame))
        self.unacked_bytes += len(frame)
        return frame

    def receive(self, frame: bytes) -> Message | None:
        """Take a frame in; return the message that it completes, if it does.

        A frame that came before is ignored.

        Raises:
            StreamBroken: Garbage, a number that skips one, or a message over the limit. The link should
                be dropped: a reconnect goes on from the last good frame.
        """
        if len(frame) < FRAME.size:
            raise StreamBroken(f"a frame of {len(frame)} bytes, the header has {FRAME.size}")
        code, flags, _, _, number, acked = FRAME.unpack_from(frame)
        self.acknowledged(acked)
        if number == 0 and code == Kind.ACK:
            return None
        if number <= self.received:
            return None
        if number != self.received + 1:
            raise StreamBroken(f"frame {number} after {self.received}")
        try:
            kind = Kind(code)
        except ValueError:
            raise StreamBroken(f"frame of unknown kind {code}") from None
        self.received = number
        self._owed_frames += 1
        self._owed_bytes += len(frame)
        return self._assemble(kind, flags, frame[FRAME.size :])

    def _assemble(self, kind: Kind, flags: int, part: bytes) -> Message | None:
        if self._parts_kind not in (None, kind):
            raise StreamBroken(f"a part of {kind.name} in a message of {self._parts_kind!r}")
        self._parts_bytes += len(part)
        if self._max_message is not None and self._parts_bytes > self._max_message:
            self._parts.clear()
            raise StreamBroken(f"a message of more than {self._max_message} bytes")
        if flags & MORE:
            self._parts += [part] if part else []  # parts without content count for no limit
            self._parts_kind = kind
            return None
        body = b"".join((*self._parts, part)) if self._parts else part
        self._parts.clear()
        self._parts_bytes, self._parts_kind = 0, None
        return Message(kind, body)

    def acknowledged(self, number: int) -> None:
        """Forget the frames up to `number`.

        Raises:
            StreamBroken: That number was never sent.
        """
        if number >= self._next:
            raise StreamBroken(f"frame {number} acknowledged, {self._next - 1} sent")
        unacked = self._unacked
        while unacked and unacked[0][0] <= number:
            self.unacked_bytes -= len(unacked.popleft()[1])

    @property
    def ack_owed(self) -> bool:
        """Whether something arrived that no sent frame has acknowledged yet."""
        return self._owed_frames > 0

    @property
    def ack_due(self) -> bool:
        """Whether enough is unacknowledged that an acknowledgement should go out now."""
        return self._owed_frames >= ACK_FRAMES or self._owed_bytes >= ACK_BYTES

    def acknowledge(self) -> bytes:
        """Return a frame that only acknowledges; after it nothing is owed."""
        self._owed_frames = self._owed_bytes = 0
        return FRAME.pack(Kind.ACK, 0, 0, 0, 0, self.acknowledgeable)

    @property
    def acknowledgeable(self) -> int:
        """The last frame that the other side may forget."""
        return self._committed if self._hold else self.received

    def commit(self, number: int) -> None:
        """What came up to this frame is written down."""
        if number > self._committed:
            self._committed = number
            self._owed_frames += 1

    @property
    def delivered(self) -> int:
        """The last frame that the other side has acknowledged."""
        return self._unacked[0][0] - 1 if self._unacked else self._next - 1

    @property
    def sent(self) -> int:
        """The last frame that was made."""
        return self._next - 1

    def replay(self, received: int, last: int | None = None) -> list[bytes]:
        """Return the frames to send again to a side that has had those up to `received`; none after `last`."""
        self.acknowledged(received)
        return [frame for number, frame in self._unacked if last is None or number <= last]


def frames_of(body: bytes) -> int:
    """Return how many frames a message of this body has."""
    return max(1, -(-len(body) // PART_BYTES))
