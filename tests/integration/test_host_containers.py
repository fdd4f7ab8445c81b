"""Container calls on hosts that joined: local apps there, which need no engine, and images of a real one."""

from __future__ import annotations

import contextlib
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor import Container, ContainerFailed, MecaExecutor, NoHostFits, TaskFailed, TaskKilled, TaskTimeout
from meca_executor.runtimes.engine import Engine
from meca_executor.runtimes.engine_settings import EngineSettings
from tests.helpers import engine
from tests.helpers.processes import is_running
from tests.helpers.proxy import proxy
from tests.helpers.waiting import wait_until

from .app_tools import OBEDIENT, make_app
from .joined import joined_host
from .standing import standing_gateway
from .test_containers_gateway import of_process
from .test_hosts import meca

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from .standing import Standing

PATIENCE = 60.0
#: Says on whose behalf it runs, and writes down each call.
APP = OBEDIENT.replace(
    'reply, status = {"born": born, "pid": os.getpid()}, 200',
    'reply, status = {"born": born, "pid": os.getpid(), "who": os.environ.get("WHO", "gateway")}, 200\n'
    '        if "note" in order:\n'
    '            with open(order["note"], "a") as file: file.write(reply["who"] + "\\n")',
)
CALLS = 200


@pytest.fixture
def app(tmp_path: Path) -> str:
    """The folder of a local app."""
    return str(make_app(tmp_path / "app", APP))


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Standing]:
    """Give a gateway that runs nothing of all this by itself."""
    with standing_gateway(tmp_path, "--workers", "0") as standing:
        yield standing


def host_of(folder: Path, url: str, app: str, name: str = "box", *words: str, **more: Any) -> Any:
    """Start a host that has the app, which knows its name."""
    return joined_host(folder, url, "--app", f"app={app}", *words, name=name, env={"WHO": name}, **more)


def ask(ex: MecaExecutor, do: str = "pid", **more: Any) -> Any:
    """Ask the app for something."""
    return ex.submit(Container("app"), {"do": do, **more})


def waiting(tmp_path: Path, name: str) -> dict[str, str]:
    """Return what has a call wait for a file of this name."""
    return {"begun": str(tmp_path / f"{name}.begun"), "file": str(tmp_path / name), "note": str(tmp_path / "noted")}


def begun(tmp_path: Path, *names: str) -> None:
    """Return when these calls have begun."""
    for name in names:
        wait_until(lambda name=name: (tmp_path / f"{name}.begun").exists(), f"{name} begins", PATIENCE)  # type: ignore[misc]


def noted(tmp_path: Path) -> list[str]:
    """Return on whose behalf each call began."""
    return (tmp_path / "noted").read_text().split()


def test_calls_run_on_the_host_and_all_that_is_true_of_containers_is_true_there(
    gateway: Standing, tmp_path: Path, app: str
) -> None:
    """Replies, large ones too, failures with the host's name, what it writes, kills, limits, deaths, resources."""
    with host_of(tmp_path, gateway.url, app) as host, MecaExecutor(gateway.url) as ex:
        first = ask(ex).result(PATIENCE)
        assert first["who"] == "box" and is_running(first["pid"])
        assert host.process.pid != gateway.process.pid
        large = ask(ex, "measure", back=1 << 20, filler="x" * (1 << 20)).result(PATIENCE)
        assert len(large["back"]) == 1 << 20 < large["length"]
        with pytest.raises(TaskFailed, match=r"on host box: app:latest refused the task, HTTP status 418"):
            ask(ex, "refuse").result(PATIENCE)
        chat = ask(ex, "chat", lines=3)
        chat.result(PATIENCE)
        wait_until(lambda: "err 2" in chat.logs(), "its words are here", PATIENCE)
        stuck = ask(ex, "sleep")
        wait_until(lambda: "asleep" in stuck.logs(), "it runs", PATIENCE)
        assert [call["container"] for one in ex.hosts() for call in one["running"]] == ["app"]
        assert ex.kill(stuck)
        with pytest.raises(TaskKilled):
            stuck.result(PATIENCE)
        wait_until(lambda: not is_running(first["pid"]), "its work is stopped", PATIENCE)
        with pytest.raises(TaskTimeout, match=r"on host box: .* timeout of 0\.5 s"):
            ex.options(timeout=0.5).submit(Container("app"), {"do": "sleep"}).result(PATIENCE)
        with pytest.raises(ContainerFailed, match=r"on host box: app:latest ended during the call") as lost:
            ex.options(retry=1).submit(Container("app"), {"do": "exit", "code": 3}).result(PATIENCE)
        assert lost.value.lost
        with pytest.raises(NoHostFits, match=r"needs 4,000 cores, and this host has"):
            ex.submit(Container("app", resource={"cpu": 4000}), {"do": "pid"}).result(PATIENCE)
        with pytest.raises(NoHostFits, match=r"no container 'nothing' here"):
            ex.submit(Container("nothing"), {}).result(PATIENCE)


