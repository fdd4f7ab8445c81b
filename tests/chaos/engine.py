"""The engine of the chaos runs: a gateway, clients behind proxies, a seeded schedule of faults, and the reckoning."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import meca_executor
from tests.helpers import leaks
from tests.helpers.memory import mapped_segments, open_segments
from tests.helpers.processes import CAN_LIST, children, command, has_in_environment, is_running
from tests.helpers.waiting import becomes_true, wait_until

from .client import APP_REF, EVER_S, STUCK_S, Orders, Told
from .proxy import HALF_OPEN, KINDS, LONG, SILENCE, Proxy, draw
from .report import Report
from .tasks import APP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(meca_executor.__file__).parent.parent
READY_S = 60.0  #: for a process to start or to end
QUIET_S = 40.0  #: a silent connection is left alone for so long: its ping timeouts are 20 s here and 30 s there
WORKER, CLIENT, GATEWAY = "worker killed", "client killed", "gateway killed"
RESTART = "gateway restarted"  #: told to end, and started again
OTHER_FAULTS = {WORKER: 3.0, CLIENT: 0.7, GATEWAY: 0.7}  #: name -> weight
#: what a client must not print, whatever happens
TROUBLE = re.compile(r"Traceback|Exception ignored|never retrieved|never awaited|destroyed but|Warning")
#: what cuts is more frequent than what takes long
LINK_FAULTS = dict.fromkeys(KINDS, 1.0) | {"reset": 2.0, "truncate": 4.0, HALF_OPEN: 0.1, SILENCE: 0.2}


@dataclass(frozen=True)
class Plan:
    """A run.

    Attributes:
        seed: Says which faults come, to whom, and which tasks; not when exactly.
        seconds: How long there are faults; what is open then is finished.
        folder: Empty; of the run's own.
        links_only: No fault but those of the link.
        journal: The gateway keeps a journal.
        clients: Programs at once.
        workers: Of the gateway.
        pause: Seconds between two faults, on average.
        more: Kinds of faults that are to come five times as often.
    """

    seed: str
    seconds: float
    folder: Path
    links_only: bool = False
    journal: bool = False
    clients: int = 3
    workers: int = 2
    pause: float = 0.4
    more: tuple[str, ...] = ()


@dataclass
class Place:
    """Where a client is, one after the other."""

    number: int
    proxy: Proxy
    generation: int = 0
    process: subprocess.Popen[bytes] | None = None
    busy_until: float = 0.0  #: a fault of the link that takes long is not disturbed until then
    killed: set[int] = field(default_factory=set)  #: generations


class Engine:
    """One run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = random.Random(plan.seed)
        self.began = time.monotonic()
        self.history: list[str] = []  #: faults, with their times
        self.faults: Counter[str] = Counter()
        self.broken: list[str] = []  #: promises
        self.marks = plan.folder / "marks"
        self.stop = plan.folder / "stop"
        self.port = 0
        self.gateways = 0
        self.killed: set[int] = set()  #: gateways
        self.had_run: set[int] | None = None  #: workers that had run a task when one was killed that had not
        self.gateway: subprocess.Popen[str] | None = None
        self.places: list[Place] = []

    # -- the gateway ------------------------------------------------------------------------------

    def _log(self, number: int) -> Path:
        return self.plan.folder / f"gateway{number}.log"

    def start_gateway(self) -> None:
        """Start one, on the port of the one before."""
        words = ["--port", str(self.port), "--workers", str(self.plan.workers), "--grace", "5"]
        words += ["--app", f"{APP_REF}={self.plan.folder / 'app'}"]
        words += ["--journal", str(self.plan.folder / "journal")] if self.plan.journal else []
        self.gateways += 1
        with self._log(self.gateways).open("w") as log:
            self.gateway = subprocess.Popen(
                [sys.executable, "-m", "meca_executor.cli", "gateway", *words],
                cwd=self.plan.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.gateway.stdout
        ready = self.gateway.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", ready)
        if not found:
            self.gateway.kill()
            self.gateway.communicate()
            raise AssertionError(f"the gateway does not start: {ready} {self._log(self.gateways).read_text()}")
        self.port = int(found[1])

    def kill_gateway(self) -> str:
        """SIGKILL it, and start another."""
        assert self.gateway
        self.killed.add(self.gateway.pid)
        self.gateway.kill()
        self.gateway.communicate()
        time.sleep(self.rng.uniform(0.0, 1.0))  # the clients see nobody for a moment
        self.start_gateway()
        return ""

    def restart_gateway(self) -> str:
        """Tell it to end, and start another."""
        self._terminate_gateway()
        self.start_gateway()
        return ""

    def end_gateway(self) -> None:
        """Tell it to end, as a user would, and look at what all have logged."""
        self._terminate_gateway()
        for number in range(1, self.gateways + 1):
            log = self._log(number).read_text(errors="replace")
            if "Traceback" in log:
                self.broken.append(f"traceback in the gateway's log: {log[log.index('Traceback') :][:3000]}")

    def _terminate_gateway(self) -> None:
        assert self.gateway
        self.gateway.send_signal(signal.SIGTERM)
        try:
            out, _ = self.gateway.communicate(timeout=READY_S)
            if self.gateway.returncode != 0:
                self.broken.append(f"the gateway ended with {self.gateway.returncode}: {out}")
        except subprocess.TimeoutExpired:
            self.broken.append(f"the gateway does not end on SIGTERM within {READY_S:g} s")
            self.gateway.kill()
            self.gateway.communicate()

    def kill_worker(self) -> str | None:
        """SIGKILL a worker process of the gateway; None when there is none.

        One that has run nothing yet only if another has, since the last such one: workers that end one after the
        other before they can run anything break their sessions, as they should.
        """
        assert self.gateway
        found = [one.pid for one in children(self.gateway.pid) if "meca_executor.runtimes.worker" in command(one.pid)]
        have_run = {int(file.name.partition("-")[2]) for file in self.marks.glob("ran-*")}
        if have_run == self.had_run:
            found = [pid for pid in found if pid in have_run]
        if not found:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(chosen := self.rng.choice(found), signal.SIGKILL)
        if chosen not in have_run:
            self.had_run = have_run
        return f"{chosen}"

    # -- clients ----------------------------------------------------------------------------------

    def start_client(self, place: Place) -> None:
        """Start a client at its place."""
        folder = self._folder(place)
        (folder / "tmp").mkdir(parents=True)
        plan = self.plan
        orders = Orders(
            *(place.proxy.url, place.number, place.generation, plan.seed, str(folder), str(self.marks), str(self.stop)),
            links_only=plan.links_only,
            journal=plan.journal,
        )
        with (folder / "err").open("w") as errors:
            place.process = subprocess.Popen(
                [
                    sys.executable,
                    "-W",
                    "always::ResourceWarning",
                    "-m",
                    "tests.chaos.client",
                    json.dumps(asdict(orders)),
                ],
                cwd=ROOT,
                env={**os.environ, "TMPDIR": str(folder / "tmp")},
                stdout=errors,
                stderr=errors,
            )

    def _folder(self, place: Place, generation: int | None = None) -> Path:
        return self.plan.folder / f"client{place.number}-{place.generation if generation is None else generation}"

    def kill_client(self) -> str:
        """SIGKILL a client; another one takes its place."""
        place = self.rng.choice(self.places)
        assert place.process
        place.process.kill()
        place.process.wait()
        place.killed.add(place.generation)
        place.generation += 1
        self.start_client(place)
        return f"{place.number}"

    # -- faults -----------------------------------------------------------------------------------

    def make_faults(self) -> None:
        """Inject faults until the time is up; each kind once at the beginning, so that a short run has them all."""
        weights = LINK_FAULTS if self.plan.links_only else {**LINK_FAULTS, **OTHER_FAULTS}
        weights = {**weights, **({RESTART: 0.3} if self.plan.journal and not self.plan.links_only else {})}
        weights = {kind: weight * (5.0 if kind in self.plan.more else 1.0) for kind, weight in weights.items()}
        first = list(weights)
        self.rng.shuffle(first)
        first.sort(key=lambda kind: kind not in LONG)  # they take longest
        deadline = time.monotonic() + self.plan.seconds
        while time.monotonic() < deadline:
            kind = first[0] if first else self.rng.choices(list(weights), list(weights.values()))[0]
            if not first and kind in LONG and deadline - time.monotonic() < QUIET_S:
                continue  # all would wait for its end
            if self._fault(kind) and first:
                first.pop(0)
            time.sleep(self.rng.expovariate(1 / self.plan.pause))
            for place in self.places:
                if place.process and place.process.poll() is not None:
                    return  # it ended by itself: something is stuck or wrong, and its report says what

    def _fault(self, kind: str) -> bool:
        """Do one; False when there is nothing that it could be done to just now."""
        others: dict[str, Callable[[], str | None]] = {
            WORKER: self.kill_worker,
            CLIENT: self.kill_client,
            GATEWAY: self.kill_gateway,
            RESTART: self.restart_gateway,
        }
        if kind in others:
            if (detail := others[kind]()) is None:
                return False
        else:
            now = time.monotonic()
            free = [place for place in self.places if place.busy_until < now]
            if not free:
                return False
            place, fault = self.rng.choice(free), draw(self.rng, kind)
            if not place.proxy.inject(fault):
                return False
            if kind in LONG:
                place.busy_until = now + QUIET_S
            detail = f"client {place.number}: {fault}"
        self.faults[kind] += 1
        self.history.append(f"{time.monotonic() - self.began:7.2f} s  {kind}: {detail}")
        return True

    # -- all of it --------------------------------------------------------------------------------

    def run(self) -> Report:
        """Do it, and reckon up; nothing of it is left then but the files in the plan's folder."""
        self.marks.mkdir()
        (self.plan.folder / "app" / "src").mkdir(parents=True)
        (self.plan.folder / "app" / "src" / "app.py").write_text(APP)
        self.start_gateway()
        try:
            with self._clients():
                for place in self.places:
                    wait_until(lambda place=place: place.proxy.connections, "a client connects", READY_S)  # type: ignore[misc]
                before = descriptors(self.gateway.pid) if self.gateway and CAN_LIST else 0
                self.make_faults()
                for place in self.places:
                    if place.busy_until < time.monotonic() or not self.plan.links_only:
                        place.proxy.heal()
                self.stop.touch()
                self._await_clients()
            if self.plan.links_only and CAN_LIST:
                self._check_gateway(before)
        finally:
            self.end_gateway()
            orphans = self._find_orphans()
        report = self._reckon()
        report.orphans = orphans
        return report

    def _check_gateway(self, before: int) -> None:
        """When its clients have said goodbye, a gateway keeps nothing of theirs."""
        assert self.gateway
        pid, most = self.gateway.pid, before + 10 * self.plan.workers
        if not becomes_true(lambda: descriptors(pid) <= most, READY_S):
            self.broken.append(f"the gateway has {descriptors(pid)} descriptors without clients; {before} at the start")
        if not becomes_true(lambda: not open_segments(pid) and not mapped_segments(pid), READY_S):
            self.broken.append(f"the gateway keeps memory: {open_segments(pid)}, {mapped_segments(pid)} mapped")

    def _find_orphans(self) -> int:
        """Count what tasks started and no gateway's end has ended; it is killed, and a promise was broken."""
        mark = f"{leaks.MARK}={os.environ[leaks.MARK]}".encode()
        lines = [line for file in self.marks.glob("children-*") for line in file.read_text().splitlines()]
        left = [line.split() for line in lines]

        def alive() -> list[list[str]]:
            # One that has another environment has the number of ours, and is not ours.
            return [both for both in left if is_running(int(both[1])) and has_in_environment(int(both[1]), mark)]

        becomes_true(lambda: not alive(), READY_S)
        for gateway, pid in (orphans := alive()):
            how = "was killed" if int(gateway) in self.killed else "ended"
            self.broken.append(f"process {pid}, which a task left, outlives its gateway {gateway}, which {how}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return len(orphans)

    @contextlib.contextmanager
    def _clients(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for number in range(self.plan.clients):
                proxy = Proxy(self.port)
                stack.callback(proxy.close)
                self.places.append(Place(number, proxy))
                self.start_client(self.places[-1])
            try:
                yield
            finally:
                for place in self.places:
                    if place.process:
                        place.process.kill()
                        place.process.wait()

    def _await_clients(self) -> None:
        deadline = time.monotonic() + EVER_S + STUCK_S
        for place in self.places:
            assert place.process
            try:
                place.process.wait(max(1.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.broken.append(f"client {place.number}-{place.generation} does not end")

    def _reckon(self) -> Report:
        (self.plan.folder / "history").write_text("\n".join(self.history))
        report = Report(self.plan.seed, self.faults, self.history, self.broken)
        report.count_runs(self.marks)
        for place in self.places:
            for generation in range(place.generation + 1):
                folder = self._folder(place, generation)
                errors = (folder / "err").read_text(errors="replace")
                if TROUBLE.search(errors):
                    report.broken.append(f"client {place.number}-{generation} wrote: {errors[:3000]}")
                told = folder / "told.json"
                if generation not in place.killed:
                    if told.exists():
                        report.add(place.number, generation, told_of(told), exactly_once=self.plan.links_only)
                    else:
                        report.broken.append(f"client {place.number}-{generation} says nothing")
                left = list((folder / "tmp").iterdir())
                if left and generation not in place.killed:
                    report.broken.append(f"client {place.number}-{generation} leaves {left}")
        report.check_runs()
        return report


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def told_of(path: Path) -> Told:
    """Read what a client said."""
    fields: dict[str, Any] = json.loads(path.read_text())
    fields["kinds"] = Counter(fields["kinds"])
    fields["failed"] = {int(number): name for number, name in fields["failed"].items()}
    return Told(**fields)
