"""What every script must hold to, and what its command line takes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

import pytest

from benchmarks.__main__ import ALL
from benchmarks.harness import parse
from benchmarks.peers import MECA, Peer, optional
from benchmarks.questions import Missing

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.questions import Script

NAMES = [*ALL, "cluster", "old_dialect"]


def script(name: str) -> Script:
    return cast("Script", import_module(f"benchmarks.{name}").SCRIPT)


@pytest.mark.parametrize("name", NAMES)
def test_a_script_is_sound(name: str) -> None:
    found = script(name)
    assert found.name == name
    for what in ("key", "text"):
        values = [(getattr(question, what), question.unit) for question in found.questions]
        assert len(values) == len(set(values)), f"two questions have the same {what}"
    assert len({part.name for part in found.parts}) == len(found.parts)
    assert not any("," in word for word in [*(part.name for part in found.parts), *(peer.name for peer in found.peers)])
    assert {question.curve for question in found.questions} - {""} == set(found.axes)
    assert len({peer.name for peer in found.peers}) == len(found.peers)
    assert set(found.controls) <= set(found.peers)


@pytest.mark.parametrize("name", NAMES)
def test_a_goal_is_ours_and_names_peers_of_its_part(name: str) -> None:
    for part in script(name).parts:
        peers = {peer.name for peer in part.peers}
        for question in part.questions:
            named = {limit.peer for limit in question.goal if limit.peer}
            assert named <= peers, question.key
            assert not question.goal or MECA in part.peers, question.key


@pytest.mark.parametrize("name", NAMES)
def test_standard_peers_and_ours_can_be_loaded(name: str) -> None:
    for peer in script(name).peers:
        if peer.needs is None and not peer.module.startswith("tests."):
            assert callable(peer.load()), peer.name


def test_the_command_line_has_defaults_of_the_script() -> None:
    latency = script("latency")
    args, options = parse(latency, [])
    assert (options.rounds, options.tasks) == (latency.rounds, latency.tasks)
    assert args.peers == [peer.name for peer in latency.peers]
    _, quick = parse(latency, ["--quick"])
    assert (quick.rounds, quick.tasks) == (1, latency.tasks // 10)
    _, own = parse(latency, ["--quick", "--rounds", "3", "--tasks", "7"])
    assert (own.rounds, own.tasks) == (3, 7)


def test_names_are_given_back_in_the_order_of_the_script() -> None:
    args, _ = parse(script("scaling"), ["--parts", "1 ms,outstanding 1000", "--peers", "MecaExecutor"])
    assert args.parts == ["outstanding 1000", "1 ms"]
    assert args.peers == ["MecaExecutor"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds", "0"], "must be 1 or more"),
        (["--peers", "nobody"], "no peer named nobody; there are ThreadPoolExecutor"),
        (["--parts", "nothing"], "no part named nothing; there are submit, closure, map"),
    ],
)
def test_a_wrong_command_line_is_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(script("throughput"), words)
    assert said in capsys.readouterr().err


def test_a_missing_library_is_a_reason_and_no_failure() -> None:
    absent = Peer("absent", "no_such_module", "Pool", needs="no_such_module")
    assert absent.missing() == "no_such_module is not installed"
    with pytest.raises(Missing, match="no_such_module is not installed; pip install no_such_module"):
        optional("no_such_module")


def test_a_slow_peer_makes_a_share_of_the_calls() -> None:
    slow = Peer("slow", "m", "C", share=10)
    assert [slow.calls(tasks) for tasks in (1, 20, 2000)] == [1, 2, 200]


def test_a_plot_has_a_panel_for_each_question_or_curve(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.plot import draw, panels_of

    def question(key: str, curve: str = "", x: float = 0) -> dict[str, object]:
        return {"key": key, "text": key, "unit": "s", "better": "lower", "curve": curve, "x": x}

    def row(key: str, value: float) -> dict[str, object]:
        return {"question": key, "peer": MECA.name, "median": value, "min": value / 2, "max": value * 2}

    record = {
        "benchmark": "toy",
        "machine": {"cpu": "c", "cores": 1, "python": "p", "commit": "0"},
        "options": {"rounds": 1, "workers": 1},
        "questions": [question("a"), question("b1", "b", 1), question("c"), question("b2", "b", 10), question("no")],
        "axes": {"b": ["how b grows", "things"]},
        "summary": [row("a", 1), row("b1", 2), row("c", 0), row("b2", 300)],
    }
    panels = [[question["key"] for question in panel] for panel in panels_of(record)]
    assert panels == [["a"], ["b1", "b2"], ["c"]]
    file = draw(record, tmp_path / "new")
    assert file == tmp_path / "new" / "toy.png"
    assert file.read_bytes().startswith(b"\x89PNG")
