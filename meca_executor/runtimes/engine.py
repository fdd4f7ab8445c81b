"""The container engine: the one door to the `docker` package, which is synchronous, so all of it is done in threads.

Every request has a limit. What cannot be done is an `EngineError` with the engine's own words.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..errors import UsageError
from .engine_settings import ALLOWED, LABEL, Owner, split_name, start_of, this_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .engine_settings import EngineSettings

T = TypeVar("T")

API_S = 60.0  #: for one answer of the engine; a busy one takes its time to make or remove a container
PIDS_MOST = 512
SHARED_BYTES = 64 << 20  #: of /dev/shm at least, Docker's own default
LOG = {"Type": "json-file", "Config": {"max-size": "5m", "max-file": "1"}}
EXTRA = 'containers need the `docker` package: pip install "meca-executor[containers]"'


class EngineError(Exception):
    """The engine refused, failed, or does not answer."""

    def __init__(self, text: str, *, missing: bool = False, passing: bool = False) -> None:
        super().__init__(text)
        self.missing = missing  #: what was asked for is not there
        self.passing = passing  #: it may go well the next time


class Plan(NamedTuple):
    """What container is to be made."""

    name: str
    image: str
    runtime: str | None  #: the engine's name for it
    resource: dict[str, float]
    gpus: tuple[int, ...] = ()
    box: BoxPlan | None = None


class BoxPlan(NamedTuple):
    """What a container is besides, in which a kernel's programs are started."""

    first: tuple[str, ...]  #: its first process
    folders: dict[str, str]  #: here -> there
    workdir: str
    environ: dict[str, str]
    open_files: int


class Ended(NamedTuple):
    """How a container ended."""

    code: int
    out_of_memory: bool = False


