"""The intake: what the messages of clients ask for."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from ..settings import TASK_ID_LIMIT, TOLD_LIMIT, why_no_ref
from ..wire import proof
from ..wire.blobs import MENTION_BYTES, mentioned
from ..wire.records import Definition, Kind, MalformedBatch, Record, Release, Status, decode, encode, starts, unpack_id
from ..wire.segments import own_prefix
from ..wire.sessions import generation_of
from .shelf import Calls
from .tasks import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ..wire.stream import Message
    from .broker import Broker
    from .calls import ContainerCalls
    from .keeper import Keeper
    from .session import Generation, Session
    from .tasks import Instruction


TASKS_MOST = 65_536  #: of one session, under way at once; four times the window that its client was told


class Doer(Protocol):
    """Who carries out what is asked for: the hub."""

    def do(self, instructions: list[Instruction]) -> None: ...
    def report(self, session_id: str, batch: bytes) -> None: ...
    def tell_worker(self, worker: int, batch: bytes) -> None: ...
    def tell_workers(self, session_id: str, batch: bytes) -> None: ...
    def end(self, session: Session) -> None: ...
    def recall(self, session: Session, what: str, fields: dict[str, Any]) -> None: ...
    def fetch(self, session: Session, numbers: list[int]) -> None: ...


class Intake:
    """Reads messages, and hands each part to whom it concerns.

    `why_not` says why functions are not run, or not by that container; None when they are.
    """

    def __init__(
        self,
        hub: Doer,
        broker: Broker,
        keeper: Keeper,
        calls: ContainerCalls,
        trusting: bool,
        why_not: Callable[[str | None], str | None],
    ) -> None:
        self._hub = hub
        self._broker = broker
        self._keeper = keeper
        self._calls = calls
        self._trusting = trusting  #: an embedded gateway: its one client may name folders to run
        self._why_not = why_not
        self._ours = own_prefix()  #: what references to our own memory begin with

    def take(self, session: Session, message: Message) -> None:
        """Take in a message that has just come; all else as `act`."""
        if message.kind is Kind.TASKS and session.opened and (why := self._keeper.full) is not None:
            refused = [record for group in decode(message.body) for record in decode(group[3])]
            self._hub.report(session.id, encode((record[0], int(Status.BUSY), 0, why) for record in refused))
            self._keeper.taken(session, None)
        else:
            if message.kind is Kind.TASKS and session.opened:
                self._check_room(session, message.body)
            self._keeper.taken(session, message)  # first: what is begun by it is among what was taken
            self.act(session, message)

    def _check_room(self, session: Session, body: bytes) -> None:
        """Check that a session has not too many tasks with those of a message; a `MalformedBatch` if it has."""
        calls = sum(generation_of(number) == session.now.number for number in session.calls)
        under_way = self._broker.sessions[session.now.id].under_way + calls
        if (count := under_way + sum(unpack_id(body, at)[0] for at in starts(body)[:-1])) > TASKS_MOST:
            raise MalformedBatch(f"with these tasks the session would have {count:,}, and {TASKS_MOST:,} are allowed")

    def act(self, session: Session, message: Message) -> None:
        """Do what a message asks for.

        Raises:
            ValueError: Garbage (`MalformedBatch`).
        """
        kind, body = message
        if kind is Kind.CONTROL:
            for _, _, _, payload in decode(body):
                self._on_control(session, told(payload))
        elif kind is Kind.SETUP and not session.opened:
            if len(decode(body)) != 2:
                raise MalformedBatch("a setup has two records")
            session.now.opened = True
            session.shares = bool(proof.from_text(decode(body)[0][3].decode()).get("share"))
            self._broker.open(session.now.id, session.owner, body, session.cap, session.tasks_per_worker)
        elif not session.opened:
            raise MalformedBatch(f"{kind.name} before the setup")
        elif kind is Kind.TASKS:
            self._on_tasks(session, body)
        elif kind is Kind.DEFINE:
            for number, what, _, definition in decode(body):
                if what == Definition.PATH:
                    self._broker.set_path(session.now.id, definition)
                elif what in (Definition.OBJECT, Definition.CODE):
                    self._check_literal([definition])
                    self._broker.put(session.now.id, number, session.meant(definition), Definition(what))
                elif what == Definition.FORGET:
                    self.forget(session, session.now, number)
                else:
                    self._broker.define(session.now.id, number, definition)
        elif kind is Kind.PIECE:
            if (whole := session.arriving.add(body)) is not None:
                session.arrived[whole[0]] = whole[1]
        elif kind is Kind.OPTIONS:
            for number, _, _, payload in decode(body):
                self._on_options(session, number, Options.from_fields(told(payload)))
        elif kind is Kind.RELEASE:
            for _, what, _, reference in decode(body):
                self._release(session, what, reference)
        elif kind is Kind.KILL:
            for number, _, _, _ in decode(body):
                self._kill(session, number)
        elif kind is Kind.NAMES and session.tenure is not None:
            for number, codec, _, name in decode(body):
                if len(name) > 4 * TASK_ID_LIMIT:  # UTF-8 has four bytes a character at most
                    raise MalformedBatch(f"a task's name of {len(name):,} bytes")
                session.tenure.shelf.name(number, codec, name)
        elif kind is Kind.FETCH and session.tenure is not None:
            self._hub.fetch(session, [number for number, _, _, _ in decode(body)])
        else:
            raise MalformedBatch(f"{kind.name} does not go to a gateway")

    def _release(self, session: Session, what: int, reference: bytes) -> None:
        """The client has taken a result in shared memory; or is done with it, and its worker may use it again."""
        if (held := session.released(what, reference)) is not None:
            self._hub.tell_worker(held.lender, encode([(0, Definition.FREED, 0, held.lent_as)]))
        elif what == Release.TRIM:
            self._hub.tell_workers(session.now.id, encode([(0, Definition.FREED, 0, b"")]))

    def _on_control(self, session: Session, fields: dict[str, Any]) -> None:
        what = fields.get("type")
        if session.tenure is not None and what in ("bye", "leave", "recover"):
            self._hub.recall(session, what, fields)
        elif what == "bye":
            self._hub.end(session)
        elif fields.get("type") == "app" and self._trusting:
            if not {"ref", "folder"} <= fields.keys() or why_no_ref(str(fields["ref"])) is not None:
                raise MalformedBatch("an app has a ref, which is a container's name, and a folder")
            self._calls.add(str(fields["ref"]), str(fields["folder"]))

    def _on_options(self, session: Session, number: int, options: Options) -> None:
        now = session.now
        self._broker.set_options(now.id, number, options)
        if session.tenure is not None:
            now.options[number] = options
        if options.container_ref is not None:
            now.containers[number] = options

    def _on_tasks(self, session: Session, body: bytes) -> None:
        groups = [self._meant(session, group) for group in decode(body)]
        if session.tenure is not None:
            for _, tag, reference, batch in groups:
                most = session.now.options[tag].attempts if tag in session.now.options else 1
                session.tenure.shelf.add(Calls(session.now.number, tag, reference, batch, most))
        self.begin(session, session.now, groups)

    def begin(self, session: Session, generation: Generation, groups: list[Record]) -> None:
        """Have calls of one of a session's clients made."""
        left = [group for group in groups if not self._taken_elsewhere(session, generation, group)]
        if left:
            self._hub.do(self._broker.submit(generation.id, left, time.monotonic()))

    def forget(self, session: Session, generation: Generation, number: int) -> None:
        """No call mentions an object any more."""
        session.arrived.pop(number, None)
        if session.tenure is not None:
            session.tenure.blobs.pop(number, None)
        self._hub.do(self._broker.forget(generation.id, number))

    def _meant(self, session: Session, group: Record) -> Record:
        """Return a group with what it mentions: a call that is a blob is the only one of its group."""
        count, tag, ref, batch = group
        if self._ours in batch and tag not in session.now.containers:
            self._check_literal(call for _, _, _, call in decode(batch))
        if count != 1 or len(batch) != MENTION_BYTES or tag in session.now.containers:
            return group
        ((id_, before, _, call),) = decode(batch)
        if session.tenure is not None and (number := mentioned(call)) is not None:
            session.tenure.blobs[number] = id_
        return count, tag, ref, encode([(id_, before, 0, session.meant(call))])

    def _check_literal(self, payloads: Iterable[bytes]) -> None:
        """Check that a client does not refer to our own memory: what lies there may be another owner's."""
        if any(payload.startswith(self._ours) for payload in payloads):
            raise MalformedBatch("a reference to memory of the gateway's own")

    def _taken_elsewhere(self, session: Session, generation: Generation, group: Record) -> bool:
        """Whether calls are none for a worker process; then they have been seen to here."""
        _, tag, _, batch = group
        options = generation.containers.get(tag)
        if (told := self._why_nowhere(session, generation, tag, options)) is not None:
            why = told.encode()
            self._hub.report(session.id, encode((record[0], int(Status.NO_HOST), 0, why) for record in decode(batch)))
        elif options is not None:
            for record in decode(batch):
                self._calls.begin(session, record, options)
        return told is not None or options is not None

    def _why_nowhere(self, session: Session, generation: Generation, tag: int, options: Options | None) -> str | None:
        """Why such calls are not made, as things are now."""
        if options is not None:
            return self._why_not(options.container_ref) or self._calls.why_never(options, session.owner)
        known = self._broker.sessions[generation.id].options.get(tag)
        never = None if known is None else self._broker.hosts.why_never(session.owner, known.resource)
        return never or self.why_no_functions(session.owner)

    def why_no_functions(self, owner: str) -> str | None:
        """Return why an owner's functions are not run; None when they are, on whatever host."""
        return None if self._broker.hosts.of(owner) else self._why_not(None)

    def _kill(self, session: Session, task_id: int) -> None:
        if (call := session.calls.get(task_id)) is not None:
            call.cancel()
        else:
            for generation in session.generations:
                if generation.opened:
                    self._hub.do(self._broker.kill(generation.id, task_id))


def told(payload: bytes) -> dict[str, Any]:
    """Return the object of a JSON text that a client sent.

    Raises:
        ValueError: It is none, or longer than any that our clients send.
    """
    if len(payload) > TOLD_LIMIT:
        raise MalformedBatch(f"a JSON text of {len(payload):,} bytes, and {TOLD_LIMIT:,} are allowed")
    return proof.from_text(payload.decode())
