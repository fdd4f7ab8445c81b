"""A Dask cluster for tests: a scheduler and nodes, each a process of its own, started by Dask's own commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import meca_executor

from .processes import descendants
from .waiting import LIMIT, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(meca_executor.__file__).parent.parent


def skip_without_dask() -> None:
    """Skip the test where the extra `cluster` is not installed."""
    if find_spec("distributed") is None:
        pytest.skip('there is no Dask: pip install "meca-executor[cluster]"')


class DaskCluster:
    """A scheduler, and what nodes the test asks for; all of it ends with `close`."""

    def __init__(self, folder: Path, port: int = 0, tls: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.environ: dict[str, str] = {}  #: of nodes that start from now on, besides what is here
        self._tls = tls
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._file = folder / "scheduler.json"
        self._port = port
        self.scheduler = self._start_scheduler()
        self.address = str(self._told()["address"])
        self._port = int(self.address.rpartition(":")[2])

    def _start_scheduler(self) -> subprocess.Popen[bytes]:
        self._file.unlink(missing_ok=True)
        scheduler = self._start(
            *("scheduler", "--host", "127.0.0.1", "--port", str(self._port), "--no-dashboard", "--no-show"),
            *("--scheduler-file", str(self._file), "--protocol", "tls" if self._tls else "tcp", *self._tls),
        )
        wait_until(lambda: scheduler.poll() is not None or self._told(), "the scheduler is up")
        assert scheduler.poll() is None, self.log
        return scheduler

    def restart_scheduler(self) -> None:
        """Kill the scheduler; the next one has its address. Its nodes have gone by then, as Dask has it."""
        self.kill_scheduler()
        for node in self.nodes.values():
            assert node.wait(LIMIT) is not None
        self.nodes.clear()
        self.scheduler = self._start_scheduler()

    def kill_scheduler(self) -> None:
        """Kill it."""
        self.scheduler.kill()
        self.scheduler.wait()

    def _told(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            told: dict[str, Any] = json.loads(self._file.read_text())
            return told
        return {}

    @property
    def log(self) -> str:
        """What all of them wrote."""
        return (self.folder / "log").read_text(errors="replace")

    def _start(self, what: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.dask_{what}", *words],
                env={**os.environ, **self.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )

    def add(self, name: str, *words: str, threads: int = 1, nanny: bool = False) -> None:
        """Start a node; it joins when it can."""
        self.nodes[name] = self._start(
            *(
                "worker",
                self.address,
                "--name",
                name,
                "--nthreads",
                str(threads),
                "--host",
                "127.0.0.1",
                "--no-dashboard",
            ),
            *("--nanny" if nanny else "--no-nanny", "--local-directory", str(self.folder / name), *self._tls, *words),
        )

    def await_nodes(self, count: int) -> None:
        """Return when so many nodes have joined."""
        wait_until(lambda: self.log.count("Starting established connection to") >= 2 * count, f"{count} nodes")

    def kill(self, name: str) -> None:
        """Kill a node, its nanny first, so that it does not start another one."""
        node = self.nodes.pop(name)
        below = descendants(node.pid)
        node.kill()
        node.wait()
        for child in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill what there is."""
        for name in list(self.nodes):
            self.kill(name)
        self.kill_scheduler()

    def close(self) -> None:
        """End everything."""
        for node in self.nodes.values():
            node.send_signal(signal.SIGCONT)
            node.terminate()
        for node in self.nodes.values():
            wait_until(lambda node=node: node.poll() is not None, "a node ends")  # type: ignore[misc]
        self.kill_scheduler()


@contextlib.contextmanager
def dask_cluster(folder: Path, nodes: int = 3, threads: int = 1, tls: tuple[str, ...] = ()) -> Iterator[DaskCluster]:
    """Give a cluster with so many nodes, `n1` and so on."""
    skip_without_dask()
    folder.mkdir(exist_ok=True)
    cluster = DaskCluster(folder, tls=tls)
    try:
        for number in range(nodes):
            cluster.add(f"n{number + 1}", threads=threads)
        cluster.await_nodes(nodes)
        yield cluster
        cluster.close()
    finally:
        cluster.kill_all()


@contextlib.contextmanager
def other_client(cluster: DaskCluster, statement: str) -> Iterator[Callable[[], None]]:
    """Have another client of the cluster, in a process of its own, which does this when it is told to; it ends well."""
    program = f"import sys; from distributed import Client; client = Client({cluster.address!r}); print(flush=True)"
    program += f"; sys.stdin.readline(); {statement}; client.close()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], **pipes, text=True) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "\n"

            def go() -> None:
                process.stdin.write("go\n")
                process.stdin.flush()

            yield go
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()
