"""TLS of a client: whose certificates are believed, and what is wrong with one that is not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import GatewayRefused, UsageError
from ..settings import given_ca_file

if TYPE_CHECKING:
    import ssl


class UntrustedGateway(GatewayRefused):
    """There is no TLS with the server that this client could believe in; waiting does not mend that."""


def checked_ca_file(given: object, endpoint: str | None) -> str | None:
    """Return the file of certificates that an endpoint is checked with; None where none is, or the system's are.

    Args:
        given: The argument `ca_file`, a path; None is `MECA_CA_FILE`.
        endpoint: URL of the gateway; None is an embedded one.

    Raises:
        UsageError: The file cannot be used, or it was given for an endpoint without TLS.
    """
    if given is not None and not isinstance(given, (str, os.PathLike)):
        raise UsageError(f"ca_file {given!r} is not the path of a PEM file")
    if endpoint is None or not endpoint.startswith("https://"):
        if given is not None:
            where = endpoint or "a gateway of this process's own"
            raise UsageError(f"ca_file {os.fspath(given)!r} is for an endpoint with https://, and this one is {where}")
        return None
    chosen = given_ca_file() if given is None else os.path.abspath(os.fsdecode(given))
    if chosen is not None:
        client_context(chosen)  # read again with each connection, and complained about here
    return chosen


def client_context(ca_file: str | None) -> ssl.SSLContext:
    """Return the TLS of a client, 1.2 or later: certificates and names are checked.

    Args:
        ca_file: PEM file of the certificates to believe, and no others; None believes the system's.

    Raises:
        UsageError: The file cannot be used.
    """
    import ssl

    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        why = f"is no PEM file of certificates: {error.reason}"
        raise UsageError(f"MECA_CA_FILE or ca_file= {ca_file!r} {why}") from error
    except OSError as error:
        raise UsageError(f"MECA_CA_FILE or ca_file= {ca_file!r} cannot be read: {error.strerror or error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def why_untrusted(error: BaseException, ca_file: str | None) -> str | None:
    """Return what is wrong with a server's TLS and the way out; None for a failure that may pass."""
    import ssl

    if type(error).__module__ != ssl.__name__:
        return None  # aiohttp's errors inherit those, without what is in them
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not believed: {error.verify_message}"
        if "mismatch" in why:  # of the name
            return f"{why}; use a name that the certificate has (not a matter of MECA_CA_FILE)"
        if "expired" in why or "not yet valid" in why:
            return f"{why}; it has to be renewed, or a clock is wrong (not a matter of MECA_CA_FILE)"
        if ca_file is None:
            return f"{why}; set MECA_CA_FILE or ca_file= to a PEM file with the certificate of the CA that signed it"
        return f"{why}; MECA_CA_FILE or ca_file= is {ca_file}, which has not the certificate of the CA that signed it"
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)):
        return None
    if isinstance(error, ssl.SSLError):
        told = (getattr(error, "reason", None) or str(error)).replace("_", " ").lower()
        return f"it and this client cannot agree on TLS ({told}); without TLS its endpoint begins with http://"
    return None
