"""Segments: what one process writes another maps; what is not the right segment is refused, and nothing is left."""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import socket
import struct
import uuid
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from meca_executor import SharedMemoryGone
from meca_executor.wire.parcels import ALIGNMENT, Collector, MalformedParcel, Parcel, unpack
from meca_executor.wire.probe import Probe
from meca_executor.wire.segments import (
    Segment,
    available,
    map_fd,
    map_segment,
    most_open,
)
from tests.helpers.scripts import finish, run, started

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not available(), reason="no memory files (memfd) or no /proc on this system")

CREATOR = """
    import signal
    from meca_executor.wire.parcels import Parcel
    from meca_executor.wire.segments import Segment

    segment = Segment.create(Parcel(b"from another process"))
    print(segment.reference().hex(), flush=True)
    signal.pause()
"""


def created(parcel: Parcel) -> Segment:
    segment = Segment.create(parcel)
    assert segment is not None
    return segment


def pickle_in(view: memoryview) -> bytes:
    data, _ = unpack(view)
    return bytes(data)


@pytest.fixture
def segment() -> Iterator[Segment]:
    with closing(created(Parcel(b"pickle", [memoryview(b"buffer")]))) as segment:
        yield segment


@contextlib.contextmanager
def number_taken_by(number: int, fd: int) -> Iterator[None]:
    """Give the number of a closed descriptor to another file."""
    os.dup2(fd, number)
    try:
        yield
    finally:
        os.close(number)


# -- there and back


def test_arrays_come_out_equal_aligned_and_writable() -> None:
    """Through a mapping, without a copy; they outlive the segment and every other name of the memory."""
    arrays = [np.arange(100_000) * factor for factor in range(1, 4)]
    out = Collector()
    data = pickle.dumps(arrays, 5, buffer_callback=out)
    with closing(created(Parcel(data, out.buffers))) as segment:
        mapped, buffers = unpack(map_segment(segment.reference()))
    again: list[Any] = pickle.loads(mapped, buffers=buffers)
    del mapped, buffers, segment
    gc.collect()
    assert len(again) == 3
    for array, sent in zip(again, arrays, strict=True):
        np.testing.assert_array_equal(array, sent)
        assert array.ctypes.data % ALIGNMENT == 0
        array += 1
        np.testing.assert_array_equal(array, sent + 1)


def test_another_process_reads_and_writes_and_the_original_stays(segment: Segment, tmp_path: Path) -> None:
    """What another process writes to its mapping it sees alone."""
    ran = run(
        f"""
        from meca_executor.wire.parcels import unpack
        from meca_executor.wire.segments import map_segment

        data, (buffer,) = unpack(map_segment(bytes.fromhex("{segment.reference().hex()}")))
        print(bytes(data), bytes(buffer))
        buffer[:] = b"CHANGE"
        print(bytes(buffer))
        """,
        tmp_path,
    ).expect()
    assert ran.out.splitlines() == ["b'pickle' b'buffer'", "b'CHANGE'"]
    (buffer,) = unpack(map_segment(segment.reference()))[1]
    assert bytes(buffer) == b"buffer"


def test_mappings_of_one_segment_are_apart(segment: Segment) -> None:
    """Two mappings in one process do not see each other's writes."""
    first, second = map_segment(segment.reference()), map_fd(segment.fileno(), segment.size)
    assert first == second
    first[-6:] = b"CHANGE"
    assert bytes(second[-6:]) == b"buffer"


def test_the_killed_creators_memory_stays_with_those_who_have_mapped_it(tmp_path: Path) -> None:
    """And nobody else finds it any more."""
    with started(CREATOR, tmp_path) as process:
        assert process.stdout
        reference = bytes.fromhex(process.stdout.readline())
        view = map_segment(reference)
        process.kill()
        assert finish(process).code == -signal.SIGKILL
    assert pickle_in(view) == b"from another process"
    with pytest.raises(SharedMemoryGone, match=f"process {process.pid} cannot be opened: No such file"):
        map_segment(reference)


