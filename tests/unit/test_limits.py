"""Limits that a client checks before it sends, and the same ones at a gateway before it takes anything in."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

import pytest

from meca_executor import Container, MecaExecutor, TaskTooLarge, UsageError
from meca_executor.cli._arguments import named_app
from meca_executor.client import tasks as client_tasks
from meca_executor.client.checks import checked_task_id
from meca_executor.client.container import checked_ref
from meca_executor.client.options import TaskOptions
from meca_executor.gateway import intake
from meca_executor.gateway import tasks as gateway_tasks
from meca_executor.settings import MESSAGE_LIMIT, NAME_LIMIT, OPTIONS_MOST, REF_LIMIT, TASK_ID_LIMIT, TOLD_LIMIT
from meca_executor.wire import payloads
from meca_executor.wire.desktop import MalformedJob, decode_job
from meca_executor.wire.payloads import dump, dump_call
from meca_executor.wire.records import Kind, MalformedBatch, Record, Status, encode

from .gateway.test_hub import Client, in_a_loop

if TYPE_CHECKING:
    from pathlib import Path

LONG = "r" * (REF_LIMIT + 1)


def test_the_limits_are_those_of_the_readme() -> None:
    """Whoever changes one changes its table."""
    assert (NAME_LIMIT, REF_LIMIT, TASK_ID_LIMIT, TOLD_LIMIT) == (128, 512, 1024, 65_536)
    assert (MESSAGE_LIMIT, OPTIONS_MOST, intake.TASKS_MOST) == (4 << 30, 100_000, 65_536)


# -- a client's


def test_a_containers_name(tmp_path: Path) -> None:
    """Wherever it is given, and whole names of Docker's pass."""
    assert checked_ref(LONG[1:]) == LONG[1:]
    for give in (
        lambda: Container(LONG),
        lambda: TaskOptions().changed(container_ref=LONG),
        lambda: MecaExecutor(apps={LONG: str(tmp_path)}),
    ):
        with pytest.raises(UsageError, match=r"container name 'rrr.*'\.\.\. has 513 characters, and 512 are allowed"):
            give()
    with pytest.raises(UsageError, match="container name 'a b' is not an image name"):
        MecaExecutor(apps={"a b": str(tmp_path)})
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "app.py").touch()
    assert named_app(f"{LONG[1:]}={tmp_path}")[0] == LONG[1:]
    with pytest.raises(argparse.ArgumentTypeError, match="512 are allowed"):
        named_app(f"{LONG}={tmp_path}")


def test_a_runtimes_name() -> None:
    """Of a container and of options."""
    longest = "n" * NAME_LIMIT
    assert Container("a", runtime=longest).runtime == longest
    for give in (lambda: Container("a", runtime=longest + "n"), lambda: TaskOptions().changed(runtime=longest + "n")):
        with pytest.raises(UsageError, match="129 characters, and 128 are allowed"):
            give()
    with pytest.raises(UsageError, match="runtime 7 is not a name"):
        Container("a", runtime=7)  # type: ignore[arg-type]


def test_a_tasks_name() -> None:
    """It stands in errors and travels in the old dialect."""
    longest = "t" * TASK_ID_LIMIT
    assert checked_task_id(longest) == longest
    assert checked_task_id(None) is None
    with pytest.raises(UsageError, match="1,025 characters, and 1,024 are allowed"):
        checked_task_id(longest + "t")
    with pytest.raises(UsageError, match="task_id 7 is not a str"):
        checked_task_id(7)


