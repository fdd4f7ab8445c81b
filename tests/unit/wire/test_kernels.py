"""Notes about kernels, and the names of kernels."""

from __future__ import annotations

import pytest

from meca_executor import UsageError
from meca_executor.wire.kernels import Note, Say, checked_token, pack, unpack
from meca_executor.wire.records import decode, encode


def test_a_note_comes_back_from_the_wire() -> None:
    record = pack(7, Say.EVENT, {"t": "stdout", "n": 3}, b"\x00\xffbytes")
    (got,) = decode(encode([record]))
    assert unpack(got) == Note(7, Say.EVENT, {"t": "stdout", "n": 3}, b"\x00\xffbytes")


@pytest.mark.parametrize(
    "record",
    [(1, 9, 2, b"{}"), (1, 0, 3, b"{}"), (1, 0, 2, b"[]"), (1, 0, 1, b"{"), (1, 0, 2, b"\xff\xff")],
    ids=["unknown", "short", "no object", "no JSON", "no text"],
)
def test_garbage_is_a_value_error(record: tuple[int, int, int, bytes]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        unpack(record)


@pytest.mark.parametrize("token", ["abc", "a", "A.b-c_9", "x" * 64])
def test_a_token(token: str) -> None:
    assert checked_token(token) == token


@pytest.mark.parametrize("token", ["", "a b", "x" * 65, "é", "a/b", "a\n", 5, None])
def test_no_token(token: object) -> None:
    with pytest.raises(UsageError, match="is not 1 to 64 of"):
        checked_token(token)
