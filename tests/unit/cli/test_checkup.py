"""The findings of the doctor that need no gateway."""

from __future__ import annotations

import pytest

from meca_executor import GatewayRefused, GatewayUnreachable, ProtocolMismatch, UsageError
from meca_executor.cli._checkup import mend_connection, one_line, origin, package, python, within
from meca_executor.client.tls import UntrustedGateway


@pytest.mark.parametrize(
    ("version", "limits", "good"),
    [
        ("3.9", "<4,>=3.9", True),
        ("3.10.1", "<4,>=3.9", True),
        ("3.8.6", "<4,>=3.9", False),
        ("4.0.0", "<4,>=3.9", False),
        ("4", ">=4.0.0", True),
        ("5.16.1", "<6, >=5.8", True),
        ("9.0.0rc1", ">=8.2", True),
        ("1.0", "", True),
    ],
)
def test_within(version: str, limits: str, good: bool) -> None:
    assert within(version, limits) is good


def test_package_that_is_there() -> None:
    finding = package("pytest>=1")
    assert (finding.mark, finding.subject, finding.text, finding.mend) == ("ok", "pytest", pytest.__version__, "")


def test_package_that_is_too_old() -> None:
    finding = package('pytest[extra]>=1000; python_version >= "3"')
    assert finding.mark == "!!"
    assert finding.text == f"{pytest.__version__}, needed is >=1000"
    assert finding.mend == "pip install 'pytest>=1000'"


def test_package_that_is_not_there() -> None:
    finding = package("no-such-package-anywhere (>=2.0)")
    assert finding.mark == "!!"
    assert finding.text == "not installed"
    assert finding.mend == "pip install 'no-such-package-anywhere>=2.0'"


def test_python_is_one_that_we_support() -> None:
    assert python().mark == "ok"


@pytest.mark.parametrize(
    ("argument", "environ", "name"),
    [
        ("desktop", {"MECA_ENDPOINT": "http://a:1"}, "--endpoint"),
        (None, {"MECA_ENDPOINT": "http://a:1", "SORNA_ENDPOINT": "http://b:1"}, "MECA_ENDPOINT"),
        (None, {"SORNA_ENDPOINT": "http://b:1"}, "SORNA_ENDPOINT"),
        (None, {"MECA_ENDPOINT": ""}, "default"),
        (None, {}, "default"),
    ],
)
def test_origin(argument: str | None, environ: dict[str, str], name: str) -> None:
    assert origin(argument, environ) == name


def test_every_failure_to_connect_says_how_to_mend_it() -> None:
    url = "http://a:1"
    assert "MECA_ACCESS_KEY" in mend_connection(GatewayRefused("no"), url, "--endpoint")
    assert "variables" in mend_connection(UsageError("no"), url, "--endpoint")
    assert "same version" in mend_connection(ProtocolMismatch("no"), url, "--endpoint")
    assert "leave MECA_ENDPOINT out" in mend_connection(GatewayUnreachable("no"), url, "MECA_ENDPOINT")
    assert "this machine" in mend_connection(GatewayUnreachable("no"), None, "default")


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("not believed: self-signed certificate", "set MECA_CA_FILE"),
        ("not believed: expired (not a matter of MECA_CA_FILE)", "valid now"),
        ("cannot agree on TLS", "begins with http://"),
    ],
)
def test_a_certificate_that_is_not_believed_says_how_to_mend_it(text: str, mend: str) -> None:
    assert mend in mend_connection(UntrustedGateway(text), "https://a:1", "MECA_ENDPOINT")


def test_one_line() -> None:
    assert one_line('{\n    "a": 1\n}') == '{ "a": 1 }'
    assert one_line(ValueError("two\nlines")) == "ValueError: two lines"
