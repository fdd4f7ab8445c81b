"""What may be said of a Dask cluster, and what is missing without its packages."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from meca_executor import MecaExecutor, UsageError
from meca_executor.runtimes.dask_door import ClusterSettings, dask
from meca_executor.runtimes.node import gpus


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:8786", "tls://scheduler.example:8786", "local:4"])
def test_addresses(address: str) -> None:
    settings = ClusterSettings(address)
    assert settings.local == (4 if address == "local:4" else 0)


@pytest.mark.parametrize("address", ["scheduler:8786", "http://x:1", "tcp://x", "local:0", "local:257", "local:", 3])
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(address))):
        ClusterSettings(address)
    with pytest.raises(UsageError, match=re.escape(repr(address))):
        MecaExecutor(cluster=address)


def test_one_place_for_calls_not_two() -> None:
    with pytest.raises(UsageError, match="meca gateway --cluster local:2"):
        MecaExecutor("http://127.0.0.1:3001", cluster="local:2")


def test_certificates_go_together() -> None:
    file = Path("x.pem")
    for address, cert in (("tls://x:1", None), ("tcp://x:1", file)):
        with pytest.raises(UsageError, match="all three"):
            ClusterSettings(address, tls_ca=file, tls_cert=cert, tls_key=file)
    assert ClusterSettings("tls://x:1", tls_ca=file, tls_cert=file, tls_key=file).tls_key == file


def test_without_the_packages_it_is_told_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=re.escape('pip install "meca-executor[cluster]"')):
        dask()
    with pytest.raises(UsageError, match=re.escape('meca-executor[cluster]" (there is no distributed')):
        MecaExecutor(cluster="local:2")


def test_gpus_that_a_node_may_use() -> None:
    assert [gpus({"CUDA_VISIBLE_DEVICES": text}) for text in ("", "0", "0,1", "-1", "GPU-1, GPU-2")] == [0, 1, 2, 0, 2]
