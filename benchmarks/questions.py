"""What a script asks: questions, their goals, and the parts in which they are measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from .peers import Peer

Figures = dict[str, float]  #: question key → measured value; a question that has no answer here is absent


class Missing(Exception):
    """A peer has no answer to a part here; the text says why. It is left out, and nothing has failed."""


@dataclass(frozen=True)
class Limit:
    """One side of a goal: `factor` times the figure of a peer in the same round, plus `plus`."""

    peer: str | None = None  #: name of the peer; None is the bare number `plus`
    factor: float = 1.0
    plus: float = 0.0  #: in the question's unit


@dataclass(frozen=True)
class Question:
    """One row group of the table."""

    key: str  #: no two questions of a script share it
    text: str
    unit: str
    better: Literal["higher", "lower"]
    goal: tuple[Limit, ...] = ()  #: what `MecaExecutor` is held to: the largest of these, whichever side is better
    curve: str = ""  #: questions that share it are the points of one line in the plot
    x: float = 0.0  #: where on that line


@dataclass(frozen=True)
class Options:
    """What the command line settled, the same for every peer."""

    rounds: int
    tasks: int  #: calls in one counted part
    workers: int
    timeout_s: float  #: for one peer in one part of one round


@dataclass(frozen=True)
class Part:
    """Questions that are measured together, in one process a peer."""

    name: str
    questions: tuple[Question, ...]
    peers: tuple[Peer, ...]
    measure: Callable[[Peer, Options], Figures]  #: runs in the peer's own process; may raise `Missing`


@dataclass(frozen=True)
class Script:
    """One benchmark: what it asks, of whom, and how one peer answers."""

    name: str  #: module name below `benchmarks`
    purpose: str
    parts: tuple[Part, ...]
    controls: tuple[Peer, ...]  #: what every other peer is divided by
    tasks: int = 20_000
    rounds: int = 5
    timeout_s: float = 300.0
    axes: dict[str, tuple[str, str]] = field(default_factory=dict)  #: curve → its title, and what its x is

    @property
    def questions(self) -> tuple[Question, ...]:
        """Those of all parts, in order."""
        return tuple(question for part in self.parts for question in part.questions)

    @property
    def peers(self) -> tuple[Peer, ...]:
        """Those of all parts, each once, in the order in which they first appear."""
        return tuple(dict.fromkeys(peer for part in self.parts for peer in part.peers))

    @property
    def control_names(self) -> list[str]:
        """Heads of the table's columns of ratios."""
        return [peer.name for peer in self.controls]
