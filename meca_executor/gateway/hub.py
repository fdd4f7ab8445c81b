"""The hub: carries messages between sessions, the broker and the runtimes. It decides nothing.

All of it runs in one asyncio loop. A session outlives its connection: while the link is down its
frames wait, and after a reconnect they are sent again from where the client had them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from ..policy.placement import why_never
from ..wire import proof
from ..wire.records import Definition, Kind, MalformedBatch, Record, Release, Status, decode, encode
from ..wire.stream import Message
from .calls import ContainerCalls
from .keeper import Volatile
from .session import Session, SessionRefused
from .tasks import Forget, Instruction, Kill, Options, Report, Revoke, Run, Setup, Spawn, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..wire.payloads import Held
    from ..wire.records import Outcomes
    from .books import History
    from .broker import Broker
    from .journal import SavedSession
    from .keeper import Durable, Keeper
    from .ports import ContainerRuntime, WorkerRuntime

LOOK_S = 0.02  #: how often workers that have something to do are looked at
ACK_S = 0.05  #: an acknowledgement waits no longer than this for a frame to travel with
RESUME_S = 600.0  #: a session whose link is down is kept for so long
PAUSE_BYTES = 64 << 20  #: unacknowledged bytes at which a session's tasks are no longer started

log = logging.getLogger("meca.gateway")


class Hub:
    """Sessions, broker and runtimes of one gateway."""

    def __init__(
        self,
        broker: Broker,
        containers: ContainerRuntime,
        capacity: Mapping[str, float],
        trusting: bool = False,
        resume_s: float = RESUME_S,
        keeper: Keeper | None = None,
    ) -> None:
        self.sessions: dict[str, Session] = {}
        self._broker = broker
        self._keeper = keeper or Volatile()
        self.calls = ContainerCalls(containers, self._report, self._keeper)
        self._workers: WorkerRuntime
        self._capacity = capacity  #: what this host has of each resource
        self._trusting = trusting  #: an embedded gateway: its one client may name folders to run
        self._resume_s = resume_s
        self._loop = asyncio.get_running_loop()
        self._looking = False
        self._outbox: dict[str, list[tuple[Kind, bytes]]] = {}

    def start(self, workers: WorkerRuntime, count: int) -> None:
        """Take the runtime into service and start `count` workers."""
        self._workers = workers
        self._do(self._broker.prepare(count))

    # -- sessions ---------------------------------------------------------------------------------

    def attach(
        self, session_id: str, owner: str, cap: int, tasks_per_worker: int | None, birth: str = ""
    ) -> tuple[Session, bool]:
        """Find a client's session, or begin one; returns it and whether it is an old one. Its link is down still.

        One of another birth is of no use to the client: it never had the welcome to it.

        Raises:
            SessionRefused: The session belongs to another key.
        """
        session = self.sessions.get(session_id)
        if session is not None and session.owner != owner:
            raise SessionRefused(f"session {session_id!r} belongs to another access key")
        if session is not None and session.birth != birth:
            self.end(session)
            session = None
        resumed = session is not None
        if session is None:
            session = Session(session_id, owner, cap, tasks_per_worker, self._keeper.stream())
            self._add(session)
        if session.expiry is not None:
            session.expiry.cancel()
            session.expiry = None
        return session, resumed

    def _add(self, session: Session) -> None:
        session.gate = asyncio.Semaphore(session.cap)
        self.sessions[session.id] = session

    def _has(self, session: Session) -> bool:
        return self.sessions.get(session.id) is session  # another one may have its name

    def when_kept(self, session: Session, then: Callable[[], object]) -> None:
        """Call `then` when a session will outlive what a keeper promises that it does."""
        self._keeper.opened(session, then)

    @property
    def durable(self) -> bool:
        """Whether sessions outlive the gateway; memory cannot be shared then."""
        return self._keeper.durable

    def revive(self, saved: SavedSession, history: History, keeper: Durable) -> None:
        """Go on with a session that an earlier gateway left.

        Raises:
            ValueError: What it left is not complete.
        """
        stream = keeper.revived(saved, history)
        session = Session(saved.id, saved.owner, saved.cap, saved.per_worker, stream, saved.birth)
        self._add(session)
        session.expiry = self._loop.call_later(self._resume_s, self.end, session)
        left = history.left()
        for kind, body in left.messages:
            self._on_message(session, Message(kind, body))
        if left.lost:
            self._report(session.id, left.lost)

    def detach(self, session: Session, send: Callable[[bytes], None]) -> None:
        """The connection is gone; the session waits for the client to come back."""
        if session.send in (send, None) and self._has(session):
            session.send = None
            if session.expiry is None:
                session.expiry = self._loop.call_later(self._resume_s, self.end, session)

    def connect(self, session: Session, send: Callable[[bytes], None], received: int) -> None:
        """Its client is there, and has had frames up to `received`: send what it has not had, and what comes."""
        frames = session.stream.replay(received, self._keeper.told(session))
        self._keeper.acknowledged(session)
        session.send = send
        for frame in frames:
            self._transmit(session, frame)

    def end(self, session: Session) -> None:
        """Forget a session; its tasks are killed."""
        if not self._has(session):
            return
        del self.sessions[session.id]
        log.info("session %s ends", session.id)
        session.send = None
        session.shared.clear()
        session.lent.clear()
        if session.expiry is not None:
            session.expiry.cancel()
        for call in list(session.calls.values()):
            call.cancel()
        self._do(self._broker.close(session.id))
        self._keeper.ended(session)

    # -- from the client --------------------------------------------------------------------------

    def on_frame(self, session: Session, frame: bytes) -> None:
        """Take a frame in.

        Raises:
            ValueError: Garbage; drop the connection.
        """
        if not self._has(session):
            return
        message = session.stream.receive(frame)
        self._keeper.acknowledged(session)
        if message is not None:
            self._take(session, message)
        if session.stream.ack_due:
            self._transmit(session, session.stream.acknowledge())
        else:
            self._acknowledge_soon(session)
        if session.paused and session.unfetched < PAUSE_BYTES // 2:
            session.paused = False
            self._do(self._broker.pause(session.id, False))

    def _take(self, session: Session, message: Message) -> None:
        if message.kind is Kind.TASKS and session.opened and (why := self._keeper.full) is not None:
            refused = [record for group in decode(message.body) for record in decode(group[3])]
            self._report(session.id, encode((record[0], int(Status.NO_HOST), 0, why) for record in refused))
            self._keeper.taken(session, None)
        else:
            self._keeper.taken(session, message)  # first: what is begun by it is among what was taken
            self._on_message(session, message)

    def _acknowledge_soon(self, session: Session) -> None:
        if session.stream.ack_owed and not session.acknowledging:
            session.acknowledging = True
            self._loop.call_later(ACK_S, self._acknowledge, session)

    def _acknowledge(self, session: Session) -> None:
        session.acknowledging = False
        if session.send is not None:
            self._transmit(session, session.stream.acknowledge())
            self._acknowledge_soon(session)  # what is not written down yet

    def _on_message(self, session: Session, message: Message) -> None:
        kind, body = message
        if kind is Kind.CONTROL:
            for _, _, _, payload in decode(body):
                self._on_control(session, proof.from_text(payload.decode()))
        elif kind is Kind.SETUP and not session.opened:
            if len(decode(body)) != 2:
                raise MalformedBatch("a setup has two records")
            session.opened = True
            self._broker.open(session.id, session.owner, body, session.cap, session.tasks_per_worker)
        elif not session.opened:
            raise MalformedBatch(f"{kind.name} before the setup")
        elif kind is Kind.TASKS:
            self._on_tasks(session, body)
        elif kind is Kind.DEFINE:
            for number, what, _, definition in decode(body):
                if what == Definition.PATH:
                    self._broker.set_path(session.id, definition)
                elif what == Definition.OBJECT:
                    self._broker.put(session.id, number, definition)
                elif what == Definition.FORGET:
                    self._do(self._broker.forget(session.id, number))
                else:
                    self._broker.define(session.id, number, definition)
        elif kind is Kind.OPTIONS:
            for number, _, _, payload in decode(body):
                self._on_options(session, number, Options.from_fields(proof.from_text(payload.decode())))
        elif kind is Kind.RELEASE:
            for _, what, _, reference in decode(body):
                self._release(session, what, reference)
        elif kind is Kind.KILL:
            for number, _, _, _ in decode(body):
                self._kill(session, number)
        else:
            raise MalformedBatch(f"{kind.name} does not go to a gateway")

    def _release(self, session: Session, what: int, reference: bytes) -> None:
        """The client has taken a result in shared memory; or is done with it, and its worker may use it again."""
        if (held := session.released(what, reference)) is not None:
            self._workers.send(held.lender, Kind.DEFINE, encode([(0, Definition.FREED, 0, held.lent_as)]))
        elif what == Release.TRIM:
            for worker in self._broker.workers.values():
                if worker.session is not None and worker.session.id == session.id:
                    self._workers.send(worker.id, Kind.DEFINE, encode([(0, Definition.FREED, 0, b"")]))

    def _on_control(self, session: Session, fields: dict[str, Any]) -> None:
        if fields.get("type") == "bye":
            self.end(session)
        elif fields.get("type") == "app" and self._trusting:
            if not {"ref", "folder"} <= fields.keys():
                raise MalformedBatch("an app has a ref and a folder")
            self.calls.add(str(fields["ref"]), str(fields["folder"]))

    def _on_options(self, session: Session, number: int, options: Options) -> None:
        self._broker.set_options(session.id, number, options)
        if (why := why_never(options.resource, self._capacity)) is not None:
            session.refused[number] = why.encode()
        elif options.container_ref is not None:
            session.containers[number] = options

    def _on_tasks(self, session: Session, body: bytes) -> None:
        groups = [group for group in decode(body) if not self._taken_elsewhere(session, group)]
        if groups:
            self._do(self._broker.submit(session.id, groups, time.monotonic()))

    def _taken_elsewhere(self, session: Session, group: Record) -> bool:
        """Whether calls are none for a worker process; then they have been seen to here."""
        _, tag, _, batch = group
        if (why := session.refused.get(tag)) is not None:
            self._report(session.id, encode((record[0], int(Status.NO_HOST), 0, why) for record in decode(batch)))
        elif (options := session.containers.get(tag)) is not None:
            for record in decode(batch):
                self.calls.begin(session, record, options)
        else:
            return False
        return True

    def _kill(self, session: Session, task_id: int) -> None:
        if (call := session.calls.get(task_id)) is not None:
            call.cancel()
        else:
            self._do(self._broker.kill(session.id, task_id))

    # -- from the workers (WorkerEvents) ----------------------------------------------------------

    def on_outcomes(self, worker: int, outcomes: Outcomes) -> None:
        """Results came."""
        self._do(self._broker.results(worker, outcomes, time.monotonic()))

    def on_setup_failed(self, worker: int, text: str) -> None:
        """A worker's initializer raised."""
        self._do(self._broker.setup_failed(worker, text))

    def on_printed(self, worker: int, stream: Status, text: bytes) -> None:
        """A worker's process wrote to its own stdout or stderr."""
        self._do(self._broker.printed(worker, stream, text))

    def on_look(self, worker: int, started: int, since: float) -> None:
        """What a worker is running."""
        self._do(self._broker.looked(worker, started, since, time.monotonic()))

    def on_end(self, worker: int, started: int, how: str) -> None:
        """A worker is gone."""
        log.info("%s", how)
        self._do(self._broker.ended(worker, started, how))

    # -- doing ------------------------------------------------------------------------------------

    def _do(self, instructions: list[Instruction]) -> None:
        workers = self._workers
        for todo in instructions:
            if isinstance(todo, Report):
                self._report(*todo)
            elif isinstance(todo, Run):
                self._keeper.started(
                    self.sessions[todo.session], todo.calls, todo.once, todo.worker, partial(self._hand_over, todo)
                )
            elif isinstance(todo, Spawn):
                workers.spawn(todo.worker)
            elif isinstance(todo, Setup):
                workers.send(todo.worker, Kind.SETUP, todo.batch)
            elif isinstance(todo, Forget):
                workers.send(
                    todo.worker, Kind.DEFINE, encode((number, Definition.FORGET, 0, b"") for number in todo.numbers)
                )
            elif isinstance(todo, Revoke):
                workers.revoke(*todo)
            elif isinstance(todo, Stop):
                workers.stop(todo.worker)
            elif isinstance(todo, Kill):
                workers.kill(todo.worker)
        if not self._looking and self._broker.busy:
            self._looking = True
            self._loop.call_later(LOOK_S, self._look)

    def _hand_over(self, run: Run) -> None:
        if run.definitions:
            self._workers.send(run.worker, Kind.DEFINE, encode(run.definitions))
        self._workers.send(run.worker, Kind.CALLS, encode([(run.ordinal, 0, run.reference, run.calls)]))

    def _look(self) -> None:
        self._looking = False
        self._workers.look()
        self._do([])

    def _report(self, session_id: str, batch: bytes, shared: Held | None = None) -> None:
        """Collect records for a session; those of one turn of the loop travel in few messages."""
        if not self._outbox:
            self._loop.call_soon(self._flush)
        kind = Kind.RESULTS if shared is None else Kind.SHARED
        if shared is not None and (session := self.sessions.get(session_id)) is not None:
            session.shared[bytes(shared)] = shared
        self._outbox.setdefault(session_id, []).append((kind, batch))

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, {}
        for session_id, batches in outbox.items():
            if (session := self.sessions.get(session_id)) is not None:
                for kind, alike in itertools.groupby(batches, itemgetter(0)):
                    batch = b"".join([batch for _, batch in alike])
                    self._keeper.report(session, kind, batch, partial(self._transmit, session))
                if not session.paused and session.unfetched > PAUSE_BYTES and session.opened:
                    session.paused = True
                    self._broker.pause(session_id, True)

    def _transmit(self, session: Session, frame: bytes) -> None:
        if session.send is not None:
            session.send(frame)

    # -- end --------------------------------------------------------------------------------------

    async def drain(self, grace: float, busy_elsewhere: Callable[[], bool] = lambda: False) -> bool:
        """Wait until nothing runs, at most `grace` seconds; whether that came.

        Without a journal also until the queue is empty and every result was fetched; with one, that is for later.
        """
        if self.durable:
            for session in self.sessions.values():
                if session.opened:
                    self._do(self._broker.pause(session.id, True))
        deadline = self._loop.time() + grace
        while self._loop.time() < deadline:
            running = self._broker.busy or any(session.calls for session in self.sessions.values())
            unfetched = not self.durable and any(s.unfetched for s in self.sessions.values() if s.send is not None)
            if not running and not unfetched and not busy_elsewhere():
                return True
            await asyncio.sleep(LOOK_S)
        return False

    async def close(self) -> None:
        """End all workers and containers, and wait until they are gone; sessions live on in a journal."""
        self._flush()  # the last outcomes are written down, too
        await self._keeper.close()
        for session in list(self.sessions.values()):
            self.end(session)
        await asyncio.gather(self._workers.close(), self.calls.close())
