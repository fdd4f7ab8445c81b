"""Which host runs what: resources that are held, hosts that come, go away, leave and are lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from meca_executor.gateway.broker import START_FAILURES, Broker
from meca_executor.gateway.census import census
from meca_executor.gateway.hosts import PATIENCE_S, BrokerHost
from meca_executor.gateway.tasks import Options, Revoke, Spawn, Stop
from meca_executor.policy.placement import why_nowhere
from meca_executor.wire.records import Status

from .model import LOOK_S, ModelRuntime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .model import ModelWorker

NEEDS = {1: {"cpu": 2.0}, 2: {"cpu": 4.0}, 3: {"gpu": 1.0}, 4: {"cpu": 0.5, "memory": 100.0}}


def runtime_on(*hosts: BrokerHost, sessions: Mapping[str, str] = {"a": "me"}) -> ModelRuntime:
    """Return a runtime with these hosts (the first is the gateway's own machine) and sessions of these owners."""
    runtime = ModelRuntime(hosts[0].slots)
    runtime.broker = Broker(hosts[0].slots, hosts[0])
    for host in hosts[1:]:
        runtime.broker.hosts.all[host.id] = host
    for name, owner in sessions.items():
        open_session(runtime, name, owner)
    return runtime


def open_session(runtime: ModelRuntime, name: str, owner: str = "me") -> None:
    runtime.open(name, owner=owner)
    for tag, resource in NEEDS.items():
        runtime.broker.set_options(name, tag, Options(resource=resource))


def here(slots: int = 4, **capacity: float) -> BrokerHost:
    return BrokerHost(0, "here", slots, capacity or {"cpu": 4, "memory": 1000})


def other(number: int = 1, slots: int = 2, owner: str = "me", **capacity: float) -> BrokerHost:
    return BrokerHost(number, f"host{number}", slots, capacity or {"cpu": 4}, lambda whose: whose == owner)


def spread(runtime: ModelRuntime) -> dict[int, int]:
    """Return how many workers with calls each host has."""
    found: dict[int, int] = {}
    for worker in runtime.broker.workers.values():
        if worker.in_flight:
            found[worker.host.id] = found.get(worker.host.id, 0) + 1
    return found


def running(runtime: ModelRuntime) -> list[ModelWorker]:
    """Have every worker that has a call begin it; returns those."""
    for worker in runtime.workers.values():
        if worker.running is None:
            worker.begin(runtime.now)
    return [worker for worker in runtime.workers.values() if worker.running is not None]


def tick(runtime: ModelRuntime, seconds: float = LOOK_S) -> None:
    """Let time go by, then look at all workers."""
    runtime.now += seconds
    for worker in list(runtime.workers.values()):
        runtime.look(worker)


# -- resources


def test_what_a_call_needs_is_held_while_it_is_in_a_worker() -> None:
    """Four slots and four cores: two calls of two cores each run at once, and the others in their turn."""
    runtime = runtime_on(here())
    runtime.submit("a", range(1, 7), tag=1)
    assert spread(runtime) == {0: 2}
    assert runtime.broker.hosts.in_use(runtime.broker.hosts.here) == {"cpu": 4.0}
    runtime.quiet(took=0.05)
    assert runtime.only("a") == dict.fromkeys(range(1, 7), Status.OK)
    assert runtime.broker.hosts.in_use(runtime.broker.hosts.here) == {}


def test_calls_that_wait_for_a_resource_do_not_hold_up_others() -> None:
    """One GPU, three calls that need it, and some that need nothing, all in one session."""
    runtime = runtime_on(here(gpu=1))
    runtime.submit("a", [1, 2, 3], tag=3)
    runtime.submit("a", [4, 5])
    begun = {worker.running.task for worker in running(runtime) if worker.running is not None}
    assert begun == {1, 4, 5}
    runtime.quiet()
    assert set(runtime.only("a").values()) == {Status.OK}


def test_fractions_add_up_to_the_whole() -> None:
    """Three tenths of a core are 0.3 cores, although their sum in binary is more."""
    runtime = runtime_on(here(10, cpu=0.3))
    runtime.broker.set_options("a", 9, Options(resource={"cpu": 0.1}))
    runtime.submit("a", range(1, 11), tag=9)
    assert spread(runtime) == {0: 3}


def test_calls_that_need_something_take_turns_with_those_that_need_nothing() -> None:
    """One worker, and a backlog of each."""
    runtime = runtime_on(here(1))
    runtime.submit("a", range(1, 11))
    runtime.submit("a", range(11, 21), tag=4)
    (worker,) = runtime.workers.values()
    while len(worker.begun) < 6:
        runtime.work(worker, took=0.2)
        runtime.send(worker)
    of_each = [int(payload.partition(b":")[2]) > 10 for payload in worker.begun]
    assert 2 <= sum(of_each) <= 4, of_each


def test_who_needs_much_gets_it_although_others_need_little_all_the_time() -> None:
    """All four cores are promised to a call that has waited for them for long."""
    runtime = runtime_on(here(), sessions={"a": "me", "b": "me"})
    runtime.submit("b", range(1, 200), tag=1)
    running(runtime)
    runtime.submit("a", [1], tag=2)
    for _ in range(100):
        for worker in running(runtime):
            worker.finish(runtime.now + 0.1)
            runtime.send(worker)
        tick(runtime, 0.1)
        if ("a", 1) in runtime.outcomes:
            break
    assert runtime.outcomes["a", 1][0][0] == Status.OK
    assert runtime.now - 100.0 < PATIENCE_S + 2.0
    runtime.quiet()
    assert len(runtime.only("b")) == 199


def test_a_promise_ends_with_the_session_it_was_made_to() -> None:
    """Nobody waits for a call that is gone."""
    runtime = runtime_on(here(), sessions={"a": "me", "b": "me"})
    runtime.submit("b", range(1, 50), tag=1)
    running(runtime)
    runtime.submit("a", [1], tag=2)
    tick(runtime, PATIENCE_S)
    tick(runtime, PATIENCE_S)
    assert runtime.broker.hosts.here.promised is not None
    runtime.do(runtime.broker.close("a"))
    runtime.quiet()
    assert len(runtime.only("b")) == 49


def test_a_killed_call_gives_its_resources_back() -> None:
    """What waited for them begins."""
    runtime = runtime_on(here(gpu=1))
    runtime.submit("a", [1, 2], tag=3)
    running(runtime)
    runtime.do(runtime.broker.kill("a", 1))
    runtime.quiet()
    assert runtime.only("a") == {1: Status.KILLED, 2: Status.OK}


@pytest.mark.parametrize(
    ("resource", "capacities", "text"),
    [
        ({"cpu": 8}, [{"cpu": 4}], "the task needs 8 cores, and this host has 4"),
        ({"cpu": 8}, [{"cpu": 4}, {"cpu": 6}], "the task needs 8 cores, and the best host has 6"),
        ({"cpu": 4, "gpu": 1}, [{"cpu": 8}, {"cpu": 2, "gpu": 1}], "4 cores and 1 GPUs, and none of 2 hosts has all"),
        ({"cpu": 4}, [{"cpu": 2}, {"cpu": 4}], None),
    ],
)
def test_what_no_host_has_is_refused_with_the_best_there_is(
    resource: dict[str, float], capacities: list[dict[str, float]], text: str | None
) -> None:
    """The text names the amounts."""
    found = why_nowhere(resource, capacities)
    assert found is None if text is None else found is not None and text in found


def test_only_hosts_of_the_owner_count_and_none_at_all_is_no_reason() -> None:
    """Without any host a call waits for the first one."""
    runtime = runtime_on(here(0), other(1, gpu=1))
    hosts = runtime.broker.hosts
    assert hosts.why_never("me", {"gpu": 1}) is None
    assert hosts.why_never("me", {"gpu": 2}) == "the task needs 2 GPUs, and this host has 1"
    assert hosts.why_never("you", {"gpu": 2}) is None


# -- where


def test_calls_go_to_all_hosts_of_their_owner_and_to_no_other() -> None:
    """Ten calls, two workers here and two on each of two hosts, one of them another owner's."""
    runtime = runtime_on(here(2), other(1), other(2, owner="you"))
    runtime.submit("a", range(1, 11))
    assert spread(runtime) == {0: 2, 1: 2}
    assert [todo.host for todo in runtime.told if isinstance(todo, Spawn)] == [0, 0, 1, 1]


def test_a_host_that_joins_takes_what_waits() -> None:
    """The gateway has no workers of its own."""
    runtime = runtime_on(here(0))
    runtime.submit("a", [1, 2])
    assert not runtime.workers
    runtime.broker.hosts.all[1] = other(1)
    runtime.do(runtime.broker.changed(runtime.now))
    assert spread(runtime) == {1: 2}


def test_an_owner_without_a_host_holds_up_nobody() -> None:
    """Its calls wait; the others' workers get calls for as long as there are some."""
    runtime = runtime_on(here(0), other(1, slots=1), sessions={"a": "me", "b": "you"})
    runtime.submit("b", [1])
    runtime.submit("a", range(1, 30))
    runtime.quiet(took=0.2)  # each longer than a place may be held while somebody else waits for it
    assert len(runtime.only("a")) == 29
    assert runtime.only("b") == {}


def test_who_waits_for_resources_holds_up_nobody() -> None:
    """A session of another kind of worker waits for the GPU that a long call has; the others go on beside that."""
    runtime = runtime_on(here(2, gpu=1))
    runtime.submit("a", [1], tag=3)
    (long,) = running(runtime)
    runtime.open("b", setup=b"another setup")
    runtime.broker.set_options("b", 3, Options(resource={"gpu": 1.0}))
    runtime.submit("b", [1], tag=3)
    runtime.submit("a", range(2, 12))
    for _ in range(40):
        for worker in running(runtime):
            if worker is not long:
                worker.finish(runtime.now + 0.2)
                runtime.send(worker)
        tick(runtime, 0.2)
    assert len(runtime.only("a")) == 10, "all but the long one"
    assert runtime.only("b") == {}
    long.finish(runtime.now)
    runtime.send(long)
    runtime.quiet()
    assert runtime.only("b") == {1: Status.OK}


def test_a_host_where_no_worker_starts_gets_none_any_more() -> None:
    """The others go on; only where workers start nowhere, nothing can run."""
    bad = other(1, slots=3)
    runtime = runtime_on(here(0), bad, other(2, slots=1))
    runtime.submit("a", range(1, 10))
    for _ in range(5):
        for worker in list(runtime.workers.values()):
            if runtime.broker.workers[worker.number].host is bad:
                runtime.end(worker, "a worker process cannot be started")
    runtime.quiet()
    assert set(runtime.only("a").values()) == {Status.OK}
    assert runtime.broken == {}
    del runtime.broker.hosts.all[2]
    for worker in list(runtime.workers.values()):
        runtime.end(worker)
    runtime.broker.hosts.all[3] = other(3, slots=1)
    runtime.submit("a", [20])
    for _ in range(3):
        (worker,) = runtime.workers.values()
        runtime.end(worker, "a worker process cannot be started")
    assert "cannot be started" in runtime.broken["a"].decode()


# -- hosts that go


def test_a_host_that_is_away_gets_nothing_and_keeps_what_it_has() -> None:
    """When it is back its results are taken, and it gets calls again."""
    away = other(1, slots=1)
    runtime = runtime_on(here(0), away)
    runtime.submit("a", [1, 2])
    (worker,) = running(runtime)
    away.connected = False
    tick(runtime)
    worker.finish(runtime.now)
    runtime.send(worker)
    assert runtime.only("a") == {1: Status.OK}
    assert not worker.waiting, "it got no more"
    away.connected = True
    runtime.do(runtime.broker.changed(runtime.now))
    runtime.quiet()
    assert runtime.only("a") == {1: Status.OK, 2: Status.OK}


def test_a_host_that_is_lost_loses_all_that_it_had() -> None:
    """All of it may have begun there, so all of it is told so; what was not handed over runs elsewhere."""
    lost = other(1, slots=1)
    runtime = runtime_on(here(0), lost, other(2, slots=1))
    runtime.submit("a", [1, 2, 3])
    gone = [number for number, worker in runtime.broker.workers.items() if worker.host is lost]
    runtime.broker.vanished(lost, "host1 was away for too long")
    for number in gone:
        del runtime.workers[number]
    runtime.do(runtime.broker.changed(runtime.now))
    runtime.quiet()
    found = runtime.only("a")
    assert sorted(found.values()) == [Status.OK, Status.OK, Status.LOST]
    ((status, text),) = runtime.outcomes["a", next(id_ for id_, one in found.items() if one == Status.LOST)]
    assert (status, text) == (Status.LOST, b"host1 was away for too long")
    assert runtime.broker.hosts.of("me") == [runtime.broker.hosts.all[2]]


@pytest.mark.parametrize("amount", [10**400, float("inf"), float("nan")], ids=["integer", "inf", "nan"])
def test_an_amount_that_no_host_will_ever_have_waits_alone(amount: float) -> None:
    """With no host yet it is not refused; when one comes, everybody else's calls run."""
    runtime = runtime_on(here(0), sessions={"a": "me", "b": "me"})
    runtime.broker.set_options("a", 9, Options.from_fields({"resource": {"cpu": amount}}))
    runtime.submit("a", [1], tag=9)
    runtime.broker.hosts.all[1] = other(1)
    runtime.do(runtime.broker.changed(runtime.now))
    runtime.submit("b", [2, 3])
    runtime.quiet()
    assert runtime.only("b") == {2: Status.OK, 3: Status.OK}
    assert runtime.broker.sessions["a"].queued == 1


def test_when_the_last_host_that_could_run_them_is_lost_calls_fail() -> None:
    """No worker of theirs starts here, so that nothing would ever come of waiting."""
    lost = other(1, slots=1)
    runtime = runtime_on(here(1), lost)
    runtime.submit("a", [1, 2, 3])
    for _ in range(START_FAILURES):
        for worker in list(runtime.workers.values()):
            if runtime.broker.workers[worker.number].host is not lost:
                runtime.end(worker, "the worker cannot start")
    gone = [number for number, worker in runtime.broker.workers.items() if worker.host is lost]
    runtime.broker.vanished(lost, "host1 left")
    for number in gone:
        del runtime.workers[number]
    runtime.do(runtime.broker.changed(runtime.now))
    assert sorted(runtime.only("a").values()) == [Status.LOST, Status.BROKEN, Status.BROKEN]
    assert "the worker cannot start" in str(runtime.broken)


def test_a_host_that_leaves_ends_what_runs_and_gives_back_the_rest() -> None:
    """Its idle worker is stopped, its busy one when its call is done; calls behind that one run elsewhere."""
    leaving = other(1, slots=2)
    runtime = runtime_on(here(1), leaving)
    runtime.submit("a", [100, 101, 102])
    runtime.quiet(took=0.0001)
    runtime.submit("a", range(1, 40))
    mine = {number for number, worker in runtime.broker.workers.items() if worker.host is leaving}
    running(runtime)
    runtime.broker.drain(leaving)
    runtime.do(runtime.broker.changed(runtime.now))
    assert any(isinstance(todo, Revoke) and todo.worker in mine for todo in runtime.told)
    runtime.quiet(took=0.0001)
    assert len(runtime.only("a")) == 42 and set(runtime.only("a").values()) == {Status.OK}
    assert {todo.worker for todo in runtime.told if isinstance(todo, Stop)} >= mine
    assert not any(worker.host is leaving for worker in runtime.broker.workers.values())
    runtime.submit("a", range(200, 220))
    assert set(spread(runtime)) == {0}


# -- what is told of them


class Call(NamedTuple):
    """A container call that is under way."""

    task: int
    owner: str
    ref: str
    since: float


class Places:
    """The machines that containers run on; those that have calls have an engine."""

    def __init__(self, calls: dict[int, list[Call]]) -> None:
        self.calls = calls

    def running(self, number: int) -> list[Call]:
        return self.calls.get(number, [])

    def has_engine(self, number: int) -> bool:
        return number in self.calls

    def join(self, host: Any, offer: Any, calls: Any) -> None: ...
    def leave(self, number: int) -> None: ...
    def look(self) -> None: ...


def test_the_census_tells_an_owner_of_its_own_calls_and_counts_the_others() -> None:
    """Slots, what is in use, which call runs and for how long."""
    runtime = runtime_on(here(4, cpu=4), other(1), other(2, owner="you"), sessions={"a": "me", "b": "you"})
    runtime.submit("a", [7], tag=4)
    runtime.broker.hosts.here.capacity = {"cpu": 4, "memory": 1000}
    runtime.submit("b", [1])
    running(runtime)
    tick(runtime, 2.0)
    places = Places({0: [Call(8, "me", "knn", runtime.now - 1.0), Call(9, "you", "knn", runtime.now)]})
    first, second = census(runtime.broker, places, "me", runtime.now)
    assert (first["name"], first["here"], first["slots"], first["others"]) == ("here", True, 4, 2)
    assert first["free"] == 4 - (len(first["running"]) - 1) - 1
    assert (first["engine"], second["engine"]) == (True, False)
    assert [host["name"] for host in (first, second)] == ["here", "host1"]
    calls = [call for host in (first, second) for call in host["running"]]
    assert {"task": "7", "seconds": 2.0, "waiting": 0} in calls
    assert {"task": "8", "seconds": 1.0, "waiting": 0, "container": "knn"} in calls
    assert len(calls) == 2
    runtime.broker.hosts.all[1].connected = False
    assert census(runtime.broker, places, "me", runtime.now)[1]["state"] == "away"
    assert census(runtime.broker, places, "me", runtime.now)[1]["free"] == 0