class Engine:
    """One engine; its methods block, `in_thread` calls them from a loop."""

    def __init__(self, url: str, settings: EngineSettings) -> None:
        """Connect.

        Raises:
            EngineError: It does not answer.
            UsageError: The `docker` package is not installed.
        """
        try:
            import docker
        except ImportError:
            raise UsageError(EXTRA) from None
        self.url = url
        self.settings = settings
        self.owner = this_process(settings.part)
        self._networks: set[str] = set()
        self._lock = threading.Lock()
        with told(f"connect to {url}"):
            options = docker.utils.kwargs_from_env() if os.environ.get("DOCKER_HOST") == url else {"base_url": url}
            self._docker = docker
            self._options = options
            self._client = self._connect(API_S)

    def _connect(self, timeout: float | None) -> Any:
        return self._docker.APIClient(version="auto", timeout=timeout, max_pool_size=32, **self._options)

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    # -- images -----------------------------------------------------------------------------------

    def has_image(self, ref: str) -> bool:
        """Return whether the engine has an image already."""
        try:
            with told(ref):
                self._client.inspect_image(ref)
        except EngineError as error:
            if error.missing:
                return False
            raise
        return True

    def pull(self, ref: str, say: Callable[[str], object]) -> None:
        """Get an image from its registry; `say` is told, now and then, how far it is."""
        repository, tag = split_name(ref)
        client = self._connect(self.settings.pull_s)
        layers: dict[str, tuple[int, int]] = {}
        try:
            with told("pull"):
                for event in client.pull(repository, tag=tag, stream=True, decode=True):
                    if "error" in event:
                        raise engine_said(str(event["error"]))
                    detail = event.get("progressDetail") or {}
                    if "total" in detail and event.get("status") == "Downloading":
                        layers[event["id"]] = detail.get("current", 0), detail["total"]
                        done, total = map(sum, zip(*layers.values(), strict=True))
                        say(f"{done / 1e6:.0f} of {total / 1e6:.0f} MB in {len(layers)} layers")
        finally:
            client.close()

    def build(self, folder: str, tag: str) -> Iterator[str]:
        """Build an image from a folder with a Dockerfile; yields what the engine says, line by line."""
        with told("build"):
            for event in self._client.build(path=folder, tag=tag, rm=True, forcerm=True, decode=True, timeout=None):
                if "error" in event:
                    raise engine_said(str(event["error"]))
                if line := str(event.get("stream") or event.get("status") or "").rstrip():
                    yield line

    # -- containers -------------------------------------------------------------------------------

    def create(self, plan: Plan) -> None:
        """Make a container, which does not run yet."""
        if plan.box is not None and "network" not in self.settings.allow:
            with told("create"):  # nobody calls it: it needs none, not even this machine's
                self._create(plan, "none")
            return
        network = self.network()
        try:
            with told("create"):
                self._create(plan, network)
        except EngineError as error:
            if "network" not in str(error):
                raise
            self._networks.clear()  # somebody has removed it
            with told("create"):
                self._create(plan, self.network())

    def _create(self, plan: Plan, network: str) -> None:
        host = self._client.create_host_config(network_mode=network, **host_options(plan, self.settings.allow))
        if plan.gpus:
            ids = [str(number) for number in plan.gpus]
            host["DeviceRequests"] = [{"DeviceIDs": ids, "Capabilities": [["gpu"]]}]
        host["LogConfig"] = LOG
        self._client.create_container(
            plan.image,
            name=plan.name,
            host_config=host,
            labels={LABEL: str(self.owner)},
            use_config_proxy=False,
            **({} if plan.box is None else box_options(plan.box, self._user())),
        )

    def _user(self) -> str:
        """Return who has this user's rights to files in a container: by number, or its root where the user is that."""
        rootless = any("rootless" in one for one in self._client.info().get("SecurityOptions") or ())
        return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"

    def attach(self, name: str) -> Iterator[tuple[bytes | None, bytes | None]]:
        """Return what a container writes from now on, as pairs of stdout and stderr; it ends with the container."""
        with told("attach"):
            return pieces(self._client.attach(name, stream=True, demux=True))

    def start(self, name: str) -> str:
        """Start a container and return its address."""
        try:
            with told("start"):
                self._client.start(name)
                networks = self._client.inspect_container(name)["NetworkSettings"]["Networks"]
        except EngineError as error:
            if "network" in str(error):  # as in `create`; this container cannot be had again, another one can
                self._networks.clear()
                error.passing = True
            raise
        return next((str(one["IPAddress"]) for one in networks.values() if one["IPAddress"]), "")

    def wait(self, name: str) -> Ended:
        """Return when a container has ended; there is no limit to that."""
        with told("wait"):
            code = int(self._client.wait(name, timeout=None)["StatusCode"])
            state = self._client.inspect_container(name)["State"]
        return Ended(code, bool(state.get("OOMKilled")))

    def remove(self, name: str) -> None:
        """End a container and remove it, with all that it wrote; one that is not there is as good."""
        try:
            with told("remove"):
                self._client.remove_container(name, force=True, v=True)
        except EngineError as error:
            if not error.missing and "already in progress" not in str(error):
                raise

    # -- what is left -----------------------------------------------------------------------------

    def network(self) -> str:
        """Return the network that this process's containers are on; made if it is not there.

        Each process has one of its own: two that make one of the same name at once would both have none, as the engine
        then knows no more which is meant.
        """
        open_ = "network" in self.settings.allow
        of = hashlib.sha256(str(self.owner).encode()).hexdigest()[:12]
        name = f"meca-{'open' if open_ else 'internal'}-{of}"
        with self._lock:
            if name not in self._networks:
                with told("network"):
                    if not self._client.networks(names=[name]):
                        self._make_network(name, open_)
                self._networks.add(name)
        return name

    def _make_network(self, name: str, open_: bool) -> None:
        self._client.create_network(
            name,
            driver="bridge",
            internal=not open_,
            check_duplicate=True,
            # Containers have no business with each other, whoever's they are.
            options={"com.docker.network.bridge.enable_icc": "false"},
            labels={LABEL: str(self.owner)},
        )

    def sweep(self) -> list[str]:
        """Remove the containers of gateways that ended without doing it; returns their names."""
        with told("list"):
            found = self._client.containers(all=True, filters={"label": LABEL})
        left = [one["Names"][0].lstrip("/") if one["Names"] else one["Id"] for one in found if self._is_gone(one)]
        for name in left:
            self.remove(name)
        with told("list"):
            networks = self._client.networks(filters={"label": LABEL})
        for one in networks:
            if self._is_gone(one):
                self._remove_network(one["Id"])
        return left

    def _is_gone(self, one: dict[str, Any]) -> bool:
        """Whether what this container or network was made for is no more."""
        owner = Owner.of((one["Labels"] or {}).get(LABEL, ""))
        return owner is not None and owner.is_gone(self.owner, start_of(int(owner.pid or 0)))

    def _remove_network(self, name: str) -> None:
        with contextlib.suppress(EngineError), told("network"):
            self._client.remove_network(name)

    def tidy(self) -> None:
        """Remove what is left of this process's containers, and its networks."""
        with told("list"):
            mine = self._client.containers(all=True, filters={"label": f"{LABEL}={self.owner}"})
        for one in mine:
            self.remove(one["Id"])
        for name in list(self._networks):
            self._remove_network(name)


