"""What a client checks before it says anything, and what it makes of what it is told."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from meca_executor import GatewayRefused, UsageError
from meca_executor.client.connection import TOLD_LIMIT, causes, check_hello, plain
from meca_executor.client.tls import UntrustedGateway, client_context, why_untrusted
from meca_executor.settings import HELLO_LIMIT, NAME_LIMIT

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", ["", "x" * (NAME_LIMIT + 1), None, 7])
def test_a_session_name_that_gateways_refuse(name: object) -> None:
    with pytest.raises(UsageError, match="1 to 128 characters"):
        check_hello({"session": name})


def test_a_hello_that_gateways_refuse() -> None:
    check_hello({"session": "x" * NAME_LIMIT})
    with pytest.raises(UsageError, match=r"the hello has .* characters"):
        check_hello({"session": "x", "more": "x" * HELLO_LIMIT})


def test_what_a_stranger_says_is_fit_for_a_terminal() -> None:
    assert plain("go\n  \x1b[31maway\x07") == "go ?[31maway?"
    assert plain({"no": "text"}) == "{'no': 'text'}"
    assert len(plain("x" * 10_000)) == TOLD_LIMIT


def test_causes() -> None:
    try:
        try:
            raise KeyError("below")
        except KeyError as error:
            raise ValueError("above") from error
    except ValueError as error:
        assert [type(cause) for cause in causes(error)] == [ValueError, KeyError]


def test_certificates_and_names_are_checked() -> None:
    context = client_context(None)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_a_ca_file_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"MECA_CA_FILE or ca_file= '/no/such.pem' cannot be read: No such file"):
        client_context("/no/such.pem")
    (tmp_path / "text").write_text("no certificate")
    with pytest.raises(UsageError, match="text' is no PEM file of certificates"):
        client_context(str(tmp_path / "text"))


def test_what_may_pass_is_not_held_against_a_server() -> None:
    for error in (OSError("gone"), ssl.SSLEOFError(8, "EOF"), ssl.SSLZeroReturnError(6, "closed"), ValueError()):
        assert why_untrusted(error, None) is None
    assert "agree on TLS" in (why_untrusted(ssl.SSLError(1, "wrong version number"), None) or "")
    assert issubclass(UntrustedGateway, GatewayRefused)
