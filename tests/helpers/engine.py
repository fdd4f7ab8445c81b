"""The container engine that tests use, if there is one, and images made for them."""

from __future__ import annotations

import contextlib
import os
import textwrap
from functools import cache
from pathlib import Path

import pytest

from meca_executor.errors import UsageError
from meca_executor.runtimes.engine import Engine, EngineError
from meca_executor.runtimes.engine_settings import LABEL, NO_ENGINE, EngineSettings, find_engine

BASE = "python:3.11-slim"
EXAMPLES = Path(__file__).parents[2] / "example_containers"
DOCKERFILE = EXAMPLES / "sampleserver" / "Dockerfile"

_url: str | None = None


def remember() -> None:
    """Note where the engine is, before tests are told that there is none (each that wants it asks for it)."""
    global _url
    _url = find_engine(os.environ, EngineSettings())
    os.environ["MECA_ENGINE"] = "none"


@cache
def why_not() -> str | None:
    """Return why no containers can be tested here, or None."""
    if _url is None:
        return f"{NO_ENGINE}; see .ci/docker-up"
    try:
        engine = Engine(_url, EngineSettings())
    except (EngineError, UsageError) as error:
        return str(error)
    try:
        return None if engine.has_image(BASE) else f"the engine at {_url} has no image {BASE}; see .ci/docker-up"
    except EngineError as error:
        return str(error)
    finally:
        engine.close()


def url() -> str:
    """Return where the engine is; skips the test when there is none."""
    if (why := why_not()) is not None:
        pytest.skip(why)
    assert _url is not None
    return _url


class Images:
    """Images of this test run, removed at its end."""

    def __init__(self, folder: Path) -> None:
        self._url = url()
        self._folder = folder
        self._made: dict[str, str] = {}

    def of_source(self, name: str, source: str) -> str:
        """Return the image of an app with this source."""
        if name not in self._made:
            folder = self._folder / name
            (folder / "src").mkdir(parents=True)
            (folder / "src" / "app.py").write_text(textwrap.dedent(source))
            (folder / "Dockerfile").write_bytes(DOCKERFILE.read_bytes())
            self._build(name, folder)
        return self._made[name]

    def of_example(self, name: str) -> str:
        """Return the image of a shipped example."""
        if name not in self._made:
            self._build(name, EXAMPLES / name)
        return self._made[name]

    def of_dockerfile(self, name: str, text: str) -> str:
        """Return the image that a Dockerfile makes."""
        if name not in self._made:
            folder = self._folder / name
            folder.mkdir()
            (folder / "Dockerfile").write_text(text)
            self._build(name, folder)
        return self._made[name]

    def _build(self, name: str, folder: Path) -> None:
        tag = f"meca-test-{name}:run-{os.getpid()}"
        with contextlib.closing(Engine(self._url, EngineSettings())) as engine:
            list(engine.build(str(folder), tag))
        self._made[name] = tag

    def close(self) -> None:
        """Remove them."""
        with contextlib.closing(Engine(self._url, EngineSettings())) as engine:
            for tag in self._made.values():
                engine._client.remove_image(tag, force=True)


def ours(owner: str | None = None) -> list[str]:
    """Return the names of containers that the package made, and not removed; all, or those of one owner."""
    label = LABEL if owner is None else f"{LABEL}={owner}"
    with contextlib.closing(Engine(url(), EngineSettings())) as engine:
        return [one["Names"][0].lstrip("/") for one in engine._client.containers(all=True, filters={"label": label})]
