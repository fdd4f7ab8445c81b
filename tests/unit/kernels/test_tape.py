"""The tape: nothing is lost without a word."""

from __future__ import annotations

import pytest

from meca_executor.kernels.log import LOG_BYTES, Log
from meca_executor.kernels.tape import ENTRY_BYTES, Allowance, Reader, Tape


def out(text: str) -> tuple[dict[str, str], bytes]:
    return {"t": "stdout"}, text.encode()


def said(tape: Tape, after: int = 0) -> list[tuple[str, bytes]]:
    return [(entry.head["t"], entry.body) for entry in tape.after(after)]


def test_a_reader_goes_on_where_it_stopped() -> None:
    tape = Tape()
    for text in "abc":
        tape.say(*out(text))
        list(tape.after(0))  # somebody has had it, so that nothing is added to it
    assert said(tape, 1) == [("stdout", b"b"), ("stdout", b"c")]
    assert said(tape, 3) == []


def test_pieces_that_nobody_has_had_travel_as_one() -> None:
    tape = Tape()
    tape.say(*out("a"))
    tape.say(*out("b"))
    assert said(tape) == [("stdout", b"ab")]
    tape.say(*out("c"))
    assert said(tape, 1) == [("stdout", b"c")], "an entry that was had does not change"


def test_without_a_reader_the_oldest_goes_and_the_next_one_is_told() -> None:
    tape = Tape(kept=10_000)
    for _ in range(4):
        tape.say(*out("x" * 4000))
    (missed, *rest) = tape.after(0)
    assert missed.head["t"] == "missed"
    assert missed.head["bytes"] + sum(len(entry.body) for entry in rest) == 16_000
    assert missed.number == rest[0].number - 1


def test_what_a_reader_has_not_had_is_kept_and_the_tape_is_full() -> None:
    tape = Tape(kept=10_000)
    reader = Reader()
    tape.readers.append(reader)
    for _ in range(4):
        tape.say(*out("x" * 4000))
    assert tape.full
    assert sum(len(body) for _, body in said(tape)) == 16_000
    reader.number = tape.last
    tape.trim()
    assert not tape.full


def test_what_cannot_wait_is_cut_with_a_mark() -> None:
    tape = Tape(kept=5000)
    reader = Reader()
    tape.readers.append(reader)
    tape.offer(*out("x" * 6000))
    tape.offer(*out("lost"))
    tape.offer(*out("more"))
    tape.end({"t": "end"})
    assert [(entry.head["t"], entry.head.get("bytes"), len(entry.body)) for entry in tape.after(0)] == [
        ("stdout", None, 6000),
        ("cut", 8, 0),
        ("end", None, 0),
    ]


def test_the_limit_of_a_runs_output_is_marked() -> None:
    tape = Tape(allowance=Allowance(10))
    tape.say(*out("12345678"))
    tape.say(*out("abcdef"))
    tape.say(*out("x"))
    tape.tell({"t": "end"})
    assert said(tape) == [("stdout", b"12345678ab"), ("cut", b""), ("end", b"")]
    assert [entry.head for entry in tape.after(0)][1] == {"t": "cut", "bytes": 5, "why": "total"}


def test_output_beyond_the_rate_is_cut_where_it_was_and_counted() -> None:
    now = 100.0
    tape = Tape(allowance=Allowance(None, 10, lambda: now))
    tape.say(*out("x" * 50))  # four seconds' worth at once
    tape.say(*out("lost"))
    now += 0.5
    tape.say(*out("five!more"))
    now += 1000.0
    tape.say(*out("y" * 41))
    assert [(entry.head["t"], entry.head.get("bytes"), entry.body) for entry in tape.after(0)] == [
        ("stdout", None, b"x" * 40),
        ("cut", 14, b""),
        ("stdout", None, b"five!"),
        ("cut", 4, b""),
        ("stdout", None, b"y" * 40),
    ]
    tape.end({"t": "end"})
    assert [entry.head for entry in tape.after(0)][-2] == {"t": "cut", "bytes": 1, "why": "rate"}


def test_a_picture_is_cut_as_a_whole() -> None:
    tape = Tape(allowance=Allowance(10))
    tape.say({"t": "media"}, b"x" * 11)
    tape.end({"t": "end"})
    assert [(entry.head["t"], len(entry.body)) for entry in tape.after(0)] == [("cut", 0), ("end", 0)]


def test_nothing_is_cut_without_limits() -> None:
    tape = Tape(allowance=Allowance(None, None, lambda: 0.0))
    for _ in range(100):
        tape.say(*out("x" * 100_000))
    assert "cut" not in {entry.head["t"] for entry in tape.after(0)}


def test_the_end_is_never_forgotten() -> None:
    tape = Tape(kept=ENTRY_BYTES // 2)
    tape.say(*out("x" * 1000))
    tape.end({"t": "end"})
    assert said(tape)[-1][0] == "end"


@pytest.mark.parametrize("after", range(4))
def test_a_reader_is_told_of_each_entry(after: int) -> None:
    tape = Tape()

    class Follower(Reader):
        had: list[bytes] = []  # noqa: RUF012  # one test, one class

        def pump(self) -> None:
            for entry in tape.after(self.number):
                self.number = entry.number
                self.had.append(entry.body)

    for number in range(3):
        tape.tell({"t": "step", "name": str(number)}, b"%d" % number)
    follower = Follower(after)
    tape.readers.append(follower)
    tape.tell({"t": "step", "name": "3"}, b"3")
    assert follower.had == [b"%d" % number for number in range(after, 4)]


def test_a_mark_before_the_end_is_not_the_last_thing() -> None:
    """Who is told of it finds that more comes."""
    tape = Tape(allowance=Allowance(1))

    class Follower(Reader):
        had: list[tuple[str, bool]] = []  # noqa: RUF012  # one test, one class

        def pump(self) -> None:
            for entry in tape.after(self.number):
                self.number = entry.number
                self.had.append((entry.head["t"], tape.ended and self.number >= tape.last))

    tape.readers.append(Follower())
    tape.say(*out("xyz"))
    tape.end({"t": "end"})
    assert Follower.had == [("stdout", False), ("cut", False), ("end", True)]


def test_a_copy_has_all_and_pieces_travel_as_one_all_the_same() -> None:
    tape, log = Tape(), Log()
    tape.copy = log.add_entry
    tape.readers.append(Reader())  # behind
    for _ in range(100):
        tape.say(*out("x"))
    assert said(tape) == [("stdout", b"x" * 100)]
    assert log.parts == [("stdout", b"x" * 100)]


def test_a_log_keeps_the_end_of_what_is_too_much() -> None:
    log = Log()
    log.add("stdout", b"first")
    log.add("stderr", b"x" * LOG_BYTES + b"last")
    ((stream, text),) = log.parts
    assert (stream, len(text), text[-4:]) == ("stderr", LOG_BYTES, b"last")


def test_a_log_has_few_pieces_and_each_run_apart() -> None:
    log = Log()
    for code in ("[query a]\n1\n", "[query b]\n2\n"):
        log.say("in", code)
        for _ in range(10_000):
            log.add("stdout", b"x")
    assert [stream for stream, _ in log.parts] == ["in", *["stdout"] * 3] * 2
    assert sum(len(text) for stream, text in log.parts if stream == "stdout") == 20_000
