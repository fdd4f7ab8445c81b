"""Proof both ways: each side shows that it has the secret without sending it.

The gateway sends a nonce; the client answers with a nonce of its own and an HMAC over both and its
hello; the gateway answers with an HMAC over all that and its welcome. Nothing else is said before.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

PROTOCOL = 5  #: raised with every change of the wire; the other side's number is checked before anything is sent
NAMESPACE = "/meca"
NONCE_BYTES = 32
#: Socket.IO events of the namespace
CHALLENGE, HELLO, WELCOME, REFUSED = "challenge", "hello", "welcome", "refused"
ASK, TOLD = "ask", "told"  #: after it: short questions of a program, answers to them, and news


def make_nonce() -> str:
    """Return a fresh nonce, as hexadecimal text."""
    return secrets.token_hex(NONCE_BYTES)


def client_proof(secret: str, gateway_nonce: str, client_nonce: str, hello: str) -> str:
    """Return what the client sends to show that it has `secret`."""
    return _mac(secret, "client", gateway_nonce, client_nonce, hello)


def gateway_proof(secret: str, gateway_nonce: str, client_nonce: str, welcome: str) -> str:
    """Return what the gateway sends to show that it has `secret`."""
    return _mac(secret, "gateway", gateway_nonce, client_nonce, welcome)


def same(given: object, expected: str) -> bool:
    """Compare in constant time; anything that is not text is different."""
    return isinstance(given, str) and hmac.compare_digest(_bytes(given), _bytes(expected))


def to_text(fields: Mapping[str, Any]) -> str:
    """Return the JSON text that is both sent and signed."""
    return json.dumps(fields, separators=(",", ":"))


def from_text(text: object) -> dict[str, Any]:
    """Return the object of a JSON text.

    Raises:
        ValueError: It is not the text of a JSON object.
    """
    if not isinstance(text, str):
        raise ValueError(f"expected JSON text, got {type(text).__name__}")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("JSON text that is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("expected a JSON object")
    return value


def _mac(secret: str, *parts: str) -> str:
    # Each part with its length before it, so that no two different lists give the same bytes.
    text = b"".join(len(data).to_bytes(8, "big") + data for data in map(_bytes, parts))
    return hmac.new(_bytes(secret), text, hashlib.sha256).hexdigest()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # JSON may bring half a character
