"""`meca doctor` at a desktop app: which dialect is spoken and why, and how to mend what fails there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.peers.desktop import desktop_app
from tests.peers.programs import container

from .test_cli import run

if TYPE_CHECKING:
    from pathlib import Path


def findings(out: str) -> dict[str, tuple[str, str]]:
    """Return subject -> (mark, its text and what mends it)."""
    lines = re.findall(r"^(ok|!!|--)  (\S+) +(.*(?:\n {4} .*)*)", out, re.MULTILINE)
    return {subject: (mark, " ".join(text.split())) for mark, subject, text in lines}


def test_a_sound_app(tmp_path: Path) -> None:
    """Functions cannot run there, which is no fault."""
    with container("sampleserver") as url, desktop_app(apps={"sampleserver:latest": url}) as app:
        found = findings(run("doctor", "--endpoint", app.url, cwd=tmp_path).expect(0).out)
    assert {mark for mark, _ in found.values()} == {"ok", "--"}
    assert found["gateway"] == ("ok", f"answers at {app.url}, is given up to 64 tasks at once")
    mark, dialect = found["dialect"]
    assert mark == "ok"
    assert dialect.startswith("desktop: it has no namespace /meca")
    mark, workers = found["workers"]
    assert mark == "--"
    assert "container_ref=" in workers
    assert "hello doctor" in found["container"][1]


def test_an_app_whose_hosts_lack_the_image(tmp_path: Path) -> None:
    """The failure text arrives, and who has to do something."""
    with desktop_app() as app:
        found = findings(run("doctor", "--endpoint", app.url, cwd=tmp_path).expect(1).out)
    mark, text = found["container"]
    assert mark == "!!"
    assert "No such image" in text
    assert "its hosts and their images" in text


@pytest.mark.parametrize("mode", ["false", "never"])
def test_an_app_without_a_user(tmp_path: Path, mode: str) -> None:
    """It answers and will not work for us."""
    with desktop_app(registered=mode) as app:
        found = findings(run("doctor", "--endpoint", app.url, cwd=tmp_path).expect(1).out)
    assert found["gateway"][0] == "!!"
    assert "log in to it, and try again" in found["gateway"][1]
    assert found["dialect"][0] == found["workers"][0] == found["container"][0] == "--"


def test_with_a_key_it_says_why_the_old_dialect_is_not_spoken(tmp_path: Path) -> None:
    """And how to have it spoken."""
    with desktop_app() as app:
        words = ("doctor", "--endpoint", app.url)
        finished = run(*words, cwd=tmp_path, MECA_ACCESS_KEY="AKIAME", MECA_SECRET_KEY="secret")
        found = findings(finished.expect(1).out)
        assert app.seen("connect") == []
    mark, text = found["gateway"]
    assert mark == "!!"
    assert "no meca gateway" in text
    assert "unset MECA_ACCESS_KEY and MECA_SECRET_KEY" in text
