"""Archives of modules: the same content is the same archive, and garbage is refused."""

from __future__ import annotations

import json
import zlib

import pytest

from meca_executor.wire.code import MalformedCode, Unit, digest_of, head_of, number_of, pack, unpack

UNIT = Unit("pkg", "/home/me", {"pkg/__init__.py": b"x = 1\n", "pkg/a/b.bin": bytes(range(256)) * 50})


def archive(head: object, content: bytes = b"") -> bytes:
    """Return what `pack` would make of these."""
    told = json.dumps(head).encode()
    return len(told).to_bytes(4, "little") + told + zlib.compress(content)


def head(**fields: object) -> dict[str, object]:
    """Return what an archive without files says of itself, and these fields in place of its own."""
    return {"name": "pkg", "root": "", "sizes": {}, "digest": "", **fields}


def test_a_unit_comes_back() -> None:
    """Name, place and files; and it is compressed."""
    payload = pack(UNIT)
    assert unpack(payload) == UNIT
    told = head_of(payload)
    assert (told.name, told.root, told.sizes) == ("pkg", "/home/me", {"pkg/__init__.py": 6, "pkg/a/b.bin": 12_800})
    assert told.digest == digest_of([UNIT.files["pkg/__init__.py"], UNIT.files["pkg/a/b.bin"]]) != digest_of([b"x"])
    assert len(payload) < len(UNIT.files["pkg/a/b.bin"])


def test_the_number_says_what_is_in_it() -> None:
    """The order of the files does not count; a byte, a name and the place do."""
    number = number_of(pack(UNIT))
    assert 0 < number < 1 << 63
    assert number_of(pack(UNIT._replace(files=dict(sorted(UNIT.files.items(), reverse=True))))) == number
    others = [
        UNIT._replace(name="other"),
        UNIT._replace(root="/elsewhere"),
        UNIT._replace(files={**UNIT.files, "pkg/__init__.py": b"x = 2\n"}),
        UNIT._replace(files={**UNIT.files, "pkg/c.py": b""}),
    ]
    assert len({number, *(number_of(pack(other)) for other in others)}) == 5


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"PK",
        pack(UNIT)[:-40],
        pack(UNIT)[40:],
        archive([]),
        archive({}),
        archive(head(sizes=[1])),
        archive(head(sizes={"a.py": "x"})),
        archive(head(sizes={"a.py": 2}), b"x"),
        archive(head(sizes={"a.py": 2}), b"xyz"),
        archive(head(sizes={"a.py": 5, "b.py": -2}), b"xyz"),
        archive(head())[:-9],
        archive(head())[:-9] + b"\xff" * 9,
    ],
)
def test_garbage_is_refused(payload: bytes) -> None:
    """With one class of error; nothing longer than it says is made of it."""
    with pytest.raises(MalformedCode, match="not the archive of a module or package"):
        unpack(payload)


@pytest.mark.parametrize("name", ["/etc/x.py", "../x.py", "pkg/../../x.py", "pkg//x.py", "./x.py", "pkg/"])
def test_members_lie_below_their_folder(name: str) -> None:
    """Nothing is written elsewhere."""
    with pytest.raises(MalformedCode, match="would lie outside of its folder"):
        head_of(archive(head(sizes={name: 0})))
