"""The checks of `meca doctor`, each a `Finding`."""

from __future__ import annotations

import os
import platform
import re
import sys
from contextlib import ExitStack
from importlib import metadata
from typing import TYPE_CHECKING, Literal, NamedTuple

from .. import __version__
from ..client.driver import OtherDialect
from ..client.tls import UntrustedGateway
from ..errors import GatewayRefused, MecaError, NoHostFits, ProtocolMismatch, UsageError
from ..settings import PREFIXES, resolve_endpoint
from ._session import session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..client.executor import MecaExecutor

DISTRIBUTION = "meca-executor"
#: what to look for when there is no list of an installed package to read; in any version
NEEDS = ("python-socketio", "aiohttp", "cloudpickle", "tenacity")
OLDEST_PYTHON = (3, 10)
CALL_S = 30.0  #: a worker that has not answered a call of no work by then will not
NATIVE = "native: it has the namespace /meca, and proved itself"
DESKTOP = "desktop: it has no namespace /meca, as the MECAnywhere desktop app, and no key or TLS asks for one"
NO_WORKERS = "a desktop app runs containers only, no functions by itself; container_ref= runs them in a container"
CONTAINER_HERE = (
    "is the package whole? pip install --force-reinstall meca-executor; a gateway elsewhere needs the image"
)
CONTAINER_ELSEWHERE = (
    "the app needs a host that is there and has the image: look at its login, its hosts and their images"
)
QUESTION, ANSWER = '{"name": "doctor"}', "hello doctor"


class Finding(NamedTuple):
    """One line of the report."""

    mark: Literal["ok", "!!", "--"]
    subject: str
    text: str
    mend: str = ""  #: what to do about it, when something is to be done


def checkup(endpoint: str | None) -> Iterator[Finding]:
    """Yield the findings in the order in which one depends on the other.

    Args:
        endpoint: The `--endpoint` argument, or None.
    """
    yield python()
    yield from packages()
    try:
        where, why = resolve_endpoint(endpoint), origin(endpoint, os.environ)
    except UsageError as error:
        yield Finding("!!", "endpoint", str(error), f"correct or unset {origin(endpoint, os.environ)}")
        return
    yield Finding("ok", "endpoint", f"{where or 'embedded: a gateway of its own for each program'} ({why})")
    yield from connection(endpoint, where, why)


def python() -> Finding:
    """Say which Python runs this."""
    text = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding("!!", "Python", text, "use Python 3.10 or later")
    return Finding("ok", "Python", text)


def packages() -> Iterator[Finding]:
    """Say which version of this package and of each that it needs is installed."""
    try:
        needs = [need for need in metadata.requires(DISTRIBUTION) or () if "extra ==" not in need]
        where = "installed"
    except metadata.PackageNotFoundError:
        needs, where = list(NEEDS), "not installed, runs from its folder"
    yield Finding("ok", DISTRIBUTION, f"{__version__}, {where}")
    for need in needs:
        yield package(need)


def package(need: str) -> Finding:
    """Check one requirement, such as `aiohttp<4,>=3.9`, against what is installed."""
    parts = re.match(r"([A-Za-z0-9._-]+)\s*(?:\[[^]]*\])?\s*([^;]*)", need)
    name, limits = (parts.group(1), parts.group(2).strip(" ()")) if parts else (need, "")
    mend = f"pip install '{name}{limits}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding("!!", name, "not installed", mend)
    if not within(version, limits):
        return Finding("!!", name, f"{version}, needed is {limits}", mend)
    return Finding("ok", name, version)


def within(version: str, limits: str) -> bool:
    """Return whether a version keeps limits such as `>=3.9,<4`; what is not `>=` or `<` is not judged."""
    for limit in limits.split(","):
        sign, _, bound = re.sub(r"^\s*(>=|<(?!=))\s*", r"\1 ", limit).partition(" ")
        if sign == ">=" and _numbers(version) < _numbers(bound):
            return False
        if sign == "<" and _numbers(version) >= _numbers(bound):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    """Return the release numbers, without the zeros at their end, so that 4 equals 4.0."""
    numbers = [int(text) for text in re.findall(r"\d+", re.split(r"[a-zA-Z+-]", version)[0])]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def origin(endpoint: str | None, environ: Mapping[str, str]) -> str:
    """Return where the endpoint comes from: the argument, a variable of the environment, or the default."""
    if endpoint is not None:
        return "--endpoint"
    names = (prefix + "ENDPOINT" for prefix in PREFIXES)
    return next((name for name in names if environ.get(name)), "default")


