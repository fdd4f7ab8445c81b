"""How this process gets its memory."""

from __future__ import annotations

KEEP_BYTES = 4 << 20


def keep_read_buffers() -> None:
    """Have buffers for reading come from memory that the process keeps.

    asyncio reads into a fresh buffer of 256 kB each time. glibc asks the system for one that large and gives it
    back, until a larger one has been freed (mallopt(3), M_MMAP_THRESHOLD): three calls of the system and a page
    fault for each message. Elsewhere this does nothing.
    """
    bytes(KEEP_BYTES)