def test_the_first_host_is_waited_for_and_a_name_is_where_it_was_given(
    gateway: Standing, tmp_path: Path, app: str
) -> None:
    """The host that has no such app gets none of its calls, though both have the examples."""
    with MecaExecutor(gateway.url) as ex:
        early = ask(ex)
        with joined_host(tmp_path, gateway.url, name="other"):
            with pytest.raises(NoHostFits, match="no container 'app'"):
                early.result(PATIENCE)
            with host_of(tmp_path, gateway.url, app):
                futures = [ask(ex) for _ in range(10)]
                assert {future.result(PATIENCE)["who"] for future in futures} == {"box"}
                greeting = ex.submit(Container("sampleserver"), {"name": "you"}).result(PATIENCE)
                assert greeting == {"message": "hello you"}


def test_a_call_waits_for_the_first_host(gateway: Standing, tmp_path: Path, app: str) -> None:
    """A gateway without workers is there for hosts."""
    with MecaExecutor(gateway.url) as ex:
        early = ask(ex)
        ex.submit(Container("sampleserver"), {"name": "you"}).result(PATIENCE)  # which the gateway itself can do
        assert not early.done()
        with host_of(tmp_path, gateway.url, app):
            assert early.result(PATIENCE)["who"] == "box"


def test_without_containers_a_host_gets_none(gateway: Standing, tmp_path: Path, app: str) -> None:
    """And says so when it joins; so do wrong words."""
    with (
        joined_host(tmp_path, gateway.url, "--no-containers", name="plain"),
        joined_host(tmp_path, gateway.url, "--engine", "none", name="apps"),
        MecaExecutor(gateway.url) as ex,
    ):
        assert [(one["name"], one["engine"]) for one in ex.hosts()[1:]] == [("plain", False), ("apps", False)]
        assert "ENGINE" in meca("ps", "--endpoint", gateway.url).stdout
    both = meca("host", "--join", gateway.url, "--no-containers", "--app", f"app={app}")
    assert (both.returncode, "say one of them" in both.stderr) == (2, True)
    assert meca("host", "--join", gateway.url, "--app", f"app={tmp_path}").returncode == 2


def test_a_host_that_is_killed_loses_its_calls_to_another(gateway: Standing, tmp_path: Path, app: str) -> None:
    """As further attempts; with one attempt they fail."""
    with MecaExecutor(gateway.url) as ex:
        with host_of(tmp_path, gateway.url, app, "doomed", "--grace", "0.2") as doomed:
            again = ask(ex, "wait", **waiting(tmp_path, "again"))
            once = ex.options(retry=1).submit(Container("app"), {"do": "wait", **waiting(tmp_path, "once")})
            begun(tmp_path, "again", "once")
            (tmp_path / "again").touch()
            (tmp_path / "again.begun").unlink()
            assert again.result(PATIENCE)["who"] == "doomed"
            again = ask(ex, "wait", **waiting(tmp_path, "third"))
            begun(tmp_path, "third")
            doomed.process.kill()
            doomed.process.wait(PATIENCE)
            with pytest.raises(ContainerFailed, match=r"lost with its host: host doomed was away for longer") as lost:
                once.result(PATIENCE)
            assert lost.value.lost
        (tmp_path / "third").touch()
        with host_of(tmp_path, gateway.url, app, "next"):
            assert again.result(PATIENCE)["who"] == "next"
            assert len(again.attempts) == 2


