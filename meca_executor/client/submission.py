"""From a call to a queued task: what `submit` does, for an executor and all views on it."""

from __future__ import annotations

import itertools
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import UsageError
from ..wire.calls import NO_DEFINITION
from ..wire.payloads import dump_call
from ..wire.sessions import Reading
from .checks import checked_task_id
from .chunks import Chunk, Map, cut, failed, results
from .future import MecaFuture
from .handles import Handle, mentioned
from .tasks import Registry, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from .container import Container
    from .driver import LinkSettings
    from .ledger import Ledger
    from .link import Link
    from .options import TaskOptions
    from .shipping import Shipping

T = TypeVar("T")

YIELD_S = 50e-6  #: a map leaves the interpreter to the link for a moment, so that work begins before all is pickled


class Submission:
    """The way into one ledger; its methods may be called from any thread."""

    def __init__(
        self,
        settings: LinkSettings,
        registry: Registry,
        ledger: Ledger,
        link: Link,
        shipping: Shipping | None,
        first: int = 1,
    ) -> None:
        self._settings = settings
        self._shipping = shipping
        self._registry = registry
        self._ledger = ledger
        self._link = link
        self._numbers = itertools.count(first)

    def call(
        self, options: TaskOptions, tag: int, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> MecaFuture[Any]:
        """Queue a call; `tag` is the options' number, looked up once an executor and not once a call."""
        reference = self._registry.function_number(fn)
        if options.container_ref is not None:
            return self._call_in_container(options, options.container_ref, fn, args, kwargs)
        if options.surrounds:
            fn, reference = options.around(fn), NO_DEFINITION
        future: MecaFuture[Any] = MecaFuture()
        try:
            payload = self._payload(None if reference else fn, args, kwargs, reference)
        except Exception as error:
            return self._failed(future, error)
        return self._queue(future, payload, (tag, reference), options, None)

    def items(
        self,
        options: TaskOptions,
        tag: int,
        fn: Callable[..., Any],
        calls: Iterable[tuple[Any, ...]],
        deadline: float | None,
    ) -> Iterator[Any] | None:
        """Queue the calls of a map in chunks and return the iterator of their results.

        None where each call has to be a task of its own: in a container, in a session with a name, or when results
        may be reasons to try again. Nothing was read of `calls` then.
        """
        reference = self._registry.function_number(fn)
        if options.container_ref is not None or self._settings.session or options.retry.looks_at_results:
            return None
        if options.surrounds:
            fn, reference = options.around(fn), NO_DEFINITION
        self._ledger.check()
        mapped, kind, chunks = Map(self._numbers, threading.Condition()), (tag, reference), list[Chunk]()
        for part in cut(self._payloads(None if reference else fn, calls, reference)):
            if isinstance(part, Exception):
                chunks.append(failed(part, mapped))
                continue
            chunks.append(Chunk(kind, options, part, mapped))
            self._ledger.add(chunks[-1])
            self._link.wake()
            if len(chunks) == 1:
                time.sleep(YIELD_S)
        return results(chunks, deadline)

    def put(self, value: Any) -> Handle:
        """Keep an object for tasks to come."""
        self._ledger.check()
        handle = Handle(value, self._registry, self._link.lender, self._link.wake)
        if self._shipping is not None:
            self._shipping.note(handle.payload)
        return handle

    def _payload(
        self, fn: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any], reference: int
    ) -> bytes:
        payload = self._dumped(fn, args, kwargs)
        if self._shipping is not None:
            self._shipping.note(payload, reference)
        return payload

    def _dumped(self, fn: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        if not self._registry.objects:
            return dump_call(fn, args, kwargs, self._link.lender)
        with mentioned(self._registry) as keep:
            return keep(dump_call(fn, args, kwargs, self._link.lender))

    def _payloads(
        self, fn: Callable[..., Any] | None, calls: Iterable[tuple[Any, ...]], reference: int
    ) -> Iterator[bytes | Exception]:
        """Return the payloads of a map's calls, with their function where it is given; or why one has none."""
        for args in calls:
            yield self._payload_or_error(fn, args, reference)

    def _payload_or_error(
        self, fn: Callable[..., Any] | None, args: tuple[Any, ...], reference: int
    ) -> bytes | Exception:
        try:
            return self._payload(fn, args, {}, reference)
        except Exception as error:
            return error

    def container(
        self, options: TaskOptions, container: Container, data: Any = "", *, task_id: str | None = None
    ) -> MecaFuture[Any]:
        """Queue a container's call with one input."""
        if options.surrounds or self._settings.env:
            raise UsageError(
                f"env= and cwd= are for functions; {container.ref} has those of its image. Pass what it needs in its "
                "input, and submit it with ex.options(env=None, cwd=None) or an executor that has none"
            )
        future: MecaFuture[Any] = MecaFuture()
        future.given_id = checked_task_id(task_id)
        if container.app is not None and self._settings.apps.get(container.ref) != container.app:
            self._register_app(container.ref, container.app)
        try:
            payload, decode = container.encode(data), container.decoder(data)
        except Exception as error:
            return self._failed(future, error)
        options = options.calling(container.ref, container.resource, container.runtime)
        kind = self._registry.options_number(options), 0
        return self._queue(future, payload, kind, options, decode, container.reading(data))

    def _call_in_container(
        self, options: TaskOptions, ref: str, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> MecaFuture[Any]:
        """A function in a container: a call of the container, with the call of the function in it."""
        from .functions import FunctionCodec

        future: MecaFuture[Any] = MecaFuture()
        codec = FunctionCodec(self._settings, lambda: self._link.proved)
        try:
            payload = codec.encode(options.around(fn, self._settings.env), args, kwargs)
        except Exception as error:
            return self._failed(future, error)
        options = options.calling(ref, {}, None)
        kind = self._registry.options_number(options), 0
        return self._queue(future, payload, kind, options, partial(codec.decode, log=future.printed), Reading.FUNCTION)

    def _register_app(self, ref: str, folder: str) -> None:
        if self._settings.endpoint is not None:
            raise UsageError(
                f"app= of {ref} is for the embedded gateway; start this one with: meca gateway --app {ref}={folder}"
            )
        self._settings.apps[ref] = folder
        self._link.apps[ref] = folder

    def _queue(
        self,
        future: MecaFuture[T],
        payload: bytes,
        kind: tuple[int, int],
        options: TaskOptions,
        decode: Callable[[bytes], Any] | None,
        reading: int = Reading.CALL,
    ) -> MecaFuture[T]:
        future.number = number = next(self._numbers)
        self._ledger.add(Task(number, future, payload, kind, options, decode, reading))
        self._link.wake()
        return future

    def _failed(self, future: MecaFuture[T], error: BaseException) -> MecaFuture[T]:
        """A future that failed before anything was sent, if the executor still takes tasks at all."""
        self._ledger.check()
        future.claim()
        future.set_exception(error)
        return future
