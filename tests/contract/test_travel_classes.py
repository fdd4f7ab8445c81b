"""Classes that no import statement would find: their instances arrive, work and come back as themselves."""

from __future__ import annotations

import abc
import collections
import enum
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import pytest

from tests.helpers.waiting import LIMIT

from . import tasks
from .kinds import only_ours

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

T = TypeVar("T")


@pytest.fixture
def call(pool: Executor) -> Callable[..., Any]:
    """Return a function that runs another one on the pool and returns its result."""

    def run_there(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        return pool.submit(function, *args, **kwargs).result(LIMIT)

    return run_there


class Base(abc.ABC):
    """Something abstract in an importable module."""

    @abc.abstractmethod
    def name(self) -> str:
        """Return a name."""


@only_ours
def test_local_classes(call: Callable[..., Any]) -> None:
    """Instances of a local class arrive, work there, and come back as instances of the very same class."""

    class Animal(Base):
        kinds = 0

        def __init__(self, legs: int) -> None:
            self.legs = legs

        def name(self) -> str:
            return f"{type(self).__name__} on {self.legs}"

        @classmethod
        def make(cls, legs: int) -> Animal:
            return cls(legs)

        @staticmethod
        def sound() -> str:
            return "..."

        @property
        def double(self) -> int:
            return 2 * self.legs

    class Dog(Animal):
        __slots__ = ("tail",)
        tail: bool

        def name(self) -> str:
            return "Dog: " + super().name()

    dog = Dog(4)
    dog.tail = True
    back = call(tasks.echo, [dog, dog])
    assert back[0] is back[1] is not dog
    assert type(back[0]) is Dog and isinstance(back[0], Animal) and isinstance(back[0], Base)
    assert (back[0].legs, back[0].tail, back[0].double) == (4, True, 8)
    assert call(dog.name) == "Dog: Dog on 4"
    assert type(call(Dog, 3)) is Dog
    assert type(call(Animal.make, 3)) is Animal
    assert call(Dog.sound) == "..."
    assert call(isinstance, dog, Animal)
    assert call(lambda: issubclass(Dog, Base))


@only_ours
def test_local_types_of_other_sorts(call: Callable[..., Any]) -> None:
    """Local dataclasses, enums, named tuples, generics, and classes with a metaclass come back as themselves."""

    @dataclass(frozen=True, order=True)
    class Pair:
        left: int
        right: list[int] = field(default_factory=list, compare=False)

    class Colour(enum.Enum):
        RED = "r"
        BLUE = "b"

    class Bits(enum.IntFlag):
        ONE = 1
        TWO = 2

    class Place(NamedTuple):
        x: int
        y: int = 5

    class Meta(type):
        def shout(cls) -> str:
            return cls.__name__.upper()

    class Made(metaclass=Meta):
        pass

    class Box(Generic[T]):
        def __init__(self, value: T) -> None:
            self.value = value

    loose = collections.namedtuple("loose", "a b")

    pair = call(tasks.echo, Pair(1, [2]))
    assert type(pair) is Pair and pair == Pair(1) and pair.right == [2]
    assert call(tasks.echo, Colour.BLUE) is Colour.BLUE
    assert call(lambda: Colour.RED) is Colour.RED
    assert call(lambda colour: colour is Colour.BLUE, Colour.BLUE)
    assert call(tasks.echo, {Colour.RED: 1}) == {Colour.RED: 1}
    assert call(tasks.echo, Bits.ONE | Bits.TWO) == Bits.ONE | Bits.TWO
    place = call(tasks.echo, Place(1))
    assert type(place) is Place and place == (1, 5)
    assert type(call(tasks.echo, loose(1, 2))) is loose
    assert type(call(Made)) is Made and call(Made.shout) == "MADE"
    assert type(call(Box, 7)) is Box and call(Box[int], 7).value == 7


@only_ours
def test_a_local_class_is_not_changed_by_its_results(pool: Executor) -> None:
    """What the client changes on its class while a task runs is not undone when the result arrives."""

    class Setting:
        limit = 1

        def get(self) -> int:
            return self.limit

    before = Setting.get
    first = pool.submit(lambda: tasks.nap(0.2, Setting()))
    Setting.limit = 2
    back = first.result(LIMIT)
    assert type(back) is Setting
    assert (Setting.limit, back.get(), Setting.get) == (2, 2, before)


@only_ours
def test_objects_that_reduce_themselves(call: Callable[..., Any]) -> None:
    """`__reduce__`, `__getstate__` and `__setstate__` are honoured, on local classes too."""

    class Resource:
        def __init__(self, name: str) -> None:
            self.name, self.lock = name, threading.Lock()

        def __getstate__(self) -> dict[str, str]:
            return {"name": self.name}

        def __setstate__(self, state: dict[str, str]) -> None:
            self.__init__(state["name"] + "'")  # type: ignore[misc]

    class Single:
        def __reduce__(self) -> tuple[Any, ...]:
            return Single, ()

    assert call(tasks.echo, Resource("r")).name == "r''"
    assert type(call(tasks.echo, Single())) is Single
