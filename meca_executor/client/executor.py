"""MecaExecutor: a `concurrent.futures.Executor` whose calls run elsewhere."""

from __future__ import annotations

import os
import time
import weakref
from typing import TYPE_CHECKING, Any, Literal, NoReturn, ParamSpec, TypeVar, overload

from ..errors import ExecutorClosed, UsageError
from ..policy.credit import Credit
from .checks import check_map, checked_settings, in_session
from .container import Container
from .embedded import EmbeddedGateway
from .facts import Facts
from .future import MecaFuture
from .leaving import Leaving, claimed_by
from .ledger import Ledger
from .lifetime import CLOSED, check_not_ending, watch
from .mapping import results_in_order
from .options import UNSET, TaskOptions
from .submission import Submission
from .tasks import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    from .link_state import OnLink
    from .output import Sink
    from .shipping import Ship

P = ParamSpec("P")
T = TypeVar("T")


class MecaExecutor(Facts, Leaving):
    """Runs calls in the worker processes and containers behind a gateway.

    Used as a `ThreadPoolExecutor` is. Without an endpoint it starts a gateway of its own, a child process.

        with MecaExecutor() as ex:
            print(list(ex.map(pow, range(5), [2] * 5)))

    Args:
        endpoint: URL of a gateway, `"embedded"` for one of its own, or None for `MECA_ENDPOINT` and, where
            that is not set, one of its own. An int is `max_workers`, as `ThreadPoolExecutor(4)` has it.
        max_workers: Tasks that run at once; None is one a core, or what the gateway has.
        timeout: Seconds that one attempt of a task may run before it is killed where it runs; None is no limit.
        retry: Attempts in all (default 3; 1 is never again), used for attempts that were lost with their
            worker, host or link; or tenacity's `stop_*`, `wait_*`, `retry_if_*` objects, several as a tuple.
            A `retry_if_*` says what else is tried again. What a full gateway would not take is no attempt: it is
            offered again for a minute, or until a stop of its own.
        resource: What a task needs: `cpu` (cores), `memory` (MiB), `gpu`.
        container_ref: Image in which functions run, such as `meca-python:3.11`; None is the worker processes.
        runtime: Container runtime; None is the host's default.
        initializer: Called in each worker before its first task; when it raises, the executor is broken.
        initargs: Its arguments.
        thread_name_prefix: Of the one background thread's name.
        max_tasks_per_child: Tasks after which a worker is replaced by a fresh one; None is never.
        output: Where what tasks print goes: True to this process's stdout and stderr, False nowhere, a
            callable gets `(text, "stdout" or "stderr")`.
        apps: Container name -> folder with `src/app.py`, which the embedded gateway runs as a local process.
        connect_timeout: Seconds in which the gateway must first answer.
        resume_window: Seconds for which a connection that dropped is tried again. Then open futures fail with
            `GatewayLost`, and so does `submit`. A gateway keeps the session of a client that is away for 600.
        on_link: Called with each new state of the link, in one word as `state` begins, and with why, in a
            sentence: `on_link("resuming", "the connection to ... dropped")`. On a thread of its own, in order; what
            it raises is logged. `shutdown` waits for the last call, a second at most.
        strict: On the MECAnywhere desktop app: a reply that is one of its hosts' known failure texts is a
            `TaskFailed`. False takes it as the reply.
        trust: How results of functions in containers are read: `"data"` parses no pickle, only plain data,
            numpy arrays and dataclasses in `allow`; `"pickle"` reads anything, which lets the container's
            host run code here. None is `"pickle"` with keys or an embedded gateway, else `"data"`.
        allow: Dataclasses that may come back as data.
        ca_file: PEM file of the certificates that an `https://` endpoint is checked with, and no others; None is
            `MECA_CA_FILE`, else the system's.
        ship: Which modules are sent along, for workers to import. `"auto"`: those of your own, neither installed
            nor the standard library's, that functions and arguments need, to a gateway that is not this process's
            own, whose workers find them where they are. A path or a module, or a list of them (`"auto"` may be
            among them): these, all files of each, to any gateway. None: nothing. See README, "Your own modules".
        env: Environment variables of the workers, from their start; not for containers, which have their own.
        cwd: Folder in which calls run, on the machine where they run. None is the folder of the caller with an
            embedded gateway, else the gateway's. One that cannot be entered is the call's `FileNotFoundError`.
        session: Name of the session, 1 to 64 of `A-Z a-z 0-9 _ . -`, at a gateway that stays; claimed here and now.
            When this program has gone, another one with the same access key can claim it, and `recover()` its tasks.
            `shutdown(wait=True)` ends it if all in it is done and fetched; else it is kept for seven days (README).
        takeover: Claim the session also while another program has it, which is then refused.
        cluster: Address of a Dask scheduler, `tcp://HOST:PORT` or `tls://HOST:PORT` (certificates as Dask is
            configured), on whose nodes calls run, behind an embedded gateway; `"local:4"` starts a cluster of four
            nodes on this machine. None is this machine, without Dask. `pip install "meca-executor[cluster]"`.

    Raises:
        UsageError: An argument is wrong (a `ValueError`).
        TypeError: An argument has the wrong type where the standard library's executors say so too.
        GatewayError: Only with `session`: it is another program's (`SessionTaken`), or there is no connection.
    """

    __module__ = "meca_executor"

    def __init__(
        self,
        endpoint: str | int | None = None,
        max_workers: int | None = None,
        *,
        timeout: float | None = None,
        retry: object = None,
        resource: Mapping[str, float] | None = None,
        container_ref: str | None = None,
        runtime: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        thread_name_prefix: str = "",
        max_tasks_per_child: int | None = None,
        output: bool | Sink = True,
        apps: Mapping[str, str | os.PathLike[str]] | None = None,
        connect_timeout: float = 10.0,
        resume_window: float = 600.0,
        on_link: OnLink | None = None,
        strict: bool = True,
        trust: Literal["data", "pickle"] | None = None,
        allow: Sequence[type] = (),
        ca_file: str | os.PathLike[str] | None = None,
        ship: Ship = "auto",
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        session: str | None = None,
        takeover: bool = False,
        cluster: str | None = None,
    ) -> None:
        check_not_ending()
        if isinstance(endpoint, int) and max_workers is None:
            endpoint, max_workers = None, endpoint
        self._options = TaskOptions().changed(
            timeout=timeout, retry=retry, resource=resource, container_ref=container_ref, runtime=runtime, cwd=cwd
        )
        self._registry = Registry()
        self._tag = self._registry.options_number(self._options)
        self._settings = checked_settings(
            endpoint,
            max_workers=max_workers,
            max_tasks_per_child=max_tasks_per_child,
            initializer=initializer,
            initargs=initargs,
            apps=apps,
            output=output,
            connect_timeout=connect_timeout,
            resume_window=resume_window,
            on_link=on_link,
            strict=strict,
            trust=trust,
            allow=allow,
            ca_file=ca_file,
            env=env,
            cluster=cluster,
            thread_name=f"{thread_name_prefix or 'MecaExecutor'}-link",
        )
        self._settings = in_session(self._settings, session, takeover)
        self._start(max_workers, ship)

    def _start(self, max_workers: int | None, ship: Ship) -> None:
        """Begin to connect; all that can be wrong with an argument has been looked at by then."""
        embedded, cluster, shipping = self._settings.endpoint is None, self._settings.cluster, None
        if not embedded or cluster is not None or ship != "auto":
            from .shipping import shipping_for

            here = embedded and cluster is None
            shipping = shipping_for(ship, self._registry, self._settings, embedded=here)
        # Before the link, so that it starts while this process imports what that needs.
        gateway = EmbeddedGateway(max_workers, self._settings.apps, cluster=cluster) if embedded else None
        from .link import Link

        credit = Credit(max_workers or os.cpu_count() or 1, 64, 1 << 20)
        self._ledger = Ledger(credit, self._settings.endpoint or "embedded")
        self._link = Link(self._ledger, self._registry, self._settings, gateway)
        watch(self._link)
        first = 1 if self._settings.session is None else claimed_by(self._link)
        self._submission = Submission(self._settings, self._registry, self._ledger, self._link, shipping, first)
        # An executor that nobody holds any more ends when its tasks are done.
        finalizer = weakref.finalize(self, self._link.close)
        finalizer.atexit = False

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a MecaExecutor cannot be pickled: it belongs to this process; make one where it is needed, or give tasks "
            "the endpoint's URL"
        )

    # -- the Executor contract --------------------------------------------------------------------

    @overload
    def submit(self, fn: Container, data: Any, /) -> MecaFuture[Any]: ...
    @overload
    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> MecaFuture[T]: ...
    def submit(self, fn: Container | Callable[..., Any], /, *args: Any, **kwargs: Any) -> MecaFuture[Any]:
        """Schedule `fn(*args, **kwargs)`, or a `Container`'s call with one input.

        The arguments are pickled before this returns: what is changed later is not sent.

        Returns:
            A future of the result. Whatever goes wrong from here on is in it: the user's own exception, or
            one of this package's.

        Raises:
            RuntimeError: After `shutdown`, or when the executor is broken (its reason's own class).
            TypeError: `fn` cannot be called.
        """
        if isinstance(fn, Container):
            return self._submission.container(self._options, fn, *args, **kwargs)
        return self._submission.call(self._options, self._tag, fn, args, kwargs)

    @overload
    def map(
        self,
        fn: Container,
        inputs: Iterable[Any],
        /,
        *,
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]: ...
    def map(
        self,
        fn: Container | Callable[..., Any],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[Any]:
        """Return the results of `fn` over the iterables, in their order; all is submitted at the call.

        Args:
            fn: A callable or a `Container`.
            iterables: As of the builtin `map`.
            timeout: Seconds from this call in which each result must be there.
            chunksize: As of `ProcessPoolExecutor`; short tasks travel together here whatever it is.
            buffersize: Tasks submitted ahead of the result that is asked for; the iterables are then read
                lazily. None submits all.

        Raises:
            TimeoutError: From the iterator, when a result is not there in time. The rest is cancelled.
            ValueError: `chunksize` or `buffersize` is less than 1.
        """
        check_map(chunksize, buffersize)
        calls = zip(*iterables, strict=False)
        deadline = None if timeout is None else time.monotonic() + timeout
        if buffersize is None and not isinstance(fn, Container) and type(self).submit is MecaExecutor.submit:
            in_chunks = self._submission.items(self._options, self._tag, fn, calls, deadline)
            if in_chunks is not None:
                return in_chunks
        return results_in_order(weakref.ref(self), self.submit, fn, calls, deadline, buffersize)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more tasks and end when those that are here are done.

        While the connection is down results are waited for as long as it is tried again (`resume_window`).

        Args:
            wait: Return only when they are, and the workers and an embedded gateway are gone. A session with a name
                ends only then, if all in it is done and fetched; without `wait` it is left to be claimed.
            cancel_futures: Cancel what has not been handed over; what a full gateway refuses from now on fails.
        """
        self._ledger.refuse(lambda: ExecutorClosed(CLOSED))
        self._link.ends_session |= wait
        if cancel_futures:
            self._ledger.cancel_queued()
        self._link.close()
        if wait:
            self._link.join()

    # -- more than the contract -------------------------------------------------------------------

    def options(
        self,
        *,
        timeout: float | None = UNSET,
        retry: object = UNSET,
        resource: Mapping[str, float] | None = UNSET,
        container_ref: str | None = UNSET,
        runtime: str | None = UNSET,
        env: Mapping[str, str] | None = UNSET,
        cwd: str | os.PathLike[str] | None = UNSET,
    ) -> MecaExecutor:
        """Return a view on this executor with other options; it is on the same link, and shut down with it.

        Args:
            timeout: As the executor's; so are those that are not named here.
            env: Variables that are set while a call of the view runs, besides those that it has already (None:
                nothing besides the executor's). What a module reads when it is imported is for the executor's own.
            cwd: Folder in which calls of the view run; None is where workers are.

        Raises:
            UsageError: A value is wrong.
        """
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view.__dict__["_viewed"] = self  # keeps it alive
        view._options = self._options.changed(
            timeout=timeout,
            retry=retry,
            resource=resource,
            container_ref=container_ref,
            runtime=runtime,
            env=env,
            cwd=cwd,
        )
        view._tag = self._registry.options_number(view._options)
        return view

    def put(self, value: object) -> Any:  # not Handle: a type checker takes it where the function wants the object
        """Send a large object once, and return a `Handle` to pass to many tasks in its place.

        The object is pickled before this returns. On one machine it then lies in shared memory; else it is
        sent when the first task needs it, once to the gateway and from there once to each worker.

        Raises:
            RuntimeError: As `submit`.
            SharedMemoryFull: There is no room for it.
        """
        return self._submission.put(value)

    def offload_task(
        self,
        container_ref: str,
        data: str,
        *,
        task_id: str | None = None,
        resource: Mapping[str, float] | None = None,
        runtime: str | None = None,
        use_gpu: bool = False,
        gpu_count: int = 0,
        timeout: float | None = UNSET,
        retry: object = UNSET,
    ) -> MecaFuture[str]:
        """Send `data` to a container and return a future of its reply, both as text.

        Args:
            container_ref: Image name.
            data: What is posted to the container.
            task_id: A name for the task, in the future's `task_id` and in errors; None is its number.
            resource: What the container needs, as the executor's.
            runtime: Container runtime; None is the host's default.
            use_gpu: The container needs a GPU, `gpu_count` of them (at least one).
            gpu_count: As above.
            timeout: As the executor's, and so by default.
            retry: As the executor's, and so by default.

        Raises:
            UsageError: An argument is wrong.
            RuntimeError: As `submit`.
        """
        if not isinstance(data, str):
            raise UsageError(f"data must be a str, not {type(data).__name__}; submit a Container for other inputs")
        if use_gpu or gpu_count:
            resource = {**(resource or {}), "gpu": max(1, gpu_count)}
        view = self if timeout is UNSET and retry is UNSET else self.options(timeout=timeout, retry=retry)
        container = Container(container_ref, resource=resource, runtime=runtime, codec="text")
        return self._submission.container(view._options, container, data, task_id=task_id)

    def kill(self, future: Future[Any]) -> bool:
        """End a task wherever it is: cancelled here, or killed where it runs (`TaskKilled` in the future).

        While the connection is down the future ends at once, and the gateway is told when it is back.

        Returns:
            False when the future was done already, or is not one of this executor's.
        """
        if future.done() or not isinstance(future, MecaFuture) or future.number is None:
            return False
        if not future.cancel():
            self._link.kill(future.number)
        return True

    def kill_workers(self) -> None:
        """End now: open futures fail, what runs is killed (on the desktop app: let go). Waits until all is gone."""
        self._ledger.refuse(lambda: ExecutorClosed(CLOSED))
        self._link.ends_all = True
        self._link.abandon(lambda: ExecutorClosed("the executor was ended by kill_workers()"))
        self._link.join()