def test_a_host_that_is_cut_off_and_comes_back_has_gone_on(gateway: Standing, tmp_path: Path, app: str) -> None:
    """The reply arrives, and the call ran once; its timeout did not count the absence."""
    with proxy(gateway.port) as link, host_of(tmp_path, link.url, app), MecaExecutor(gateway.url) as ex:
        future = ex.options(timeout=50).submit(Container("app"), {"do": "wait", **waiting(tmp_path, "go")})
        begun(tmp_path, "go")
        link.down()
        wait_until(lambda: ex.hosts()[1]["state"] == "away", "the gateway knows", PATIENCE)
        later = ask(ex)
        (tmp_path / "go").touch()
        wait_until(lambda: link.refused > 0, "the host tries to come back", PATIENCE)
        assert not future.done()
        link.up()
        assert future.result(PATIENCE)["who"] == "box"
        assert later.result(PATIENCE)["who"] == "box"
        assert noted(tmp_path) == ["box"]


@pytest.mark.parametrize("how", ["SIGTERM", "drain"])
def test_leaving_waits_for_container_calls(gateway: Standing, tmp_path: Path, app: str, how: str) -> None:
    """New ones go elsewhere."""
    with host_of(tmp_path, gateway.url, app) as host, MecaExecutor(gateway.url) as ex:
        running = ask(ex, "wait", **waiting(tmp_path, "go"))
        begun(tmp_path, "go")
        if how == "SIGTERM":
            host.process.send_signal(signal.SIGTERM)
            assert "leaving when 1 running calls" in host.line()
        else:
            ex.drain_host("box")
        wait_until(lambda: ex.hosts()[1]["state"] == "draining", "the gateway knows", PATIENCE)
        with host_of(tmp_path, gateway.url, app, "next"):
            assert ask(ex).result(PATIENCE)["who"] == "next"
            assert host.process.poll() is None
            (tmp_path / "go").touch()
            assert running.result(PATIENCE)["who"] == "box"
            assert host.process.wait(PATIENCE) == 0, host.log


def test_many_calls_over_the_gateway_and_two_hosts(tmp_path: Path, app: str) -> None:
    """All of them take part, each call is made once, and no host has more at once than it has slots."""
    with (
        standing_gateway(tmp_path, "--workers", "1", "--app", f"app={app}") as gateway,
        host_of(tmp_path, gateway.url, app, "one"),
        host_of(tmp_path, gateway.url, app, "two"),
        MecaExecutor(gateway.url) as ex,
    ):
        wait_until(lambda: ex.slots == 5, "the client knows of both", PATIENCE)
        held = [ask(ex, "wait", **waiting(tmp_path, f"held{number}")) for number in range(5)]
        begun(tmp_path, *(f"held{number}" for number in range(5)))
        assert Counter(noted(tmp_path)) == {"gateway": 1, "one": 2, "two": 2}
        assert [len(one["running"]) for one in ex.hosts()] == [1, 2, 2]
        for number in range(5):
            (tmp_path / f"held{number}").touch()
        assert len([future.result(PATIENCE) for future in held]) == 5
        futures = [ask(ex, note=str(tmp_path / "noted")) for _ in range(CALLS)]
        came = Counter(future.result(PATIENCE)["who"] for future in futures)
        assert set(came) == {"gateway", "one", "two"} and came.total() == CALLS
        assert len(noted(tmp_path)) == CALLS + 5


