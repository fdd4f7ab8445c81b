"""Bytes and values from outside, at random and mutated: only the documented exceptions come out, in bounded memory.

What has such a test beside its other ones is not here: batches (test_records), single frames (test_stream), parcels
(test_parcels) and the data codec (test_data_hostile).
"""

from __future__ import annotations

import json
import os
import tracemalloc
from typing import TYPE_CHECKING, Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from meca_executor.errors import SharedMemoryFull, SharedMemoryGone
from meca_executor.gateway.tasks import Options
from meca_executor.policy.placement import why_never
from meca_executor.wire import desktop, proof
from meca_executor.wire.parcels import MalformedParcel, Parcel
from meca_executor.wire.payloads import opened
from meca_executor.wire.probe import Probe, answer
from meca_executor.wire.records import Kind, MalformedBatch, Outcomes, Status, encode
from meca_executor.wire.segments import Segment, available, described, map_segment, open_segment
from meca_executor.wire.stream import FRAME, FRAME_LIMIT, MORE, PART_BYTES, Stream, StreamBroken

if TYPE_CHECKING:
    from collections.abc import Iterator

thoroughly = settings(database=None, deadline=None, derandomize=True, max_examples=150)
seldom = settings(thoroughly, max_examples=40)

#: what JSON may bring: no number is too large and no text too odd
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**64, 0, -1])
    | st.floats()
    | st.text(max_size=20)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@st.composite
def mutated(draw: st.DrawFn, good: bytes) -> bytes:
    """Bytes that were right once."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at, end = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
        match draw(st.sampled_from(["set", "flip", "cut", "insert", "twice", "largest"])):
            case "set":
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:end]
            case "insert":
                data[at:at] = draw(st.binary(max_size=30))
            case "twice":
                data[at:at] = data[at:end]
            case _:
                data[at : at + 8] = b"\xff" * 8
    return bytes(data)


def of_object(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with some of these names, and others, whatever their values."""
    return st.dictionaries(st.sampled_from(names) | st.text(max_size=5), values, max_size=len(names) + 2)


# -- the native dialect


@thoroughly
@given(mutated(encode([(1, Status.OK, 7, b"result"), (2, Status.SKIPPED, 0, b""), (3, Status.RAISED, 9, b"xyz")])))
def test_outcomes(data: bytes) -> None:
    """Outcomes that a worker garbled are a MalformedBatch or outcomes."""
    try:
        assert Outcomes.of(data).total >= 0
    except MalformedBatch:
        pass


def conversation() -> list[bytes]:
    """Return the frames of some messages, cut and whole."""
    sender = Stream()
    return [frame for size in (3, PART_BYTES + 5, 0, 70) for frame in sender.send(Kind.TASKS, b"x" * size)]


FRAMES = conversation()


@seldom
@given(st.data())
def test_a_stream_of_mutated_frames(data: st.DataObject) -> None:
    """Whatever comes among good frames: StreamBroken or messages, no more than were sent, none over the limit."""
    there, came, most = Stream(max_message=2 * PART_BYTES), 0, 2 * PART_BYTES
    there.send(Kind.RESULTS, b"answer")
    for frame in FRAMES:
        head = data.draw(st.none() | mutated(frame[: FRAME.size + 8]))
        try:
            message = there.receive(frame if head is None else head + frame[FRAME.size + 8 :])
        except StreamBroken:
            continue
        if message is not None:
            came += 1
            assert len(message.body) <= most
    assert came <= len(FRAMES)


def endless(size: int) -> Iterator[bytes]:
    """Yield parts of a message that never ends."""
    for number in range(1, 10**6):
        yield FRAME.pack(Kind.TASKS, MORE, 0, 0, number, 0) + bytes(size)


def test_a_message_that_never_ends_takes_no_more_than_the_limit() -> None:
    """A message in parts without an end is refused at the limit, and what came of it is let go."""
    limit = 4 << 20
    tracemalloc.start()
    try:
        there, before = Stream(max_message=limit), tracemalloc.get_traced_memory()[0]
        try:
            for frame in endless(PART_BYTES):
                there.receive(frame)
        except StreamBroken:
            pass
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < limit + 4 * FRAME_LIMIT
    assert now - before < 2 * FRAME_LIMIT


@thoroughly
@given(values)
@example({"timeout": float("nan")})
@example({"resource": {"cpu": 10**400}})
@example({"attempts": True})
def test_options(fields: Any) -> None:
    """Options that a client sends are a ValueError, or can be asked whether they fit."""
    read_options(fields)


@thoroughly
@given(of_object("timeout", "container_ref", "runtime", "resource", "attempts"))
def test_options_with_the_right_names(fields: dict[str, Any]) -> None:
    """As above, nearer to what is right."""
    read_options(fields)


@thoroughly
@given(st.fixed_dictionaries({"resource": st.dictionaries(st.sampled_from(["cpu", "memory", "x"]), st.floats())}))
def test_resources(fields: dict[str, Any]) -> None:
    """As above, for needs of any size."""
    read_options(fields)


def read_options(fields: Any) -> None:
    try:
        options = Options.from_fields(fields)
    except ValueError:
        return
    why = why_never(options.resource, {"cpu": 2.0, "memory": 1000.0})
    assert why is None or isinstance(why, str)
    assert options.timeout is None or options.timeout > 0
    assert options.attempts is None or options.attempts >= 1


