"""Tenures: sessions that have a name, which clients claim one after the other."""

from __future__ import annotations

import secrets
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..wire.records import Kind, Record, decode, encode
from ..wire.sessions import GENERATIONS, WHO_LIMIT, State, checked_session, generation_of
from .books import DONE, FETCHED, OUTCOMES, ids_of, unpack_ids
from .session import Generation, Session, SessionInUse, SessionRefused, Tenure
from .shelf import Shelf, Shelves

if TYPE_CHECKING:
    from .books import History
    from .broker import Broker
    from .calls import ContainerCalls
    from .intake import Intake
    from .journal import SavedSession
    from .keeper import Keeper
    from .shelf import Item
    from .tasks import Instruction

KEEP_S = 7 * 86_400.0  #: a session with a name is kept for so long after its client has gone
FEED_BYTES = 8 << 20  #: of outcomes that are told again, on the way at once
FEED_TASKS = 2_000  #: of them, in one message
WAITING_BYTES = 64 << 20  #: of outcomes in memory that nobody has fetched: then no task of clients that are gone starts
SUPERSEDED = 1_000  #: clients that had a session until another one took it; the last ones are told so


class Claim(NamedTuple):
    """What a client asks for."""

    name: str
    holder: str  #: its own random name
    who: str  #: what it says of itself
    takeover: bool = False  #: from whoever has it
    generation: int = 0  #: as the numbers of its tasks say, where it has any


class Home(Protocol):
    """The hub."""

    sessions: dict[str, Session]
    calls: ContainerCalls

    def add(self, session: Session) -> None: ...
    def end(self, session: Session) -> None: ...
    def do(self, instructions: list[Instruction]) -> None: ...
    def transmit(self, session: Session, frame: bytes) -> None: ...