def test_different_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are known cost nothing."""
    monkeypatch.setattr(client_tasks, "OPTIONS_MOST", 2)
    registry = client_tasks.Registry()
    some = [TaskOptions().changed(timeout=seconds) for seconds in (1, 2, 3)]
    assert [registry.options_number(options) for options in (some[0], some[1], some[0])] == [0, 1, 0]
    with pytest.raises(UsageError, match="2 different options at most"):
        registry.options_number(some[2])


def test_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument, a result or an object that cannot lie in shared memory; both numbers are in the text."""
    monkeypatch.setattr(payloads, "MESSAGE_LIMIT", 1_000_000)
    assert len(dump(bytes(900_000), None)) > 900_000
    words = r"the value has 2,000,0\d\d bytes, and 1,000,000 can travel"
    with pytest.raises(TaskTooLarge, match=words):
        dump(bytes(2_000_000), None)
    with pytest.raises(TaskTooLarge, match=words):
        dump_call(None, (bytes(2_000_000),), {}, None)


# -- a gateway's


def refused(client: Client, kind: Kind, record: Record) -> str:
    with pytest.raises(ValueError) as caught:
        client.tell(kind, [record])
    return str(caught.value)


@in_a_loop
async def test_names_at_a_gateway() -> None:
    """Of containers, runtimes and apps."""
    for fields, words in [
        ({"container_ref": LONG}, "512 are allowed"),
        ({"container_ref": "a b"}, "is not an image name"),
        ({"runtime": "n" * (NAME_LIMIT + 1)}, "128 are allowed"),
    ]:
        assert words in refused(Client(), Kind.OPTIONS, (0, 0, 0, json.dumps(fields).encode()))
    app = json.dumps({"type": "app", "ref": LONG, "folder": "somewhere"}).encode()
    client = Client(trusting=True)
    assert "a container's name" in refused(client, Kind.CONTROL, (0, 0, 0, app))
    assert client.containers.folders == {}


@in_a_loop
async def test_a_json_text_at_a_gateway() -> None:
    """It is not even read."""
    for kind in (Kind.OPTIONS, Kind.CONTROL):
        text = b'{"type": "' + b"x" * TOLD_LIMIT + b'"}'
        assert "65,548 bytes, and 65,536 are allowed" in refused(Client(), kind, (0, 0, 0, text))


@in_a_loop
async def test_options_at_a_gateway() -> None:
    """So many of them; one that is told again takes no place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gateway_tasks, "OPTIONS_MOST", 2)
        client = Client()
        for number in (0, 1, 0):
            client.options(number, timeout=1)
        assert "2 different options" in refused(client, Kind.OPTIONS, (2, 0, 0, b'{"timeout": 1}'))


@in_a_loop
async def test_tasks_under_way_at_a_gateway() -> None:
    """Calls of functions and of containers together; what has ended makes room, and one session is not another's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "TASKS_MOST", 5)
        client = Client()
        client.options(0)
        client.options(1, container_ref="waits")
        client.submit(0, [1, 2, 3])
        client.submit(1, [4, 5])
        await client.until_running(2)
        other = client.hub.attach("another", "me", 1, None)[0]
        with pytest.raises(MalformedBatch, match="would have 6, and 5 are allowed"):
            client.submit(1, [6])
        assert other is not client.session
        client.containers.release.set()
        found = await client.settled(2)
        assert {found[number][0] for number in (4, 5)} == {Status.REPLY}
        client.submit(1, [7, 8])
        assert set(await client.settled(2)) == {7, 8}
        # What says that it is more than it is, is not taken for less.
        torn: Record = (6, 0, 0, encode([(9, 0, 0, b"")]))
        with pytest.raises(MalformedBatch, match="would have 9"):
            client.tell(Kind.TASKS, [torn])


def test_names_in_the_old_dialect() -> None:
    """The client hears of it by the task's name, unless that is what is too long."""
    with pytest.raises(MalformedJob, match="512 are allowed") as caught:
        decode_job((json.dumps({"task_id": "7", "container_reference": LONG, "content": ""}),))
    assert caught.value.task_id == "7"
    job = {"task_id": "t" * (TASK_ID_LIMIT + 1), "container_reference": "a", "content": ""}
    with pytest.raises(MalformedJob, match="1,024 are allowed") as caught:
        decode_job((json.dumps(job),))
    assert caught.value.task_id is None