@thoroughly
@given(st.text() | st.binary() | values)
@example("[" * 100_000)
@example('{"a":' * 100_000)
@example("1" * 10_000)
@example('{"a": ' + "9" * 10_000 + "}")
@example('"\\ud800"')
def test_text_of_an_object(text: object) -> None:
    """What is not the text of a JSON object is a ValueError."""
    try:
        assert isinstance(proof.from_text(text), dict)
    except ValueError:
        pass


@thoroughly
@given(of_object("a"))
def test_text_of_an_object_comes_back(fields: dict[str, Any]) -> None:
    """And what is one is read as json reads it."""
    text = json.dumps(fields)
    assert repr(proof.from_text(text)) == repr(json.loads(text))


# -- shared memory


numbers = st.integers(-(2**70), 2**70).map(str) | st.text("0123456789-_ ٣", max_size=6)


@thoroughly
@given(st.text(max_size=60) | st.lists(numbers | st.text(max_size=8), min_size=3, max_size=5).map(":".join))
@example(f"{os.getpid()}:0:0:")
@example("1:" + "9" * 5_000 + ":0:x")
def test_offers_of_probes(offer: str) -> None:
    """An offer that is none, or another's, is answered by nothing."""
    assert answer(offer) is None


def test_mutated_offers_give_no_secret_away() -> None:
    """Only the offer as it was made is answered with the secret."""
    if not available():
        return
    probe = Probe()
    try:
        good = probe.offer()
        assert probe.accepts(answer(good))

        @thoroughly
        @given(mutated(good.encode()))
        def check(data: bytes) -> None:
            text = data.decode("utf-8", "replace")
            told = answer(text)
            assert told is None or text.split(":")[-1] == good.split(":")[-1]

        check()
    finally:
        probe.close()


@thoroughly
@given(st.binary(max_size=40))
def test_random_references(data: bytes) -> None:
    """A reference to shared memory that is none is MalformedParcel, one to nothing SharedMemoryGone."""
    read_reference(data)


def test_mutated_references() -> None:
    """As above, where there is memory; nothing beyond the segment can be read."""
    if not available():
        return
    segment = Segment.create(Parcel(b"pickle", [memoryview(bytearray(1000))]))
    assert segment is not None
    try:

        @thoroughly
        @given(mutated(segment.reference()))
        def check(data: bytes) -> None:
            read_reference(data)

        check()
    finally:
        segment.close()


def read_reference(data: bytes) -> None:
    try:
        view = map_segment(data)
    except (MalformedParcel, SharedMemoryGone, SharedMemoryFull):
        pass
    else:
        assert view.nbytes == described(data)[1]
    try:
        open_segment(data).close()
    except (MalformedParcel, SharedMemoryGone):
        pass


@thoroughly
@given(mutated(Parcel(b"pickle", [memoryview(bytearray(100)), memoryview(b"x")]).pack()))
def test_mutated_payloads(data: bytes) -> None:
    """A payload with buffers that was garbled is a ValueError, or buffers that lie within it."""
    if not data or data[0] == ord("M"):
        return
    try:
        pickled, buffers = opened(data)
    except ValueError:
        return
    assert len(pickled) + sum(view.nbytes for view in buffers) <= len(data)


# -- the old dialect

names = ("task_id", "container_reference", "content", "resource", "runtime", "use_gpu", "gpu_count")
jobs = st.fixed_dictionaries(
    {"task_id": scalars, "container_reference": scalars, "content": scalars},
    optional={
        "resource": of_object("cpu", "memory", "mem", "use_gpu", "gpu_count"),
        "runtime": values,
        "use_gpu": values,
        "gpu_count": values,
    },
)


@thoroughly
@given(
    st.lists(values, max_size=3).map(tuple)
    | st.tuples(st.text())
    | st.tuples((jobs | of_object(*names)).map(json.dumps))
)
@example(("[" * 100_000,))
@example(('{"task_id": "' + "9" * 5000 + '"}',))
@example((json.dumps({"task_id": 1, "container_reference": "a", "content": "", "resource": {"cpu": -(10**400)}}),))
def test_jobs(args: tuple[Any, ...]) -> None:
    """What is no job is a MalformedJob; a job has text and finite needs."""
    try:
        job = desktop.decode_job(args)
    except desktop.MalformedJob:
        return
    assert all(isinstance(text, str) for text in job[:3])
    assert all(abs(need) < float("inf") or need != need for need in (job.resource or {}).values())
    why_never(job.resource or {}, {"cpu": 2.0})


@thoroughly
@given(st.lists(values, max_size=6).map(tuple))
def test_what_an_app_answers(args: tuple[Any, ...]) -> None:
    """Whatever an app answers is a result, a refusal, or nothing, and text that can be looked at."""
    assert desktop.was_refused(args) in (True, False)
    why = desktop.offload_error(args)
    assert why is None or isinstance(why, str)
    result = desktop.read_result(args)
    if result is not None:
        assert result.status in (0, 1)
        assert isinstance(result.response, str)
        assert result.error is None or isinstance(result.error, str)
        assert isinstance(result.transaction_id, str)
        found = desktop.failure_in(result.response)
        assert found is None or len(found) <= 500


@seldom
@given(st.text("<!doctype html>d ", min_size=1, max_size=40), st.integers(1, 50_000))
def test_long_replies_are_looked_through_quickly(start: str, times: int) -> None:
    """No reply makes the search for a failure take long: hypothesis would stop at its limit of the whole test."""
    desktop.failure_in(start * times)
    desktop.failure_in("<!DOCTYPE html>" + start * times)
