"""What the operator says of containers, image names, and who owns what in an engine."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from meca_executor.errors import UsageError
from meca_executor.runtimes.engine import Plan, engine_said, host_options
from meca_executor.runtimes.engine_settings import (
    ALLOWED,
    EngineSettings,
    Owner,
    container_name,
    find_engine,
    full_name,
    split_name,
    start_of,
    this_process,
)

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "sha256:" + 64 * "a"
PLAN = Plan("name", "image:latest", None, {})


@pytest.mark.parametrize(
    ("ref", "full", "parts"),
    [
        ("knn", "knn:latest", ("knn", "latest")),
        ("knn:v1", "knn:v1", ("knn", "v1")),
        ("team/knn", "team/knn:latest", ("team/knn", "latest")),
        ("host:5000/knn", "host:5000/knn:latest", ("host:5000/knn", "latest")),
        ("host:5000/team/knn:v1", "host:5000/team/knn:v1", ("host:5000/team/knn", "v1")),
        (f"knn@{DIGEST}", f"knn@{DIGEST}", ("knn", DIGEST)),
        (f"host:5000/knn@{DIGEST}", f"host:5000/knn@{DIGEST}", ("host:5000/knn", DIGEST)),
        (f"host:5000/knn:v1@{DIGEST}", f"host:5000/knn:v1@{DIGEST}", ("host:5000/knn", DIGEST)),
    ],
)
def test_image_names(ref: str, full: str, parts: tuple[str, str]) -> None:
    assert full_name(ref) == full
    assert split_name(ref) == parts
    name = container_name(ref, "7")
    assert name == "meca-knn-7"  # what the engine takes: letters, digits and dashes


def test_odd_names_make_container_names() -> None:
    assert container_name("a__b..c", "7") == "meca-a-b-c-7"
    assert len(container_name(100 * "a", "7")) < 63


def test_settings_are_checked() -> None:
    with pytest.raises(UsageError, match="pull 'often' is none of missing, always, never"):
        EngineSettings(pull="often")
    with pytest.raises(UsageError, match="'root' cannot be allowed to containers; there are network, "):
        EngineSettings(allow=frozenset({"root"}))


def test_runtimes() -> None:
    settings = EngineSettings(runtimes={"microVM": "kata"})
    assert settings.engine_runtime("microVM") == "kata"
    assert settings.engine_runtime(None) is settings.engine_runtime("container") is None
    assert EngineSettings(runtimes={"container": "runc"}).engine_runtime("container") == "runc"
    with pytest.raises(KeyError):
        settings.engine_runtime("kata")


def test_where_the_engine_is(tmp_path: Path) -> None:
    nothing = EngineSettings()
    assert find_engine({"DOCKER_HOST": "tcp://there:1"}, nothing) == "tcp://there:1"
    assert find_engine({"DOCKER_HOST": "tcp://there:1", "MECA_ENGINE": "tcp://here:1"}, nothing) == "tcp://here:1"
    assert find_engine({"DOCKER_HOST": "tcp://there:1", "MECA_ENGINE": "none"}, nothing) is None
    assert find_engine({"MECA_ENGINE": "none"}, EngineSettings(url="tcp://said:1")) == "tcp://said:1"
    assert find_engine({"DOCKER_HOST": "tcp://there:1"}, EngineSettings(url="none")) is None


def test_limits_unless_the_operator_lifts_them() -> None:
    assert host_options(PLAN, ()) == {
        "runtime": None,
        "read_only": True,
        "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 512,
    }
    assert host_options(PLAN, ALLOWED) == {"runtime": None}
    lifted = {name: set(host_options(PLAN, ())) - set(host_options(PLAN, {name})) for name in ALLOWED}
    assert lifted == {
        "network": set(),
        "writes": {"read_only", "tmpfs"},
        "capabilities": {"cap_drop"},
        "privileges": {"security_opt"},
        "processes": {"pids_limit"},
    }


def test_resources() -> None:
    options = host_options(PLAN._replace(resource={"cpu": 0.25, "memory": 256}, runtime="kata"), ALLOWED)
    assert options == {
        "runtime": "kata",
        "nano_cpus": 250_000_000,
        "mem_limit": 256 << 20,
        "memswap_limit": 256 << 20,
        "shm_size": 128 << 20,
    }
    assert host_options(PLAN._replace(resource={"memory": 32}), ALLOWED)["shm_size"] == 64 << 20


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("manifest for x:latest not found: manifest unknown", False),
        ("pull access denied for x, repository does not exist or may require 'docker login'", False),
        ("no basic auth credentials", False),
        ("received unexpected HTTP status: 503 Service Unavailable", True),
        ("Get https://r/v2/: net/http: TLS handshake timeout", True),
        ("dial tcp 1.2.3.4:443: connect: connection refused", True),
        ("unexpected EOF", True),
        ("toomanyrequests: You have reached your pull rate limit", True),
    ],
)
def test_what_may_go_well_the_next_time(text: str, passing: bool) -> None:
    assert engine_said(text).passing is passing


def test_whose_process_is_gone() -> None:
    here = this_process()
    assert Owner.of(str(here)) == here
    assert here.pid == str(os.getpid())
    assert not here.is_gone(here, start_of(os.getpid()))
    assert here.is_gone(here, "")  # nobody has its id any more
    assert here.is_gone(here, "another start")  # somebody else has
    assert here._replace(boot="before").is_gone(here, start_of(os.getpid()))
    # What cannot be told is left alone.
    assert not here._replace(machine="other").is_gone(here, "")
    assert not here._replace(space="other").is_gone(here, "")
    for text in ("", "a/b", "1/2/3/4/5/6/7"):
        assert Owner.of(text) is None


def test_start_of_a_process() -> None:
    assert start_of(os.getpid()) == start_of(os.getpid()) != ""
    assert start_of(1 << 22) == ""


def test_parts_of_a_process_have_labels_of_their_own() -> None:
    """A node does this for several gateways; its end is known by its process all the same."""
    whole, part = this_process(), this_process("gateway")
    assert str(part) == f"{whole}/gateway"
    for owner in (whole, part):
        assert Owner.of(str(owner)) == owner
        assert not owner.is_gone(whole, owner.started)
        assert owner.is_gone(whole, "another start")


def test_what_a_gateway_says_of_containers_arrives_at_a_node() -> None:
    """All but where the engine is, and whose they are."""
    said = EngineSettings(
        url="tcp://gateway:1",
        runtimes={"microVM": "kata"},
        pull="never",
        allow=frozenset({"network"}),
        idle_s=1.0,
        part="p",
    )
    assert EngineSettings.from_fields(said.fields()) == replace(said, url=None, part="")
    assert EngineSettings.from_fields({}) == EngineSettings()