class Tenures:
    """Who has which name, and what is told to whom."""

    def __init__(self, hub: Home, broker: Broker, keeper: Keeper) -> None:
        self._hub = hub
        self._broker = broker
        self._keeper = keeper
        self.intake: Intake
        self._shelves = Shelves(keeper.fetched_bytes)
        self._superseded: dict[str, str] = {}  # client -> by whom

    # -- claims -----------------------------------------------------------------------------------

    def attach(
        self, claim: Claim, owner: str, cap: int, tasks_per_worker: int | None, birth: str
    ) -> tuple[Session, bool]:
        """Find the session of a name, or begin it; returns it, and whether the client only comes back to it.

        Raises:
            SessionInUse: Another client has it.
        """
        if (text := self._superseded.get(claim.holder)) is not None:
            raise SessionInUse(text)
        id_ = named_id(owner, claim.name)
        session = self._hub.sessions.get(id_)
        if session is None:
            session = Session(id_, owner, cap, tasks_per_worker, self._keeper.stream())
            self.furnish(session, claim.name, claim.generation)
            self._hub.add(session)
        else:
            tenure = session.tenure
            assert tenure is not None
            if tenure.holder == claim.holder and session.birth == birth:
                return session, True
            if session.owner != owner:  # it had another owner when the journal was written
                raise SessionRefused(f"session {claim.name!r} belongs to another access key")
            self._check(session, tenure, claim, birth)
            if tenure.holder:
                if tenure.holder != claim.holder:
                    self._supersede(tenure, claim)
                self.vacate(session)
            session.cap, session.tasks_per_worker = cap, tasks_per_worker
        self._take(session, claim)
        return session, False

    def _check(self, session: Session, tenure: Tenure, claim: Claim, birth: str) -> None:
        """Raise when a client may not have a session that is there."""
        if tenure.holder == claim.holder:
            return  # it never had its welcome
        if birth:
            raise SessionInUse(taken_over(tenure.name, tenure.taken if tenure.holder else "another program"))
        if tenure.holder and session.expiry is None and not claim.takeover:
            raise SessionInUse(
                f"session {tenure.name!r} is in use by {tenure.taken}; wait until that ends, or claim it with "
                "takeover=True"
            )
        if session.now.number + 1 >= GENERATIONS:
            raise SessionRefused(f"session {tenure.name!r} was claimed too often; take another name")

    def _supersede(self, tenure: Tenure, claim: Claim) -> None:
        self._superseded[tenure.holder] = taken_over(tenure.name, f"{claim.who} at {clock(time.time())}")
        while len(self._superseded) > SUPERSEDED:
            del self._superseded[next(iter(self._superseded))]

    def furnish(self, session: Session, name: str, generation: int) -> None:
        """Make a new session one with a name."""
        shelf = Shelf(partial(self._keeper.released, session))
        session.tenure = Tenure(name, shelf)
        session.now = Generation(generation_id(session.id, generation), generation)
        self._shelves.shelves.append(shelf)

    def revive(self, session: Session, saved: SavedSession, history: History) -> None:
        """Make a session one with a name, as an earlier gateway had it; its open tasks are to follow."""
        self.furnish(session, saved.name, 0)
        tenure = session.tenure
        assert tenure is not None
        tenure.holder, tenure.who, tenure.since = saved.holder, saved.who, saved.since
        for row, what, _, body in history.shelved:
            if what == DONE:
                tenure.shelf.restore_gone(unpack_ids(body))
            else:
                tenure.shelf.restore(decode(body), row, what == FETCHED)
        on_the_way = [entry for entry in history.outcomes if entry.what == OUTCOMES]
        for _, _, frame, body in on_the_way:
            tenure.shelf.on_the_way(frame, ids_of(body))

    def _take(self, session: Session, claim: Claim) -> None:
        tenure = session.tenure
        assert tenure is not None
        tenure.holder, tenure.who, tenure.since = claim.holder, claim.who, time.time()
        session.birth = secrets.token_hex(8)
        session.gate = self._hub.calls.gate(session)
        self._keeper.claimed(session)

    def vacate(self, session: Session) -> None:
        """No client has the session any more; what it sent goes on, and the next one begins anew."""
        tenure = session.tenure
        assert tenure is not None
        tenure.holder, tenure.who = "", ""
        tenure.feeding = deque()
        tenure.reading = False
        tenure.shelf.claimed()
        session.send = None
        session.stream = self._keeper.stream()
        self.begin_generation(session, session.now.number + 1)
        self._keeper.claimed(session)

    def begin_generation(self, session: Session, number: int) -> None:
        """What comes from here on is another client's."""
        tenure, last = session.tenure, session.now
        assert tenure is not None
        session.arriving.clear()
        if last.opened:
            tenure.past[last.number] = last
            self._forget_blobs(session, tenure)
            if session.paused != tenure.paused:
                self._hub.do(self._broker.pause(last.id, tenure.paused))
        session.paused = False
        session.now = Generation(generation_id(session.id, number), number)
        self._hub.add(session)
        self.close_past(session)

    def close_past(self, session: Session) -> None:
        """Let go of what earlier clients sent, where all their tasks are done."""
        tenure = session.tenure
        assert tenure is not None
        for number, generation in list(tenure.past.items()):
            if not tenure.shelf.open_in(number):
                del tenure.past[number]
                self._hub.do(self._broker.close(generation.id))

    def leave(self, session: Session, what: str, fields: dict[str, Any]) -> None:
        """The client goes: with `bye`, the session ends if all in it is done and fetched, or was to be ended."""
        tenure = session.tenure
        assert tenure is not None
        if what == "bye" and (tenure.shelf.finished or fields.get("all")):
            self._hub.end(session)
        else:
            self.vacate(session)

    def ended(self, session: Session) -> None:
        """A session is over."""
        if session.tenure is not None:
            self._shelves.shelves.remove(session.tenure.shelf)

    # -- outcomes ---------------------------------------------------------------------------------

    def report(self, session: Session, batch: bytes) -> None:
        """Outcomes came: tell them, keep them, or try again."""
        tenure = session.tenure
        assert tenure is not None
        generation = session.now.number if tenure.holder else None
        tell, aside, again = tenure.shelf.sort(decode(batch), generation, session.send is not None)
        if tell:
            self._tell(session, tell)
        if aside:
            tenure.shelf.settle(aside, self._keeper.shelve(session, encode(aside)), None)
        for number in again:
            self._again(session, number)
        self._forget_blobs(session, tenure)
        self._balance(session)

    def _forget_blobs(self, session: Session, tenure: Tenure) -> None:
        """Large calls of clients that are gone, and so do not say that they are done with them."""
        for blob, task in list(tenure.blobs.items()):
            item, generation = tenure.shelf.item(task), tenure.past.get(generation_of(task))
            if generation is not None and (item is None or not item.open):
                self.intake.forget(session, generation, blob)
                self._keeper.forgotten(session, blob)

    def _tell(self, session: Session, records: list[Record]) -> None:
        assert session.tenure is not None
        transmit = partial(self._hub.transmit, session)
        row = self._keeper.report(session, Kind.RESULTS, encode(records), transmit)
        session.tenure.shelf.settle(records, row, session.stream.sent)

    def _again(self, session: Session, number: int) -> None:
        """Make a lost attempt again, for its client is not here to do it."""
        tenure = session.tenure
        assert tenure is not None
        calls, record = tenure.shelf.call(number)
        self._keeper.attempted(session, number, record[1])
        number_of = generation_of(number)
        generation = tenure.past.get(number_of, session.now)
        self.intake.begin(session, generation, [(1, calls.tag, calls.reference, encode([record]))])

    def acknowledged(self, session: Session) -> None:
        """The client has had frames."""
        tenure = session.tenure
        if tenure is None:
            return
        tenure.shelf.acknowledged(session.stream.delivered)
        self._shelves.tidy()
        self._feed(session)
        self._balance(session)

    def _balance(self, session: Session) -> None:
        """Start no tasks of clients that are gone while too much waits in memory."""
        tenure = session.tenure
        assert tenure is not None
        limit = WAITING_BYTES // 2 if tenure.paused else WAITING_BYTES
        paused = not self._keeper.durable and tenure.shelf.waiting_bytes > limit
        if paused != tenure.paused:
            tenure.paused = paused
            for generation in tenure.past.values():
                self._hub.do(self._broker.pause(generation.id, paused))

    # -- what a client asks for -------------------------------------------------------------------

    def list_all(self, session: Session) -> None:
        """Tell the client of all tasks."""
        assert session.tenure is not None
        self._list(session, [(0, 0, 0, b""), *session.tenure.shelf.listing()])  # the first one says that it is all

    def _list(self, session: Session, records: list[Record]) -> None:
        self._keeper.report(session, Kind.LISTING, encode(records), partial(self._hub.transmit, session))

    def _tell_gone(self, session: Session, number: int) -> None:
        """It was let go of after it was listed: somebody had fetched it before."""
        self._list(session, [(number, 0, int(State.GONE), b"")])

    def fetch(self, session: Session, numbers: list[int]) -> None:
        """Tell it these outcomes, now or when they come."""
        tenure = session.tenure
        assert tenure is not None
        tenure.feeding.extend(numbers)
        self._feed(session)

    def _feed(self, session: Session) -> None:
        """Tell outcomes again that are wanted, as many as may be on the way."""
        tenure = session.tenure
        assert tenure is not None
        while tenure.feeding and not tenure.reading and session.stream.unacked_bytes < FEED_BYTES:
            item = tenure.shelf.item(tenure.feeding[0])
            if item is not None and item.row:
                tenure.reading = True
                self._keeper.read(session, item.row, partial(self._feed_row, session, tenure.feeding, item.row))
                return
            self._feed_memory(session, tenure)

    def _feed_memory(self, session: Session, tenure: Tenure) -> None:
        records, size = list[Record](), 0
        while tenure.feeding and len(records) < FEED_TASKS and size < FEED_BYTES:
            number = tenure.feeding[0]
            item = tenure.shelf.item(number)
            if item is not None and item.row:
                break
            if self._has_outcome(session, tenure.feeding.popleft(), item):
                assert item is not None and item.payload is not None
                records.append((number, item.status, item.micros, item.payload))
                size += item.size
        if records:
            self._tell(session, records)

    def _feed_row(self, session: Session, feeding: object, row: int, batch: bytes) -> None:
        """An entry of the journal was read."""
        tenure = session.tenure
        assert tenure is not None
        if tenure.feeding is not feeding or not tenure.reading:
            return
        tenure.reading = False
        found = {record[0]: record for record in decode(batch)}
        records = []
        while tenure.feeding:
            number = tenure.feeding[0]
            item = tenure.shelf.item(number)
            if item is not None and item.row not in (0, row):
                break
            if self._has_outcome(session, tenure.feeding.popleft(), item):
                records.append(found[number])
        if records:
            self._tell(session, records)
        self._feed(session)

    def _has_outcome(self, session: Session, number: int, item: Item | None) -> bool:
        """Whether an outcome is there to be told; if not, see to it that the client hears of it all the same."""
        assert session.tenure is not None
        if item is None:
            self._tell_gone(session, number)
        elif item.open:
            session.tenure.shelf.wanted.add(number)
        return item is not None and not item.open


def named_id(owner: str, name: str) -> str:
    """Return the id of an owner's session of that name; clients' own ids have no @."""
    return f"@{owner}/{name}"


def generation_id(session: str, number: int) -> str:
    """Return what the broker calls a session's client."""
    return f"{session}#{number}" if number else session


def taken_over(name: str, who: str) -> str:
    """Return what a client is told whose session another one has."""
    return f"session {name!r} was taken over by {who}; what it had been given goes on, and belongs to that one"


def clock(moment: float) -> str:
    """Return a time as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def claim_of(hello: dict[str, Any], holder: str) -> Claim | None:
    """Return what a hello claims; None for a session without a name.

    Raises:
        ValueError: It is no name.
    """
    if (name := hello.get("name")) is None:
        return None
    who = " ".join(str(hello.get("who", "a client"))[:WHO_LIMIT].split())
    who = "".join(letter if letter.isprintable() else "?" for letter in who)
    generation = hello.get("generation")
    generation = generation if isinstance(generation, int) and 0 <= generation < GENERATIONS else 0
    return Claim(checked_session(name), holder, who, hello.get("takeover") is True, generation)
