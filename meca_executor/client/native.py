"""The native dialect: frames of records in a session that survives reconnects."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import sys
import time
from base64 import b64encode
from collections import deque
from typing import TYPE_CHECKING, Any

from ..errors import GatewayLost, NoHostFits, ProtocolMismatch
from ..settings import KeyPair
from ..wire import proof, segments
from ..wire.blobs import BLOB_MIN, Arriving, contents, mention, mentioned, pieces
from ..wire.lending import IDLE_S
from ..wire.payloads import in_frame
from ..wire.probe import Probe, are_shared
from ..wire.records import Definition, Kind, Release, Status, decode, encode
from ..wire.stream import Stream
from .batches import groups, large_call, names_of, without_last
from .embedded import KEY, EmbeddedGateway, import_path, worker_environment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..wire.records import Record
    from .chunks import Slice
    from .connection import Connection, Welcome
    from .driver import Host
    from .tasks import Task

MAX_RESULT = 1 << 40  #: bytes; a result may be as large as memory allows
ACK_S = 0.05  #: an acknowledgement waits no longer than this for a frame to travel with
RESTART_S = 60.0  #: an embedded gateway that dies twice within this time is not started again


class Native:
    """One session with a gateway of ours."""

    dialect = "native"

    def __init__(self, host: Host, gateway: EmbeddedGateway | None) -> None:
        self._host = host
        self._gateway = gateway
        self._session = secrets.token_hex(16)
        self._stream = Stream()
        self._birth = ""  # of the session at the gateway: one that it made again under the same name has another
        self._sent_references = 1
        self._sent_options = 0
        self._sent_path: list[str] = []
        self._sent_objects: set[int] = set()
        self._sent_code: set[int] = set()
        self._trimming = False  # looks now and then whether memory is kept in vain
        self._blobs: dict[int, int] = {}  # task that is out -> the blob that is its call
        self._over: list[int] = []  # blobs that nobody needs any more
        self._arriving = Arriving(MAX_RESULT, shared=False)
        self._arrived: dict[int, bytes] = {}  # large results that are not mentioned yet
        self._released: deque[Record] = deque()  # results in shared memory that are mapped, or let go
        host.ledger.freed = self._note_freed
        self._connection: Connection | None = None
        self._max_message = 0
        self._mismatch: str | None = None  # why functions cannot travel to the gateway's Python
        self._lends = False  # the gateway takes results from its workers in shared memory
        self._restarted_at: float | None = None
        self._how_it_ended = ""
        self._told = ""  # why the gateway ended the last connection, if it said so
        self._acknowledging = False  # will, soon

    # -- connecting -------------------------------------------------------------------------------

    async def connect(self, limit: float) -> None:
        """Connect and prove, then go on with the session or begin a new one."""
        from .connection import Connection  # heavy: aiohttp and socketio, while the gateway starts

        url, keys = self._address()
        connection = Connection(url, self._on_frame, lambda: self._on_lost(connection), self._host.settings.ca_file)
        hello = {
            "protocol": proof.PROTOCOL,
            "session": self._session,
            "received": self._stream.received,
            "birth": self._birth,
            "max_workers": self._host.settings.max_workers,
            "max_tasks_per_child": self._host.settings.max_tasks_per_child,
        }
        probe = Probe() if segments.available() and self._host.settings.session is None else None
        if (name := self._host.settings.session) is not None:
            hello |= self._claim(name)
        if probe is not None:
            hello["memory"] = probe.offer()
        try:
            welcome = await connection.open(keys, hello, limit)
            self._host.shares = are_shared(probe, welcome.memory)
        except BaseException:
            await connection.close()
            raise
        finally:
            if probe is not None:
                probe.close()
        self._connection = connection
        self._on_welcome(welcome)
        connection.begin()
        connection.on_told = self._on_told
        self._host.questions.connected(connection.ask)
        if connection.lost:  # since the proof, when nobody listened yet
            self._on_lost(connection)

    def _claim(self, name: str) -> dict[str, Any]:
        """What a hello says of a session with a name."""
        program = os.path.basename(sys.argv[0]) or "python" if sys.argv else "python"
        return {
            "name": name,
            "who": f"{program[:80]} (pid {os.getpid()} on {socket.gethostname()[:80]})",
            "takeover": self._host.settings.takeover and not self._birth,  # not again from who took it over since
            "generation": self._host.generation or 0,
        }

    def _address(self) -> tuple[str, KeyPair]:
        """Where to connect; starts an embedded gateway again if it died, once a minute."""
        host = self._host
        if self._gateway is None:
            assert host.endpoint is not None
            return host.endpoint, host.settings.keys or KeyPair("", "")
        if not self._gateway.alive:
            how, now = self._gateway.how_it_ended(), time.monotonic()
            if self._restarted_at is not None and now - self._restarted_at < RESTART_S:
                raise GatewayLost(f"the embedded gateway died twice within {RESTART_S:g} s: {how}")
            self._restarted_at, self._how_it_ended = now, f" ({how})"
            self._gateway.close()
            settings = host.settings
            self._gateway = EmbeddedGateway(settings.max_workers, settings.apps, cluster=settings.cluster)
        host.endpoint = self._gateway.endpoint()
        return host.endpoint, KeyPair(KEY, self._gateway.token)

    def _on_welcome(self, welcome: Welcome) -> None:
        from .connection import python_mismatch

        self._host.ledger.credit.grant(welcome.slots, welcome.window, welcome.window_bytes)
        self._max_message = welcome.message
        self._mismatch = python_mismatch(welcome.python)
        self._take_facts(welcome.slots, welcome.no_functions)
        self._birth, self._lends = welcome.birth, welcome.lends
        if self._host.generation is None:
            self._host.generation = welcome.generation
        told, self._told = self._told, ""
        if welcome.resumed:
            for frame in self._stream.replay(welcome.received):
                self._transmit(frame)
        else:
            self._begin_session(told)

    def _take_facts(self, slots: int, no_functions: str | None) -> None:
        """What may change while we are connected: how many calls run at once, and why no functions."""
        ledger, mismatch = self._host.ledger, self._mismatch
        self._host.slots = ledger.credit.slots = slots
        if mismatch is not None:
            ledger.refuse_functions(lambda: ProtocolMismatch(mismatch))
        elif no_functions is not None:
            ledger.refuse_functions(lambda: NoHostFits(no_functions))
        else:  # they may be run again
            ledger.refuse_functions(None)

    def _on_told(self, told: dict[str, Any]) -> None:
        """The gateway answers a question, or tells news."""
        if isinstance(told.get("slots"), int) and told["slots"] > 0:
            self._take_facts(told["slots"], told.get("no_functions"))
            self._host.pump()
        else:
            self._host.questions.answered(told)

    def _begin_session(self, told: str) -> None:
        """A gateway that does not know us: what another one had is lost with it."""
        self._stream = Stream()
        self._sent_references, self._sent_options, self._sent_path = 1, 0, list(sys.path)
        self._sent_objects, self._sent_code = set(), set()
        for kept in (self._blobs, self._over, self._arrived, self._arriving):
            kept.clear()
        environment = json.dumps(self._environment()).encode()
        self._tell(Kind.SETUP, encode([(0, 0, 0, environment), (0, 0, 0, self._host.settings.initializer)]))
        ended = f"the gateway at {self._host.endpoint} ended while it had the task{self._how_it_ended}"
        self._host.attempts_lost(f"{told}, and its session with it" if told else ended)
        if not self._host.shares:  # now that nothing is out any more: what was lost is among it
            self._host.ledger.put_into_frames()
            for number, payload in list(self._host.registry.objects.items()):
                self._host.registry.objects[number] = in_frame(payload)
        if self._host.inventory is not None and self._host.inventory.asking:
            self.recover()

    def _environment(self) -> dict[str, object]:
        """What workers take over before anything else."""
        settings, code = self._host.settings, self._host.registry.code
        here = self._gateway is not None and settings.cluster is None
        fields: dict[str, object] = {**worker_environment(embedded=here)}
        fields |= {"share": self._host.shares, "lend": self._host.shares or self._lends}
        if settings.env:
            fields["env"] = dict(settings.env)
        if settings.initializer and code:  # it may need all that was sent for it, before the first call
            fields["code"] = [b64encode(archive).decode() for archive in code.copy().values()]
        return fields

    def _on_lost(self, connection: Connection) -> None:
        if connection is self._connection:
            self._told = connection.told
            self._host.questions.connected(None)
            self._host.down(connection.told)

    async def leave(self, *, done: bool) -> None:
        """Drop the connection; with `done` the gateway forgets the session."""
        connection = self._connection
        if connection is None:
            return
        if done and self._gateway is None:
            ends = self._host.settings.session is None or self._host.ends_session or self._host.ends_all
            self._control("bye" if ends else "leave", all=self._host.ends_all)
        self._connection = None
        await connection.close()

    def close(self) -> None:
        """End an embedded gateway."""
        if self._gateway is not None:
            self._gateway.close()

    def after_fork(self) -> None:
        """Leave an embedded gateway to the parent."""
        if self._gateway is not None:
            self._gateway.forget()

    # -- out --------------------------------------------------------------------------------------

    def hand_over(self, batch: list[Task | Slice]) -> None:
        """Send tasks in one message, after what they refer to."""
        registry, apps = self._host.registry, self._host.apps
        while apps:
            ref, folder = apps.popitem()
            self._control("app", ref=ref, folder=folder)
        if sys.path != self._sent_path:  # extended meanwhile
            self._sent_path = list(sys.path)
            self._tell(Kind.DEFINE, encode([(0, Definition.PATH, 0, json.dumps(import_path()).encode())]))
        self._tell_code()
        references, options = registry.references, registry.options
        if self._sent_references < len(references):
            new = range(self._sent_references, len(references))
            self._tell(Kind.DEFINE, encode((number, 0, 0, references[number]) for number in new))
            self._sent_references = new.stop
        if self._sent_options < len(options):
            new = range(self._sent_options, len(options))
            self._tell(Kind.OPTIONS, encode((number, 0, 0, options[number].wire()) for number in new))
            self._sent_options = new.stop
        self.tidy()
        number, payload = batch[-1].last
        if len(payload) > self._max_message:  # one that large ends its batch
            told = f"the call has {len(payload):,} bytes, and the gateway takes {self._max_message:,}"
            self._host.settled([(number, Status.TOO_LARGE, 0, told.encode())])
            batch = without_last(batch)
        if self._host.settings.session is not None and (names := list(names_of(batch))):
            self._tell(Kind.NAMES, encode(names))
        if batch and len(payload) >= BLOB_MIN and self._may_be_blob(batch[-1]) and batch[-1].last[0] == number:
            self._blobs[number] = blob = secrets.randbits(63)
            self._send_blob(blob, payload)
            self._tell(Kind.TASKS, encode([*groups(without_last(batch)), large_call(batch[-1], blob)]))
            return
        if batch:
            self._tell(Kind.TASKS, encode(groups(batch)))

    def _may_be_blob(self, entry: Task | Slice) -> bool:
        return self._host.registry.options[entry.kind[0]].container_ref is None

    def _send_blob(self, number: int, payload: bytes) -> None:
        for piece in pieces(number, contents(payload)):
            self._transmit(self._stream.send_piece(piece))

    def _tell_code(self) -> None:
        """Send modules that are new, and take back those that have changed since."""
        self._host.registry.renew()
        code, sent = self._host.registry.code.copy(), self._sent_code
        if code.keys() != sent:
            gone = [(number, int(Definition.FORGET), 0, b"") for number in sent - code.keys()]
            new = [(number, int(Definition.CODE), 0, code[number]) for number in code.keys() - sent]
            self._tell(Kind.DEFINE, encode(gone + new))
            self._sent_code = set(code)

    def tidy(self) -> None:
        """Tell of objects that are new, and of those that are gone."""
        if self._released:
            self._tell(Kind.RELEASE, encode(self._released.popleft() for _ in range(len(self._released))))
        if self._over:
            self._forget(self._over)
            self._over.clear()
        objects, sent = self._host.registry.objects, self._sent_objects
        if self._host.leaving or (not objects and not sent):  # what is left there, calls go on to mention
            return
        present = dict(objects)
        if gone := sent - present.keys():
            self._forget(gone)
        for number in present.keys() - sent:
            if len(present[number]) >= BLOB_MIN:
                self._send_blob(number, present[number])
                present[number] = mention(number)
            self._tell(Kind.DEFINE, encode([(number, Definition.OBJECT, 0, present[number])]))
        self._sent_objects = set(present)

    def _forget(self, objects: Iterable[int]) -> None:
        self._tell(Kind.DEFINE, encode((number, Definition.FORGET, 0, b"") for number in objects))

    def _note_freed(self, payload: bytes) -> None:
        """Any thread: a result in shared memory was let go; told with the next call, which may use the memory."""
        self._released.append((0, Release.FREED, 0, payload))

    def _trim(self) -> None:
        """Keep no memory for large calls when there have been none for a while."""
        lender = self._host.ledger.lender
        if lender.idle_for() < IDLE_S:
            asyncio.get_running_loop().call_later(IDLE_S, self._trim)
            return
        self._trimming = False
        lender.trim()
        self._released.append((0, Release.TRIM, 0, b""))
        self.tidy()

    def recover(self) -> None:
        """Ask what is in the session."""
        self._control("recover")

    @property
    def delivered(self) -> bool:
        """Whether the gateway has all that it was sent."""
        return not self._stream.unacked_bytes

    def _control(self, what: str, **fields: object) -> None:
        self._tell(Kind.CONTROL, encode([(0, 0, 0, json.dumps({"type": what, **fields}).encode())]))

    def kill(self, task: int) -> None:
        """Have the gateway end a task."""
        self._tell(Kind.KILL, encode([(task, 0, 0, b"")]))

    def _tell(self, kind: Kind, body: bytes) -> None:
        for frame in self._stream.send(kind, body):
            self._transmit(frame)

    def _transmit(self, frame: bytes) -> None:
        if self._connection is not None:
            self._connection.send(frame)

    # -- in ---------------------------------------------------------------------------------------

    def _on_frame(self, frame: bytes) -> None:
        stream, large = self._stream, False
        try:
            message = stream.receive(frame)
            if message is not None and message.kind is Kind.RESULTS:
                self._settled(decode(message.body))
            elif message is not None and message.kind is Kind.LISTING and self._host.inventory is not None:
                if wanted := self._host.inventory.listed(decode(message.body)):
                    self._tell(Kind.FETCH, encode((number, 0, 0, b"") for number in wanted))
            elif message is not None and message.kind is Kind.PIECE:
                large = True
                if (whole := self._arriving.add(message.body)) is not None:
                    self._arrived[whole[0]] = whole[1]
            elif message is not None and message.kind is Kind.SHARED:
                large, records = True, decode(message.body)
                self._settled(records)
                self._released.extend((0, Release.MAPPED, 0, payload) for _, _, _, payload in records)
                asyncio.get_running_loop().call_later(ACK_S, self.tidy)
        except Exception as error:  # also a defect of ours: the same frame would come again and again
            why = f"the gateway at {self._host.endpoint} sent what cannot be taken in: {error!r}"
            self._host.give_up(GatewayLost(why))
            return
        if not self._trimming and (large or self._host.ledger.lender.idle):
            self._trimming = True
            asyncio.get_running_loop().call_later(IDLE_S, self._trim)
        if stream.ack_due:
            self._transmit(stream.acknowledge())
        elif stream.ack_owed and not self._acknowledging:
            self._acknowledging = True
            asyncio.get_running_loop().call_later(ACK_S, self._acknowledge)
        self._host.pump()

    def _settled(self, records: list[Record]) -> None:
        """Outcomes came; large ones are mentioned, and have come before."""
        if self._arrived:
            numbers = [mentioned(payload) for _, _, _, payload in records]
            records = [
                record if number is None else (*record[:3], self._arrived.pop(number, record[3]))
                for record, number in zip(records, numbers, strict=True)
            ]
        if self._blobs:
            for number, _, _, _ in records:
                if (blob := self._blobs.pop(number, None)) is not None:
                    self._over.append(blob)
        self._host.settled(records)

    def _acknowledge(self) -> None:
        self._acknowledging = False
        if self._stream.ack_owed:
            self._transmit(self._stream.acknowledge())
