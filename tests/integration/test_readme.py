"""Every Python block of the README runs as it stands, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

import meca_executor
from meca_executor import cli, errors
from tests.helpers.scripts import run

README = Path(meca_executor.__file__).parents[1] / "README.md"
BLOCK = re.compile(r"^(?P<skip><!-- not run: [^\n]+ -->\n)?```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)

#: what a block prints, by words of its code; blocks that print nothing certain are not here
PRINTS = {
    "is_prime": ["1229 primes below 10,000", "[[0, 1], [4, 3]]"],
    "offload_task": ["hello meca dev 0", '"message": "hello meca dev 1"'],
    "shout:latest": ["HELLO"],
    "str.upper": ["['A', 'B']"],
    "TaskTimeout": ["6"],
    "tenacity": ["done"],
    "OMP_NUM_THREADS": ["('1', 'test', '/')"],
    "ex.put": ["['0', '1', '2', '3', '4']"],
    "meca-python:latest": ["49"],
    "future.logs()": ["diverged ['step 0', 'step 1', 'step 2']"],
    "hello kernel": ["[['stdout', 'hello kernel\\n'], ['media', ['text/plain', '42']]] 0 42 None", "['1024']"],
}


class Block(NamedTuple):
    """One block of code."""

    line: int  #: of the README
    code: str


def blocks() -> list[Block]:
    """Return the blocks that are to run; one after a `<!-- not run: reason -->` line is not."""
    text = README.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, found.start()) + 1, found["code"])
        for found in BLOCK.finditer(text)
        if not found["skip"]
    ]


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"line {block.line}")
def test_block_runs(block: Block, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    finished = run(block.code, tmp_path, cwd=folder).expect(0)
    assert not finished.err
    expected = [text for word, texts in PRINTS.items() if word in block.code for text in texts]
    assert expected, "say in PRINTS what this block prints"
    for text in expected:
        assert text in finished.out


def test_no_block_is_overlooked() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count("```python") == len(BLOCK.findall(text))
    assert len(blocks()) >= 5


def test_every_error_has_a_row() -> None:
    rows = re.findall(r"^\| `(\w+)`(?: \(`(\w+)`\))? \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    named = {name for name, _ in rows}
    bases = {"MecaError", "GatewayError", "TaskError"}
    assert named == set(errors.__all__) - bases
    for name, base in rows:
        ours = getattr(errors, name)
        theirs = {parent.__name__ for parent in ours.__mro__ if not parent.__module__.startswith("meca_executor")}
        assert not base or base in theirs


def test_every_command_has_a_row() -> None:
    text = README.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `meca (\w+)", text, re.MULTILINE)) == set(cli.VERBS)


def test_links_lead_somewhere() -> None:
    """To files, and to headings of the README itself."""
    text = README.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    places = {"#" + re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(([^):]+)\)", text)
    assert [link for link in links if link not in places and not (README.parent / link).exists()] == []
