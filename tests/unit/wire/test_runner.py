"""Calls for python-runner containers: what travels by value, and what is done with it over there."""

from __future__ import annotations

import base64
import importlib
import importlib.util
import io
import json
import math
import pickle
import sys
import threading
import types
import zlib
from typing import TYPE_CHECKING, Any, NoReturn

import cloudpickle
import pytest

from meca_executor import TaskFailed, UntrustedResult
from meca_executor.wire import remote, runner
from meca_executor.wire.calls import RemoteTraceback
from meca_executor.wire.runner import PYTHON, Outcome, decode_reply, encode_call

from .values import ALLOW, EXAMPLES, Point, known

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OWN = "meca_executor"


def unpacked(call: bytes) -> tuple[dict[str, str], bytes, bytes]:
    """Return the fields of a request, and its two pickles."""
    request = json.loads(call)
    assert all(type(value) is str for value in request.values())
    return request, zlib.decompress(base64.b64decode(request["runner"])), base64.b64decode(request["call"])


class Recorder(pickle.Unpickler):
    """Reads a pickle and notes which modules that takes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data))
        self.modules: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        self.modules.add(module.partition(".")[0])
        if name == "_class_setstate":
            return lambda kind, state: kind  # or it would change the class here, which is the very same
        return self.module if name == "subimport" else super().find_class(module, name)

    def module(self, name: str) -> types.ModuleType:
        self.modules.add(name.partition(".")[0])
        return importlib.import_module(name)


def modules_in(data: bytes) -> set[str]:
    """Return the top-level names of the modules that reading a pickle imports."""
    recorder = Recorder(data)
    recorder.load()
    return recorder.modules


def run_here(call: bytes) -> bytes:
    """Do in this process what the container does, with the original of what travels there."""
    request, _, pickled = unpacked(call)
    return json.dumps({"printed": [], "outcome": remote.run(pickled, request["result"])}).encode()


def outcome_of(fn: Callable[..., Any], *args: Any, trust: runner.Trust = "data", **kwargs: Any) -> Outcome:
    return decode_reply(run_here(encode_call(fn, args, kwargs, result=trust)), trust=trust, allow=ALLOW)


# -- the request


def test_request() -> None:
    call = encode_call(pow, (2, 10), {"mod": 7}, result="pickle")
    assert call[:1] + call[-1:] == b"{}"
    assert call.isascii()
    assert list(json.loads(call)) == ["python", "result", "runner", "call"]
    request, _, pickled = unpacked(call)
    assert (request["python"], request["result"]) == (PYTHON, "pickle")
    assert pickle.loads(pickled) == (pow, (2, 10), {"mod": 7})
    assert call == encode_call(pow, (2, 10), {"mod": 7}, result="pickle")


def test_what_runs_over_there_is_made_once_and_small() -> None:
    first, second = (json.loads(encode_call(len, ([],), {}))["runner"] for _ in range(2))
    assert first == second
    assert len(first) < 20_000  # of 1,000,000 that the desktop app lets through


def test_what_runs_over_there_needs_nothing_of_ours() -> None:
    _, code, _ = unpacked(encode_call(len, ([],), {}))
    needed = modules_in(code)
    assert OWN not in needed
    assert needed <= {*sys.stdlib_module_names, "cloudpickle"}


def local_function(value: int) -> int:
    return value + 1


class LocalClass:
    def method(self) -> str:
        return "method"


def test_what_is_not_installed_goes_by_value() -> None:
    closure = 5
    for fn in (local_function, LocalClass().method, lambda: closure, Point(1, LocalClass).__eq__):
        _, _, pickled = unpacked(encode_call(fn, (LocalClass, [Point]), {"key": local_function}))
        assert not modules_in(pickled) & {"tests", OWN}
        again = pickle.loads(pickled)
        assert callable(again[0])


def test_the_module_itself_goes_by_value() -> None:
    module = types.ModuleType("made_at_run_time")
    exec("import math\ndef area(r): return math.pi * r * r", vars(module))
    sys.modules[module.__name__] = module
    try:
        _, _, pickled = unpacked(encode_call(lambda: module.area(1), (), {}))
    finally:
        del sys.modules[module.__name__]
    fn, _, _ = pickle.loads(pickled)
    assert fn() == math.pi


def test_a_module_beside_the_program(tmp_path: Path) -> None:
    (tmp_path / "beside_the_program.py").write_text("def double(x): return 2 * x\n")
    spec = importlib.util.spec_from_file_location("beside_the_program", tmp_path / "beside_the_program.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        _, _, pickled = unpacked(encode_call(module.double, (4,), {}))
    finally:
        del sys.modules[spec.name]
    fn, args, _ = pickle.loads(pickled)
    assert fn(*args) == 8


@pytest.mark.parametrize(
    "name", ["json", "math", "sys", "os.path", "_pickle", "zlib", "decimal", "hypothesis", "pytest"]
)
def test_what_is_installed_is_imported_over_there(name: str) -> None:
    assert not runner._is_local(name)


@pytest.mark.parametrize("name", [__name__, "meca_executor.wire.runner", "tests", "tests.unit.wire"])
def test_what_is_local(name: str) -> None:
    assert runner._is_local(name)


def test_installed_functions_go_by_name() -> None:
    _, _, pickled = unpacked(encode_call(json.dumps, ([1],), {}))
    assert pickled == cloudpickle.dumps((json.dumps, ([1],), {}), 5)
    assert len(pickled) < 100


def test_cloudpickle_is_left_as_it_was() -> None:
    mine = types.ModuleType("registered_by_the_user")
    sys.modules[mine.__name__] = mine
    cloudpickle.register_pickle_by_value(mine)
    try:
        before = cloudpickle.list_registry_pickle_by_value()
        encode_call(local_function, (1,), {})
        with pytest.raises(TypeError, match="cannot pickle"):
            encode_call(local_function, (threading.Lock(),), {})
        assert cloudpickle.list_registry_pickle_by_value() == before
    finally:
        cloudpickle.unregister_pickle_by_value(mine)
        del sys.modules[mine.__name__]


def test_many_threads_at_once() -> None:
    """Nobody takes the list of modules away from another in the middle of its pickling."""
    expected = encode_call(local_function, (LocalClass, Point), {})
    calls: set[bytes] = set()

    def work() -> None:
        calls.update(encode_call(local_function, (LocalClass, Point), {}) for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == {expected}


# -- what is done with it over there


@pytest.mark.parametrize("trust", ["data", "pickle"])
@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_values(value: Any, trust: runner.Trust) -> None:
    outcome = outcome_of(lambda: value, trust=trust)
    assert outcome.error is None
    assert known(outcome.value) == known(value)


def test_arguments_and_names() -> None:
    assert outcome_of(lambda *args, **kwargs: (args, kwargs), 1, [2], key=3).value == ((1, [2]), {"key": 3})
    assert outcome_of(local_function, 4).value == 5


def test_a_class_of_the_callers_own_comes_home_with_a_pickle() -> None:
    outcome = outcome_of(lambda: LocalClass(), trust="pickle")
    assert type(outcome.value) is LocalClass
    assert outcome.error is None


def test_a_value_that_is_no_data() -> None:
    outcome = outcome_of(lambda: [LocalClass()])
    assert type(outcome.error) is UntrustedResult
    assert "contains a tests.unit.wire.test_runner.LocalClass" in str(outcome.error)
    assert 'trust="pickle"' in str(outcome.error)


class LocalError(Exception):
    def __init__(self, code: int, more: object = None) -> None:
        super().__init__(code)
        self.more = more


class Unpicklable(Exception):
    def __reduce__(self) -> NoReturn:
        raise SystemExit("no")


class Unreadable(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(one)  # so that its pickle makes it with one argument


class Mute(Exception):
    def __str__(self) -> NoReturn:
        raise ValueError("broken")


class Leaving(Exception):
    def __str__(self) -> NoReturn:
        raise SystemExit("no")


def fail(error: BaseException) -> NoReturn:
    raise error


@pytest.mark.parametrize("trust", ["data", "pickle"])
def test_an_exception_keeps_class_and_traceback(trust: runner.Trust) -> None:
    error = outcome_of(fail, KeyError("a"), trust=trust).error
    assert type(error) is KeyError
    assert error.args == ("a",)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert ", in fail\n" in error.__cause__.tb
    assert error.__cause__.tb.endswith("KeyError: 'a'\n")
    assert ", in run\n" not in error.__cause__.tb


def test_an_exception_of_the_callers_own() -> None:
    told = outcome_of(fail, LocalError(3)).error
    assert type(told) is TaskFailed
    assert str(told) == "tests.unit.wire.test_runner.LocalError: 3"
    itself = outcome_of(fail, LocalError(3, [4]), trust="pickle").error
    assert type(itself) is LocalError
    assert (itself.args, itself.more) == ((3,), [4])
    assert isinstance(itself.__cause__, RemoteTraceback)


@pytest.mark.parametrize("trust", ["data", "pickle"])
@pytest.mark.parametrize("kind", [Unpicklable, Mute, Leaving])
def test_exceptions_that_make_trouble(kind: type[Exception], trust: runner.Trust) -> None:
    error = outcome_of(lambda: fail(kind("a")), trust=trust).error
    assert kind.__name__ in f"{type(error).__name__} {error.__class__ is TaskFailed and error}"
    assert error is not None
    assert "in fail" in str(error.__cause__)


@pytest.mark.usefixtures("without_tblib")
def test_an_exception_whose_pickle_cannot_be_read() -> None:
    error = outcome_of(lambda: fail(Unreadable(1, 2)), trust="pickle").error
    assert type(error) is TaskFailed
    assert str(error) == "tests.unit.wire.test_runner.Unreadable: 1"


def test_leaving_the_program_ends_the_call_only() -> None:
    assert str(outcome_of(sys.exit, 3).error) == "SystemExit: 3"
    assert type(outcome_of(sys.exit, 3, trust="pickle").error) is SystemExit


def test_a_module_that_the_container_does_not_have() -> None:
    missing = b"\x80\x04\x8c\x0fnot_there_atall\x94\x8c\x01f\x94\x93\x94."
    outcome = remote.run(missing, "data")
    error = decode_reply(json.dumps({"outcome": outcome})).error
    assert isinstance(error, ModuleNotFoundError)
    assert error.name == "not_there_atall"
    assert "No module named 'not_there_atall'" in str(error)
    assert "run the call in an image that does" in str(error)


def test_a_pickle_that_cannot_be_made_is_the_calls_error() -> None:
    error = outcome_of(lambda: threading.Lock(), trust="pickle").error
    assert type(error) is TypeError
    assert "pickle" in str(error)


def test_an_encoder_that_fails_is_the_calls_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A property of an allowed dataclass may raise anything."""

    def sour(self: Point) -> NoReturn:
        raise ZeroDivisionError("sour")

    point = Point(1)
    monkeypatch.setattr(Point, "x", property(sour, lambda self, value: None), raising=False)
    outcome = remote.run(cloudpickle.dumps((lambda: point, (), {})), "data")
    assert type(decode_reply(json.dumps({"outcome": outcome})).error) is ZeroDivisionError
