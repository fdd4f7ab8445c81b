"""Exceptions in a process where `tblib`, which Dask's `distributed` loads, has all of them pickled its way."""

from __future__ import annotations

import base64
import copyreg
import json
import pickle
import sys
from typing import TYPE_CHECKING, Any

import pytest

from meca_executor.wire import calls
from meca_executor.wire.by_value import dumps
from meca_executor.wire.calls import dump_exception, load_exception
from meca_executor.wire.runner import encode_call

if TYPE_CHECKING:
    from collections.abc import Callable

tblib = pytest.importorskip("tblib.pickling_support", reason="comes with distributed, which is not installed")


class Sealed(Exception):
    """Cannot be given attributes, not even the traceback that `tblib` sets."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)

    def __reduce__(self) -> tuple[type[Sealed], tuple[Any, ...]]:
        return Sealed, self.args


class Registered(Exception):
    """Has a reducer of its user's, as some libraries register for their classes."""


def read_registered() -> Registered:
    """Return what stands for any `Registered`."""
    return Registered("as its user has it")


@pytest.fixture(autouse=True)
def as_after_an_import_of_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `tblib` pickle all exceptions during the test."""
    for kind in (Sealed, ValueError, Registered):
        monkeypatch.setitem(copyreg.dispatch_table, kind, tblib.pickle_exception)


@pytest.mark.parametrize("send", [calls.dumps, lambda value: calls.pickled(value)[0], lambda value: dumps(value, 5)])
@pytest.mark.parametrize("error", [Sealed(3), ValueError("words")], ids=repr)
@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: {"seen": [error]}], ids=["alone", "inside"])
def test_an_exception_needs_no_tblib_where_it_arrives(
    send: Callable[[object], bytes], error: Exception, wrap: Callable[[object], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert b"tblib" in pickle.dumps(error)
    data = send(wrap(error))
    monkeypatch.setitem(sys.modules, "tblib.pickling_support", None)
    assert repr(pickle.loads(data)) == repr(wrap(error))


def test_an_exception_that_was_raised_comes_back_as_itself() -> None:
    try:
        raise Sealed(4)
    except Sealed as error:
        travels, payload = dump_exception(error)
    assert travels
    assert b"tblib" not in payload
    assert repr(load_exception(payload)) == "Sealed(4)"


def test_a_call_for_a_container_needs_no_tblib() -> None:
    call = json.loads(encode_call(repr, (ValueError("words"),), {}))["call"]
    assert b"tblib" not in base64.b64decode(call)


def test_reducers_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(copyreg.dispatch_table, Registered, lambda _: (read_registered, ()))
    assert pickle.loads(dumps(Registered("x"), 5)).args == ("as its user has it",)
