"""The proof both ways: only the same secret, nonces and text give the same proof."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meca_executor.wire.proof import (
    NONCE_BYTES,
    client_proof,
    from_text,
    gateway_proof,
    make_nonce,
    same,
    to_text,
)

Prove = Callable[[str, str, str, str], str]

SECRET, THEIRS, OURS, HELLO = "the secret", make_nonce(), make_nonce(), to_text({"session": "s", "protocol": 1})

TEXT = st.text('aé漢🎉\n"\\{}', max_size=6)

quickly = settings(database=None, deadline=None, derandomize=True, max_examples=100)
either_side = pytest.mark.parametrize("prove", [client_proof, gateway_proof])


def test_a_nonce_is_fresh_and_long() -> None:
    """Nonces are hexadecimal text of NONCE_BYTES random bytes, never the same."""
    nonces = {make_nonce() for _ in range(100)}
    assert len(nonces) == 100
    assert all(len(bytes.fromhex(nonce)) == NONCE_BYTES for nonce in nonces)


@either_side
def test_who_knows_the_secret_is_believed(prove: Prove) -> None:
    """The same secret over the same nonces and text gives the same proof."""
    assert same(prove(SECRET, THEIRS, OURS, HELLO), prove(SECRET, THEIRS, OURS, HELLO))


@either_side
@pytest.mark.parametrize(
    "changed",
    [
        ("another secret", THEIRS, OURS, HELLO),
        ("", THEIRS, OURS, HELLO),
        (SECRET, make_nonce(), OURS, HELLO),
        (SECRET, THEIRS, make_nonce(), HELLO),
        (SECRET, OURS, THEIRS, HELLO),
        (SECRET, THEIRS, OURS, HELLO + " "),
        (SECRET, THEIRS, OURS, to_text({"session": "t", "protocol": 1})),
        (SECRET, THEIRS, OURS + HELLO, ""),
        (SECRET, THEIRS + OURS, "", HELLO),
    ],
    ids=["secret", "no secret", "gateway nonce", "client nonce", "swapped", "space", "hello", "moved", "moved nonce"],
)
def test_whatever_is_changed_is_refused(prove: Prove, changed: tuple[str, str, str, str]) -> None:
    """A wrong secret, a replayed nonce, a changed text, or a text moved over a border gives another proof."""
    assert not same(prove(SECRET, THEIRS, OURS, HELLO), prove(*changed))


def test_one_side_cannot_send_back_the_other_sides_proof() -> None:
    """The client's proof over the same data is not the gateway's."""
    assert not same(client_proof(SECRET, THEIRS, OURS, HELLO), gateway_proof(SECRET, THEIRS, OURS, HELLO))


@quickly
@given(st.tuples(TEXT, TEXT, TEXT), st.tuples(TEXT, TEXT, TEXT))
def test_different_texts_give_different_proofs(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    """No two different lists of texts have the same proof, however they are cut."""
    assume(one != other)
    assert not same(client_proof(SECRET, *one), client_proof(SECRET, *other))


@quickly
@given(st.one_of(st.none(), st.booleans(), st.integers(), st.binary(), TEXT, st.lists(TEXT), st.just("\ud800")))
def test_what_is_no_proof_is_just_different(given_: object) -> None:
    """Anything that a peer may send in a proof's place is different from it; nothing of it is an error."""
    assert same(given_, client_proof(SECRET, THEIRS, OURS, HELLO)) is False


@either_side
def test_half_a_character_is_no_crash(prove: Prove) -> None:
    """JSON may bring a lone surrogate as the nonce of a peer that has proved nothing: it is a text like any other."""
    assert not same(prove(SECRET, THEIRS, "\ud800", HELLO), prove(SECRET, THEIRS, OURS, HELLO))


@quickly
@given(st.dictionaries(TEXT, st.one_of(st.none(), st.booleans(), st.integers(), TEXT), max_size=5))
def test_fields_come_back(fields: dict[str, object]) -> None:
    """What to_text writes, from_text reads."""
    assert from_text(to_text(fields)) == fields


@pytest.mark.parametrize("text", [None, 7, b"{}", {}, "", "{", "[]", "7", "null", '"{}"', "{} {}", "\ud800"])
def test_what_is_not_the_text_of_an_object_is_a_value_error(text: object) -> None:
    """from_text refuses anything but the JSON text of an object."""
    with pytest.raises(ValueError):
        from_text(text)