def test_resources_name_the_best_host_and_wait_for_one_that_is_away(
    gateway: Standing, tmp_path: Path, app: str
) -> None:
    """A call that fits there only has its turn when it is back."""
    with (
        proxy(gateway.port) as link,
        host_of(tmp_path, gateway.url, app, "small", "--resource", "cpu=2"),
        host_of(tmp_path, link.url, app, "big", "--resource", "cpu=2000"),
        MecaExecutor(gateway.url) as ex,
    ):
        with pytest.raises(NoHostFits, match=r"needs 4,000 cores, and the best host has 2,000"):
            ex.submit(Container("app", resource={"cpu": 4000}), {"do": "pid"}).result(PATIENCE)
        link.down()
        wait_until(lambda: ex.hosts()[2]["state"] == "away", "the gateway knows", PATIENCE)
        future = ex.submit(Container("app", resource={"cpu": 1000}), {"do": "pid"})
        assert ask(ex).result(PATIENCE)["who"] == "small"
        assert not future.done()
        cancelled = ex.submit(Container("app", resource={"cpu": 1000}), {"do": "pid"})
        wait_until(cancelled.running, "it is at the gateway", PATIENCE)
        assert ex.kill(cancelled)
        with pytest.raises(TaskKilled):
            cancelled.result(PATIENCE)
        link.up()
        assert future.result(PATIENCE)["who"] == "big"


def test_a_journal_outlives_the_gateway_and_waits_for_its_hosts(tmp_path: Path, app: str) -> None:
    """What was queued when it was killed is made by the host that joins again."""
    words = ["--workers", "1", "--journal", str(tmp_path / "journal.db")]
    with standing_gateway(tmp_path, *words, killed=True) as gateway, host_of(tmp_path, gateway.url, app):
        with MecaExecutor(gateway.url) as ex:
            future = ask(ex, "wait", **waiting(tmp_path, "go"))
            begun(tmp_path, "go")
            gateway.process.kill()
            gateway.process.wait(PATIENCE)
            (tmp_path / "go").touch()
            with standing_gateway(tmp_path, *words, port=gateway.port):
                assert future.result(PATIENCE)["who"] == "box"
        assert noted(tmp_path) == ["box", "box"]


# -- with an engine


@pytest.fixture
def engine_url(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let programs find the engine."""
    url = engine.url()
    monkeypatch.setenv("MECA_ENGINE", url)
    return url


def test_images_run_on_a_hosts_engine(images: engine.Images, engine_url: str, tmp_path: Path) -> None:
    """Warm and held to its resources; killed and cleaned up there; an image that is not there is told with the host."""
    image = images.of_source("obedient", OBEDIENT)
    with (
        standing_gateway(tmp_path, "--workers", "0", "--engine", "none") as gateway,
        joined_host(tmp_path, gateway.url, "--pull", "never", "--runtime", "plain=runc", name="box") as host,
        MecaExecutor(gateway.url) as ex,
    ):
        assert [one["engine"] for one in ex.hosts()] == [False, True]
        obedient = Container(image, resource={"cpu": 0.5, "memory": 200}, runtime="plain")
        first, second = (ex.submit(obedient, {"do": "pid"}).result(PATIENCE)["born"] for _ in range(2))
        (name,) = of_process(host.process.pid)
        assert first == second
        stuck = ex.submit(obedient, {"do": "sleep"})
        with contextlib.closing(Engine(engine_url, EngineSettings())) as one:
            wait_until(lambda: b"asleep" in one._client.logs(name), "it runs", PATIENCE)
        assert ex.kill(stuck)
        with pytest.raises(TaskKilled):
            stuck.result(PATIENCE)
        wait_until(lambda: not of_process(host.process.pid), "its container is gone", PATIENCE)
        with pytest.raises(ContainerFailed, match=r"on host box: .*nothing:latest is not on this host"):
            ex.submit(Container("nothing"), {}).result(PATIENCE)
        with pytest.raises(NoHostFits, match="runtime 'microVM'"):
            ex.submit(Container(image, runtime="microVM"), {}).result(PATIENCE)
        chat = ex.submit(obedient, {"do": "chat", "lines": 3})
        chat.result(PATIENCE)
        wait_until(lambda: "err 2" in chat.logs(), "its words are here", PATIENCE)
        pid = host.process.pid
        assert host.leave() == 0
        assert not of_process(pid)