def connection(endpoint: str | None, where: str | None, why: str) -> Iterator[Finding]:
    """Connect, then ask for work of each kind; what depends on a failed step is not tried."""
    with ExitStack() as stack:
        try:
            executor = stack.enter_context(session(endpoint))
            slots = executor.slots
        except (MecaError, OSError) as error:
            yield Finding("!!", "gateway", one_line(error), mend_connection(error, where, why))
            yield from (Finding("--", subject, "needs the gateway") for subject in ("dialect", "workers", "container"))
            return
        app = executor.dialect == "desktop"
        does = f"is given up to {slots} tasks at once" if app else f"runs up to {slots} tasks at once"
        yield Finding("ok", "gateway", f"answers at {executor.endpoint}, {does}")
        yield Finding("ok", "dialect", DESKTOP if app else NATIVE)
        yield Finding("--", "workers", NO_WORKERS) if app else workers(executor)
        yield container(executor, CONTAINER_ELSEWHERE if app else CONTAINER_HERE)


def workers(executor: MecaExecutor) -> Finding:
    """Let a worker tell its process id."""
    try:
        worker = executor.submit(os.getpid).result(CALL_S)
    except NoHostFits as error:  # its operator wants it so
        return Finding("--", "workers", one_line(error))
    except Exception as error:
        mend = "the gateway's Python has to have this package and the same version of Python: install it there"
        return Finding("!!", "workers", one_line(error), mend)
    if worker == os.getpid():
        return Finding("!!", "workers", "the call ran in this process, not in a worker", "report this as a fault")
    return Finding("ok", "workers", f"process {worker} ran a function")


def container(executor: MecaExecutor, mend: str) -> Finding:
    """Offload to the smallest of the example containers; `mend` is what to do when that fails."""
    try:
        reply = executor.offload_task("sampleserver:latest", QUESTION, timeout=CALL_S).result(2 * CALL_S)
    except Exception as error:
        return Finding("!!", "container", one_line(error), mend)
    if ANSWER not in reply:
        return Finding("!!", "container", f"sampleserver:latest replied {reply[:200]!r}", "is it another image?")
    return Finding("ok", "container", f"sampleserver:latest replied {one_line(reply)}")


def mend_connection(error: BaseException, where: str | None, why: str) -> str:
    """Return what to do when the gateway cannot be used; `why` is what named it."""
    if isinstance(error, UsageError):
        return "correct the variables of the environment that it names"
    if isinstance(error, OtherDialect):
        return "if it is a MECAnywhere desktop app: it takes no key, so unset MECA_ACCESS_KEY and MECA_SECRET_KEY"
    if isinstance(error, UntrustedGateway):
        return mend_certificate(str(error))
    if "desktop app" in str(error):
        return "start the MECAnywhere desktop app, log in to it, and try again"
    if isinstance(error, GatewayRefused):
        return "set MECA_ACCESS_KEY and MECA_SECRET_KEY to a pair from the gateway's key file"
    if isinstance(error, ProtocolMismatch):
        return "install the same version of meca-executor on both sides"
    if where is None:
        return "the gateway is a process on this machine: may this user start processes and use 127.0.0.1?"
    return f"start one there (meca gateway --port PORT), or leave {why} out to use a gateway of your own"


def mend_certificate(text: str) -> str:
    """Return what to do about a gateway whose certificate is not believed."""
    if "not a matter of MECA_CA_FILE" in text:
        return "the gateway needs a certificate that is valid now and has this name: meca gateway --tls-cert FILE"
    if "agree on TLS" in text:
        return "is TLS spoken there at all? Without it the endpoint begins with http://"
    return "get the CA's certificate (PEM) from whoever runs the gateway, and set MECA_CA_FILE to its path"


def one_line(value: object) -> str:
    """Return the text of an error or a reply on one line, with the class of an error before it."""
    text = " ".join(str(value).split())
    return f"{type(value).__name__}: {text}" if isinstance(value, BaseException) else text
