"""What futures keep of what their tasks print, and what goes to `output`."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import UsageError
from meca_executor.client.driver import LinkSettings
from meca_executor.client.future import MIXED_TEXT
from meca_executor.client.logs import share_out
from meca_executor.wire.printed import LAST, MIXED, record
from meca_executor.wire.records import ITEM, Status

from .clients import Client, died

if TYPE_CHECKING:
    from meca_executor.client.future import MecaFuture
    from meca_executor.wire.records import Record


def settings_of(**settings: Any) -> LinkSettings:
    """Return an executor's settings, all others as nobody cares here."""
    return LinkSettings(None, None, 1.0, 1.0, None, None, b"", **settings)


class Talk:
    """A client and what its tasks print."""

    def __init__(self, **settings: Any) -> None:
        self.client = Client()
        self.shown: list[tuple[str, str]] = []
        self.settings = settings_of(on_output=lambda text, stream: self.shown.append((text, stream)), **settings)

    def say(self, *records: Record) -> None:
        share_out(records, self.client.ledger, self.settings)

    def prints(self, future: MecaFuture[Any], text: str, status: Status = Status.STDOUT, flags: int = 0) -> None:
        assert future.number is not None
        self.say(record(future.number, status, text.encode(), flags))


def reply(_: bytes) -> str:
    return "reply"


def test_each_future_has_its_own() -> None:
    """Both streams, in order, while it runs and afterwards; nobody's text is in no log; all of it is shown."""
    talk = Talk()
    talk.client.short()
    one, two, silent = (talk.client.add() for _ in range(3))
    assert one.logs() == ""
    talk.client.hand_over()
    assert one.number and two.number
    talk.say(
        record(one.number, Status.STDOUT, b"1 out\n"),
        record(two.number, Status.STDOUT, b"2 out\n"),
        record(one.number, Status.STDERR, b"1 err\n"),
        record(0, Status.STDERR, b"nobody\n"),
        record(ITEM | 7, Status.STDOUT, b"item\n"),
        record(999, Status.STDOUT, b"unknown\n"),
    )
    assert (one.logs(), two.logs(), silent.logs()) == ("1 out\n1 err\n", "2 out\n", "")
    talk.client.done(one)
    assert one.logs() == "1 out\n1 err\n"
    assert talk.shown == [
        ("1 out\n2 out\n", "stdout"),
        ("1 err\nnobody\n", "stderr"),
        ("item\nunknown\n", "stdout"),
    ]


def test_what_a_container_writes_is_not_shown() -> None:
    """It is in the log only; with `trust="data"` without what could steer a terminal."""
    for trust, kept in ((None, "\x1b[31mred\x1b[0m\n"), ("data", "red\n")):
        talk = Talk(trust=trust)
        future = talk.client.out(decode=reply)
        talk.prints(future, "\x1b[31mred\x1b[0m\n", Status.LOGGED)
        assert (future.logs(), talk.shown) == (kept, [])


def test_a_broken_sink_costs_no_log() -> None:
    """What `output` raises is its own affair."""
    talk = Talk()
    talk.settings = settings_of(on_output=lambda *_: 1 / 0)
    future = talk.client.out()
    talk.prints(future, "kept\n")
    assert future.logs() == "kept\n"


def test_attempts_follow_each_other() -> None:
    """A task that is retried keeps what it printed before."""
    talk = Talk()
    future = talk.client.out(retry=2)
    talk.prints(future, "first\n")
    (again,) = talk.client.ledger.settle([died(1)])
    assert future.logs() == "first\n"
    talk.client.ledger.again(again.task)
    talk.client.hand_over()
    talk.prints(future, "second\n")
    talk.client.ledger.settle([died(1)])
    assert future.exception(0) is not None
    assert future.logs() == "first\nsecond\n"


def test_a_containers_last_lines_are_waited_for() -> None:
    """They may come after the outcome; who asks then has them, and waits no longer than that."""
    talk = Talk()
    future = talk.client.out(decode=reply)
    answers: list[str] = []

    def settle_and_say() -> None:  # another thread, as the link is
        talk.client.settle(future, Status.REPLY)
        asked.wait(60)
        talk.prints(future, "late\n", Status.LOGGED, LAST)

    asked = threading.Event()
    link = threading.Thread(target=settle_and_say)
    link.start()
    assert future.result(60) == "reply"
    asker = threading.Thread(target=lambda: answers.append(future.logs()))
    asker.start()
    asked.set()
    asker.join(60)
    link.join(60)
    assert future.logs() == "late\n"
    assert answers in (["late\n"], [""])  # the second: a machine so busy that the time was over


def test_a_silent_container_costs_its_asker_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing tells that nothing comes: after a moment it is believed; the link itself never waits."""
    monkeypatch.setattr("meca_executor.client.future.LATE_S", late_s := 3.0)  # a busy machine may pause for less
    talk = Talk()
    future = talk.client.out(decode=reply)
    in_callback: list[tuple[str, float]] = []

    def ask(done: MecaFuture[Any]) -> None:
        began = time.monotonic()
        in_callback.append((done.logs(), time.monotonic() - began))

    future.add_done_callback(ask)  # type: ignore[arg-type]
    link = threading.Thread(target=talk.client.settle, args=(future, Status.REPLY))
    link.start()
    link.join(60)
    ((text, took),) = in_callback
    assert text == ""
    assert took < late_s, "on the link's thread nothing can come while it waits"
    assert future.logs() == ""
    talk.prints(future, "much later\n", Status.LOGGED, LAST)
    assert future.logs() == "much later\n"


def test_what_is_known_to_be_whole_is_not_waited_for() -> None:
    """The outcome comes after the last of the text."""
    talk = Talk()
    future = talk.client.out(decode=reply)
    talk.prints(future, "all\n", Status.LOGGED, LAST)
    thread = threading.Thread(target=talk.client.settle, args=(future, Status.REPLY))
    thread.start()
    thread.join(60)
    assert future._log_due is None
    assert future.logs() == "all\n"


def test_a_shared_app_says_so() -> None:
    """Its calls cannot be told apart."""
    talk = Talk()
    future = talk.client.out(decode=reply)
    talk.prints(future, "mine or not\n", Status.LOGGED, MIXED)
    assert future.logs() == MIXED_TEXT + "mine or not\n"


def test_a_desktop_app_tells_nothing() -> None:
    """The error says so, and what would help; nothing is claimed to be empty."""
    future = Talk().client.out(decode=reply)
    future.transaction_id = "tx"
    with pytest.raises(UsageError, match=r"desktop app does not tell what containers print; run it on a gateway"):
        future.logs()
    future.printed(b"")  # a function there brings along what it printed
    assert future.logs() == ""
