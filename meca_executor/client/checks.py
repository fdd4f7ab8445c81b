"""Arguments of the executor, checked as the standard library's executors check theirs."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UsageError
from ..keys import read_keys
from ..settings import CLUSTER_EXTRA, default_key_file, given_keys, resolve_endpoint, why_no_cluster, why_no_task_id
from ..wire.calls import dumps
from ..wire.sessions import checked_session
from .container import checked_ref
from .driver import LinkSettings
from .options import checked_env
from .output import sink_for
from .tls import checked_ca_file

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .link_state import OnLink
    from .output import Sink


def checked_settings(
    endpoint: object,
    *,
    max_workers: int | None,
    max_tasks_per_child: int | None,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
    apps: Mapping[str, str | os.PathLike[str]] | None,
    output: bool | Sink,
    connect_timeout: float,
    resume_window: float,
    on_link: OnLink | None,
    strict: bool,
    trust: Literal["data", "pickle"] | None,
    allow: Sequence[type],
    env: Mapping[str, str] | None,
    thread_name: str,
    ca_file: str | os.PathLike[str] | None,
    cluster: str | None = None,
) -> LinkSettings:
    """Return what the link needs to know, from the executor's arguments and the environment.

    Raises:
        UsageError: An argument is wrong.
        TypeError: An argument has the wrong type, where the standard library says so.
    """
    check_counts(max_workers, max_tasks_per_child)
    check_initializer(initializer)
    check_seconds("connect_timeout", connect_timeout)
    check_seconds("resume_window", resume_window)
    if on_link is not None and not callable(on_link):
        raise UsageError(f"on_link {on_link!r} is not callable; give a function of the new state and of why")
    url, given = checked_cluster(cluster, endpoint), given_keys()
    check_trust(trust, allow)
    ca_file = checked_ca_file(ca_file, url)
    folders = {checked_ref(name): os.path.abspath(os.fspath(folder)) for name, folder in (apps or {}).items()}
    if url is not None and folders:
        raise UsageError("apps are for the embedded gateway; start this one with: meca gateway --app NAME=FOLDER")
    return LinkSettings(
        endpoint=url,
        keys=None if url is None else given or next(iter(read_keys(default_key_file())), None),
        connect_timeout=connect_timeout,
        resume_window=resume_window,
        on_link=on_link,
        max_workers=max_workers,
        max_tasks_per_child=max_tasks_per_child,
        initializer=b"" if initializer is None else dumps((initializer, tuple(initargs))),
        apps=folders,
        on_output=sink_for(output),
        name=thread_name,
        strict=strict,
        trust=trust,
        allow=tuple(allow),
        ca_file=ca_file,
        cluster=cluster,
        env=() if env is None else tuple(checked_env(env).items()),
        may_fall_back=url is not None and url.startswith("http://") and given is None,
    )


def checked_cluster(cluster: object, endpoint: object) -> str | None:
    """Return the endpoint; with a cluster that is an embedded gateway, whatever the environment says.

    Raises:
        UsageError: The cluster has no address, another endpoint was given as well, or packages are missing.
    """
    if cluster is None:
        return resolve_endpoint(endpoint)
    if (why := why_no_cluster(cluster)) is not None:
        raise UsageError(why)
    if endpoint not in (None, "embedded"):
        raise UsageError(
            f"cluster={cluster!r} is for an embedded gateway, and endpoint {endpoint!r} is another one; start that "
            f"with: meca gateway --cluster {cluster}"
        )
    if missing := [name for name in ("distributed", "cryptography") if find_spec(name) is None]:
        raise UsageError(f"{CLUSTER_EXTRA} (there is no {' and no '.join(missing)})")
    return None


def check_trust(trust: object, allow: Sequence[type]) -> None:
    """Check what results of functions in containers may be."""
    if trust not in (None, "data", "pickle"):
        raise UsageError(f"trust {trust!r} is not 'data' or 'pickle'")
    if allow:
        from ..wire.data import checked_allow

        checked_allow(allow)


def checked_task_id(task_id: object) -> str | None:
    """Return the name of a task, or None.

    Raises:
        UsageError: It is something else than a str, or too long.
    """
    if task_id is not None and not isinstance(task_id, str):
        raise UsageError(f"task_id {task_id!r:.100} is not a str")
    if task_id is not None and (why := why_no_task_id(task_id)) is not None:
        raise UsageError(why)
    return task_id


def in_session(settings: LinkSettings, session: str | None, takeover: bool) -> LinkSettings:
    """Return the settings of a link whose session has that name, or none.

    Raises:
        UsageError: It is no name, or there is no gateway that keeps sessions.
    """
    if session is None:
        if takeover:
            raise UsageError("takeover=True is for a session with a name; give session=NAME as well")
        return settings
    checked_session(session)
    if settings.endpoint is None:
        raise UsageError(
            f"session={session!r} needs a gateway that stays, and an embedded one ends with this program; start one "
            "with `meca gateway`, and give its URL or set MECA_ENDPOINT"
        )
    return replace(settings, session=session, takeover=takeover, may_fall_back=False)


def check_callable(fn: object) -> None:
    """Check that `fn` can be called, here and not only in a worker."""
    if not callable(fn):
        raise TypeError(f"{fn!r} is not callable")


def check_counts(max_workers: int | None, max_tasks_per_child: int | None) -> None:
    """Check as the standard library's executors do."""
    if max_workers is not None:
        if isinstance(max_workers, bool) or not isinstance(max_workers, int):
            raise TypeError(f"max_workers must be an integer, not {max_workers!r}")
        if max_workers <= 0:
            raise UsageError("max_workers must be greater than 0")
    if max_tasks_per_child is not None:
        if isinstance(max_tasks_per_child, bool) or not isinstance(max_tasks_per_child, int):
            raise TypeError("max_tasks_per_child must be an integer")
        if max_tasks_per_child <= 0:
            raise UsageError("max_tasks_per_child must be >= 1")


def check_initializer(initializer: object) -> None:
    """Check that it can be called, if there is one."""
    if initializer is not None and not callable(initializer):
        raise TypeError("initializer must be a callable")


def check_seconds(name: str, value: object) -> None:
    """Check that an argument is a positive number of seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise UsageError(f"{name} {value!r} is not a positive number of seconds")


def check_map(chunksize: int, buffersize: int | None) -> None:
    """Check the numbers of `map`."""
    if chunksize < 1:
        raise ValueError("chunksize must be >= 1.")
    if buffersize is not None and not isinstance(buffersize, int):
        raise TypeError("buffersize must be an integer or None")
    if buffersize is not None and buffersize < 1:
        raise ValueError("buffersize must be None or > 0")