def test_nothing_is_left() -> None:
    """A segment has a descriptor and no name; the descriptor goes with `close`, or when it is collected."""
    names, descriptors = os.listdir("/dev/shm"), sorted(os.listdir("/proc/self/fd"))
    first, second = created(Parcel(b"one")), created(Parcel(b"two"))
    assert len(os.listdir("/proc/self/fd")) == len(descriptors) + 2
    assert os.listdir("/dev/shm") == names
    view = map_segment(first.reference())
    first.close()
    first.close()
    del second
    gc.collect()
    assert pickle_in(view) == b"one"
    del view
    assert sorted(os.listdir("/proc/self/fd")) == descriptors


def test_a_closed_segment_says_so(segment: Segment) -> None:
    """It has no reference and no descriptor."""
    segment.close()
    with pytest.raises(ValueError, match="the segment was closed"):
        segment.reference()
    with pytest.raises(ValueError, match="the segment was closed"):
        segment.fileno()


def test_a_segment_keeps_its_size(segment: Segment) -> None:
    """So that no reader is made to read beyond the end."""
    reference = segment.reference()
    for size in (0, segment.size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(segment.fileno(), size)
    assert pickle_in(map_segment(reference)) == b"pickle"


def test_programs_that_are_started_do_not_inherit_it(segment: Segment) -> None:
    """They would keep the memory alive without knowing it."""
    assert not os.get_inheritable(segment.fileno())


def test_a_forked_child_and_its_parent_close_their_own(tmp_path: Path) -> None:
    """What a forked child closes stays open in the parent; its references name the child."""
    ran = run(
        """
        import os
        from meca_executor.wire.parcels import Parcel, unpack
        from meca_executor.wire.segments import Segment, map_segment

        segment = Segment.create(Parcel(b"before the fork"))
        if not (child := os.fork()):
            assert unpack(map_segment(segment.reference()))[0] == b"before the fork"
            reference = segment.reference()
            segment.close()
            assert reference[1:5] == os.getpid().to_bytes(4, "little")
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        print(bytes(unpack(map_segment(segment.reference()))[0]))
        """,
        tmp_path,
    ).expect()
    assert ran.out == "b'before the fork'\n"


def test_a_program_ends_quietly_with_segments_open(tmp_path: Path) -> None:
    """Even when they are collected after their module's globals."""
    ran = run(
        """
        import sys
        from meca_executor.wire.parcels import Parcel
        from meca_executor.wire.probe import Probe
        from meca_executor.wire.segments import Segment, map_segment

        segment = Segment.create(Parcel(b""))
        sys.kept = [segment, Probe(), map_segment(segment.reference())]
        sys.kept.append(sys.kept)
        """,
        tmp_path,
    ).expect()
    assert (ran.out, ran.err) == ("", "")


# -- what is not the right segment


def test_a_reference_to_a_closed_segment_is_refused(segment: Segment) -> None:
    """The number is free: nothing can be opened."""
    reference = segment.reference()
    segment.close()
    with pytest.raises(SharedMemoryGone, match=f"process {os.getpid()} cannot be opened: No such file"):
        map_segment(reference)


@pytest.mark.parametrize("content", [b"another size", b"PICKLE"], ids=["another size", "the same size"])
def test_a_number_that_is_another_segments_is_refused(content: bytes) -> None:
    """The descriptor's number was used again at once, which is what systems do."""
    first = created(Parcel(b"pickle"))
    number, reference = first.fileno(), first.reference()
    with closing(created(Parcel(content))) as second:
        first.close()
        with number_taken_by(number, second.fileno()), pytest.raises(SharedMemoryGone, match="is another segment's"):
            map_segment(reference)


def test_a_number_that_is_a_foreign_files_is_refused(segment: Segment, tmp_path: Path) -> None:
    """A file or a pipe is named in the text, and not even opened (a pipe without a writer would block)."""
    number, reference = segment.fileno(), segment.reference()
    path = tmp_path / "file"
    path.write_bytes(b"content")
    read, write = os.pipe()
    os.close(write)
    with path.open("rb") as file, open(read, "rb") as pipe:
        segment.close()  # only now: what is opened next gets its number
        with number_taken_by(number, file.fileno()), pytest.raises(SharedMemoryGone, match=f"of ours, but {path}"):
            map_segment(reference)
        with number_taken_by(number, pipe.fileno()), pytest.raises(SharedMemoryGone, match="of ours, but pipe:"):
            map_segment(reference)


def test_memory_that_can_still_be_cut_is_refused() -> None:
    """Whatever its name: to read beyond an end that was cut ends the reader (SIGBUS)."""
    fd = os.memfd_create("meca-segment", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, b"content")
    reference = b"M" + struct.pack("<IIQQ", os.getpid(), fd, os.fstat(fd).st_ino, 7)
    with pytest.raises(SharedMemoryGone, match="memory that its owner can still cut"):
        map_segment(reference)
    with pytest.raises(SharedMemoryGone, match="memory that its owner can still cut"):
        map_fd(fd, 7)
    os.close(fd)


def test_a_descriptor_of_another_size_is_refused(segment: Segment) -> None:
    with pytest.raises(SharedMemoryGone, match=f"{segment.size + 1} bytes was closed"):
        map_fd(segment.fileno(), segment.size + 1)


@pytest.mark.parametrize("change", [lambda r: r[:-1], lambda r: r + b"x", lambda r: b"B" + r[1:], lambda r: b""])
def test_what_is_no_reference_is_malformed(segment: Segment, change: Any) -> None:
    with pytest.raises(MalformedParcel, match="a reference to shared memory"):
        map_segment(change(segment.reference()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_cannot_read_it(segment: Segment, tmp_path: Path) -> None:
    """Neither the segment nor the probe; the system itself says so."""
    with closing(Probe()) as probe:
        run(
            f"""
            import os
            from meca_executor.wire.probe import answer
            from meca_executor.wire.segments import SharedMemoryGone, map_segment

            os.setuid(65534)
            assert answer("{probe.offer()}") is None
            try:
                map_segment(bytes.fromhex("{segment.reference().hex()}"))
            except SharedMemoryGone as error:
                assert "cannot be opened: Permission denied" in str(error), error
            else:
                raise AssertionError("it was read")
            """,
            tmp_path,
        ).expect()


# -- descriptors over a socket


def test_a_segment_is_adopted_over_a_socket(tmp_path: Path) -> None:
    """It outlives its creator, and the adopter refers others to itself."""
    name = f"\0segments-{uuid.uuid4().hex}"  # no file
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        run(
            f"""
            import socket
            from meca_executor.wire.parcels import Parcel
            from meca_executor.wire.segments import Segment

            segment = Segment.create(Parcel(b"handed over"))
            with socket.socket(socket.AF_UNIX) as sender:
                sender.connect({name!r})
                socket.send_fds(sender, [b"%5d" % segment.size], [segment.fileno()])
            """,
            tmp_path,
        ).expect()
        receiver, _ = listener.accept()
        with receiver:
            size, (fd,), *_ = socket.recv_fds(receiver, 5, 1)
    with closing(Segment.adopt(fd, int(size))) as segment:
        assert segment.fileno() == fd
        assert not os.get_inheritable(fd)
        assert segment.reference()[1:5] == os.getpid().to_bytes(4, "little")
        assert pickle_in(map_fd(fd, segment.size)) == b"handed over"
        assert pickle_in(map_segment(segment.reference())) == b"handed over"


def test_what_is_no_segment_is_not_adopted() -> None:
    """Its descriptor is closed, so that a hostile sender cannot use ours up."""
    read, write = os.pipe()
    with pytest.raises(SharedMemoryGone, match=f"descriptor {read} is not shared memory"):
        Segment.adopt(read, 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)
    os.close(write)


# -- limits


def test_a_process_has_a_budget_of_segments(tmp_path: Path) -> None:
    """A quarter of its descriptors; beyond that `create` returns None, until one is closed."""
    run(
        """
        import resource
        from meca_executor.wire.parcels import Parcel
        from meca_executor.wire.segments import Segment, most_open

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        assert most_open() == 16
        segments = [Segment.create(Parcel(b"")) for _ in range(16)]
        assert None not in segments
        assert Segment.create(Parcel(b"")) is None
        segments.pop().close()
        assert Segment.create(Parcel(b"")) is not None
        del segments[:3]
        assert None not in [Segment.create(Parcel(b"")) for _ in range(3)]
        """,
        tmp_path,
    ).expect()
    assert 0 < most_open() <= 256


def test_no_descriptor_left_is_no_error(tmp_path: Path) -> None:
    """Then the payload goes another way, too."""
    run(
        """
        import contextlib, os, resource
        from meca_executor.wire.parcels import Parcel
        from meca_executor.wire.segments import Segment

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        with contextlib.suppress(OSError):
            while True:
                os.dup(0)
        assert Segment.create(Parcel(b"")) is None
        """,
        tmp_path,
    ).expect()


def test_mappings_do_not_use_up_the_descriptors(tmp_path: Path) -> None:
    """Many results may be kept: those beyond our share of the descriptors are writable copies where need be."""
    run(
        """
        import os, resource
        from meca_executor.wire.parcels import Parcel, unpack
        from meca_executor.wire.segments import Segment, map_segment

        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        content = os.urandom(100_000)
        segment = Segment.create(Parcel(b"pickle", [memoryview(content)]))
        views = [map_segment(segment.reference()) for _ in range(100)]
        segment.close()
        assert len(os.listdir("/proc/self/fd")) < 32
        for view in views:
            (buffer,) = unpack(view)[1]
            assert buffer == content
            buffer[:] = bytes(len(content))
        """,
        tmp_path,
    ).expect()


def test_more_than_the_memory_that_is_left_is_a_clear_error(tmp_path: Path) -> None:
    """A memory file has no limit of its own: without a look first, the system would end some process."""
    run(
        """
        import os, resource
        from meca_executor.wire.parcels import Parcel
        from meca_executor.wire.segments import Segment, SharedMemoryFull

        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))  # in case it should be tried after all
        before = os.listdir("/proc/self/fd")
        parcel = Parcel(b"", [memoryview(bytearray(64 << 20))] * (1 << 18))  # 16 TiB, never touched
        try:
            Segment.create(parcel)
        except SharedMemoryFull as error:
            begin = f"a payload of {parcel.size} bytes does not fit into shared memory (Cannot allocate memory): let"
            assert str(error).startswith(begin), error
        else:
            raise AssertionError("no error")
        assert os.listdir("/proc/self/fd") == before
        """,
        tmp_path,
    ).expect()


def test_what_the_system_refuses_to_reserve_is_a_clear_error(tmp_path: Path) -> None:
    """Before anything is written; a limit on file sizes stands in for a file system that is full."""
    run(
        """
        import os, resource
        from meca_executor.wire.parcels import Parcel
        from meca_executor.wire.segments import Segment, SharedMemoryFull

        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        before = os.listdir("/proc/self/fd")
        try:
            Segment.create(Parcel(bytes(2 << 20)))
        except SharedMemoryFull as error:
            assert str(error).startswith(f"a payload of {(2 << 20) + 16} bytes does not fit into shared memory"), error
        else:
            raise AssertionError("no error")
        assert os.listdir("/proc/self/fd") == before
        assert Segment.create(Parcel(bytes(1 << 19))) is not None
        """,
        tmp_path,
    ).expect()


def test_no_room_to_map_is_a_clear_error(tmp_path: Path) -> None:
    """A limit on the reader's own memory is told with the size."""
    with closing(created(Parcel(bytes(64 << 20)))) as segment:
        run(
            f"""
            import resource
            from meca_executor.wire.segments import SharedMemoryFull, map_segment

            used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (32 << 20), -1))
            try:
                map_segment(bytes.fromhex("{segment.reference().hex()}"))
            except SharedMemoryFull as error:
                assert "a payload of {segment.size} bytes does not fit" in str(error), error
            else:
                raise AssertionError("no error")
            """,
            tmp_path,
        ).expect()
