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

from ..wire.blobs import PIECE_BYTES, mention, pieces
from ..wire.lending import LENT
from ..wire.records import Definition, Kind, decode, encode
from ..wire.stream import Message
from .books import CLAIMED
from .calls import ContainerCalls
from .intake import Intake
from .keeper import Volatile
from .session import Session, SessionRefused
from .tasks import Forget, Instruction, Kill, Report, Revoke, Run, Setup, Spawn, Stop
from .tenures import KEEP_S, Claim, Tenures

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..wire.payloads import Held
    from ..wire.records import Outcomes, Status
    from .books import History
    from .broker import Broker
    from .durable import Durable
    from .journal import SavedSession
    from .keeper import Keeper
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
        trusting: bool = False,
        resume_s: float = RESUME_S,
        keeper: Keeper | None = None,
        why_not: Callable[[str | None], str | None] = lambda _: None,
        keep_s: float = KEEP_S,
    ) -> None:
        self.sessions: dict[str, Session] = {}
        self._homes: dict[str, Session] = {}  # by what the broker calls them, too
        self._broker = self.broker = broker
        self._keeper = keeper or Volatile()
        self.calls = ContainerCalls(containers, self.report, self._keeper)
        self._tenures = Tenures(self, broker, self._keeper)
        self._intake = Intake(self, broker, self._keeper, self.calls, trusting, why_not)
        self._tenures.intake = self._intake
        self._keep_s = keep_s
        self._workers: WorkerRuntime
        self._resume_s = resume_s
        self._loop = asyncio.get_running_loop()
        self._looking = False
        self.on_done: Callable[[], object] = lambda: None  #: called after each turn of the broker's
        self._outbox: dict[str, list[tuple[Kind, bytes]]] = {}

    def start(self, workers: WorkerRuntime, count: int) -> None:
        """Take the runtime into service and start `count` workers."""
        self._workers = workers
        self.do(self._broker.prepare(count))

    # -- sessions ---------------------------------------------------------------------------------

    def attach(
        self,
        session_id: str,
        owner: str,
        cap: int,
        tasks_per_worker: int | None,
        birth: str = "",
        claim: Claim | None = None,
    ) -> tuple[Session, bool]:
        """Find a client's session, or begin one; returns it and whether it is an old one. Its link is down still.

        One of another birth is of no use to the client: it never had the welcome to it.

        Raises:
            SessionRefused: The session belongs to another key, or is claimed and another client has it.
        """
        if claim is not None:
            claimed, resumed = self._tenures.attach(claim, owner, cap, tasks_per_worker, birth)
            self._expect(claimed)
            return claimed, resumed
        session: Session | None = self.sessions.get(session_id)
        if session is not None and session.owner != owner:
            raise SessionRefused(f"session {session_id!r} belongs to another access key")
        if session is not None and session.birth != birth:
            self.end(session)
            session = None
        resumed = session is not None
        if session is None:
            session = Session(session_id, owner, cap, tasks_per_worker, self._keeper.stream())
            self.add(session)
        self._expect(session)
        return session, resumed

    def _expect(self, session: Session) -> None:
        """Its client is about to be there."""
        if session.expiry is not None:
            session.expiry.cancel()
            session.expiry = None

    def _wait(self, session: Session) -> None:
        """Its client is not there."""
        if session.expiry is None:
            seconds = self._resume_s if session.tenure is None else self._keep_s
            session.expiry = self._loop.call_later(seconds, self.end, session)

    def add(self, session: Session) -> None:
        """Keep a session, or a new client of one."""
        session.gate = self.calls.gate(session)
        self.sessions[session.id] = self._homes[session.id] = self._homes[session.now.id] = session

    def _has(self, session: Session) -> bool:
        return self.sessions.get(session.id) is session  # another one may have its name

    def when_kept(self, session: Session, then: Callable[[], object]) -> None:
        """Call `then` when a session will outlive what a keeper promises that it does."""
        self._keeper.opened(session, then)

    def why_no_functions(self, owner: str) -> str | None:
        """Return why an owner's functions are not run; None when they are."""
        return self._intake.why_no_functions(owner)

    @property
    def durable(self) -> bool:
        """Whether sessions outlive the gateway; memory cannot be shared then."""
        return self._keeper.durable

    def revive(self, saved: SavedSession, owner: str, history: History, keeper: Durable) -> None:
        """Go on with a session that an earlier gateway left.

        Raises:
            ValueError: What it left is not complete.
        """
        stream = keeper.revived(saved, history)
        session = Session(saved.id, owner, saved.cap, saved.per_worker, stream, saved.birth, key=saved.key)
        if saved.name:
            self._tenures.revive(session, saved, history)
        self.add(session)
        self._wait(session)
        left = history.left()
        for kind, number, body in left.messages:
            if kind == CLAIMED:
                self._tenures.begin_generation(session, number)
            else:
                self._intake.act(session, Message(Kind(kind), body))
        if session.tenure is not None:
            session.tenure.shelf.used(history.used)
        if left.lost:
            self.report(session.id, left.lost)

    def detach(self, session: Session, send: Callable[[bytes], None]) -> None:
        """The connection is gone; the session waits for the client to come back."""
        if session.send in (send, None) and self._has(session):
            session.send = None
            self._wait(session)

    def connect(self, session: Session, send: Callable[[bytes], None], received: int) -> None:
        """Its client is there, and has had frames up to `received`: send what it has not had, and what comes."""
        frames = session.stream.replay(received, self._keeper.told(session))
        self._acknowledged(session)
        session.send = send
        for frame in frames:
            self.transmit(session, frame)

    def _acknowledged(self, session: Session) -> None:
        self._keeper.acknowledged(session)
        self._tenures.acknowledged(session)

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
        for generation in session.generations:
            self.do(self._broker.close(generation.id))
        self._homes = {name: home for name, home in self._homes.items() if home is not session}
        self._tenures.ended(session)
        self._keeper.ended(session)

    # -- from the client --------------------------------------------------------------------------

    def on_frame(self, session: Session, frame: bytes) -> None:
        """Take a frame in.

        Raises:
            ValueError: Garbage; drop the connection.
        """
        if not self._has(session) or (session.tenure is not None and not session.tenure.holder):
            return
        message = session.stream.receive(frame)
        self._acknowledged(session)
        if message is not None:
            self._intake.take(session, message)
        if session.stream.ack_due:
            self.transmit(session, session.stream.acknowledge())
        else:
            self._acknowledge_soon(session)
        if session.paused and session.unfetched < PAUSE_BYTES // 2:
            session.paused = False
            self.do(self._broker.pause(session.now.id, False))

    def recall(self, session: Session, what: str, fields: dict[str, Any]) -> None:
        """A client of a session with a name asks what is in it, or leaves it."""
        if what == "recover":
            self._tenures.list_all(session)
        else:
            self._tenures.leave(session, what, fields)

    def fetch(self, session: Session, numbers: list[int]) -> None:
        """It wants these outcomes."""
        self._tenures.fetch(session, numbers)

    def _acknowledge_soon(self, session: Session) -> None:
        if session.stream.ack_owed and not session.acknowledging:
            session.acknowledging = True
            self._loop.call_later(ACK_S, self._acknowledge, session)

    def _acknowledge(self, session: Session) -> None:
        session.acknowledging = False
        if session.send is not None:
            self.transmit(session, session.stream.acknowledge())
            self._acknowledge_soon(session)  # what is not written down yet

    # -- from the workers (WorkerEvents) ----------------------------------------------------------

    def on_outcomes(self, worker: int, outcomes: Outcomes) -> None:
        """Results came."""
        self.do(self._broker.results(worker, outcomes, time.monotonic()))

    def on_setup_failed(self, worker: int, text: str) -> None:
        """A worker's initializer raised."""
        self.do(self._broker.setup_failed(worker, text))

    def on_printed(self, worker: int, stream: Status, text: bytes) -> None:
        """A worker's process wrote to its own stdout or stderr."""
        self.do(self._broker.printed(worker, stream, text))

    def on_look(self, worker: int, started: int, since: float) -> None:
        """What a worker is running."""
        self.do(self._broker.looked(worker, started, since, time.monotonic()))

    def on_end(self, worker: int, started: int, how: str) -> None:
        """A worker is gone."""
        log.info("%s", how)
        self.do(self._broker.ended(worker, started, how))

    # -- doing ------------------------------------------------------------------------------------

    def do(self, instructions: list[Instruction]) -> None:
        """Carry out what the broker decided."""
        workers = self._workers
        for todo in instructions:
            if isinstance(todo, Report):
                self.report(*todo)
            elif isinstance(todo, Run):
                self._keeper.started(self._homes[todo.session], todo.calls)
                self._keeper.then(partial(self._hand_over, todo))
            elif isinstance(todo, Spawn):
                workers.spawn(*todo)
            elif isinstance(todo, Setup):
                workers.send(todo.worker, Kind.SETUP, todo.batch)
            elif isinstance(todo, Forget):
                gone = encode((number, Definition.FORGET, 0, b"") for number in todo.numbers)
                self._keeper.then(partial(self.tell_worker, todo.worker, gone))
            elif isinstance(todo, Revoke):
                workers.revoke(*todo)
            elif isinstance(todo, Stop):
                workers.stop(todo.worker)
            elif isinstance(todo, Kill):
                workers.kill(todo.worker)
        self.on_done()
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
        self.do([])

    def tell_workers(self, session_id: str, batch: bytes) -> None:
        """Send definitions to all workers that have a session's tasks, or had them last."""
        for worker in self._broker.workers.values():
            if worker.session is not None and worker.session.id == session_id:
                self.tell_worker(worker.id, batch)

    def tell_worker(self, worker: int, batch: bytes) -> None:
        """Send definitions to a worker."""
        self._workers.send(worker, Kind.DEFINE, batch)

    def report(self, session_id: str, batch: bytes, shared: Held | None = None) -> None:
        """Collect records for a session; those of one turn of the loop travel in few messages."""
        if not self._outbox:
            self._loop.call_soon(self._flush)
        kind = Kind.RESULTS if shared is None else Kind.SHARED
        if shared is not None and (session := self._homes.get(session_id)) is not None:
            session.shared[bytes(shared)] = shared
        self._outbox.setdefault(session_id, []).append((kind, batch))

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, {}
        for session_id, batches in outbox.items():
            if (session := self._homes.get(session_id)) is not None:
                if not session.shares:
                    batches = [(Kind.RESULTS, self._readable(session, *batch)) for batch in batches]
                for kind, alike in itertools.groupby(batches, itemgetter(0)):
                    batch = b"".join([batch for _, batch in alike])
                    if session.tenure is not None:
                        self._tenures.report(session, batch)
                    else:
                        self._keeper.report(session, kind, batch, partial(self.transmit, session))
                if not session.paused and session.unfetched > PAUSE_BYTES and session.opened:
                    session.paused = True
                    self._broker.pause(session.now.id, True)

    def _readable(self, session: Session, kind: Kind, batch: bytes) -> bytes:
        """Return outcomes for a client that cannot read our memory; what is there is sent before, as a blob."""
        if kind is not Kind.SHARED:
            return batch
        ((task, status, micros, reference),) = decode(batch)
        held, number = session.shared.pop(reference), next(session.blobs)
        assert held.segment is not None
        for piece in pieces(number, held.segment.parts(PIECE_BYTES)):
            self.transmit(session, session.stream.send_piece(piece))
        held.segment.close()
        self.tell_worker(held.lender, encode([(0, Definition.FREED, 0, held.lent_as)]))
        return encode([(task, status & ~LENT, micros, mention(number))])

    def transmit(self, session: Session, frame: bytes) -> None:
        """Send a frame, if its client is there; else it waits in the stream."""
        if session.send is not None:
            session.send(frame)

    # -- end --------------------------------------------------------------------------------------

    async def drain(self, grace: float, busy_elsewhere: Callable[[], bool] = lambda: False) -> bool:
        """Wait until nothing runs, at most `grace` seconds; whether that came.

        Without a journal also until the queue is empty and every result was fetched; with one, that is for later.
        """
        if self.durable:
            for session in self.sessions.values():
                for generation in session.generations:
                    if generation.opened:
                        self.do(self._broker.pause(generation.id, True))
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
