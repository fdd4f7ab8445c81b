"""What the broker keeps of tasks, sessions and workers, and what it tells others to do."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..policy import batching
from ..settings import OPTIONS_MOST, why_no_ref, why_no_runtime
from .backlog import Backlog
from .groups import Flight
from .hosts import HERE
from .ranks import Ranked

if TYPE_CHECKING:
    from ..wire.payloads import Held
    from ..wire.records import Record, Status
    from .backlog import Shape
    from .hosts import BrokerHost


DEFINITIONS_MOST = 100_000  #: functions of one session; our own clients send a tenth of that


@dataclass(frozen=True)
class Options:
    """How tasks with one options id run; sent once by the client."""

    timeout: float | None = None  #: seconds that an attempt may run
    container_ref: str | None = None  #: the payload is a container's input, not a call
    runtime: str | None = None
    resource: dict[str, float] = field(default_factory=dict)
    attempts: int | None = None  #: in all; None: only the client knows when they are enough

    @cached_property
    def shape(self) -> Shape:
        """What such a call holds while a worker has it."""
        return tuple(sorted((name, amount) for name, amount in self.resource.items() if amount > 0))

    @classmethod
    def from_fields(cls, fields: Any) -> Options:
        """Read what a client sent.

        Raises:
            ValueError: A value has the wrong type.
        """
        if not isinstance(fields, dict):
            raise ValueError(f"options are an object, not {fields!r:.100}")
        for name in ("container_ref", "runtime"):
            if not isinstance(fields.get(name), (str, type(None))):
                raise ValueError(f"{name} {fields[name]!r:.100} is not text")
        ref, runtime = fields.get("container_ref"), fields.get("runtime")
        if (why := (ref and why_no_ref(ref)) or (runtime and why_no_runtime(runtime))) is not None:
            raise ValueError(why)
        timeout, resource = fields.get("timeout"), fields.get("resource") or {}
        if timeout is not None and not (isinstance(timeout, (int, float)) and timeout > 0):
            raise ValueError(f"timeout {timeout!r} is not a positive number of seconds")
        if not isinstance(resource, dict) or not all(isinstance(value, (int, float)) for value in resource.values()):
            raise ValueError(f"resource {resource!r} is not an object of numbers")
        resource = {name: float_of(value) for name, value in resource.items()}
        attempts = fields.get("attempts")
        if attempts is not None and not (isinstance(attempts, int) and attempts >= 1):
            raise ValueError(f"attempts {attempts!r} is not a number from 1 on")
        return cls(timeout, ref, runtime, resource, attempts)


def float_of(amount: float) -> float:
    """Return an amount that can be added to others: JSON has integers that no float can be."""
    return amount if amount <= sys.float_info.max else float("inf")


@dataclass(eq=False)
class Pool:
    """The workers of one kind: same owner, same initializer, same environment."""

    key: str
    setup: bytes  #: the batch for `Kind.SETUP`
    tasks_per_worker: int | None = None
    sessions: int = 0
    #: host -> workers in a row that ended before they had run anything
    failures: Counter[int] = field(default_factory=Counter)
    barred: dict[int, str] = field(default_factory=dict)  #: hosts on which no worker of it starts, and why
    broken: str | None = None  #: why no task can run
    owner: str = ""
    live: set[int] = field(default_factory=set)  #: its workers, those that are leaving not counted
    idle: Ranked = field(default_factory=Ranked)  #: those of them that have nothing


@dataclass(eq=False)
class BrokerSession:
    """A client's queue and what its numbers mean."""

    id: str
    pool: Pool
    cap: int  #: workers that may run this session's tasks at once
    queue: Backlog = field(default_factory=Backlog)
    options: dict[int, Options] = field(default_factory=dict)
    path: int = 0  #: definition of its changed import path; 0: as in the pool's setup
    definitions: dict[int, int] = field(default_factory=dict)  #: its number -> the broker's
    objects: dict[int, Record] = field(default_factory=dict)  #: definitions of its objects and code, by number
    code: set[int] = field(default_factory=set)  #: those of them that are code
    estimates: dict[tuple[int, int], float] = field(default_factory=dict)
    workers: dict[int, int] = field(default_factory=dict)  #: worker -> this session's tasks in it
    paused: bool = False  #: its results are not being fetched
    busy: Ranked = field(default_factory=Ranked)  #: workers with its tasks that may get more, by their loads

    @property
    def queued(self) -> int:
        """Tasks in the queue."""
        return self.queue.count

    @property
    def under_way(self) -> int:
        """How many tasks it has, in its queue and in workers."""
        return self.queued + sum(self.workers.values())

    def measured(self, kind: tuple[int, int], micros: int, count: int) -> None:
        """So many calls of a kind took so long."""
        self.estimates[kind] = batching.updated(self.estimates.get(kind), micros, count)

    def define(self, number: int, definition: int) -> None:
        """Learn a function's number.

        Raises:
            ValueError: There are too many.
        """
        if len(self.definitions) >= DEFINITIONS_MOST:
            raise ValueError(f"a session has {DEFINITIONS_MOST:,} functions at most; send any more with their calls")
        self.definitions[number] = definition

    def learn(self, number: int, options: Options) -> None:
        """Learn an options id.

        Raises:
            ValueError: There are too many.
        """
        if number not in self.options and len(self.options) >= OPTIONS_MOST:
            raise ValueError(f"a session has {OPTIONS_MOST:,} different options at most")
        self.options[number] = options