def host_options(plan: Plan, allow: Iterable[str]) -> dict[str, Any]:
    """Return what a container may and what it has, in the words of the engine."""
    allowed = {name: name in allow for name in ALLOWED}
    options: dict[str, Any] = {"runtime": plan.runtime}
    if not allowed["writes"]:
        # `exec`: programs that compile themselves do it there.
        options |= {"read_only": True, "tmpfs": {"/tmp": "rw,exec,nosuid,nodev,mode=1777"}}  # nosec B108 # of its own
    if not allowed["capabilities"]:
        options["cap_drop"] = ["ALL"]
    if not allowed["privileges"]:
        options["security_opt"] = ["no-new-privileges:true"]
    if not allowed["processes"]:
        options["pids_limit"] = PIDS_MOST
    if cpu := plan.resource.get("cpu"):
        options["nano_cpus"] = max(1, round(cpu * 1e9))
    if plan.box is not None:
        binds = {here: {"bind": there, "mode": "rw"} for here, there in plan.box.folders.items()}
        files = [{"Name": "nofile", "Soft": plan.box.open_files, "Hard": plan.box.open_files}]
        options |= {"binds": binds, "ulimits": files, "auto_remove": True}
    if memory := plan.resource.get("memory"):
        limit = round(memory * (1 << 20))
        # Without swap: what does not fit is ended, not slowed down.
        options |= {"mem_limit": limit, "memswap_limit": limit, "shm_size": max(SHARED_BYTES, limit // 2)}
    return options


def box_options(plan: BoxPlan, user: str) -> dict[str, Any]:
    """Return what is said about a kernel's container that is not about its limits."""
    return {
        "entrypoint": list(plan.first),
        "user": user,
        "working_dir": plan.workdir,
        "environment": plan.environ,
        "stdin_open": True,  # and closed when whoever holds it is gone
    }


def pieces(stream: Any) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Pass on what comes, and close the connection when no more does."""
    try:
        yield from stream
    finally:
        with contextlib.suppress(OSError):
            stream.close()
        stream._response.close()


async def in_thread(work: Callable[[], T], limit: float | None, what: str) -> T:
    """Return what `work` returns, from a thread of its own.

    Not asyncio's own threads: those keep the process from ending while the engine hangs.

    Raises:
        EngineError: It takes longer than `limit` seconds; it is left to itself then.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name=f"meca-engine-{what}", daemon=True).start()
    try:
        await asyncio.wait({done}, timeout=limit)
        if not done.done():
            raise EngineError(f"{what}: the container engine did not answer within {limit:g} s", passing=True)
        return done.result()
    finally:
        done.cancel()


PASSING = ("timeout", "timed out", "connection re", "eof", "temporar", "toomanyrequests", "server error", "unavailable")


def engine_said(text: str, *, missing: bool = False) -> EngineError:
    """Return the error for what an engine said."""
    return EngineError(text, missing=missing, passing=not missing and any(word in text.lower() for word in PASSING))


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Make what the `docker` package raises an EngineError."""
    import docker
    import requests

    try:
        yield
    except docker.errors.APIError as error:
        missing = error.response is not None and error.response.status_code == 404
        raise engine_said(str(error.explanation or error), missing=missing) from error
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise EngineError(f"{what}: no answer from the container engine ({error})", passing=True) from error
