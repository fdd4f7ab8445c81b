"""The hub: carries messages between sessions, the broker and the runtimes. It decides nothing.

All of it runs in one asyncio loop. A session outlives its connection: while the link is down its
frames wait, and after a reconnect they are sent again from where the client had them.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from ..errors import ContainerFailed, MecaError, NoHostFits, TaskTimeout, UsageError
from ..policy.placement import why_never
from ..wire import proof
from ..wire.records import Definition, Kind, MalformedBatch, Record, Release, Status, decode, encode
from ..wire.stream import Message, Stream
from .session import Session, SessionRefused
from .tasks import Forget, Instruction, Kill, Options, Report, Revoke, Run, Setup, Spawn, Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..wire.payloads import Held
    from ..wire.records import Outcomes
    from .broker import Broker
    from .ports import ContainerRuntime, WorkerRuntime

LOOK_S = 0.02  #: how often workers that have something to do are looked at
ACK_S = 0.05  #: an acknowledgement waits no longer than this for a frame to travel with
RESUME_S = 600.0  #: a session whose link is down is kept for so long
PAUSE_BYTES = 64 << 20  #: unacknowledged bytes at which a session's tasks are no longer started
MAX_MESSAGE = 4 << 30  #: bytes of one task or result

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
    ) -> None:
        self.sessions: dict[str, Session] = {}
        self._broker = broker
        self._containers = containers
        self._workers: WorkerRuntime
        self._capacity = capacity  #: what this host has of each resource
        self._trusting = trusting  #: an embedded gateway: its one client may name folders to run
        self._refused_apps: dict[str, str] = {}
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
        self, session_id: str, owner: str, cap: int, tasks_per_worker: int | None, send: Callable[[bytes], None]
    ) -> tuple[Session, bool]:
        """Connect a client to its session, an old or a new one; returns it and whether it is an old one.

        Raises:
            SessionRefused: The session belongs to another key.
        """
        session = self.sessions.get(session_id)
        if session is not None and session.owner != owner:
            raise SessionRefused(f"session {session_id!r} belongs to another access key")
        resumed = session is not None
        if session is None:
            session = Session(session_id, owner, cap, tasks_per_worker, Stream(MAX_MESSAGE))
            session.gate = asyncio.Semaphore(cap)
            self.sessions[session_id] = session
        if session.expiry is not None:
            session.expiry.cancel()
            session.expiry = None
        session.send = send
        return session, resumed

    def detach(self, session: Session, send: Callable[[bytes], None]) -> None:
        """The connection is gone; the session waits for the client to come back."""
        if session.send == send and session.id in self.sessions:
            session.send = None
            session.expiry = self._loop.call_later(self._resume_s, self.end, session)

    def replay(self, session: Session, received: int) -> None:
        """Send again what the client has not had."""
        for frame in session.stream.replay(received):
            self._transmit(session, frame)

    def end(self, session: Session) -> None:
        """Forget a session; its tasks are killed."""
        if self.sessions.pop(session.id, None) is None:
            return
        log.info("session %s ends", session.id)
        session.send = None
        session.shared.clear()
        session.lent.clear()
        if session.expiry is not None:
            session.expiry.cancel()
        for call in list(session.calls.values()):
            call.cancel()
        self._do(self._broker.close(session.id))

    # -- from the client --------------------------------------------------------------------------

    def on_frame(self, session: Session, frame: bytes) -> None:
        """Take a frame in.

        Raises:
            ValueError: Garbage; drop the connection.
        """
        message = session.stream.receive(frame)
        if message is not None:
            self._on_message(session, message)
        if session.stream.ack_due:
            self._transmit(session, session.stream.acknowledge())
        elif session.stream.ack_owed and not session.acknowledging:
            session.acknowledging = True
            self._loop.call_later(ACK_S, self._acknowledge, session)
        if session.paused and session.unfetched < PAUSE_BYTES // 2:
            session.paused = False
            self._do(self._broker.pause(session.id, False))

    def _acknowledge(self, session: Session) -> None:
        session.acknowledging = False
        if session.stream.ack_owed and session.send is not None:
            self._transmit(session, session.stream.acknowledge())

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
        if (held := session.shared.pop(reference, None)) is not None and held.segment is not None:
            held.segment.close()
            session.lent[reference] = held
        if what == Release.FREED and (held := session.lent.pop(reference, None)) is not None:
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
            try:
                self._containers.add(str(fields["ref"]), str(fields["folder"]))
            except UsageError as error:
                self._refused_apps[str(fields["ref"])] = str(error)

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
                self._begin_call(session, record, options)
        else:
            return False
        return True

    def _begin_call(self, session: Session, record: Record, options: Options) -> None:
        number = record[0]
        call = session.calls[number] = self._loop.create_task(self._call(session, record, options))
        call.add_done_callback(lambda call: self._call_over(session, number, call))

    def _kill(self, session: Session, task_id: int) -> None:
        if (call := session.calls.get(task_id)) is not None:
            call.cancel()
        else:
            self._do(self._broker.kill(session.id, task_id))

    # -- containers -------------------------------------------------------------------------------

    async def _call(self, session: Session, record: Record, options: Options) -> None:
        started = time.monotonic()
        try:
            async with session.gate:
                started = time.monotonic()
                status, payload = await self.ask(options, record[3])
        finally:
            session.calls.pop(record[0], None)
        micros = min(int((time.monotonic() - started) * 1e6), 0xFFFF_FFFF)
        self._report(session.id, encode([(record[0], status, micros, payload)]))

    def _call_over(self, session: Session, number: int, call: asyncio.Task[None]) -> None:
        # Not in the call itself: one that is cancelled before its first step never runs a line.
        session.calls.pop(number, None)
        if call.cancelled():
            self._report(session.id, encode([(number, Status.KILLED, 0, b"ended by kill()")]))

    async def ask(self, options: Options, content: bytes) -> tuple[Status, bytes]:
        """Return how a container's call ended, and its reply or why not."""
        assert options.container_ref is not None
        if (refusal := self._refused_apps.get(options.container_ref)) is not None:
            return Status.NO_HOST, refusal.encode()
        try:
            reply = await self._containers.call(options.container_ref, content, timeout=options.timeout)
            return Status.REPLY, reply
        except ContainerFailed as error:
            status = Status.CONTAINER_LOST if error.lost else Status.CONTAINER_FAILED
            return status, str(error).encode()
        except TaskTimeout as error:
            return Status.TIMEOUT, str(error).encode()
        except (NoHostFits, UsageError) as error:
            return Status.NO_HOST, str(error).encode()
        except MecaError as error:
            return Status.FAILED, str(error).encode()
        except Exception as error:  # a defect of ours must reach the future, not only a log
            log.exception("container call failed")
            return Status.FAILED, f"the gateway failed: {type(error).__name__}: {error}".encode()

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
                if todo.definitions:
                    workers.send(todo.worker, Kind.DEFINE, encode(todo.definitions))
                workers.send(todo.worker, Kind.CALLS, encode([(todo.ordinal, 0, todo.reference, todo.calls)]))
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
            session = self.sessions.get(session_id)
            if session is not None:
                for kind, alike in itertools.groupby(batches, itemgetter(0)):
                    self.tell(session, kind, b"".join([batch for _, batch in alike]))
                if not session.paused and session.unfetched > PAUSE_BYTES and session.opened:
                    session.paused = True
                    self._broker.pause(session_id, True)

    def tell(self, session: Session, kind: Kind, body: bytes) -> None:
        """Send a message to a session, now or after its reconnect."""
        for frame in session.stream.send(kind, body):
            self._transmit(session, frame)

    def _transmit(self, session: Session, frame: bytes) -> None:
        if session.send is not None:
            session.send(frame)

    # -- end --------------------------------------------------------------------------------------

    async def drain(self, grace: float, busy_elsewhere: Callable[[], bool] = lambda: False) -> bool:
        """Wait until nothing runs and every result was fetched, at most `grace` seconds; whether that came."""
        deadline = self._loop.time() + grace
        while self._loop.time() < deadline:
            running = self._broker.busy or any(session.calls for session in self.sessions.values())
            unfetched = any(s.unfetched for s in self.sessions.values() if s.send is not None)
            if not running and not unfetched and not busy_elsewhere():
                return True
            await asyncio.sleep(LOOK_S)
        return False

    async def close(self) -> None:
        """End all sessions, workers and containers, and wait until they are gone."""
        for session in list(self.sessions.values()):
            self.end(session)
        await asyncio.gather(self._workers.close(), self._containers.close())


def limits() -> dict[str, Any]:
    """Return what a client may send and have out."""
    return {"message": MAX_MESSAGE, "window": 16_384, "window_bytes": 256 << 20}