@dataclass(eq=False)
class BrokerWorker:
    """A worker and what it has been given."""

    id: int
    host: BrokerHost
    pool: Pool | None = None  #: None: started, and not yet told what for
    session: BrokerSession | None = None  #: whose tasks it has, or had last; one session's at a time
    in_flight: Flight = field(default_factory=Flight)
    shape: Shape = ()  #: what its calls hold, while it has any; all of them the same
    void: set[int] = field(default_factory=set)  #: ordinals in flight whose outcome is settled already
    next_ordinal: int = 1
    done: int = 0  #: the last ordinal that an outcome has come of; they come in order, of each one
    load: float = 0.0  #: microseconds of estimated work in flight
    started: int = 0
    since: float = 0.0  #: when the last one began that was seen
    overdue: int = 0  #: an ordinal that takes longer than thought: until it is done, nothing more comes
    placed_at: float = 0.0  #: when its pool got it
    idle_since: float = 0.0
    known: set[int] = field(default_factory=set)  #: definitions that it has
    objects: set[int] = field(default_factory=set)  #: objects that it has, by number
    code: set[int] = field(default_factory=set)  #: code that it may have loaded, by number
    revoked: tuple[int, int] = (0, 0)
    reclaiming: bool = False  #: a revocation was told and is not yet counted
    ending: tuple[int, Status, str] | None = None  #: it is being killed for this ordinal, whose outcome this is
    retired: bool = False  #: gets no more tasks
    printing: dict[int, int] = field(default_factory=dict)  #: stream -> whose text it says that it has there

    def suits(self, session: BrokerSession) -> bool:
        """Whether it is of the session's pool, and what it may have loaded is the session's, too."""
        return self.pool is session.pool and self.code <= session.code


class Spawn(NamedTuple):
    """Start a worker process under this number, on that host."""

    worker: int
    host: int = HERE


class Setup(NamedTuple):
    """Tell a worker what it is for."""

    worker: int
    batch: bytes


class Run(NamedTuple):
    """Give a worker calls of one kind; definitions that it lacks go first."""

    worker: int
    definitions: list[Record]
    ordinal: int  #: of the first call; the others follow
    reference: int  #: the number of their function's definition; 0: each call carries its own
    calls: bytes  #: a batch of (task id, 0, 0, call)
    session: str  #: whose they are


class Forget(NamedTuple):
    """Tell a worker that objects are mentioned no more."""

    worker: int
    numbers: list[int]


class Revoke(NamedTuple):
    """Tell a worker to leave ordinals start .. stop - 1 alone."""

    worker: int
    start: int
    stop: int


class Stop(NamedTuple):
    """Let an idle worker end by itself."""

    worker: int


class Kill(NamedTuple):
    """End a worker and its children now; its exit is reported like any other."""

    worker: int


class Report(NamedTuple):
    """Send records to a session."""

    session: str
    batch: bytes
    shared: Held | None = None  #: the payload of its one record, in shared memory


Instruction = Spawn | Setup | Run | Forget | Revoke | Stop | Kill | Report
